"""The shapes: each a closed form of the step.

``value`` is what a shape starts from, ``end_value`` what it goes to, and all lengths are counted in
updates. The conventions ``end`` and ``past_end`` are those of the package.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, SupportsFloat, SupportsIndex

from .. import _core
from . import arguments as check
from .arguments import Anneal, End, PastEnd
from .base import Schedule, composed, formed, lasting, maker

Policy = Literal["triangular", "triangular2", "exp_range", "annealing"]
Tail = Literal["linear", "cosine", "1-sqrt", "1-power", "exponential"]

MOST_CYCLES = 1 << 16
LONGEST = 1 << 100  # of which no step below 2**52 sees a fall; far longer ones overflow


def _power(x: SupportsFloat) -> float:
    power = check.number("power", x)
    if power <= 0:
        raise ValueError(f"power: got {power!r}, wanted a number > 0")
    return power


# Powers that need no logarithm.
_EASY = {2.0: "_square", 0.5: "_root"}


def _powered(
    form: str, arguments: dict[str, Any], numbers: list[float], last: int | None
) -> Schedule:
    name = "polynomial" if form == "polynomial" else "power_decay"
    easy = _EASY.get(numbers[3])
    if easy is None:
        return formed(name, arguments, form, numbers, last)
    return formed(name, arguments, form + easy, numbers[:3], last)


def _powers(value: float, factor: float, count: int) -> list[float]:
    """``value·factor^n`` for ``n < count``, by the core's powers."""
    powers = _core.Schedule("step", [value, 1, factor]).range(count)
    return [value, *powers[1:].tolist()]


@maker
def constant(value: SupportsFloat) -> Schedule:
    """The same value at every step.

    Raises:
        TypeError, ValueError: ``value`` is not a finite number.

    Example:
        >>> from gradstep import schedules
        >>> schedules.constant(0.1)(10**12)
        0.1
    """
    value = check.value("value", value)
    return formed("constant", {"value": value}, "constant", [value])


@maker
@lasting
def linear(
    value: SupportsFloat,
    end_value: SupportsFloat,
    total: SupportsIndex,
    *,
    end: End = "exclusive",
    past_end: PastEnd = "hold",
) -> Schedule:
    """A straight line, up or down: ``value + (end_value - value)·x`` with ``x = min(t, T)/T``.

    Args:
        value: at ``t = 0``. A warm-up from 0 makes the first update do nothing.
        end_value: at the end.
        total: the length in updates, or in epochs (``epochs``, ``steps_per_epoch``); ``T = total``,
            or ``total - 1`` with ``end="inclusive"``.
        end: whether the end value belongs to ``t = total`` or to the last update.
        past_end: whether to hold the end value or to raise after it.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or not finite; ``total < 0``.

    Example:
        >>> from gradstep import schedules
        >>> warmup = schedules.linear(0.0, 1.0, total=4)
        >>> [warmup(t) for t in range(6)]
        [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]

    Where others differ: PyTorch's ``LinearLR`` takes factors of the rate, optax's
    ``linear_schedule`` the same values as here.
    """
    value, end_value = check.value("value", value), check.value("end_value", end_value)
    length, last, until = check.until(total, end, past_end)
    arguments = {"value": value, "end_value": end_value, **until}
    return formed("linear", arguments, "linear", [value, end_value, length], last)


@maker
def step(value: SupportsFloat, step_size: SupportsIndex, gamma: SupportsFloat = 0.1) -> Schedule:
    """A drop by the same factor at equal distances: ``value·gamma^⌊t/step_size⌋``.

    Args:
        value: for the first ``step_size`` updates.
        step_size: updates from drop to drop, at least 1.
        gamma: what each drop multiplies by, at least 0.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, not finite or out of range.

    Example:
        >>> from gradstep import schedules
        >>> s = schedules.step(1.0, step_size=30, gamma=0.5)
        >>> s(29), s(30), s(90)
        (1.0, 0.5, 0.125)

    The same as PyTorch's ``StepLR``, whose running product rounds at every drop.
    """
    value, gamma = check.value("value", value), check.factor("gamma", gamma)
    step_size = check.updates("step_size", step_size, 1)
    arguments = {"value": value, "step_size": step_size, "gamma": gamma}
    return formed("step", arguments, "step", [value, step_size, gamma])


@maker
def drop(
    value: SupportsFloat,
    milestones: Sequence[SupportsIndex],
    gamma: SupportsFloat | None = None,
    *,
    values: Sequence[SupportsFloat] | None = None,
) -> Schedule:
    """Drops at given steps: ``value·gamma^n`` or ``values[n - 1]``, ``n`` the milestones ``<= t``.

    Args:
        value: before the first milestone.
        milestones: steps that do not decrease. The update with index ``m`` is the first after the
            drop at ``m``; a milestone given twice counts twice.
        gamma: what each milestone multiplies by, at least 0; 0.1 where neither this nor ``values``
            is given.
        values: instead of ``gamma``, the value from each milestone on, one for each.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, not finite or out of range; both
            ``gamma`` and ``values``; not as many ``values`` as ``milestones``.

    Example:
        >>> from gradstep import schedules
        >>> s = schedules.drop(0.1, [30, 60], values=[0.02, 0.005])
        >>> s(29), s(30), s(60)
        (0.1, 0.02, 0.005)

    Where others differ: PyTorch's ``MultiStepLR`` and optax's ``piecewise_constant_schedule`` drop
    at ``t = m`` as here, Keras' ``PiecewiseConstantDecay`` at ``t > m``, timm at ``m - 1``.
    """
    value = check.value("value", value)
    steps = check.steps("milestones", milestones)
    arguments: dict[str, Any] = {"value": value, "milestones": steps, "gamma": None, "values": None}
    if values is None:
        factor = 0.1 if gamma is None else check.factor("gamma", gamma)
        arguments["gamma"] = factor
        levels = _powers(value, factor, len(steps) + 1)
    else:
        if gamma is not None:
            raise ValueError(f"gamma: got {gamma!r} together with values, wanted one of the two")
        after = check.values("values", values)
        if len(after) != len(steps):
            raise ValueError(
                f"values: got {len(after)}, wanted {len(steps)}, one for each milestone"
            )
        levels = [value, *after]
        arguments["values"] = after
    # The first knot is before any step.
    return formed("drop", arguments, "piecewise_hold", [-1, *steps, *levels])


