"""From a NumPy array to a pointer: every check on an array lives here.

The compiled step accepts an array only if all of these checks hold; this module says in words
which one does not.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    Array = NDArray[Any]

# What parameters, gradients and copies may be of, as NumPy names it.
NUMBERS: tuple[str, ...] = tuple(
    name for name, roles in _core.storages().items() if "gradient" in roles
)


def _name(dtype: np.dtype[Any]) -> str:
    return dtype.name if dtype.isnative else f"{dtype.name} in foreign byte order ({dtype.str})"


def check(
    argument: str,
    array: object,
    *,
    writable: bool,
    dtypes: Sequence[str] = NUMBERS,
    shape: tuple[int, ...] | None = None,
) -> Array:
    """Return ``array`` as a plain ``numpy.ndarray`` on the same memory, or raise.

    Args:
        argument: what to call it in an error, such as ``params['w']``.
        array: anything; accepted is an aligned, C-contiguous ndarray.
        writable: whether it must be writable.
        dtypes: the names of the dtypes it may have.
        shape: the shape it must have, if any.

    Raises:
        TypeError: it is not an ndarray, or has another dtype.
        ValueError: its shape, layout, alignment or flags do not fit.
    """
    if not isinstance(array, np.ndarray):
        kind = type(array)
        raise TypeError(
            f"{argument}: got {kind.__module__}.{kind.__qualname__}, wanted numpy.ndarray"
            + _instead(array, writable, dtypes)
        )
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(
            f"{argument}: got a masked array, wanted a plain numpy.ndarray: "
            "what a masked element's update means is undefined"
        )
    if array.dtype.name not in dtypes or not array.dtype.isnative:
        wanted = " or ".join(filter(None, [", ".join(dtypes[:-1]), dtypes[-1]]))
        raise TypeError(f"{argument}: got dtype {_name(array.dtype)}, wanted {wanted}")
    if shape is not None and array.shape != shape:
        raise ValueError(f"{argument}: got shape {array.shape}, wanted {shape}")
    if not array.flags.aligned:
        raise ValueError(
            f"{argument}: got an address that is not a multiple of "
            f"{array.dtype.itemsize}, wanted an aligned array"
        )
    if array.size and any(  # an array of nothing may have any strides
        stride == 0 and n > 1 for stride, n in zip(array.strides, array.shape, strict=True)
    ):
        raise ValueError(
            f"{argument}: got a broadcast view (strides {array.strides}), "
            "wanted an array with memory for each element"
        )
    if not array.flags.c_contiguous:
        raise ValueError(
            f"{argument}: got strides {array.strides} for shape {array.shape}, "
            "wanted a C-contiguous array (numpy.ascontiguousarray makes a copy)"
        )
    if writable and not array.flags.writeable:
        raise ValueError(f"{argument}: got a read-only array, wanted a writable one")
    return array.view(np.ndarray)


def _instead(x: object, writable: bool, dtypes: Sequence[str]) -> str:
    """How to make an array of what is none, where there is a way."""
    if type(x).__module__.partition(".")[0] == "torch":
        return " (x.detach().numpy() is one on the same memory; gradstep.torch takes tensors)"
    buffer = isinstance(x, memoryview | bytearray) or hasattr(x, "__array__")
    if isinstance(x, bool) or not (buffer or isinstance(x, list | tuple | float | int)):
        return ""
    dtype = f", dtype={dtypes[0]!r}" if len(dtypes) == 1 else ""
    if writable:
        return f" (x = numpy.array(x{dtype}) makes one, and is then what is updated)"
    return f" (numpy.asarray(x{dtype}) makes one)"


def byte_range(array: Array) -> tuple[int, int]:
    """The first address of a contiguous array and the one behind its last byte."""
    start: int = array.__array_interface__["data"][0]
    return start, start + array.nbytes


def check_disjoint(arguments: Sequence[str], arrays: Sequence[Array]) -> None:
    """Raise ValueError, naming both, if two arrays share a byte."""
    ranges = sorted((*byte_range(a), i) for i, a in enumerate(arrays) if a.nbytes)
    for (_, end, i), (start, _, j) in itertools.pairwise(ranges):
        if start < end:
            raise ValueError(
                f"{arguments[max(i, j)]}: got memory that overlaps "
                f"{arguments[min(i, j)]}, wanted arrays that share no byte"
            )


def check_apart(argument: str, array: Array, others: Iterable[tuple[str, Array]]) -> None:
    """Raise ValueError, naming the other, if ``array`` shares a byte with one of ``others``."""
    start, end = byte_range(array)
    for other_argument, other in others:
        other_start, other_end = byte_range(other)
        if start < end and other_start < other_end and start < other_end and other_start < end:
            raise ValueError(
                f"{argument}: got memory that overlaps {other_argument}, which the "
                "step writes; wanted memory of its own"
            )


def global_norm(arrays: Array | Sequence[Array]) -> float:
    """The Euclidean norm of all elements of all arrays together.

    Squares are summed in double, in an order that depends on neither threads nor target: the
    result has the same bits everywhere.

    Args:
        arrays: one array or a sequence of arrays, float32, float64, bfloat16 or float16, of any
            shapes.

    Raises:
        TypeError, ValueError: an array is refused.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> gs.global_norm([np.array([3.0]), np.array([[4.0]], dtype=np.float32)])
        5.0
    """
    if isinstance(arrays, np.ndarray):
        return _core.norm([check("arrays", arrays, writable=False)])
    if not isinstance(arrays, list | tuple):
        raise TypeError(
            f"arrays: got {type(arrays).__name__}, wanted an array or a sequence of arrays"
        )
    checked = [check(f"arrays[{i}]", a, writable=False) for i, a in enumerate(arrays)]
    return _core.norm(checked)
