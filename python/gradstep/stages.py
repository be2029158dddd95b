"""Stages: what a step does besides the rule, and what each may be told."""

from __future__ import annotations

import math

from . import _core
from .hyperparameters import STAGE_RANGES, Driven, check_takes_step, number, whole
from .watched import Watched

NONFINITE = ("allow", "skip", "raise")
# In the order of the core's row of controls; nonfinite becomes whether gradients are checked.
KEYS = ("clip_norm", "clip_value", "average", "nonfinite", "seed")


class Stages(Watched):
    """What a step does besides the rule, by name. What is changed takes effect at the next step.

    ``clip_norm`` and ``clip_value``: None or a limit. ``average``: the decay, or None without
    averages. ``nonfinite``: ``"allow"``, ``"skip"`` or ``"raise"``. ``seed``: an integer.
    """

    __slots__ = ()


def compile_stages(
    stages: Stages, averaging: bool, single: bool
) -> tuple[list[float], list[Driven]]:
    """Check the stages and lay them out as the core wants them.

    Args:
        stages: the values by name.
        averaging: whether the optimizer has averages.
        single: whether any parameter is stepped in float32.

    Returns:
        The row of numbers, and what must be called to fill in the rest.

    Raises:
        TypeError, ValueError: a value is missing, unknown, of a wrong type or range.
    """
    for key in stages:
        if key not in KEYS:
            raise TypeError(f"{key}: got an unknown stage, wanted one of {', '.join(KEYS)}")
    for key in KEYS:
        if key not in stages:
            raise ValueError(f"{key}: got nothing, wanted a value for this stage")
    if (stages["average"] is not None) != averaging:
        raise ValueError(
            f"average: got {stages['average']!r}, but the optimizer was built "
            f"{'with' if averaging else 'without'} averages, wanted "
            + ("a decay" if averaging else "None")
        )
    row: list[float] = []
    driven: list[Driven] = []
    for column, key in enumerate(("clip_norm", "clip_value", "average")):
        value, allowed = stages[key], STAGE_RANGES[key]
        rounded = single and key == "clip_value"
        if callable(value):
            check_takes_step(key, value)
            row.append(math.nan)
            driven.append(Driven(column, key, key, allowed, value, rounded))
        elif value is None:
            row.append(0.0 if key == "average" else math.inf)
        else:
            row.append(number(key, allowed, value, rounded))
    nonfinite = stages["nonfinite"]
    if nonfinite not in NONFINITE:
        raise ValueError(
            f"nonfinite: got {nonfinite!r}, wanted one of {', '.join(map(repr, NONFINITE))}"
        )
    seed = whole("seed", stages["seed"], _core.step_limit)
    return [*row, float(nonfinite != "allow"), float(seed)], driven
