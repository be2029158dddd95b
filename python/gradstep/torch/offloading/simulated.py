"""A link and a device that are not there: for tests, and for timing on machines without any."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

import torch

from .links import Pairs, Transfer

Span = tuple[str, float, float]  # "down" or "up", and when it began and ended


class _Timed:
    """Copies that arrive at a given time, when somebody waits for them."""

    def __init__(self, due: float, pairs: Pairs) -> None:
        self._due = due
        self._pairs = pairs
        self._lock = threading.Lock()
        self._is_done = False

    def wait(self) -> None:
        left = self._due - time.perf_counter()
        if left > 0:
            time.sleep(left)
        with self._lock, torch.no_grad():
            pairs, self._pairs = self._pairs, ()
            for to, source in pairs:
                to.copy_(source)
            self._is_done = True

    hold = wait

    def is_done(self) -> bool:
        return self._is_done


class SimulatedLink:
    """A link between tensors on the CPU, some of which are taken for those of a device.

    Transfers take as long as they would at a given rate, each way by itself, one after the other.
    Where numbers are on their way there are NaNs until somebody has waited for them.

    Args:
        rate: bytes per second each way.
        delay: gives the seconds by which the next transfer is late besides.
        moves: whether numbers are copied. Without that only time passes, which takes no core, as a
            device's own copies take none: gradients here are whatever lay in their memory, and the
            device's parameters stay as they are.

    Attributes:
        spans: None, or a list where what goes over the link is noted, and when, by
            ``time.perf_counter()``.

    Example:
        >>> import torch
        >>> from gradstep.torch import AdamW, SimulatedLink, offload
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = offload(model, AdamW, lr=0.5, link=SimulatedLink(rate=25e9))
        >>> model(torch.ones(1, 2)).sum().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        rate: float = math.inf,
        *,
        delay: Callable[[], float] | None = None,
        moves: bool = True,
    ) -> None:
        if not rate > 0:
            raise ValueError(f"rate: got {rate!r}, wanted bytes per second, more than 0")
        self._rate = rate
        self._delay = delay
        self._moves = moves
        self._free = {"down": 0.0, "up": 0.0}  # when each way has nothing left to do
        self.spans: list[Span] | None = None

    def expect(self, size: int) -> None:
        """See :class:`gradstep.torch.offloading.links.Link`."""

    def synchronize(self) -> None:
        """See :class:`gradstep.torch.offloading.links.Link`."""

    def empty(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        """Memory that is not pinned."""
        return torch.empty(count, dtype=dtype, device="cpu")

    def down(self, pairs: Pairs) -> Transfer:
        """See :class:`gradstep.torch.offloading.links.Link`."""
        return self._begin("down", pairs)

    def up(self, pairs: Pairs) -> Transfer:
        """See :class:`gradstep.torch.offloading.links.Link`."""
        return self._begin("up", pairs)

    def _begin(self, way: str, pairs: Pairs) -> Transfer:
        begin = max(time.perf_counter(), self._free[way])
        size = sum(source.numel() * source.element_size() for _, source in pairs)
        end = begin + size / self._rate
        self._free[way] = end
        if self.spans is not None:
            self.spans.append((way, begin, end))
        late = self._delay() if self._delay is not None else 0.0
        if not self._moves:
            return _Timed(end + late, ())
        with torch.no_grad():
            for to, _ in pairs:
                to.fill_(math.nan)
        return _Timed(end + late, pairs)
