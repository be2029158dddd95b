"""What is measured: the sizes of the parameter arrays of each workload."""

_BLOCK = [768, 768, 768 * 2304, 2304, 768 * 768, 768, 768, 768, 768 * 3072, 3072, 3072 * 768, 768]
GPT2 = (50257 * 768, 1024 * 768, *(_BLOCK * 12), 768, 768)

WORKLOADS = {
    "1 element": (1,),
    "65,536 (L2)": (65_536,),
    "1,048,576 (L3)": (1 << 20,),
    "2,000 × 1,000": (1000,) * 2000,
    "GPT-2, 148 tensors, 124M": GPT2,
}
