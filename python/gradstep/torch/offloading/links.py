"""The way between an accelerator's memory and the host's: copies that go on by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

Pairs = Sequence[tuple[torch.Tensor, torch.Tensor]]  # where to, and from where


class Transfer(Protocol):
    """Copies that are on their way."""

    def wait(self) -> None:
        """Block until they have arrived."""

    def hold(self) -> None:
        """Have what the device is told to do from here on wait for them."""


class Link(Protocol):
    """What copies, both ways at once. Each way keeps its order."""

    def empty(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        """Host memory that the device can reach, for so many numbers.

        Raises:
            RuntimeError: there is none left.
        """

    def down(self, pairs: Pairs) -> Transfer:
        """Copy from the device, once it has done what it was told so far."""

    def up(self, pairs: Pairs) -> Transfer:
        """Copy to the device, beside what it does."""


class _Recorded:
    """Copies on a stream, whose end an event tells."""

    def __init__(self, device: torch.device, stream: torch.Stream) -> None:
        self._device = device
        self._event = stream.record_event()

    def wait(self) -> None:
        self._event.synchronize()

    def hold(self) -> None:
        torch.accelerator.current_stream(self._device).wait_event(self._event)


class AcceleratorLink:
    """The link of whatever PyTorch calls its accelerator, by a stream for each way.

    Args:
        device: the accelerator.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._down, self._up = torch.Stream(device), torch.Stream(device)

    def empty(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        """Pinned memory."""
        return torch.empty(count, dtype=dtype, device="cpu", pin_memory=True)

    def down(self, pairs: Pairs) -> Transfer:
        """See :class:`Link`."""
        self._down.wait_stream(torch.accelerator.current_stream(self._device))
        with torch.no_grad(), self._down:
            for host, device in pairs:
                host.copy_(device, non_blocking=True)
                device.record_stream(self._down)  # its memory is not given away before
            return _Recorded(self._device, self._down)

    def up(self, pairs: Pairs) -> Transfer:
        """See :class:`Link`."""
        with torch.no_grad(), self._up:
            for device, host in pairs:
                device.copy_(host, non_blocking=True)
            return _Recorded(self._device, self._up)
