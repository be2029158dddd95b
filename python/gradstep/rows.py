"""A gradient of some of a parameter's rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import _core, arrays

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .arrays import Array

INDICES = ("int64", "int32")


class Rows(_core.RowGradient):
    """A gradient of some rows of a parameter, as of a table of embeddings, in place of an array.

    For :class:`SGD` without momentum, :class:`Adagrad` and :class:`Adam`, without weight decay. A
    step costs what its rows cost, however many the table has: rows without a gradient keep
    parameter, states, average and copy as they are. The others get the numbers that a
    gradient of all rows would give them, to the bit. The parameter's count, and with it Adam's
    correction, goes on with each step, as in PyTorch's ``SparseAdam``, also with no row at all.

    Args:
        indices: int64 or int32, of shape ``(n,)``: which rows, the indices of the parameter's first
            dimension, from 0. They may come in any order, and several times: what is given for one
            row is then added up in that order, in what the step computes in. Then clipping and
            the rule see one gradient per row.
        values: of shape ``(n, *param.shape[1:])`` and any of the dtypes that gradients have.
        coalesced: True if you know that the indices ascend and that each is there once. A step
            refuses the gradient if that is not so.

    ``clip_norm``, ``grad_norm``, ``nonfinite`` and ``stats=True`` are over the rows that have a
    gradient. ``average`` moves for those alone, as lazily as the states; a gradient of all rows,
    zeros included, or None moves all of it. Refused by name: other rules, ``momentum`` and
    ``weight_decay`` above 0, states in ``"q8"`` or ``"q4"``, and ``stats="sample"``. Rows of a
    :class:`Shard` are those of its own array.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> table = np.zeros((1000, 2))
        >>> opt = gs.SGD(table, lr=0.5)
        >>> opt.step(gs.Rows(np.array([7, 3, 7]), np.array([[1.0, 2], [3, 4], [5, 6]])))
        Report(t=1, lr=0.5)
        >>> table[[3, 7]]
        array([[-1.5, -2. ],
               [-3. , -4. ]])
    """

    def __init__(self, indices: Array, values: Array, *, coalesced: bool = False) -> None:
        if coalesced is not True and coalesced is not False:
            raise TypeError(f"coalesced: got {coalesced!r}, wanted True or False")
        super().__init__(indices, values, coalesced)

    def __repr__(self) -> str:
        shape = getattr(self.values, "shape", None)
        return f"Rows(indices, values of shape {shape}, coalesced={self.coalesced})"


def check_rows(argument: str, rows: Rows, *, writable: bool, shape: tuple[int, ...]) -> Rows:
    """Return rows as plain arrays on the same memory, or raise.

    Args:
        argument: what to call them in an error.
        rows: the gradient.
        writable: whether its values must be writable.
        shape: the parameter's shape.

    Raises:
        TypeError, ValueError: they are no gradient of some rows of such a parameter.
    """
    if not shape:
        raise ValueError(f"{argument}: got some rows of a single number, wanted an array")
    indices = arrays.check(f"{argument}.indices", rows.indices, writable=False, dtypes=INDICES)
    if indices.ndim != 1:
        raise ValueError(
            f"{argument}.indices: got shape {indices.shape}, wanted one index for each row"
        )
    wanted = (indices.size, *shape[1:])
    values = arrays.check(f"{argument}.values", rows.values, writable=writable, shape=wanted)
    if type(rows.indices) is type(rows.values) is type(values):
        return rows
    return Rows(indices, values, coalesced=rows.coalesced)


def parts(argument: str, gradient: Any) -> Iterable[tuple[str, Array]]:
    """The arrays of a gradient with what they are called."""
    if isinstance(gradient, Rows):
        yield f"{argument}.indices", gradient.indices
        yield f"{argument}.values", gradient.values
    else:
        yield argument, gradient
