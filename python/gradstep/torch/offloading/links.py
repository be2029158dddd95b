"""The way between an accelerator's memory and the host's: copies that go on by themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

ALIGNED = 64  # bytes, at whose multiples pieces begin
LEAST, LARGEST = 1 << 20, 1 << 30  # bytes of a slab, where no piece is larger
Pairs = Sequence[tuple[torch.Tensor, torch.Tensor]]  # where to, and from where


class Transfer(Protocol):
    """Copies that are on their way."""

    def wait(self) -> None:
        """Block until they have arrived."""

    def hold(self) -> None:
        """Have what the device is told to do from here on wait for them."""

    def is_done(self) -> bool:
        """Whether they have arrived."""


class Link(Protocol):
    """What copies, both ways at once. Each way keeps its order."""

    def expect(self, size: int) -> None:
        """Hear that about so many bytes of host memory will be asked for."""

    def empty(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        """Host memory that the device can reach, for so many numbers.

        Raises:
            RuntimeError: there is none left.
        """

    def synchronize(self) -> None:
        """Block until the device has done what it was told by this thread."""

    def down(self, pairs: Pairs) -> Transfer:
        """Copy from the device, once it has done what it was told so far."""

    def up(self, pairs: Pairs) -> Transfer:
        """Copy to the device, beside what it does."""


class Slabs:
    """Memory cut from slabs of powers of 2.

    PyTorch rounds each piece of pinned memory up to such a size: a tensor of 77 MB, asked for by
    itself, would take 128.

    Args:
        allocate: makes a slab, bytes, of a given size.
    """

    def __init__(self, allocate: Callable[[int], torch.Tensor]) -> None:
        self._allocate = allocate
        self._expected = 0
        self._slab: torch.Tensor | None = None  # what is left of it

    def expect(self, size: int) -> None:
        """Choose the sizes of slabs for so many bytes from now on."""
        self._expected = size

    def cut(self, size: int) -> torch.Tensor:
        """So many bytes."""
        size = -(-size // ALIGNED) * ALIGNED
        if self._slab is None or self._slab.numel() < size:
            wanted = min(LARGEST, 1 << max(self._expected, LEAST).bit_length() - 1)
            wanted = max(wanted, 1 << (size - 1).bit_length(), LEAST)
            self._slab = self._allocate(wanted)
            self._expected -= wanted
        piece, self._slab = self._slab[:size], self._slab[size:]
        return piece


class _Recorded:
    """Copies on a stream, whose end an event tells."""

    def __init__(self, device: torch.device, stream: torch.Stream) -> None:
        self._device = device
        self._event = torch.Event(device, blocking=True)  # who waits leaves its core to the step
        self._event.record(stream)

    def wait(self) -> None:
        self._event.synchronize()

    def hold(self) -> None:
        torch.accelerator.current_stream(self._device).wait_event(self._event)

    def is_done(self) -> bool:
        done: bool = self._event.query()
        return done


class AcceleratorLink:
    """The link of whatever PyTorch calls its accelerator, by a stream for each way.

    Args:
        device: the accelerator.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._down, self._up = torch.Stream(device), torch.Stream(device)
        self._slabs = Slabs(
            lambda size: torch.empty(size, dtype=torch.uint8, device="cpu", pin_memory=True)
        )

    def expect(self, size: int) -> None:
        """See :class:`Link`."""
        self._slabs.expect(size)

    def empty(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        """Pinned memory."""
        size = count * dtype.itemsize
        return self._slabs.cut(size)[:size].view(dtype)

    def synchronize(self) -> None:
        """See :class:`Link`."""
        torch.accelerator.current_stream(self._device).synchronize()

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
                device.record_stream(self._up)
            return _Recorded(self._device, self._up)
