"""What the shape of a curve of losses says of the rate: some signs, and how they are weighed.

The weights were fitted, as a multinomial logistic regression, to trainings at a tenth of the best
rate, at it, and at ten times it: `benchmarks/loss_curves.py --choose` prints them anew.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LEAST = 30  # points below which nothing is said
MOST = 200  # points that are looked at: of more, every so many
PARTS = 10  # of a curve, whose medians are compared


class Likelihoods(NamedTuple):
    """How likely a rate is too low, fine and too high; the signs, and the strongest in words."""

    low: float
    fine: float
    high: float
    numbers: dict[str, float]
    reason: str


def _log(x: float) -> float:
    return math.log(min(max(x, 1e-3), 1e3))


def _clip(x: float, low: float, high: float) -> float:
    return min(max(x, low), high)


def _noise(losses: Array) -> float:
    if len(losses) < 2:
        return 0.0
    return 1.4826 * float(np.median(np.abs(np.diff(losses)))) / math.sqrt(2)


def signs(losses: Array) -> dict[str, float]:
    """The signs of a curve.

    All but the last three are the same for a loss times a number, or plus one.

    - ``range``: ln of how far the highest loss is above the lowest level, in units of the fall.
    - ``slope``: the fall per unit of ln(point), over the last three quarters, in that unit.
    - ``first``, ``early``: the part of the fall that was made within 2 % and 5 % of the points.
    - ``trend``: how far the second half fell, in standard errors, as an arsinh.
    - ``growth``: ln of the noise of the last third over that of the first.
    - ``echo``: the correlation of neighbouring losses around their running mean.
    - ``positive``: 1 where all losses are, else 0, as are the next two then.
    - ``relative_noise``, ``relative_growth``: ln of the noise of ln(loss) over the last third, and
      of that over the noise of the first third.

    Args:
        losses: float64, finite, at least LEAST of them, from the beginning of a run on.
    """
    losses = losses[:: max(1, len(losses) // MOST)][: 2 * MOST]
    count = len(losses)
    third, start = count // 3, float(losses[0])

    def level(begin: float, width: float) -> float:
        a = max(1, round(begin * count))
        return float(np.median(losses[a : a + max(1, round(width * count))]))

    edges = np.linspace(0, count, PARTS + 1).astype(int)
    parts = [float(np.median(losses[a:b])) for a, b in pairwise(edges)]
    end = float(np.median(losses[-max(1, round(0.15 * count)) :]))
    least = min(*parts, end)
    unit = max(start - least, 0.05 * (max(parts) - least), 1e-12 * abs(start), 1e-300)
    early, late = _noise(losses[:third]), _noise(losses[-third:])
    tail = slice(count // 4, count)
    logs = np.log(np.arange(1, count + 1))
    slope = -float(np.polyfit(logs[tail], losses[tail], 1)[0]) / unit
    error = max(late, 1e-9 * unit) * math.sqrt(2 / max(0.15 * count, 1))
    half = level(0.5 - 0.07, 0.14)
    running = np.convolve(np.pad(losses, 4, mode="edge"), np.ones(9) / 9, "valid")
    rest = (losses - running)[third:]
    square = float((rest * rest).mean())
    echo = float((rest[1:] * rest[:-1]).mean()) / square if square > 0 else 0.0
    found = {
        "range": _log((float(losses.max()) - least) / unit),
        "slope": _clip(slope, -1, 1),
        "first": _clip((start - level(0.01, 0.02)) / unit, -1.5, 1),
        "early": _clip((start - level(0.04, 0.03)) / unit, -1.5, 1),
        "trend": math.asinh((half - end) / error),
        "growth": _log(late / early) if early > 0 else 0.0,
        "echo": _clip(echo, -1, 1),
        "positive": 0.0,
        "relative_noise": 0.0,
        "relative_growth": 0.0,
    }
    if losses.min() > 0:
        ratios = np.log(losses)
        early, late = _noise(ratios[:third]), _noise(ratios[-third:])
        found |= {
            "positive": 1.0,
            "relative_noise": _log(late),
            "relative_growth": _log(late / early) if early > 0 else 0.0,
        }
    return found


# For each sign, its weight for too low, fine and too high.
WEIGHTS = {
    "range": (-1.75, -0.191, 1.94),
    "slope": (1.52, -0.206, -1.32),
    "first": (-0.795, 0.00796, 0.787),
    "early": (-0.57, -0.00457, 0.574),
    "trend": (0.234, 0.101, -0.335),
    "growth": (-0.0901, -0.239, 0.329),
    "echo": (-0.367, 0.397, -0.0292),
    "positive": (0.667, 0.724, -1.39),
    "relative_noise": (-0.0843, 0.226, -0.141),
    "relative_growth": (0.614, -0.0297, -0.584),
}
BIAS = (-0.242, -0.00423, 0.247)
# The mean of each sign over the same trainings.
MIDDLES = {
    "range": 0.628,
    "slope": 0.135,
    "first": 0.11,
    "early": 0.302,
    "trend": 1.08,
    "growth": -0.531,
    "echo": -0.125,
    "positive": 0.823,
    "relative_noise": -1.16,
    "relative_growth": 0.141,
}

WORDS = {
    "range": ("the loss never rose far", "the loss stayed low", "the loss rose far"),
    "slope": ("it still falls steadily", "its fall slows down", "it hardly falls"),
    "first": ("it began slowly", "it began quickly", "its first steps changed much"),
    "early": ("it began slowly", "it began quickly", "its first steps changed much"),
    "trend": (
        "the second half falls clearly above its noise",
        "the second half still falls",
        "the second half no longer falls",
    ),
    "growth": ("its noise stays", "its noise fits its level", "its noise grew"),
    "echo": ("neighbours differ by chance alone", "it wanders little", "it wanders"),
    "positive": ("", "", ""),
    "relative_noise": ("its noise is small", "its noise fits its level", "its noise is large"),
    "relative_growth": ("its noise stays", "its noise fits its level", "its noise grew"),
}


def likelihoods(losses: Array) -> Likelihoods:
    """How likely a rate is too low, fine or too high, by a curve from its beginning on."""
    found = signs(losses)
    scores = [
        bias + sum(WEIGHTS[name][i] * value for name, value in found.items())
        for i, bias in enumerate(BIAS)
    ]
    top = max(scores)
    powers = [math.exp(score - top) for score in scores]
    low, fine, high = (power / sum(powers) for power in powers)
    best = scores.index(top)
    others = [i for i in range(3) if i != best]

    def share(name: str) -> float:
        """By how much a sign speaks for the best, from the middle of what was seen of it."""
        rest = sum(WEIGHTS[name][i] for i in others) / 2
        return (WEIGHTS[name][best] - rest) * (found[name] - MIDDLES[name])

    strongest = sorted((name for name in found if WORDS[name][0]), key=share, reverse=True)
    words = list(dict.fromkeys(WORDS[name][best] for name in strongest[:2]))
    return Likelihoods(low, fine, high, found, ", ".join(words))