@maker
def exponential(
    value: SupportsFloat,
    decay_rate: SupportsFloat,
    decay_steps: SupportsIndex = 1,
    *,
    begin: SupportsIndex = 0,
    staircase: bool = False,
) -> Schedule:
    """Exponential decay: ``value·decay_rate^(max(0, t - begin)/decay_steps)``.

    Args:
        value: at the start.
        decay_rate: what ``decay_steps`` updates multiply by, at least 0.
        decay_steps: updates, at least 1.
        begin: the step at which the decay begins.
        staircase: round the exponent down, so that the value drops every ``decay_steps`` updates.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, not finite or out of range.

    Example:
        >>> from gradstep import schedules
        >>> s = schedules.exponential(1.0, decay_rate=0.25, decay_steps=1000)
        >>> s(0), s(500), s(1000)
        (1.0, 0.5, 0.25)

    The same as optax's ``exponential_decay`` and Keras' ``ExponentialDecay``; PyTorch's
    ``ExponentialLR`` is the case ``decay_steps=1``, as a running product.
    """
    value, decay_rate = check.value("value", value), check.factor("decay_rate", decay_rate)
    decay_steps, begin = check.updates("decay_steps", decay_steps, 1), check.updates("begin", begin)
    check.flag("staircase", staircase)
    arguments = {
        "value": value,
        "decay_rate": decay_rate,
        "decay_steps": decay_steps,
        "begin": begin,
        "staircase": staircase,
    }
    if staircase:
        stairs = _core.Schedule("step", [value, decay_steps, decay_rate])
        return composed("exponential", arguments, [stairs], [begin], operation="shift")
    return formed("exponential", arguments, "exponential", [value, decay_rate, decay_steps, begin])


@maker
@lasting
def polynomial(
    value: SupportsFloat,
    total: SupportsIndex,
    power: SupportsFloat = 1.0,
    *,
    end_value: SupportsFloat = 0.0,
    cycle: bool = False,
    end: End = "exclusive",
    past_end: PastEnd = "hold",
) -> Schedule:
    """Polynomial decay: ``end_value + (value - end_value)·(1 - x)^power``, ``x = min(t, T)/T``.

    Args:
        value: at ``t = 0``.
        total: the length in updates, or in epochs (``epochs``, ``steps_per_epoch``); ``T = total``,
            or ``total - 1`` with ``end="inclusive"``.
        power: any number above 0; 1 is :func:`linear`, to the bit.
        end_value: at the end; not a fraction of ``value``.
        cycle: each time the end is reached, go on with the length ``T·⌈t/T⌉`` for ``T``, so that
            the value rises, less each time, and falls again. Not with another ``end`` or
            ``past_end``, since nothing ends.
        end: whether the end value belongs to ``t = total`` or to the last update.
        past_end: whether to hold the end value or to raise after it.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, not finite or out of range.

    Example:
        >>> from gradstep import schedules
        >>> s = schedules.polynomial(1.0, total=4, power=2)
        >>> [s(t) for t in range(6)]
        [1.0, 0.5625, 0.25, 0.0625, 0.0, 0.0]

    The same as PyTorch's ``PolynomialLR``, optax's ``polynomial_schedule`` and Keras'
    ``PolynomialDecay``. Hugging Face divides the end value by the default rate, which is wrong for
    groups with another.
    """
    value, end_value = check.value("value", value), check.value("end_value", end_value)
    power = _power(power)
    check.flag("cycle", cycle)
    length, last, until = check.until(total, end, past_end, least=int(cycle))
    if cycle and (end, past_end) != ("exclusive", "hold"):
        raise ValueError(
            f"cycle: got True with end={end!r} and past_end={past_end!r}, wanted False: a cycle "
            "has no end"
        )
    arguments = {"value": value, "power": power, "end_value": end_value, "cycle": cycle, **until}
    numbers = [value, end_value, length, power]
    if cycle:
        return formed("polynomial", arguments, "polynomial_cycle", numbers)
    if power == 1:
        return formed("polynomial", arguments, "linear", numbers[:3], last)
    return _powered("polynomial", arguments, numbers, last)


