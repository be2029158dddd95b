"""Which learning rate, and is the one in use too high or too low? Answers from measurements.

Data in, data out: nothing here prints or draws; results have ``plot``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..extras import on_first_use as _on_first_use
from .adapting import Adapter, Decision, Diverged
from .curves import Judged, LossMonitor, Phase, Spike, judge
from .formats.files import read_logs
from .logs import Log
from .loop import loop
from .monitor import Monitor, Verdict
from .range_test import RangeTest, range_test
from .search import search
from .searched import SearchResult, Tried

if TYPE_CHECKING:
    from . import keras as keras
    from . import lightning as lightning
    from . import sklearn as sklearn
    from . import transformers as transformers
else:
    __getattr__, __dir__ = _on_first_use(
        __name__,
        {
            "keras": ("keras",),
            "lightning": ("lightning",),
            "sklearn": ("sklearn",),
            "transformers": ("transformers",),
        },
    )

__all__ = [
    "Adapter",
    "Decision",
    "Diverged",
    "Judged",
    "Log",
    "LossMonitor",
    "Monitor",
    "Phase",
    "RangeTest",
    "SearchResult",
    "Spike",
    "Tried",
    "Verdict",
    "judge",
    "loop",
    "range_test",
    "read_logs",
    "search",
]
