"""How far a log goes on without anything that the monitor must look at more closely.

A log may have a million steps, and the monitor looks at its window after every tenth. The same
medians are taken here for many looks at once. What they show is exact, not an estimate: the
monitor's verdicts are those that it would have given step by step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


class Window(NamedTuple):
    """The sizes of a monitor's windows, in steps, and the bounds of its judgement.

    Attributes:
        every: steps between two looks.
        turn: steps between two judgements, whose losses show spread and noise.
        recent: steps whose median is the loss now.
        spike, risen, lost: see `monitor.SPIKE`, `RISEN` and `LOST`.
    """

    every: int
    turn: int
    recent: int
    spike: float
    risen: float
    lost: float


class Known(NamedTuple):
    """What a monitor has kept of the steps before.

    Attributes:
        losses: of the last two turns and more, all finite.
        ceiling: the loss above which the next one is a spike.
        top: the loss that is lost if the median rises above it by the noise.
        start, best: the first loss and the least median.
        calm: the noise of the first losses.
    """

    losses: Sequence[float]
    ceiling: float
    top: float
    start: float
    best: float
    calm: float


def turns(losses: Sequence[float], known: Known, window: Window) -> tuple[int, Numbers]:
    """How many turns from the first on hold no spike and no divergence.

    Returns:
        Their number, and the least median of the losses up to each look of them, shape
        (turns * turn / every,).
    """
    count = len(losses) // window.turn
    every = np.array([*known.losses, *losses[: count * window.turn]], np.float64)
    before = len(known.losses)
    ends = before + np.arange(window.every, count * window.turn + 1, window.every)
    tails = sliding_window_view(every, window.turn)[ends - window.turn]
    middle = _median(tails)
    spread = 1.4826 * _median(np.abs(tails - middle[:, None]))
    ceilings = middle + window.spike * np.maximum(spread, 1e-6 * np.abs(middle))
    noise = 1.4826 * _median(np.abs(np.diff(tails, axis=1))) / math.sqrt(2)
    recent = _median(sliding_window_view(every, window.recent)[ends - window.recent])

    least = np.minimum.accumulate([known.best, *recent])
    best = least[:-1]  # before each look
    gained = known.start - best
    highest = every[before:].reshape(-1, window.every).max(axis=1)
    eventful = highest > np.array([known.ceiling, *ceilings[:-1]])
    eventful |= recent > known.top + window.risen * np.minimum(noise, 2 * known.calm)
    lost = recent - best > np.maximum(window.lost * gained, window.spike * noise)
    eventful |= lost & (gained > 0)

    looks = window.turn // window.every
    eventful_turns = eventful.reshape(count, looks).any(axis=1)
    calm = int(eventful_turns.argmax()) if eventful_turns.any() else count
    return calm, least[1 : 1 + calm * looks]


def _median(rows: Numbers) -> Numbers:
    """Of each row, as `monitor.median` takes it."""
    ordered, half = np.sort(rows, axis=1), rows.shape[1] // 2
    if rows.shape[1] % 2:
        return ordered[:, half]
    return (ordered[:, half - 1] + ordered[:, half]) / 2
