"""Schedules: pure functions from the step to a value, for any hyperparameter.

A schedule takes ``t``, the index of the update about to be made, from 0. All lengths are counted
in updates. It holds no state, so any ``t`` up to 2⁵² may be asked for, in any order, and what
resumes after an interruption is one integer. Values are computed in double precision from a closed
form; where a form starts and ends, its value is exactly the one that was given.

    >>> from gradstep import schedules
    >>> s = schedules.cosine(0.1, total=1000)
    >>> s(0), s(500), s(1000), s(5000)
    (0.1, 0.05, 0.0, 0.0)
    >>> s.range(999, 1002)
    array([2.46739907e-07, 0.00000000e+00, 0.00000000e+00])
    >>> s
    schedules.cosine(0.1, total=1000)
    >>> 2 * s.warmup(100) + 0.01
    (schedules.cosine(0.1, total=1000).warmup(updates=100).scale(2.0) + schedules.constant(0.01))

Two conventions are arguments wherever a schedule has an end:

``end``
    ``"exclusive"`` (default): the end value belongs to ``t = total``, one past the last of
    ``total`` updates, as in PyTorch, optax, Keras and Hugging Face. ``"inclusive"``: to
    ``t = total - 1``, so that the last update uses it.
``past_end``
    ``"hold"`` (default): the end value stays. ``"raise"``: a later ``t`` is a ``ValueError``.

A length of 0 means that the end is reached already.

Wherever a shape takes ``total``, ``epochs`` and ``steps_per_epoch`` may stand for it, and
:meth:`Schedule.warmup` takes them, too, or a ``ratio`` of the total. What is made counts in
updates, parts of one rounded up, as Hugging Face rounds its ``warmup_ratio``. All other lengths
stay in updates.

    >>> schedules.cosine(0.1, epochs=90, steps_per_epoch=391).warmup(ratio=0.05)
    schedules.cosine(0.1, total=35190).warmup(updates=1760)
    >>> schedules.cosine(0.1, epochs=90, steps_per_epoch=391).warmup(epochs=5, steps_per_epoch=391)
    schedules.cosine(0.1, total=35190).warmup(updates=1955)
"""

from __future__ import annotations

from . import compat
from .base import Schedule, join
from .compat import from_torch
from .families import (
    constant,
    cosine,
    cosine_restarts,
    cosine_wave,
    cyclic,
    drop,
    exponential,
    geometric,
    interpolate,
    inverse_sqrt,
    inverse_time,
    linear,
    noam,
    one_cycle,
    polynomial,
    power_decay,
    sample,
    step,
    table,
    tanh,
    wsd,
)
from .looking import Difference, Explanation, diff, explain, parse, sparkline
from .plateau import Plateau
from .units import average_scaling, linear_scaling, sqrt_scaling, updates

__all__ = [
    "Difference",
    "Explanation",
    "Plateau",
    "Schedule",
    "average_scaling",
    "compat",
    "constant",
    "cosine",
    "cosine_restarts",
    "cosine_wave",
    "cyclic",
    "diff",
    "drop",
    "explain",
    "exponential",
    "from_torch",
    "geometric",
    "interpolate",
    "inverse_sqrt",
    "inverse_time",
    "join",
    "linear",
    "linear_scaling",
    "noam",
    "one_cycle",
    "parse",
    "polynomial",
    "power_decay",
    "sample",
    "sparkline",
    "sqrt_scaling",
    "step",
    "table",
    "tanh",
    "updates",
    "wsd",
]