@maker
@lasting
def power_decay(
    value: SupportsFloat,
    total: SupportsIndex,
    power: SupportsFloat = 0.5,
    *,
    end_value: SupportsFloat = 0.0,
    end: End = "exclusive",
    past_end: PastEnd = "hold",
) -> Schedule:
    """Decay by a power of the progress: ``end_value + (value - end_value)·(1 - x^power)``.

    Args:
        value: at ``t = 0``.
        total: the length in updates, or in epochs (``epochs``, ``steps_per_epoch``); ``T = total``,
            or ``total - 1`` with ``end="inclusive"``.
        power: any number above 0; 1/2 is the ``1 - √x`` of cool-downs.
        end_value: at the end; not a fraction of ``value``.
        end: whether the end value belongs to ``t = total`` or to the last update.
        past_end: whether to hold the end value or to raise after it.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, not finite or out of range.

    Example:
        >>> from gradstep import schedules
        >>> s = schedules.power_decay(1.0, total=16)
        >>> s(0), s(1), s(4), s(16)
        (1.0, 0.75, 0.5, 0.0)

    Source: Hägele et al., "Scaling laws and compute-optimal training beyond fixed training
    durations", NeurIPS 2024, for 1/2.
    """
    value, end_value = check.value("value", value), check.value("end_value", end_value)
    power = _power(power)
    length, last, until = check.until(total, end, past_end)
    arguments = {"value": value, "power": power, "end_value": end_value, **until}
    numbers = [value, end_value, length, power]
    return _powered("polynomial_rise", arguments, numbers, last)


@maker
@lasting
def cosine(
    value: SupportsFloat,
    total: SupportsIndex,
    *,
    end_value: SupportsFloat = 0.0,
    power: SupportsFloat = 1.0,
    end: End = "exclusive",
    past_end: PastEnd = "hold",
) -> Schedule:
    """Cosine decay: ``end_value + (value - end_value)·cos²(πx/2)`` with ``x = min(t, T)/T``.

    Args:
        value: at ``t = 0``.
        total: the length in updates, or in epochs (``epochs``, ``steps_per_epoch``); ``T = total``,
            or ``total - 1`` with ``end="inclusive"``.
        end_value: at the end; not a fraction of ``value``.
        power: an exponent of ``cos²``, above 0 (optax's ``exponent``).
        end: whether the end value belongs to ``t = total`` or to the last update.
        past_end: whether to hold the end value or to raise after it.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, not finite or out of range.

    Example:
        >>> from gradstep import schedules
        >>> s = schedules.cosine(0.1, total=100, end_value=0.01)
        >>> s(0), s(100), s(1000)
        (0.1, 0.01, 0.01)

    Source: Loshchilov & Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017,
    equation 5, without restarts: ``(1 + cos πx)/2 = cos²(πx/2)``.

    Where others differ: PyTorch's ``CosineAnnealingLR`` and Hugging Face's rise again after the
    end (:func:`cosine_wave`); the floor is a fraction of the value in optax's
    ``cosine_decay_schedule`` and Keras' ``CosineDecay``.
    """
    value, end_value = check.value("value", value), check.value("end_value", end_value)
    power = _power(power)
    length, last, until = check.until(total, end, past_end)
    arguments = {"value": value, "end_value": end_value, "power": power, **until}
    numbers = [value, end_value, length]
    if power == 1:
        return formed("cosine", arguments, "cosine", numbers, last)
    return formed("cosine", arguments, "cosine_power", [*numbers, power], last)


@maker
def cosine_wave(
    value: SupportsFloat, half_period: SupportsFloat, *, end_value: SupportsFloat = 0.0
) -> Schedule:
    """A cosine without an end: ``end_value + (value - end_value)·cos²(πt/2h)``.

    Args:
        value: at ``t = 0`` and every second half period.
        half_period: ``h``, updates from ``value`` to ``end_value``; it need not be an integer.
        end_value: after half a period.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, not finite or out of range.

    Example:
        >>> from gradstep import schedules
        >>> schedules.cosine_wave(1.0, half_period=2).range(6).tolist()
        [1.0, 0.5, 0.0, 0.5, 1.0, 0.5]

    This is what PyTorch's ``CosineAnnealingLR`` and Hugging Face's cosine schedules are, past
    their last update.
    """
    value, end_value = check.value("value", value), check.value("end_value", end_value)
    half = check.number("half_period", half_period)
    if not 2**-10 <= half < 2**51:
        raise ValueError(f"half_period: got {half_period!r}, wanted 2**-10 <= half_period < 2**51")
    arguments = {"value": value, "half_period": half, "end_value": end_value}
    return formed("cosine_wave", arguments, "cosine_wave", [value, end_value, half])


