"""PyTorch's schedulers, read into schedules. PyTorch itself is not imported."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from typing import Any, NamedTuple, SupportsIndex

from .. import families as own
from .. import plateau
from ..arguments import Anneal
from ..base import Schedule, join

# Children of a ChainedScheduler whose steps multiply the rate, so that their factors multiply.
_FACTORS = {"ConstantLR", "LinearLR", "StepLR", "MultiStepLR", "ExponentialLR", "PolynomialLR"}
# Those whose steps go on from the group's rate, whatever their formula would give.
_RELATIVE = _FACTORS | {"CosineAnnealingLR", "SequentialLR", "ChainedScheduler"}
_SAME = 1e-6  # of a rate: more than rounding errors add up to
_SAME_TENSOR = 1e-2  # the same, for rates that may be in single precision


class _Asked(NamedTuple):
    """What is to be read from a scheduler.

    Attributes:
        group: the index of the parameter group.
        hyperparameter: ``"lr"`` or ``"momentum"``.
        total: how many values of a function to take.
        rate: the group's rate when the scheduler begins; None: the scheduler's base rate.
        later: whether another scheduler of a ``SequentialLR`` goes before.
        done: steps that a nested ``SequentialLR`` has made; None: it is not nested.
    """

    group: int
    hyperparameter: str
    total: SupportsIndex | None
    rate: float | None = None
    later: bool = False
    done: int | None = None

    def base(self, scheduler: Any) -> float:
        return _float(scheduler.base_lrs[self.group])

    def first(self, scheduler: Any) -> float:
        """The rate that the steps of a relative scheduler begin with."""
        return self.base(scheduler) if self.rate is None else self.rate


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

    A scheduler that does not give what its formula says is refused: PyTorch's steps go on from the
    rate that the group has, so that one whose ``last_epoch`` was set without the optimizer's state,
    or a ``SequentialLR`` with a ``last_epoch``, gives other values.
    """
    kind = type(scheduler).__name__
    if type(scheduler).__module__.partition(".")[0] != "torch":
        raise TypeError(
            f"scheduler: got {type(scheduler).__module__}.{kind}, wanted one of PyTorch's"
        )
    if kind not in _READERS and kind != "ReduceLROnPlateau":
        raise TypeError(
            f"scheduler: got {kind}, wanted one of ReduceLROnPlateau, {', '.join(_READERS)}"
        )
    if hyperparameter != "lr" and not (
        hyperparameter == "momentum" and getattr(scheduler, "cycle_momentum", False)
    ):
        raise ValueError(
            f"hyperparameter: got {hyperparameter!r}, wanted 'lr'"
            + (", or 'momentum' where the scheduler cycles it" if hyperparameter != "lr" else "")
        )
    if _is_function(scheduler) != (total is not None) and kind not in _COMPOSED:
        raise ValueError(
            f"total: got {total!r} for a {kind}, wanted "
            + ("an integer: it calls a function" if total is None else "None: it has a formula")
        )
    try:
        if kind == "ReduceLROnPlateau":
            return _plateau(scheduler, group)
        asked = _Asked(group, hyperparameter, total)
        made = _READERS[kind](scheduler, asked)
        _check_rate(made, scheduler, asked)
    except IndexError:
        raise ValueError(f"group: got {group}, which the scheduler does not have") from None
    return made


def _float(x: Any) -> float:
    return float(x)  # rates may be tensors


def _is_function(scheduler: Any) -> bool:
    """Whether a scheduler calls a function of the user's, which cannot be read."""
    return (
        type(scheduler).__name__ in ("LambdaLR", "MultiplicativeLR")
        or getattr(scheduler, "_scale_fn_custom", None) is not None
    )


def _check_rate(made: Schedule, scheduler: Any, asked: _Asked) -> None:
    """Refuse a scheduler whose present rate is not what its formula gives.

    Raises:
        ValueError: it is not.
    """
    kind, rates = type(scheduler).__name__, getattr(scheduler, "_last_lr", None)
    step = _step_of(scheduler)
    if rates is None or step is None or kind not in _RELATIVE or _is_past_end(scheduler):
        return
    told, formula = _float(rates[asked.group]), made(step)
    same = _SAME if isinstance(rates[asked.group], int | float) else _SAME_TENSOR
    largest = max(abs(told), abs(formula), abs(made(0)))
    if abs(told - formula) > same * max(abs(told), abs(formula)) + 1e-9 * largest:
        raise ValueError(
            f"scheduler: got a {kind} whose rate at step {step} is {told:g}, where its formula "
            f"gives {formula:g} (PyTorch's steps go on from the rate that the group has), wanted "
            "one that began with its optimizer, or after the optimizer's state was loaded"
        )


