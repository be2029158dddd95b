"""From what people think in to updates, and from one batch size to another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, SupportsFloat, SupportsIndex, overload

from . import arguments as check
from .base import Schedule


def updates(
    *,
    samples: SupportsIndex,
    batch_size: SupportsIndex,
    epochs: SupportsFloat = 1,
    accumulate: SupportsIndex = 1,
    drop_last: bool = False,
) -> int:
    """How many updates a number of epochs, or of samples, makes.

    An epoch is ``⌈samples/batch_size⌉`` batches and ``⌈batches/accumulate⌉`` updates: what is left
    over at its end makes an update of its own. A part of an epoch is rounded up to whole updates.

    Args:
        samples: in an epoch; or in all, as ``epochs`` is 1 unless given.
        batch_size: samples whose gradient is computed at once.
        epochs: how many; not a whole number for a part of one.
        accumulate: batches whose gradients are added up for one update.
        drop_last: whether a last batch, and a last round of accumulation, that is not full makes
            no update.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range.

    Example:
        >>> from gradstep import schedules
        >>> schedules.updates(epochs=3, samples=50_000, batch_size=128)
        1173
        >>> schedules.updates(epochs=3, samples=50_000, batch_size=128, accumulate=4)
        294
        >>> schedules.updates(epochs=0.5, samples=50_000, batch_size=128, drop_last=True)
        195
    """
    size = check.updates("batch_size", batch_size, 1)
    rounds = check.updates("accumulate", accumulate, 1)
    count = check.updates("samples", samples)
    many = check.factor("epochs", epochs)
    if check.flag("drop_last", drop_last):
        per_epoch = count // size // rounds
    else:
        batches = -(-count // size)
        per_epoch = -(-batches // rounds)
    return check.part(many, per_epoch)


@overload
def _scaled(name: str, x: Schedule, factor: float) -> Schedule: ...
@overload
def _scaled(name: str, x: SupportsFloat, factor: float) -> float: ...
def _scaled(name: str, x: Schedule | SupportsFloat, factor: float) -> Schedule | float:
    return x.scale(factor) if isinstance(x, Schedule) else check.factor(name, x) * factor


def _times(batch_size: SupportsIndex, base_batch_size: SupportsIndex) -> float:
    size = check.updates("batch_size", batch_size, 1)
    return size / check.updates("base_batch_size", base_batch_size, 1)


def linear_scaling(
    batch_size: SupportsIndex, base_batch_size: SupportsIndex, *, lr: Schedule | SupportsFloat
) -> dict[str, Any]:
    """Hyperparameters of SGD for another batch size: the rate grows with it.

    With ``κ = batch_size/base_batch_size``, ``lr → κ·lr``. Momentum and weight decay stay. It holds
    as long as the noise of the gradient dominates, and needs a warm-up for large κ.

    Args:
        batch_size: to train with, samples per update, accumulation included.
        base_batch_size: that the rate was chosen for.
        lr: a number or a schedule.

    Returns:
        ``{"lr": …}``, to hand on with ``**``.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range.

    Example:
        >>> from gradstep import schedules
        >>> schedules.linear_scaling(1024, 256, lr=0.1)
        {'lr': 0.4}

    Source: Goyal et al., "Accurate, large minibatch SGD: training ImageNet in 1 hour", 2017.
    """
    return {"lr": _scaled("lr", lr, _times(batch_size, base_batch_size))}


def sqrt_scaling(
    batch_size: SupportsIndex,
    base_batch_size: SupportsIndex,
    *,
    lr: Schedule | SupportsFloat,
    betas: Sequence[SupportsFloat] | None = None,
    eps: SupportsFloat | None = None,
) -> dict[str, Any]:
    """Hyperparameters of Adam and its kin for another batch size: the rate grows with its root.

    With ``κ = batch_size/base_batch_size``: ``lr → √κ·lr``, ``β → 1 - κ·(1 - β)``,
    ``ε → ε/√κ``.

    Args:
        batch_size: to train with, samples per update, accumulation included.
        base_batch_size: that the hyperparameters were chosen for.
        lr: a number or a schedule.
        betas: the averages' decays, in [0, 1); left out if None.
        eps: at least 0; left out if None.

    Returns:
        A dict of what was given, to hand on with ``**``.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range, or κ so large that
            a β would become negative: the rule does not hold there.

    Example:
        >>> from gradstep import schedules
        >>> schedules.sqrt_scaling(1024, 256, lr=1e-3, betas=(0.9, 0.999), eps=1e-8)
        {'lr': 0.002, 'betas': (0.6, 0.996), 'eps': 5e-09}

    Source: Malladi et al., "On the SDEs and scaling rules for adaptive gradient algorithms",
    NeurIPS 2022, definition 5.2.
    """
    times = _times(batch_size, base_batch_size)
    scaled: dict[str, Any] = {"lr": _scaled("lr", lr, math.sqrt(times))}
    if betas is not None:
        found = []
        for i, beta in enumerate(check.sequence("betas", betas, "numbers")):
            b = check.fraction(f"betas[{i}]", beta)
            # Of the decimals that were meant: 1 - 4·(1 - 0.9) is 0.6.
            new = float(1 - Fraction(times) * (1 - Fraction(repr(b))))
            if b == 1 or new < 0:
                raise ValueError(
                    f"betas[{i}]: got {beta!r}, which {times:g} times the batch size makes "
                    f"{new:g}, wanted one that stays in [0, 1)"
                )
            found.append(new)
        scaled["betas"] = tuple(found)
    if eps is not None:
        scaled["eps"] = check.factor("eps", eps) / math.sqrt(times)
    return scaled


def average_scaling(
    batch_size: SupportsIndex, base_batch_size: SupportsIndex, *, decay: SupportsFloat
) -> float:
    """The decay of a running average of weights for another batch size: ``decay^κ``.

    The average then spans as many samples as before.

    Args:
        batch_size: to train with, samples per update, accumulation included.
        base_batch_size: that the decay was chosen for.
        decay: in [0, 1].

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range.

    Example:
        >>> from gradstep import schedules
        >>> round(schedules.average_scaling(1024, 256, decay=0.9), 4)
        0.6561

    Source: Busbridge et al., "How to scale your EMA", NeurIPS 2023.
    """
    return float(check.fraction("decay", decay) ** _times(batch_size, base_batch_size))