@maker
def cosine_restarts(
    value: SupportsFloat,
    first: SupportsIndex,
    t_mult: SupportsFloat = 1.0,
    *,
    gamma: SupportsFloat = 1.0,
    end_value: SupportsFloat = 0.0,
    end: End = "exclusive",
) -> Schedule:
    """Cosine decays, one after another, each ``t_mult`` times as long and ``gamma`` times as high.

    Cycle i is ``end_value + (value·gamma^i - end_value)·cos²(πx/2)``, ``x = n/T``, ``n`` updates
    after it began. Its real length is ``first·t_mult^i``; cycles begin at the sums of these,
    rounded up to integers, and ``T`` is the number of updates between.

    Args:
        value: the first peak.
        first: updates of the first cycle, at least 1.
        t_mult: at least 1.
        gamma: what each restart multiplies the peak by, at least 0.
        end_value: where each cycle ends; not a fraction of ``value``.
        end: whether a cycle reaches it where the next one starts, so that no update uses it, or at
            its last update.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, not finite or out of range, or
            ``t_mult`` so near 1 that there would be more than 65536 cycles.

    Example:
        >>> from gradstep import schedules
        >>> s = schedules.cosine_restarts(1.0, first=1, t_mult=3)
        >>> s(0), s(1), s(4), s(13), s(40), s(121)
        (1.0, 1.0, 1.0, 1.0, 1.0, 1.0)

    Source: Loshchilov & Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017.

    Where others differ: PyTorch, Keras and timm find the cycle by a logarithm, whose rounding
    gives the wrong one at some restarts, such as 121 above. Keras' cycles begin between updates
    where ``t_mult`` is not an integer, see ``compat.keras.CosineDecayRestarts``.
    """
    value, end_value = check.value("value", value), check.value("end_value", end_value)
    length, factor = check.updates("first", first, 1), check.number("t_mult", t_mult)
    if factor < 1:
        raise ValueError(f"t_mult: got {t_mult!r}, wanted a number >= 1")
    gamma = check.factor("gamma", gamma)
    end = check.choice("end", end, End)
    arguments = {
        "value": value,
        "first": length,
        "t_mult": factor,
        "gamma": gamma,
        "end_value": end_value,
        "end": end,
    }
    early = end == "inclusive"
    if factor == 1:
        fall = [1.0, 0.0, length - early]
        if gamma == 1:
            cycle = _core.Schedule("cosine", [value, end_value, length - early])
            return composed("cosine_restarts", arguments, [cycle], [length], operation="repeat")
        # end + (value gamma^i - end) left = value gamma^i left + end done
        left, done = (
            _core.Schedule("repeat", [_core.Schedule("cosine", path)], [length])
            for path in (fall, [0.0, 1.0, length - early])
        )
        peaks = _core.Schedule("step", [value, length, gamma])
        high = _core.Schedule("multiply", [peaks, left], [])
        low = _core.Schedule("scale", [done], [end_value])
        return composed("cosine_restarts", arguments, [high, low], [], operation="add")
    begins = _cycles(length, factor)
    peaks_ = _powers(value, gamma, len(begins) - 1)
    x: list[float] = []
    v: list[float] = []
    for peak, begin, after in zip(peaks_, begins, begins[1:], strict=False):
        x += [begin, after - early, after]
        v += [peak, end_value, end_value]
    return formed("cosine_restarts", arguments, "piecewise_cosine", [*x, *v])


def _cycles(first: int, t_mult: float) -> list[int]:
    """Where cycles begin that grow by ``t_mult``, until there are no more steps."""
    exact = t_mult == int(t_mult)
    length: float = first
    begin: float = 0
    begins = [0]
    while begins[-1] <= check.FOREVER:
        if len(begins) > MOST_CYCLES:
            raise ValueError(
                f"t_mult: got {t_mult!r}, which makes more than {MOST_CYCLES} cycles, wanted 1 or "
                "a number further from it"
            )
        begin += length
        length *= int(t_mult) if exact else t_mult
        begins.append(min(math.ceil(begin), LONGEST))
    return begins


@maker
def inverse_time(
    value: SupportsFloat,
    decay_rate: SupportsFloat,
    decay_steps: SupportsIndex = 1,
    *,
    staircase: bool = False,
) -> Schedule:
    """Inverse time decay: ``value/(1 + decay_rate·t/decay_steps)``.

    Args:
        value: at ``t = 0``.
        decay_rate: at least 0.
        decay_steps: updates, at least 1.
        staircase: round ``t/decay_steps`` down.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, not finite or out of range.

    Example:
        >>> from gradstep import schedules
        >>> s = schedules.inverse_time(1.0, decay_rate=0.5, decay_steps=10)
        >>> s(0), s(20), s(60)
        (1.0, 0.5, 0.25)

    Source: Robbins & Monro, "A stochastic approximation method", 1951, for rates that fall as
    ``1/t``; the form is Keras' ``InverseTimeDecay``.
    """
    value, rate = check.value("value", value), check.value("decay_rate", decay_rate)
    check.factor("decay_rate", decay_rate)
    steps = check.updates("decay_steps", decay_steps, 1)
    check.flag("staircase", staircase)
    arguments = {
        "value": value,
        "decay_rate": rate,
        "decay_steps": steps,
        "staircase": staircase,
    }
    if staircase:
        form = _core.Schedule("inverse_time", [value, rate, 1])
        return composed("inverse_time", arguments, [form], [steps], operation="stairs")
    return formed("inverse_time", arguments, "inverse_time", [value, rate, steps])