def _step_of(scheduler: Any) -> int | None:
    """How many steps a scheduler has made; None where it does not say."""
    if type(scheduler).__name__ == "ChainedScheduler" and scheduler._schedulers:
        return _step_of(scheduler._schedulers[0])
    step: int | None = getattr(scheduler, "last_epoch", None)
    return step


def _is_past_end(scheduler: Any) -> bool:
    """Whether a ``OneCycleLR`` is at work whose values are no longer read as PyTorch's."""
    while type(scheduler).__name__ == "SequentialLR":
        index = bisect_right(scheduler._milestones, scheduler.last_epoch)
        scheduler = scheduler._schedulers[index]
    if type(scheduler).__name__ != "OneCycleLR":
        return False
    return bool(scheduler.last_epoch >= scheduler.total_steps)


def _constant(s: Any, asked: _Asked) -> Schedule:
    rate = asked.first(s)
    if s.total_iters == 0:
        # Alone it is never met, so never undone; after another the formula counts.
        return own.constant(rate if asked.later else rate * s.factor)
    return own.drop(rate * s.factor, [s.total_iters], values=[rate])


def _check_length(s: Any, asked: _Asked) -> None:
    if s.total_iters == 0 and asked.later:
        raise ValueError(
            f"scheduler: got a {type(s).__name__} of 0 steps after another in a SequentialLR, "
            "where PyTorch divides by zero, wanted at least 1"
        )


def _linear(s: Any, asked: _Asked) -> Schedule:
    rate = asked.first(s)
    _check_length(s, asked)
    if s.total_iters == 0:
        return own.constant(rate * s.start_factor)
    return own.linear(rate * s.start_factor, rate * s.end_factor, s.total_iters)


def _step(s: Any, asked: _Asked) -> Schedule:
    return own.step(asked.first(s), s.step_size, s.gamma)


def _multi_step(s: Any, asked: _Asked) -> Schedule:
    return own.drop(asked.first(s), sorted(s.milestones.elements()), s.gamma)


def _exponential(s: Any, asked: _Asked) -> Schedule:
    return own.exponential(asked.first(s), s.gamma)


def _polynomial(s: Any, asked: _Asked) -> Schedule:
    rate = asked.first(s)
    _check_length(s, asked)
    return own.polynomial(rate, s.total_iters, s.power) if s.total_iters else own.constant(rate)


def _cosine(s: Any, asked: _Asked) -> Schedule:
    base, rate = asked.base(s), asked.first(s)
    wave = own.cosine_wave(base, s.T_max, end_value=s.eta_min)
    if rate == base:
        return wave
    # The way down is from the group's rate; where PyTorch turns, it adds a part of the base rate.
    down = own.cosine(rate, s.T_max, end_value=s.eta_min)
    return join([down, wave.shift(-s.T_max)], at=[s.T_max])


def _restarts(s: Any, asked: _Asked) -> Schedule:
    return own.cosine_restarts(asked.base(s), s.T_0, s.T_mult, end_value=s.eta_min)


