"""Stages: what a step does besides the rule, and what each may be told."""

from __future__ import annotations

import math
from typing import Any

from . import _core
from .hyperparameters import STAGE_RANGES, Driven, check_takes_step, number, whole
from .watched import Watched

NONFINITE = ("allow", "skip", "raise")
KEYS = ("clip_norm", "clip_value", "average", "nonfinite", "seed")
# What may be driven, and what the core calls it.
CONTROLS = {"clip_norm": "clip_norm", "clip_value": "clip_value", "average": "decay"}


class Stages(Watched):
    """What a step does besides the rule, by name. What is changed takes effect at the next step.

    ``clip_norm`` and ``clip_value``: None or a limit. ``average``: the decay, or None without
    averages. ``nonfinite``: ``"allow"``, ``"skip"`` or ``"raise"``. ``seed``: an integer.
    """

    __slots__ = ()


def compile_stages(
    stages: Stages, averaging: bool, single: bool
) -> tuple[dict[str, Any], list[Driven]]:
    """Check the stages and name them as the core does.

    Args:
        stages: the values by name.
        averaging: whether the optimizer has averages.
        single: whether any parameter is stepped in float32.

    Returns:
        The values of ``_core.Controls`` by name, and what must be called to fill in the rest.

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
    values: dict[str, Any] = {}
    driven: list[Driven] = []
    for column, (key, control) in enumerate(CONTROLS.items()):
        value, allowed = stages[key], STAGE_RANGES[key]
        rounded = single and key == "clip_value"
        if callable(value):
            check_takes_step(key, value)
            values[control] = math.nan
            driven.append(Driven(column, key, key, allowed, value, rounded))
        elif value is None:
            values[control] = 0.0 if key == "average" else math.inf
        else:
            values[control] = number(key, allowed, value, rounded)
    nonfinite = stages["nonfinite"]
    if nonfinite not in NONFINITE:
        raise ValueError(
            f"nonfinite: got {nonfinite!r}, wanted one of {', '.join(map(repr, NONFINITE))}"
        )
    seed = whole("seed", stages["seed"], _core.step_limit)
    return {**values, "check_finite": nonfinite != "allow", "seed": seed}, driven
