"""Schedules under the names and with the arguments of other frameworks, off-by-ones included.

``compat.optax``, ``compat.keras`` and ``compat.huggingface`` have their constructors by their own
names; they return ordinary schedules, and none of those packages is imported. Hugging Face's take
the rate where the originals take the optimizer. :func:`from_torch` reads a PyTorch scheduler.

    >>> from gradstep import schedules
    >>> schedules.compat.optax.cosine_decay_schedule(0.1, decay_steps=100, alpha=0.1)
    schedules.cosine(0.1, total=100, end_value=0.010000000000000002)
    >>> schedules.compat.huggingface.get_linear_schedule_with_warmup(0.1, 10, 100)
    schedules.linear(0.1, 0.0, total=100).warmup(updates=10)

Where an original's own rounding sends it to the wrong cycle at a restart, or where it runs past its
last update, what it meant is kept, not what it does.
"""

from __future__ import annotations

from . import huggingface, keras, optax
from .torch import from_torch

__all__ = ["from_torch", "huggingface", "keras", "optax"]