def _cyclic(s: Any, asked: _Asked) -> Schedule:
    low, high = asked.base(s), _float(s.max_lrs[asked.group])
    if asked.hyperparameter == "momentum":
        # from the largest to the smallest
        low, high = _float(s.max_momentums[asked.group]), _float(s.base_momentums[asked.group])
    up, size = _whole_steps("step_size_up", s.step_ratio * s.total_size), round(s.total_size)
    down = _whole_steps("step_size_down", s.total_size - up)
    if s._scale_fn_custom is not None:
        height = own.cyclic(0.0, 1.0, up, step_size_down=down)

        def value(t: int) -> float:
            scale = s.scale_fn(1 + t // size if s.scale_mode == "cycle" else t)
            return low + (high - low) * height(t) * float(scale)

        return own.sample(value, _total(s, asked))
    gamma = s.gamma if s.mode == "exp_range" else None
    return own.cyclic(low, high, up, step_size_down=down, policy=s.mode, gamma=gamma)


def _whole_steps(name: str, steps: float) -> int:
    if abs(steps - round(steps)) > 1e-6:
        raise ValueError(
            f"scheduler: got a CyclicLR with {name}={steps:g}, wanted a whole number of steps: "
            "a cycle of ours begins at a step"
        )
    return round(steps)


def _one_cycle(s: Any, asked: _Asked) -> Schedule:
    values = s.optimizer.param_groups[asked.group]
    points: list[tuple[float, float]] = []
    begin = 0.0
    for phase in s._schedule_phases:
        end = float(phase["end_step"])
        if end > begin or begin > 0 or phase is s._schedule_phases[-1]:
            keys = (phase[f"{where}_{asked.hyperparameter}"] for where in ("start", "end"))
            first, last = (_float(values[key]) for key in keys)
            points += [(begin, first), (end, last)]
        begin = end
    anneal: Anneal = "linear" if s._anneal_func_type == "linear" else "cosine"
    return own.interpolate(points, anneal)


def _sequential(s: Any, asked: _Asked) -> Schedule:
    nested = asked.done is not None
    done = s.last_epoch if asked.done is None else asked.done
    # A nested one counts the step that it made when it was built, so that it is ahead.
    at = [max(0, milestone - (s.last_epoch - done)) for milestone in s._milestones]
    _check_child(s, at, done)
    begins = 0 if nested else bisect_right(s._milestones, 0)
    parts = []
    for i, child in enumerate(s._schedulers):
        if i == begins:
            # PyTorch sets the rate to the group's first before this one begins: another scheduler
            # may have replaced that since the child was built.
            rate = asked.rate
            if rate is None:
                rate = _float(s.optimizer.param_groups[asked.group]["initial_lr"])
            last = done if not at else min(done, at[0] - 1)
            parts.append(_part(child, asked._replace(rate=rate, done=max(0, last))))
        else:
            parts.append(_part(child, asked._replace(rate=None, later=True, done=None)))
    return join(parts, at=at)


def _check_child(s: Any, at: list[int], done: int) -> None:
    """Refuse a ``SequentialLR`` whose child at work is not at the step that the milestones say.

    Raises:
        ValueError: it is not.
    """
    index = bisect_right(at, done)
    child = s._schedulers[index]
    step, wanted = _step_of(child), done - (at[index - 1] if index else 0)
    if type(child).__name__ != "SequentialLR" and step is not None and step != wanted:
        raise ValueError(
            f"scheduler: got a SequentialLR at step {done} whose {type(child).__name__} is at step "
            f"{step}, wanted it at {wanted}: PyTorch does not move the children to last_epoch, nor "
            "can one child stand in two places"
        )


def _chained(s: Any, asked: _Asked) -> Schedule:
    whole: Schedule | None = None
    for child in s._schedulers:
        kind = type(child).__name__
        if kind not in _FACTORS:
            raise ValueError(
                f"scheduler: got a ChainedScheduler with {kind}, which adds to what the others "
                f"made of the rate, wanted only {', '.join(sorted(_FACTORS))}"
            )
        if whole is None:
            whole = _part(child, asked)
        else:
            whole = whole * _part(child, asked._replace(rate=1.0))
    if whole is None:
        raise ValueError("scheduler: got a ChainedScheduler of nothing")
    return whole


def _part(child: Any, asked: _Asked) -> Schedule:
    """The schedule of a child, within another scheduler.

    Raises:
        TypeError, ValueError: it cannot be read, or not there.
    """
    kind = type(child).__name__
    if kind not in _READERS:
        raise TypeError(
            f"scheduler: got {kind} within another, wanted one of {', '.join(_READERS)}"
        )
    if asked.later and kind in _COMPOSED:
        raise ValueError(
            f"scheduler: got a {kind} after another in a SequentialLR, where PyTorch raises "
            "NotImplementedError as soon as it is reached, wanted it first, or its children instead"
        )
    if asked.later and kind == "MultiplicativeLR":
        raise ValueError(
            "scheduler: got a MultiplicativeLR after another in a SequentialLR, where PyTorch "
            "multiplies whatever rate the other left, wanted a LambdaLR"
        )
    return _READERS[kind](child, asked)


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


def _total(s: Any, asked: _Asked) -> SupportsIndex:
    if asked.total is None:
        raise ValueError(
            f"total: got None for a {type(s).__name__}, wanted an integer: it calls a function"
        )
    return asked.total


def _lambda(s: Any, asked: _Asked) -> Schedule:
    base, function = asked.base(s), s.lr_lambdas[asked.group]
    return own.sample(lambda t: base * float(function(t)), _total(s, asked))


def _multiplicative(s: Any, asked: _Asked) -> Schedule:
    products = [asked.first(s)]
    function = s.lr_lambdas[asked.group]

    def value(t: int) -> float:
        while len(products) <= t:
            products.append(products[-1] * float(function(len(products))))
        return products[t]

    return own.sample(value, _total(s, asked))


_COMPOSED = ("SequentialLR", "ChainedScheduler")
_READERS: dict[str, Callable[[Any, _Asked], Schedule]] = {
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
    "LambdaLR": _lambda,
    "MultiplicativeLR": _multiplicative,
}
