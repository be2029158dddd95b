"""What is measured: the sizes of the parameter arrays of each workload."""

import math

Shape = tuple[int, ...]

_MATRICES = ((768, 2304), (768, 768), (768, 3072), (3072, 768))
_BLOCK: tuple[Shape, ...] = (
    (768,), (768,), _MATRICES[0], (2304,), _MATRICES[1], (768,),
    (768,), (768,), _MATRICES[2], (3072,), _MATRICES[3], (768,),
)  # fmt: skip
GPT2_SHAPES: tuple[Shape, ...] = ((50257, 768), (1024, 768), *(_BLOCK * 12), (768,), (768,))
GPT2_MATRICES: tuple[Shape, ...] = _MATRICES * 12  # those of its blocks, 85M
GPT2 = tuple(map(math.prod, GPT2_SHAPES))

WORKLOADS = {
    "1 element": (1,),
    "65,536 (L2)": (65_536,),
    "1,048,576 (L3)": (1 << 20,),
    "2,000 × 1,000": (1000,) * 2000,
    "GPT-2, 148 tensors, 124M": GPT2,
}