@maker
def inverse_sqrt(
    value: SupportsFloat,
    timescale: SupportsFloat,
    *,
    warmup: SupportsIndex = 0,
    start_value: SupportsFloat = 0.0,
) -> Schedule:
    """Inverse square root decay after a warm-up: ``value·√(τ/(t - w + τ))`` for ``t >= w``.

    Args:
        value: the peak, at ``t = w``.
        timescale: τ, above 0: after ``3τ`` updates the value is halved. With ``τ = w`` it falls
            as ``√(w/t)``.
        warmup: w, updates of a straight line from ``start_value`` to ``value``.
        start_value: at ``t = 0`` of the warm-up.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, not finite or out of range.

    Example:
        >>> from gradstep import schedules
        >>> s = schedules.inverse_sqrt(1.0, timescale=100, warmup=100)
        >>> s(50), s(100), s(400)
        (0.5, 1.0, 0.5)

    Source: Zhai et al., "Scaling vision transformers", CVPR 2022, section 3.5.

    Where others differ: Hugging Face sets τ to the warm-up, or 10000 without one; fairseq's
    ``inverse_sqrt`` is τ = w.
    """
    value = check.value("value", value)
    scale = check.positive("timescale", timescale)
    length, start = check.updates("warmup", warmup), check.value("start_value", start_value)
    arguments = {
        "value": value,
        "timescale": scale,
        "warmup": length,
        "start_value": start,
    }
    if length == 0:
        return formed("inverse_sqrt", arguments, "inverse_sqrt", [value, scale])
    parts = [
        _core.Schedule("linear", [start, value, length]),
        _core.Schedule("inverse_sqrt", [value, scale]),
    ]
    return composed("inverse_sqrt", arguments, parts, [length], operation="join")


@maker
def noam(model_size: SupportsFloat, warmup: SupportsIndex, factor: SupportsFloat = 1.0) -> Schedule:
    """The Transformer's schedule: ``factor·d^(-1/2)·min(n^(-1/2), n·w^(-3/2))`` with ``n = t + 1``.

    Args:
        model_size: d, above 0.
        warmup: w, updates; the peak ``factor·(d·w)^(-1/2)`` is at ``t = w - 1``.
        factor: of the whole.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, not finite or out of range.

    Example:
        >>> from gradstep import schedules
        >>> s = schedules.noam(model_size=64, warmup=16)
        >>> s(3), s(15), s(63)
        (0.0078125, 0.03125, 0.015625)

    Source: Vaswani et al., "Attention is all you need", NeurIPS 2017, section 5.3. It counts
    updates from 1.
    """
    size = check.positive("model_size", model_size)
    length, factor = check.updates("warmup", warmup), check.value("factor", factor)
    arguments = {"model_size": size, "warmup": length, "factor": factor}
    return formed("noam", arguments, "noam", [factor, size, length])


@maker
@lasting
def geometric(
    value: SupportsFloat,
    end_value: SupportsFloat,
    total: SupportsIndex,
    *,
    end: End = "exclusive",
    past_end: PastEnd = "hold",
) -> Schedule:
    """A straight line on a logarithmic axis: ``value·(end_value/value)^x``, ``x = min(t, T)/T``.

    Args:
        value: at ``t = 0``, not 0.
        end_value: at the end, of the same sign.
        total: the length in updates, or in epochs (``epochs``, ``steps_per_epoch``); ``T = total``,
            or ``total - 1`` with ``end="inclusive"``.
        end: whether the end value belongs to ``t = total`` or to the last update.
        past_end: whether to hold the end value or to raise after it.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, not finite or out of range.

    Example:
        >>> from gradstep import schedules
        >>> s = schedules.geometric(1.0, 1e-4, total=4)
        >>> [round(x, 9) for x in s.range(5).tolist()]
        [1.0, 0.1, 0.01, 0.001, 0.0001]

    The same as :func:`exponential`, told by its end instead of its rate; the sweep of learning
    rate range tests (Smith, "Cyclical learning rates", WACV 2017).
    """
    value, end_value = check.value("value", value), check.value("end_value", end_value)
    if value == 0:
        raise ValueError("value: got 0.0, wanted a number that is not 0")
    if end_value * math.copysign(1, value) <= 0:
        raise ValueError(f"end_value: got {end_value!r}, wanted the sign of value={value!r}")
    length, last, until = check.until(total, end, past_end)
    arguments = {"value": value, "end_value": end_value, **until}
    return formed("geometric", arguments, "geometric", [value, end_value, length], last)


@maker
@lasting
def tanh(
    value: SupportsFloat,
    total: SupportsIndex,
    *,
    end_value: SupportsFloat = 0.0,
    lower: SupportsFloat = -7.0,
    upper: SupportsFloat = 3.0,
    end: End = "exclusive",
    past_end: PastEnd = "hold",
) -> Schedule:
    """Hyperbolic-tangent decay: ``e + (η - e)·(1 - tanh(l(1 - x) + u·x))/2``, ``x = min(t, T)/T``.

    It reaches neither end: with the defaults it starts at ``η - 8e-7·(η - e)`` and stops at
    ``e + 0.0025·(η - e)``.

    Args:
        value: η, which it starts near.
        total: the length in updates, or in epochs (``epochs``, ``steps_per_epoch``); ``T = total``,
            or ``total - 1`` with ``end="inclusive"``.
        end_value: e, which it stops near; not a fraction of ``value``.
        lower: l, where on the tangent to start, -300 to 300.
        upper: u, where to stop, -300 to 300.
        end: whether ``x = 1`` belongs to ``t = total`` or to the last update.
        past_end: whether to hold the last value or to raise after it.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, not finite or out of range.

    Example:
        >>> from gradstep import schedules
        >>> s = schedules.tanh(1.0, total=10)
        >>> [round(s(t), 4) for t in (0, 7, 10)]
        [1.0, 0.5, 0.0025]

    Source: Hsueh et al., "Stochastic gradient descent with hyperbolic-tangent decay on
    classification", WACV 2019.
    """
    value, end_value = check.value("value", value), check.value("end_value", end_value)
    places = {"lower": check.number("lower", lower), "upper": check.number("upper", upper)}
    for name, place in places.items():
        if abs(place) > 300:
            raise ValueError(f"{name}: got {place!r}, wanted -300 to 300")
    length, last, until = check.until(total, end, past_end)
    arguments = {"value": value, "end_value": end_value, **places, **until}
    return formed("tanh", arguments, "tanh", [value, end_value, length, *places.values()], last)


