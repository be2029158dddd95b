"""gradstep: the optimizer step on the CPU, fused, fast, and the same bits everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .main_interpreter import check as _check

_check()  # before NumPy, which would wait for ever

from . import schedules
from ._core import build as _build
from .arrays import global_norm
from .extras import on_first_use as _on_first_use
from .groups import Group
from .layers import layerwise
from .optimizer import Optimizer
from .optimizers import *  # noqa: F403 - the rules of the catalogue
from .placing import muon_groups
from .report import Report, Statistics
from .rows import Rows
from .rule import RULES
from .runtime import (
    apply_environment,
    config,
    get_num_threads,
    set_num_threads,
    set_target,
    set_team,
    show_config,
)
from .schedules import Schedule
from .stages import Stages
from .storages import Shard, decode, split, unsplit

if TYPE_CHECKING:
    from . import checkpoint as checkpoint
    from . import jax as jax
    from . import pages as pages
    from . import plots as plots
    from . import torch as torch
    from . import tuning as tuning
else:
    __getattr__, __dir__ = _on_first_use(
        __name__,
        {
            "checkpoint": (),
            "jax": ("jax", "optax", "._xla"),
            "pages": (),
            "plots": (),
            "torch": ("torch",),
            "tuning": (),
        },
    )

__version__ = _build()["version"]

__all__ = [  # noqa: PLE0604 - and the rules' names
    "Group",
    "Optimizer",
    "Report",
    "Rows",
    "Schedule",
    "Shard",
    "Stages",
    "Statistics",
    "config",
    "decode",
    "get_num_threads",
    "global_norm",
    "layerwise",
    "muon_groups",
    "schedules",
    "set_num_threads",
    "set_target",
    "set_team",
    "show_config",
    "split",
    "unsplit",
    *RULES,
]

apply_environment()
del RULES, apply_environment
