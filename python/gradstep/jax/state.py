"""What a transformation keeps from step to step, and what a step says of itself: pytrees."""

from __future__ import annotations

from typing import Any, NamedTuple


class Report(NamedTuple):
    """What a step did: scalars, None where nothing called for them.

    Attributes:
        lr: float32, the rate that was used; where a schedule or a function gives it.
        skipped: bool, whether nothing was updated for a gradient that is not finite; with
            ``nonfinite="skip"``.
        grad_norm: float32, the norm of all gradients before clipping, loss scale divided out; with
            ``clip_norm``, ``nonfinite="skip"`` or ``stats``.
        update_norm, param_norm, cosine, g2_over_v: float32, as in :class:`gradstep.Report`, NaN
            where there is none; with ``stats``.
    """

    lr: Any = None
    skipped: Any = None
    grad_norm: Any = None
    update_norm: Any = None
    param_norm: Any = None
    cosine: Any = None
    g2_over_v: Any = None


class State(NamedTuple):
    """What a transformation keeps, a pytree of arrays.

    Attributes:
        count: int32, the steps made.
        states: for each of the rule's states, by its name in checkpoints, a tree like the
            parameters. Those in q8 and q4 are uint8, which :func:`gradstep.decode` reads.
        memory: uint32 of shape (leaves, numbers, 2), the two halves of each float64 that the rule
            keeps for a leaf; None where it keeps none.
        begun: bool, whether a step has used the state that a number switches on, such as SGD's
            momentum; None where there is none.
        average: the running means, a tree like the parameters; None without ``average``.
        low: the lower halves of split parameters, int16; None without ``split``.
        copy: the parameters in the dtype of ``copy_to``; None without.
        report: of the last step, zeros before the first.
    """

    count: Any
    states: dict[str, Any]
    memory: Any
    begun: Any
    average: Any
    low: Any
    copy: Any
    report: Report