def _tail(tail: Tail, value: float, end_value: float, total: int, power: float | None) -> Schedule:
    """The way down at the end of :func:`wsd`."""
    if tail == "linear":
        return linear(value, end_value, total)
    if tail == "cosine":
        return cosine(value, total, end_value=end_value)
    if tail == "exponential":
        return geometric(value, end_value, total)
    return power_decay(value, total, 0.5 if power is None else power, end_value=end_value)


@maker
@lasting
def wsd(
    value: SupportsFloat,
    total: SupportsIndex,
    decay: SupportsIndex,
    *,
    warmup: SupportsIndex = 0,
    tail: Tail = "linear",
    power: SupportsFloat | None = None,
    start_value: SupportsFloat = 0.0,
    end_value: SupportsFloat = 0.0,
    end: End = "exclusive",
    past_end: PastEnd = "hold",
) -> Schedule:
    """Warm-up, stable, decay: a line up, a constant, and a tail of ``decay`` updates to the end.

    With ``x`` from 0 to 1 over the tail, what is left of ``value - end_value`` is ``1 - x``
    (linear), ``cos²(πx/2)`` (cosine), ``1 - √x`` (1-sqrt), ``1 - x^power`` (1-power); or the value
    is ``value·(end_value/value)^x`` (exponential).

    Args:
        value: of the stable part.
        total: all updates, warm-up and tail among them; or in epochs (``epochs``,
            ``steps_per_epoch``), while ``decay`` and ``warmup`` stay in updates.
        decay: updates of the tail.
        warmup: updates of the line from ``start_value`` to ``value``.
        tail: its shape.
        power: for ``tail="1-power"``, above 0.
        start_value: at ``t = 0`` of the warm-up.
        end_value: at the end; not a fraction of ``value``.
        end: whether the end value belongs to ``t = total`` or to the last update.
        past_end: whether to hold the end value or to raise after it.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, not finite or out of range, or
            warm-up and tail together are longer than ``total``.

    Example:
        >>> from gradstep import schedules
        >>> s = schedules.wsd(1.0, total=10, decay=4, warmup=2)
        >>> s.range(11).tolist()
        [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]

    Source: Hu et al., "MiniCPM: unveiling the potential of small language models with scalable
    training strategies", 2024; tails: Hägele et al., "Scaling laws and compute-optimal training
    beyond fixed training durations", NeurIPS 2024.
    """
    value, end_value = check.value("value", value), check.value("end_value", end_value)
    start = check.value("start_value", start_value)
    _, last, until = check.until(total, end, past_end)
    falling, rising = check.updates("decay", decay), check.updates("warmup", warmup)
    if falling + rising > until["total"]:
        raise ValueError(
            f"decay: got {falling}, with a warm-up of {rising}, wanted at most total="
            f"{until['total']} together"
        )
    tail = check.choice("tail", tail, Tail)
    if power is not None and tail != "1-power":
        raise ValueError(f'power: got {power!r} with tail={tail!r}, wanted tail="1-power"')
    if power is None and tail == "1-power":
        raise ValueError('power: got None with tail="1-power", wanted a number > 0')
    power = None if power is None else _power(power)
    arguments = {
        "value": value,
        "decay": falling,
        "warmup": rising,
        "tail": tail,
        "power": power,
        "start_value": start,
        "end_value": end_value,
        **until,
    }
    begin = until["total"] - falling
    down = _tail(tail, value, end_value, max(0, falling - (end == "inclusive")), power)
    up = linear(start, value, total=rising)
    parts, at = [up, constant(value), down], [rising, begin]
    if last is None:
        return composed("wsd", arguments, parts, at, operation="join")
    whole = _core.Schedule("join", parts, at)
    return composed("wsd", arguments, [whole], [last], operation="until")


