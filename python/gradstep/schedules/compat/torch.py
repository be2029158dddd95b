"""PyTorch's schedulers, read into schedules. PyTorch itself is not imported."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, SupportsIndex

from .. import families as own
from .. import plateau
from ..arguments import Anneal
from ..base import Schedule, join

# Children of a ChainedScheduler whose steps multiply the rate, so that their factors multiply.
_FACTORS = {"ConstantLR", "LinearLR", "StepLR", "MultiStepLR", "ExponentialLR", "PolynomialLR"}


def from_torch(
    scheduler: Any,
    group: int = 0,
    *,
    hyperparameter: str = "lr",
    total: SupportsIndex | None = None,
) -> Schedule | plateau.Plateau:
    """What a PyTorch scheduler gives a group's rate, or its momentum, as a schedule.

    Its ``t`` is the scheduler's ``last_epoch``, from 0, whatever the scheduler has done so far; one
    that is stepped each epoch becomes one of updates by ``.stairs(updates_per_epoch)``. Values are
    those of the scheduler's formula, without the rounding errors that add up in its steps.

    Args:
        scheduler: from ``torch.optim.lr_scheduler``, of PyTorch 2.6 or later.
        group: the index of the parameter group.
        hyperparameter: ``"lr"``, or ``"momentum"`` (which is β₁ where the optimizer has betas) of
            a ``CyclicLR`` or ``OneCycleLR`` that cycles it.
        total: for ``LambdaLR``, ``MultiplicativeLR`` and a ``CyclicLR`` with a function of its
            own: how many values to take, since a function in Python has no formula to read.

    Returns:
        A schedule; for ``ReduceLROnPlateau`` a :class:`Plateau` with what it has seen.

    Raises:
        TypeError: no scheduler of PyTorch's, or one of a class that is not known here.
        ValueError: ``total`` is missing or not wanted; no such group or hyperparameter; a
            ``ChainedScheduler`` with a child whose steps do more than multiply.

    Example:
        >>> import types
        >>> class StepLR(types.SimpleNamespace):  # torch.optim.lr_scheduler.StepLR
        ...     pass
        >>> StepLR.__module__ = "torch.optim.lr_scheduler"
        >>> from gradstep import schedules
        >>> schedules.from_torch(StepLR(base_lrs=[0.1], step_size=30, gamma=0.5))
        schedules.step(0.1, step_size=30, gamma=0.5)

    Where ours differs: a ``OneCycleLR`` holds its last value past its last step, where PyTorch
    gives one that is far larger and then raises.
    """
    kind = type(scheduler).__name__
    if type(scheduler).__module__.partition(".")[0] != "torch":
        raise TypeError(
            f"scheduler: got {type(scheduler).__module__}.{kind}, wanted one of PyTorch's"
        )
    if kind not in _READERS and kind not in _SAMPLED and kind != "ReduceLROnPlateau":
        raise TypeError(
            f"scheduler: got {kind}, wanted one of ReduceLROnPlateau, "
            + ", ".join([*_READERS, *_SAMPLED])
        )
    if hyperparameter != "lr" and not (
        hyperparameter == "momentum" and getattr(scheduler, "cycle_momentum", False)
    ):
        raise ValueError(
            f"hyperparameter: got {hyperparameter!r}, wanted 'lr'"
            + (", or 'momentum' where the scheduler cycles it" if hyperparameter != "lr" else "")
        )
    try:
        sampled = kind in _SAMPLED or getattr(scheduler, "_scale_fn_custom", None) is not None
        if sampled != (total is not None) and kind not in ("SequentialLR", "ChainedScheduler"):
            raise ValueError(
                f"total: got {total!r} for a {kind}, wanted "
                + ("an integer: it calls a function" if sampled else "None: it has a formula")
            )
        if kind == "ReduceLROnPlateau":
            return _plateau(scheduler, group)
        if kind in _SAMPLED:
            return own.sample(_SAMPLED[kind](scheduler, group), total or 0)
        return _READERS[kind](scheduler, group, hyperparameter, total)
    except IndexError:
        raise ValueError(f"group: got {group}, which the scheduler does not have") from None


def _float(x: Any) -> float:
    return float(x)  # rates may be tensors


def _constant(s: Any, group: int, *_: Any) -> Schedule:
    base = _float(s.base_lrs[group])
    if s.total_iters == 0:  # never met, so never undone
        return own.constant(base * s.factor)
    return own.drop(base * s.factor, [s.total_iters], values=[base])


def _linear(s: Any, group: int, *_: Any) -> Schedule:
    base = _float(s.base_lrs[group])
    if s.total_iters == 0:
        return own.constant(base * s.start_factor)
    return own.linear(base * s.start_factor, base * s.end_factor, s.total_iters)


def _step(s: Any, group: int, *_: Any) -> Schedule:
    return own.step(_float(s.base_lrs[group]), s.step_size, s.gamma)


def _multi_step(s: Any, group: int, *_: Any) -> Schedule:
    return own.drop(_float(s.base_lrs[group]), sorted(s.milestones.elements()), s.gamma)


def _exponential(s: Any, group: int, *_: Any) -> Schedule:
    return own.exponential(_float(s.base_lrs[group]), s.gamma)


def _polynomial(s: Any, group: int, *_: Any) -> Schedule:
    base = _float(s.base_lrs[group])
    return own.polynomial(base, s.total_iters, s.power) if s.total_iters else own.constant(base)


def _cosine(s: Any, group: int, *_: Any) -> Schedule:
    return own.cosine_wave(_float(s.base_lrs[group]), s.T_max, end_value=s.eta_min)


def _restarts(s: Any, group: int, *_: Any) -> Schedule:
    return own.cosine_restarts(_float(s.base_lrs[group]), s.T_0, s.T_mult, end_value=s.eta_min)


def _cyclic(s: Any, group: int, hyperparameter: str, total: Any) -> Schedule:
    low, high = _float(s.base_lrs[group]), _float(s.max_lrs[group])
    if hyperparameter == "momentum":
        # from the largest to the smallest
        low, high = _float(s.max_momentums[group]), _float(s.base_momentums[group])
    size = round(s.total_size)
    up = round(s.step_ratio * size)
    if s._scale_fn_custom is not None:
        height = own.cyclic(0.0, 1.0, up, step_size_down=size - up)

        def value(t: int) -> float:
            scale = s.scale_fn(1 + t // size if s.scale_mode == "cycle" else t)
            return low + (high - low) * height(t) * float(scale)

        return own.sample(value, total)
    gamma = s.gamma if s.mode == "exp_range" else None
    return own.cyclic(low, high, up, step_size_down=size - up, policy=s.mode, gamma=gamma)


def _one_cycle(s: Any, group: int, hyperparameter: str, _: Any) -> Schedule:
    values = s.optimizer.param_groups[group]
    points: list[tuple[float, float]] = []
    begin = 0.0
    for phase in s._schedule_phases:
        end = float(phase["end_step"])
        if end > begin or begin > 0 or phase is s._schedule_phases[-1]:
            keys = phase[f"start_{hyperparameter}"], phase[f"end_{hyperparameter}"]
            points += [(begin, _float(values[keys[0]])), (end, _float(values[keys[1]]))]
        begin = end
    anneal: Anneal = "linear" if s._anneal_func_type == "linear" else "cosine"
    return own.interpolate(points, anneal)


def _sequential(s: Any, group: int, hyperparameter: str, total: Any) -> Schedule:
    parts = [_part(child, group, hyperparameter, total) for child in s._schedulers]
    return join(parts, at=s._milestones)


def _chained(s: Any, group: int, hyperparameter: str, total: Any) -> Schedule:
    whole: Schedule | None = None
    for child in s._schedulers:
        kind = type(child).__name__
        if kind not in _FACTORS:
            raise ValueError(
                f"scheduler: got a ChainedScheduler with {kind}, which adds to what the others "
                f"made of the rate, wanted only {', '.join(sorted(_FACTORS))}"
            )
        part = _part(child, group, hyperparameter, total)
        base = _float(child.base_lrs[group])
        whole = part if whole is None else whole * (part * (1 / base))
    if whole is None:
        raise ValueError("scheduler: got a ChainedScheduler of nothing")
    return whole


def _part(child: Any, group: int, hyperparameter: str, total: Any) -> Schedule:
    sampled = type(child).__name__ in _SAMPLED
    made = from_torch(child, group, hyperparameter=hyperparameter, total=total if sampled else None)
    if not isinstance(made, Schedule):
        raise ValueError("scheduler: got ReduceLROnPlateau within another, wanted it alone")
    return made


def _plateau(s: Any, group: int) -> plateau.Plateau:
    rate, lowest = _float(s.optimizer.param_groups[group]["lr"]), _float(s.min_lrs[group])
    made = plateau.Plateau(
        rate,
        s.factor,
        s.patience,
        mode=s.mode,
        threshold=s.threshold,
        threshold_mode=s.threshold_mode,
        cooldown=s.cooldown,
        min_multiplier=min(1.0, lowest / rate) if rate else 0.0,
        eps=s.eps / rate if rate else 0.0,
    )
    made.load_state_dict(
        {
            "multiplier": 1.0,
            "best": _float(s.best) if math.isfinite(s.best) else None,
            "bad": s.num_bad_epochs,
            "cooling": s.cooldown_counter,
            "observed": s.last_epoch,
        }
    )
    return made


def _lambda(s: Any, group: int) -> Callable[[int], float]:
    base, function = _float(s.base_lrs[group]), s.lr_lambdas[group]
    return lambda t: base * float(function(t))


def _multiplicative(s: Any, group: int) -> Callable[[int], float]:
    products = [_float(s.base_lrs[group])]
    function = s.lr_lambdas[group]

    def value(t: int) -> float:
        while len(products) <= t:
            products.append(products[-1] * float(function(len(products))))
        return products[t]

    return value


_SAMPLED: dict[str, Callable[[Any, int], Callable[[int], float]]] = {
    "LambdaLR": _lambda,
    "MultiplicativeLR": _multiplicative,
}
_READERS: dict[str, Callable[[Any, int, str, Any], Schedule]] = {
    "ConstantLR": _constant,
    "LinearLR": _linear,
    "StepLR": _step,
    "MultiStepLR": _multi_step,
    "ExponentialLR": _exponential,
    "PolynomialLR": _polynomial,
    "CosineAnnealingLR": _cosine,
    "CosineAnnealingWarmRestarts": _restarts,
    "CyclicLR": _cyclic,
    "OneCycleLR": _one_cycle,
    "SequentialLR": _sequential,
    "ChainedScheduler": _chained,
}
