"""Which learning rate, and is the one in use too high or too low? Answers from measurements.

Data in, data out: nothing here prints or draws; results have ``plot``.
"""

from __future__ import annotations

from .adapting import Adapter, Decision, Diverged
from .curves import Judged, LossMonitor, Phase, Spike, judge
from .formats.files import read_logs
from .logs import Log
from .loop import loop
from .monitor import Monitor, Verdict
from .range_test import RangeTest, range_test
from .search import search
from .searched import SearchResult, Tried

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
