"""Tensors as the core wants them: on the CPU, dense, a gradient laid out like its parameter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .. import _core
from ..rule import State
from ..storages import new_state
from .private import is_zeros_without_memory

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

STORAGES: dict[torch.dtype, str] = {
    torch.float64: "float64",
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}
LARGE = 4 << 20  # bytes, from which on memory is asked for in large pages, as NumPy does
PLAIN = (torch.Tensor, torch.nn.Parameter)
DTYPES: dict[str, torch.dtype] = {name: dtype for dtype, name in STORAGES.items()}


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether it is a DTensor; asked without importing what most programs do not need."""
    return hasattr(tensor, "_local_tensor") and hasattr(tensor, "placements")


def local(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a DTensor that this process has; another tensor itself."""
    if not is_sharded(tensor):
        return tensor
    with torch.no_grad():
        part: torch.Tensor = tensor.to_local()
    return part


def check(argument: str, tensor: torch.Tensor) -> str:
    """The storage of a tensor that the core can work on.

    Raises:
        TypeError, ValueError: it cannot; naming the argument, what it got and what it wanted.
    """
    here = local(tensor)
    if here.layout != torch.strided:
        raise TypeError(f"{argument}: got {here.layout}, wanted a dense (strided) tensor")
    if here.device.type != "cpu":
        raise ValueError(f"{argument}: got a tensor on {here.device}, wanted one on the CPU")
    if here.dtype not in STORAGES:
        wanted = ", ".join(str(dtype) for dtype in STORAGES)
        raise TypeError(f"{argument}: got {here.dtype}, wanted one of {wanted}")
    if type(here).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        kind = type(here)
        raise TypeError(
            f"{argument}: got {kind.__module__}.{kind.__qualname__}, which keeps its numbers in a "
            "way of its own, wanted a torch.Tensor or a DTensor of such"
        )
    check_memory(argument, here)
    return STORAGES[here.dtype]


def _memory(here: torch.Tensor) -> tuple[int, int]:
    """The bytes that a tensor has from its beginning on, and those that it reaches."""
    begin, end = _span(here)
    held = here.untyped_storage().nbytes() - here.storage_offset() * here.element_size()
    return held, end - begin


def has_memory(here: torch.Tensor) -> bool:
    """Whether a tensor's memory was not freed."""
    held, reached = _memory(here)
    return held >= reached


def check_memory(argument: str, here: torch.Tensor) -> None:
    """Raise ValueError for a tensor whose memory was freed."""
    if here.layout != torch.strided:
        return
    held, reached = _memory(here)
    if held < reached and not is_zeros_without_memory(here):  # those have none, and are read as 0
        raise ValueError(
            f"{argument}: got {max(held, 0)} bytes of memory, wanted the {reached} that shape "
            "and strides reach: it was freed"
        )


def check_param(argument: str, param: torch.Tensor) -> str:
    """Like :func:`check`, for a parameter: in addition no two elements may share memory."""
    storage = check(argument, param)
    here = local(param)
    _, apart = _spread(here)
    if not apart or is_zeros_without_memory(here):
        raise ValueError(
            f"{argument}: got strides {here.stride()} for shape {tuple(here.shape)}, several "
            "elements at one place, wanted a tensor with memory for each"
        )
    return storage


def check_apart(named: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Raise ValueError, naming both, if two of the tensors share an element.

    Each of them is to have memory for each of its elements.
    """
    given = [(argument, local(tensor)) for argument, tensor in named]
    spans = sorted((*_span(tensor), i) for i, (_, tensor) in enumerate(given) if tensor.numel())
    clusters: list[list[int]] = []  # of those whose spans hang together
    reach = 0
    for begin, end, i in spans:
        if begin >= reach:
            clusters.append([])
        clusters[-1].append(i)
        reach = max(reach, end)
    for cluster in clusters:
        if len(cluster) > 1 and (pair := _sharing([given[i][1] for i in cluster])):
            first, second = sorted(cluster[i] for i in pair)
            raise ValueError(
                f"{given[second][0]}: got memory that it shares with {given[first][0]}, wanted "
                "memory of its own"
            )


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    """The addresses from which and up to which its elements lie."""
    if tensor.numel() == 0:
        return 0, 0
    last = sum(stride * (n - 1) for stride, n in zip(tensor.stride(), tensor.shape, strict=True))
    begin = tensor.data_ptr()
    return begin, begin + (last + 1) * tensor.element_size()


def _sharing(tensors: Sequence[torch.Tensor]) -> tuple[int, int] | None:
    """Two of the tensors, sorted by where they begin, that share an element; None: they mesh."""
    if all(_spread(tensor)[0] for tensor in tensors[:2]):
        return 0, 1
    unit = min(tensor.element_size() for tensor in tensors)
    places = []
    for tensor in tensors:
        size = tensor.element_size()
        place = np.arange(tensor.data_ptr(), tensor.data_ptr() + size, unit)
        for n, stride in zip(tensor.shape, tensor.stride(), strict=True):
            place = np.add.outer(place, np.arange(n) * (stride * size)).ravel()
        places.append(place)
    owners = np.repeat(np.arange(len(tensors)), [place.size for place in places])
    every = np.concatenate(places)
    order = np.argsort(every)
    same = np.flatnonzero(np.diff(every[order]) == 0)
    if same.size == 0:
        return None
    return int(owners[order[same[0]]]), int(owners[order[same[0] + 1]])


def _spread(tensor: torch.Tensor) -> tuple[bool, bool]:
    """Whether elements fill their memory without a gap, and whether none shares another's."""
    dimensions = sorted(
        (stride, n) for stride, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1
    )
    filled, reach = 1, 1
    dense = apart = True
    for stride, n in dimensions:
        dense = dense and stride == filled
        apart = apart and stride >= reach
        filled *= n
        reach += stride * (n - 1)
    return dense or tensor.numel() == 0, apart or tensor.numel() == 0


def is_dense(tensor: torch.Tensor, *, in_order: bool) -> bool:
    """Whether the core can work on a tensor where it lies; see :func:`dense`."""
    if in_order and not tensor.is_contiguous():
        return False
    aligned = tensor.data_ptr() % tensor.element_size() == 0
    return aligned and _spread(tensor)[0] and not tensor.is_neg()


def dense(tensor: torch.Tensor, *, in_order: bool) -> torch.Tensor:
    """A tensor as the core works on it: itself, or new memory where it has gaps.

    Args:
        tensor: whose elements each have a place in memory.
        in_order: whether elements must lie in C order, as blocks of states follow them.
    """
    if is_dense(tensor, in_order=in_order):
        return tensor
    if in_order and not tensor.is_contiguous():
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
    return torch.empty_like(tensor, requires_grad=False)


def dense_as(tensor: torch.Tensor, array: torch.Tensor) -> torch.Tensor:
    """A tensor, or new memory where it has other strides than the dense ``array``."""
    if dense(tensor, in_order=False) is tensor and _steps(tensor) == _steps(array):
        return tensor
    return torch.empty_strided(array.shape, array.stride(), dtype=tensor.dtype, device="cpu")


def zeros(
    param: torch.Tensor, storage: str, state: State | None = None, initial: float = 0
) -> torch.Tensor:
    """What a step keeps for a parameter, at its start.

    Args:
        param: in whose layout it is to be; a DTensor of as many shards for a DTensor.
        storage: a storage, or ``"int16"``.
        state: which of the rule's states, or None.
        initial: what it starts from.
    """
    if storage in DTYPES or storage == "int16":
        kept = _zeros_like(param, DTYPES.get(storage, torch.int16))
        return kept.fill_(initial) if initial else kept
    assert state is not None
    shape = np.broadcast_to(np.float32(0), (param.numel(),))
    array = torch.from_numpy(new_state(state.name, state, storage, initial, shape, None))
    kept = _zeros_like(array, array.dtype)  # in memory of PyTorch's own
    return kept.copy_(array) if initial or state.is_point else kept


def _zeros_like(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Zeros; large ones in large pages, touched by all threads: in a third of the time."""
    if type(tensor) not in PLAIN or tensor.numel() * dtype.itemsize < LARGE:
        return torch.zeros_like(tensor, dtype=dtype, requires_grad=False)
    kept = torch.empty_like(tensor, dtype=dtype, requires_grad=False)
    if type(kept) is not torch.Tensor:  # a mode makes others, which may have no memory
        return kept.zero_()
    memory = kept.untyped_storage()
    _core.zero_new(memory.data_ptr(), memory.nbytes(), torch.get_num_threads())
    return kept


def whole(param: torch.Tensor, low: torch.Tensor | None) -> torch.Tensor:
    """A parameter's numbers, with the lower half of one that is split."""
    if low is None or is_sharded(param):
        return param
    high = param.detach().view(torch.int16).to(torch.int32) << 16
    return (high + low.to(torch.int32)).view(torch.float32)


def realigned(argument: str, grad: Any, param: torch.Tensor) -> Any:
    """A gradient that the core takes for ``param``: itself where it is one, else a copy.

    Raises:
        TypeError, ValueError: it is no gradient of this parameter.
    """
    if is_sharded(grad):
        raise TypeError(f"{argument}: got a DTensor for a plain tensor, wanted a plain one")
    if isinstance(grad, _core.RowGradient):
        return grad
    if grad.layout == torch.sparse_coo:
        return rows(argument, grad, param)
    check(argument, grad)
    if grad.shape != param.shape:
        raise ValueError(f"{argument}: got shape {tuple(grad.shape)}, wanted {tuple(param.shape)}")
    # The same object where nothing is to be done: so a caller knows.
    plain = grad if type(grad) is torch.Tensor else grad.as_subclass(torch.Tensor)
    same = all(
        mine == its or n == 1
        for mine, its, n in zip(grad.stride(), param.stride(), grad.shape, strict=True)
    )
    physical = not grad.is_neg() and not is_zeros_without_memory(grad)
    if same and physical and grad.data_ptr() % grad.element_size() == 0:
        return plain
    copy = torch.empty_strided(param.shape, param.stride(), dtype=grad.dtype, device="cpu")
    with torch.no_grad():
        return copy.copy_(plain)


def rows(argument: str, grad: torch.Tensor, param: torch.Tensor) -> _core.RowGradient:
    """A sparse gradient as the core takes it.

    Raises:
        TypeError, ValueError: it is no gradient of some of the parameter's rows.
    """
    if grad.shape != param.shape:
        raise ValueError(f"{argument}: got shape {tuple(grad.shape)}, wanted {tuple(param.shape)}")
    if grad.sparse_dim() != 1:
        raise ValueError(
            f"{argument}: got a sparse gradient of {grad.sparse_dim()} sparse dimensions, wanted "
            "1: of whole rows"
        )
    plain = grad.detach()
    indices, values = plain._indices()[0], plain._values()
    check(argument, values)
    values = values.resolve_neg().contiguous()
    return _core.RowGradient(indices.contiguous(), values, grad.is_coalesced())


def local_grad(argument: str, grad: torch.Tensor, param: torch.Tensor) -> torch.Tensor:
    """The part of a gradient that is here, which must be that of the parameter's."""
    if is_sharded(param) and is_sharded(grad):
        if grad.device_mesh != param.device_mesh:
            raise ValueError(f"{argument}: got {grad.device_mesh}, wanted {param.device_mesh}")
        if grad.placements != param.placements:  # tensor parallelism leaves sums that are not taken
            with torch.no_grad():
                grad = grad.redistribute(placements=param.placements)
        return local(grad)
    if is_sharded(param):
        raise TypeError(f"{argument}: got a plain tensor for a DTensor, wanted a DTensor")
    return grad


def piece_of(tensor: torch.Tensor, piece: slice | None) -> torch.Tensor:
    """Some elements of a contiguous tensor, in a row; itself for None."""
    return tensor if piece is None else tensor.reshape(-1)[piece]


def form(tensor: torch.Tensor) -> str:
    """What must stay as it is about a tensor that the core keeps writing to."""
    if tensor.layout != torch.strided:
        return f"a tensor in {tensor.layout}"
    kind = f"a DTensor on {tensor.placements}" if is_sharded(tensor) else "a tensor"
    kind += "" if tensor.device.type == "cpu" else f" on {tensor.device}"
    return form_of(tensor.dtype, tensor.shape, tensor.stride(), kind)


def form_of(
    dtype: torch.dtype, shape: Sequence[int], strides: Sequence[int], kind: str = "a tensor"
) -> str:
    """The form of a tensor that need not be there."""
    steps = tuple(stride for stride, n in zip(strides, shape, strict=True) if n > 1)
    return f"{kind} of {dtype}, shape {tuple(shape)}, strides {steps}"


def _steps(tensor: torch.Tensor) -> tuple[int, ...]:
    """The strides that count: where there is one element, they say nothing."""
    return tuple(stride for stride, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1)


def differ_in_strides(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two tensors have the same form except for that."""
    return form(first).partition(", strides")[0] == form(second).partition(", strides")[0]


def check_copy(argument: str, target: torch.Tensor, param: torch.Tensor) -> None:
    """Raise unless ``target`` can take the parameter's numbers, each in its place; take them."""
    check_param(argument, target)
    if is_sharded(param):
        raise TypeError(f"{argument}: got a copy of a DTensor, wanted plain parameters for copy_to")
    if is_sharded(target) or target.shape != param.shape:
        raise ValueError(
            f"{argument}: got {form(target)}, wanted a tensor of shape {tuple(param.shape)}"
        )
    with torch.no_grad():
        target.copy_(param)


def adopt(where: str, value: Any, wanted: torch.Tensor) -> None:
    """Copy a loaded tensor into ``wanted``, whatever its strides.

    Raises:
        TypeError, ValueError: it is no such tensor, or would lose digits.
    """
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{where}: got {type(value).__name__}, wanted a tensor")
    if is_sharded(value) != is_sharded(wanted):
        kinds = ("a plain tensor", "a DTensor")
        raise TypeError(
            f"{where}: got {kinds[is_sharded(value)]}, wanted {kinds[is_sharded(wanted)]}, as its "
            "parameter is"
        )
    if value.shape != wanted.shape:
        raise ValueError(f"{where}: got shape {tuple(value.shape)}, wanted {tuple(wanted.shape)}")
    if value.dtype != wanted.dtype and (
        torch.promote_types(value.dtype, wanted.dtype) != wanted.dtype
        or wanted.dtype not in STORAGES
        or value.dtype not in STORAGES
    ):
        raise TypeError(
            f"{where}: got {value.dtype}, wanted {wanted.dtype} or what it can hold exactly"
        )
    with torch.no_grad():
        wanted.copy_(value)
