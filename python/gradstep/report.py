"""The report of a step: what it did and what it measured."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Statistics(NamedTuple):
    """What a step measured, of one group or of all.

    Attributes:
        grad_norm: the norm of the gradients as the rule would see them without clipping: the loss
            scale is divided out.
        update_norm: the norm of the parameters' change, as stored.
        param_norm: the norm of the parameters after it.
        cosine: cos(gₜ, mₜ₋₁), of the gradient and the momentum before the step; None without a
            momentum (but not of a sample), or where one of them is 0, as the momentum is at t = 1.
        g2_over_v: the mean of g²/v over all elements, 0 where v is; v is corrected for its start
            as the rule corrects it. None for rules without a second moment.

    Parameters that the step left alone, for a gradient of None or a frozen group, do not count.
    """

    grad_norm: float
    update_norm: float
    param_norm: float
    cosine: float | None
    g2_over_v: float | None


class Sums(NamedTuple):
    """What the core adds up for a group, in its order and by its names."""

    raw_gradient: float  # g², as given
    update: float  # (p − p_before)²
    param: float  # p²
    gradient_momentum: float  # g·m
    momentum: float  # m²
    gradient: float  # g², as the rule got it
    ratio: float  # g²/v
    elements: float


def statistics(parts: Sequence[tuple[Sums, bool, bool]], grad_norm: float) -> Statistics:
    """The statistics of some groups together.

    Args:
        parts: each group's sums, and whether it has a momentum and a second moment.
        grad_norm: the norm of their gradients.
    """
    with_momentum = [sums for sums, has_momentum, _ in parts if has_momentum]
    product = sum(sums.gradient_momentum for sums in with_momentum)
    norms = math.sqrt(sum(sums.momentum for sums in with_momentum)) * math.sqrt(
        sum(sums.gradient for sums in with_momentum)
    )
    with_moment = [sums for sums, _, has_moment in parts if has_moment]
    elements = sum(sums.elements for sums in with_moment)
    return Statistics(
        grad_norm,
        math.sqrt(sum(sums.update for sums, _, _ in parts)),
        math.sqrt(sum(sums.param for sums, _, _ in parts)),
        product / norms if norms else None,
        sum(sums.ratio for sums in with_moment) / elements if elements else None,
    )


class Report:
    """What a step did.

    Attributes:
        t: updates applied so far, this one included unless it was skipped.
        lr: the rate that was used; a tuple, one per group, where there are several.
        skipped: whether nothing was updated, for a gradient that is not finite.
        grad_norm: see :class:`Statistics`; None where neither ``clip_norm``, ``nonfinite`` nor
            ``stats`` called for it.
        update_norm, param_norm, cosine, g2_over_v: see :class:`Statistics`; None without
            ``stats``.
        groups: the :class:`Statistics` of each group; None without ``stats``, or of a sample.
    """

    # A step that measures nothing leaves these as they are: a report must cost next to nothing.
    __slots__ = ("__dict__", "lr", "t")
    skipped: bool = False
    grad_norm: float | None = None
    update_norm: float | None = None
    param_norm: float | None = None
    cosine: float | None = None
    g2_over_v: float | None = None
    groups: tuple[Statistics, ...] | None = None

    def __init__(
        self, t: int, lr: float | tuple[float, ...], measured: Mapping[str, Any] | None = None
    ) -> None:
        self.t = t
        self.lr = lr
        if measured is not None:
            self.__dict__.update(measured)

    def to_dict(self) -> dict[str, Any]:
        """What is known of the step by name, as plain numbers, tuples and dicts.

        Besides ``t`` and ``lr`` that is what this step measured: the same for every step of an
        optimizer, except that a skipped one has no statistics.
        """
        known = {"t": self.t, "lr": self.lr, **self.__dict__}
        if self.groups is not None:
            known["groups"] = tuple(group._asdict() for group in self.groups)
        return known

    def to_json(self) -> str:
        """The report as one JSON object on one line; what is not finite is null."""
        return json.dumps(_finite(self.to_dict()), allow_nan=False)

    def _repr_html_(self) -> str | None:
        from .notebooks import report  # noqa: PLC0415 - for notebooks alone

        return report(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Report) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.t, self.lr))

    def __repr__(self) -> str:
        shown = (f"{key}={value!r}" for key, value in self.to_dict().items() if key != "groups")
        return f"Report({', '.join(shown)})"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