@maker
@lasting
def one_cycle(
    value: SupportsFloat,
    total: SupportsIndex,
    pct_start: SupportsFloat = 0.3,
    *,
    div_factor: SupportsFloat = 25.0,
    final_div_factor: SupportsFloat = 1e4,
    anneal: Anneal = "cosine",
    three_phase: bool = False,
    end: End = "exclusive",
    past_end: PastEnd = "hold",
) -> Schedule:
    """Up to a peak and down to nearly nothing: ``η/div → η → η/(div·final_div)``.

    The peak is at ``t = up = round(pct_start·total)``, an update before that with
    ``end="inclusive"``; so an update uses it, however small ``total`` is. With three phases the
    way down passes ``η/div`` after as many updates as the way up took.

    Args:
        value: η, the peak.
        total: all updates; or in epochs (``epochs``, ``steps_per_epoch``).
        pct_start: the part of them on the way up, 0 to 1; to 1/2 with three phases.
        div_factor: peak over first value, above 0.
        final_div_factor: first value over last value, above 0.
        anneal: ``"cosine"`` or ``"linear"``, of each phase.
        three_phase: whether to pass the first value again on the way down.
        end: whether the last value belongs to ``t = total`` or to the last update.
        past_end: whether to hold the last value or to raise after it.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, not finite or out of range.

    Example:
        >>> from gradstep import schedules
        >>> s = schedules.one_cycle(1.0, total=10, pct_start=0.5, div_factor=4)
        >>> s(0), s(5), s(10)
        (0.25, 1.0, 2.5e-05)

    Source: Smith & Topin, "Super-convergence: very fast training of neural networks using large
    learning rates", 2018.

    Where others differ: PyTorch ends at the last update and puts the peak between two updates
    (``compat.from_torch`` keeps that); at ``t = total`` it gives up to tens of thousands of times
    the last value, after that it raises. optax rounds the peak down. Both cycle or leave out the
    momentum; here it takes a schedule of its own, such as ``one_cycle`` upside down:
    ``one_cycle(0.85, total, div_factor=0.85/0.95, final_div_factor=1.0)``.
    """
    value = check.value("value", value)
    part = check.fraction("pct_start", pct_start)
    first, final = (
        check.positive("div_factor", div_factor),
        check.positive("final_div_factor", final_div_factor),
    )
    anneal = check.choice("anneal", anneal, Anneal)
    check.flag("three_phase", three_phase)
    if three_phase and part > 0.5:
        raise ValueError(f"pct_start: got {part!r} with three_phase, wanted at most 0.5")
    last, limit, until = check.until(total, end, past_end)
    arguments = {
        "value": value,
        "pct_start": part,
        "div_factor": first,
        "final_div_factor": final,
        "anneal": anneal,
        "three_phase": three_phase,
        **until,
    }
    up = max(0, min(round(part * until["total"]) - (end == "inclusive"), last))
    low = value / first
    points = [(0, low), (up, value)]
    if three_phase:
        points.append((min(2 * up, last), low))
    points.append((last, low / final))
    numbers = [*(x for x, _ in points), *(v for _, v in points)]
    return formed("one_cycle", arguments, f"piecewise_{anneal}", numbers, limit)


@maker
def interpolate(
    points: Sequence[tuple[SupportsFloat, SupportsFloat]],
    anneal: Anneal = "linear",
    *,
    past_end: PastEnd = "hold",
) -> Schedule:
    """Through the points ``(step, value)``, by straight lines or half cosines.

    Args:
        points: at least one; their steps do not decrease and need not be integers. Two with the
            same step are a jump: the second counts from there on. Before the first point and
            after the last one their values hold.
        anneal: ``"linear"`` or ``"cosine"``.
        past_end: whether to hold the last value or to raise after it.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, not finite or out of range.

    Example:
        >>> from gradstep import schedules
        >>> s = schedules.interpolate([(0, 0.0), (2, 1.0), (6, 0.0)])
        >>> s.range(8).tolist()
        [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]

    optax's ``piecewise_interpolate_schedule`` with the values themselves instead of factors.
    """
    x: list[float] = []
    v: list[float] = []
    for i, point in enumerate(check.sequence("points", points, "points (step, value)")):
        pair = check.sequence(f"points[{i}]", point, "a step and a value")
        if len(pair) != 2:
            raise ValueError(f"points[{i}]: got {point!r}, wanted a step and a value")
        step = check.number(f"points[{i}][0]", pair[0])
        if not -(2**52) < step < 2**52:
            raise ValueError(f"points[{i}][0]: got {step!r}, wanted a step below 2**52")
        if x and step < x[-1]:
            raise ValueError(
                f"points[{i}][0]: got {step!r} after {x[-1]!r}, wanted steps that do not decrease"
            )
        x.append(step)
        v.append(check.value(f"points[{i}][1]", pair[1]))
    if not x:
        raise ValueError("points: got none, wanted at least one")
    anneal = check.choice("anneal", anneal, Anneal)
    past_end = check.choice("past_end", past_end, PastEnd)
    arguments = {
        "points": tuple(zip(x, v, strict=True)),
        "anneal": anneal,
        "past_end": past_end,
    }
    last = max(0, math.ceil(x[-1])) if past_end == "raise" else None
    return formed("interpolate", arguments, f"piecewise_{anneal}", [*x, *v], last)


@maker
def table(values: Sequence[SupportsFloat], *, past_end: PastEnd = "hold") -> Schedule:
    """Any values at all: ``values[t]``.

    Args:
        values: one for each update, at least one.
        past_end: whether to hold the last value or to raise after it.

    Raises:
        TypeError, ValueError: a value is not a finite number.

    Example:
        >>> from gradstep import schedules
        >>> schedules.table([0.3, 0.2, 0.1]).range(5).tolist()
        [0.3, 0.2, 0.1, 0.1, 0.1]
    """
    given = check.values("values", values)
    if not given:
        raise ValueError("values: got none, wanted at least one")
    past_end = check.choice("past_end", past_end, PastEnd)
    arguments = {"values": given, "past_end": past_end}
    last = len(given) - 1 if past_end == "raise" else None
    return formed("table", arguments, "table", given, last)


@lasting
def sample(function: Callable[[int], SupportsFloat], total: SupportsIndex) -> Schedule:
    """A function of the step as a :func:`table` of its first ``total`` values.

    So a function in Python can be saved, compared, plotted and resumed; past ``total`` the last
    value holds.

    Raises:
        TypeError, ValueError: ``total`` is not at least 1, or ``function`` gives something else
            than a finite number; what it raises itself passes through.

    Example:
        >>> from gradstep import schedules
        >>> schedules.sample(lambda t: 1 / (1 + t) ** 2, total=2)
        schedules.table((1.0, 0.25))
    """
    return table([function(t) for t in range(check.updates("total", total, 1))])


def _check_policy(policy: Policy, step_size_down: object, anneal: Anneal, end: End) -> None:
    """Raise ValueError for an argument that belongs to another policy."""
    if policy == "annealing":
        if step_size_down is not None:
            raise ValueError(
                f'step_size_down: got {step_size_down!r} with policy="annealing", '
                "whose cycle is step_size updates long, wanted None"
            )
        return
    for argument, given, unset in (("anneal", anneal, "linear"), ("end", end, "exclusive")):
        if given != unset:
            raise ValueError(
                f"{argument}: got {given!r} with policy={policy!r}, "
                'which has none, wanted policy="annealing"'
            )


@maker
def cyclic(
    lower: SupportsFloat,
    upper: SupportsFloat,
    step_size: SupportsIndex,
    *,
    step_size_down: SupportsIndex | None = None,
    policy: Policy = "triangular",
    gamma: SupportsFloat | None = None,
    anneal: Anneal = "linear",
    end: End = "exclusive",
) -> Schedule:
    """Cycles between two values.

    ``policy="triangular"``: from ``lower`` to ``upper`` in ``step_size`` updates and back in
    ``step_size_down``: with both equal to ``s``, ``lower + (upper - lower)·max(0, 1 - y)``,
    ``y = |t/s - 2c + 1|``, ``c = ⌊1 + t/(2s)⌋``. ``"triangular2"`` multiplies the height of cycle
    c by ``2^(1 - c)``, ``"exp_range"`` the height at ``t`` by ``gamma^t``.

    ``policy="annealing"``: from ``upper`` to ``lower`` within every ``step_size`` updates, then
    back up at once: ``lower + (upper - lower)·(1 - x)``, or ``cos²(πx/2)`` for ``1 - x``, with
    ``x = (t mod step_size)/step_size``.

    Args:
        lower: the lower bound.
        upper: the upper bound. It may be below ``lower``, as for a momentum that falls while the
            rate rises.
        step_size: half a cycle if triangular, a whole one if annealing; updates, at least 1.
        step_size_down: for triangular ones, updates on the way down; ``step_size`` if not given.
        policy: ``"triangular"``, ``"triangular2"``, ``"exp_range"`` or ``"annealing"``.
        gamma: for exp_range, 0 to 1.
        anneal: for annealing, ``"linear"`` or ``"cosine"``.
        end: for annealing, whether a cycle reaches ``lower`` where the next one starts, so that no
            update uses it, or at its last update.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, not finite, out of range, or
            belongs to another policy.

    Example:
        >>> from gradstep import schedules
        >>> s = schedules.cyclic(0.0, 1.0, step_size=2)
        >>> [s(t) for t in range(6)]
        [0.0, 0.5, 1.0, 0.5, 0.0, 0.5]
        >>> s = schedules.cyclic(0.0, 1.0, step_size=3, policy="annealing", end="inclusive")
        >>> [s(t) for t in range(6)]
        [1.0, 0.5, 0.0, 1.0, 0.5, 0.0]

    Source: Smith, "Cyclical learning rates for training neural networks", WACV 2017; annealing:
    Loshchilov & Hutter, "SGDR", ICLR 2017.

    Where others differ: PyTorch's ``CyclicLR`` calls ``step_size`` ``step_size_up`` and cycles the
    momentum too unless told otherwise; here momentum takes a schedule of its own.
    """
    lower, upper = check.value("lower", lower), check.value("upper", upper)
    step_size = check.updates("step_size", step_size, 1)
    policy = check.choice("policy", policy, Policy)
    anneal = check.choice("anneal", anneal, Anneal)
    end = check.choice("end", end, End)
    decay = None if gamma is None else check.fraction("gamma", gamma)
    if (decay is None) == (policy == "exp_range"):
        raise ValueError(
            f"gamma: got {gamma!r} with policy={policy!r}, wanted "
            + ("a number in [0, 1]" if decay is None else 'policy="exp_range"')
        )
    _check_policy(policy, step_size_down, anneal, end)
    if step_size_down is not None:
        step_size_down = check.updates("step_size_down", step_size_down, 1)
    arguments = {
        "lower": lower,
        "upper": upper,
        "step_size": step_size,
        "step_size_down": step_size_down,
        "policy": policy,
        "gamma": decay,
        "anneal": anneal,
        "end": end,
    }
    if policy == "annealing":
        cycle = _core.Schedule(anneal, [upper, lower, step_size - (end == "inclusive")])
        return composed("cyclic", arguments, [cycle], [step_size], operation="repeat")
    down = step_size if step_size_down is None else step_size_down
    check.updates("step_size + step_size_down", step_size + down)
    numbers = [lower, upper, step_size, down]
    if policy == "triangular":
        return formed("cyclic", arguments, "cyclic", numbers)
    if decay is None:
        return formed("cyclic", arguments, "cyclic_halving", numbers)
    return formed("cyclic", arguments, "cyclic_exponential", [*numbers, decay])
