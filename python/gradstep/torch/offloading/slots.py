"""Parameters of a device and what there is of them in host memory, in buckets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from .. import layout
from ..bound import Part
from .links import ALIGNED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .links import Link, Transfer
    from .taken import Taken


class Slot:
    """A parameter on the device, and its twin in host memory.

    Args:
        index: its position among all parameters.
        name: what it is called in an error.
        param: the parameter.

    Attributes:
        here: the memory of the twin, a plain tensor, the part of this process of a sharded one.
        twin: what is stepped: that memory, or a DTensor of it.
        grad: where gradients land, laid out as ``here``; None: it has no bucket.
        has_grad: whether one has come since the last step.
        sums: what adds up to the square of its norm.
        seen: the last backward pass that brought one.
        outside: whether the forward pass reads it elsewhere than in a module that waits for it.
        waits: what waits for it in the forward pass.
        stand_in: what stands in the parameter's ``.grad`` meanwhile.
        stays: whether it is stepped on the device.
    """

    def __init__(self, index: int, name: str, param: torch.Tensor) -> None:
        self.index = index
        self.name = name
        self.param = param
        like = self.memory()
        self.place, self.version = like.data_ptr(), like._version
        self._form = (like.device, like.dtype, like.shape)
        self.strides = torch.empty_like(like, device="meta").stride()
        self.count = like.numel()
        self.here = torch.empty_strided(like.shape, self.strides, dtype=like.dtype, device="cpu")
        self.twin = self._as_param(self.here)
        self.grad: torch.Tensor | None = None
        self.bucket: Bucket | None = None
        self.offset = 0  # where it lies in its bucket
        self.has_grad = False
        self.sums: NDArray[Any] | None = None
        self.seen = -1
        self.outside = layout.is_sharded(param)  # gathered before a module begins
        self.waits: list[Any] = []
        self.stand_in: Taken | None = None
        self.stays = False

    def memory(self) -> torch.Tensor:
        """What of the parameter is on this process's device."""
        return layout.local(self.param.detach())

    def _as_param(self, here: torch.Tensor) -> torch.Tensor:
        """Host memory as a tensor such as the parameter is."""
        if not layout.is_sharded(self.param):
            return here
        from torch.distributed.device_mesh import DeviceMesh  # noqa: PLC0415 - few are sharded
        from torch.distributed.tensor import DTensor  # noqa: PLC0415

        mesh = self.param.device_mesh
        if mesh.device_type != "cpu":
            mesh = DeviceMesh("cpu", mesh.mesh, mesh_dim_names=mesh.mesh_dim_names)
        return DTensor.from_local(
            here,
            mesh,
            self.param.placements,
            run_check=False,
            shape=self.param.shape,
            stride=self.param.stride(),
        )

    def lie(self, flat: torch.Tensor) -> torch.Tensor:
        """Its part of memory that is laid out as its bucket."""
        return flat.as_strided(
            self.here.shape, self.strides, flat.storage_offset() + self.offset
        )

    def move_in(self, flat: torch.Tensor) -> None:
        """Have the twin in its bucket's memory."""
        self.here = self.lie(flat)
        self.twin = self._as_param(self.here)

    def give(self) -> None:
        """Show the twin its gradient, if one has come."""
        if self.has_grad and self.grad is not None:
            if self.grad.dtype != self.twin.dtype:
                self.twin.grad_dtype = None  # any
            self.twin.grad = self._as_param(self.grad)
        else:
            self.twin.grad = None

    def was_changed(self) -> bool:
        """Whether somebody has written to the parameter, or given it other memory, since.

        Raises:
            ValueError: it cannot be the same parameter any more.
        """
        now = self.memory()
        place, version = now.data_ptr(), now._version
        if place == self.place and version == self.version:
            return False
        form = (now.device, now.dtype, now.shape)
        if form != self._form:
            raise ValueError(
                f"{self.name}: got {form[1]} of shape {tuple(form[2])} on {form[0]}, wanted "
                f"{self._form[1]} of shape {tuple(self._form[2])} on {self._form[0]}, as it was "
                "when offload() took it: move or convert a model before, or make a new offload()"
            )
        self.place, self.version = place, version
        return True

    def note_written(self) -> None:
        """Tell autograd that the device's parameter was written, and remember it."""
        now = self.memory()
        torch.autograd.graph.increment_version([now])
        self.version = now._version


class Bucket:
    """Parameters whose gradients come down, are stepped and go back up together.

    Args:
        slots: those parameters, in the order in which a backward pass comes to them.

    Attributes:
        part: their twins.
        arrived: those whose gradients are there in this backward pass and still on the device.
        is_stepped: whether it was, since the last step began.
        is_dirty: whether the host has other parameters than were sent.
        up: how they get back, once they were sent.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.slots = list(slots)
        self.arrived: list[Slot] = []
        self.is_stepped = self.is_dirty = False
        self.up: Transfer | None = None
        self.size = 0  # elements, gaps between tensors included
        unit = self.slots[0].here.element_size()
        for slot in self.slots:
            slot.bucket = self
            slot.offset = self.size
            self.size += -(-slot.count * unit // ALIGNED) * ALIGNED // unit
        self.part = Part([slot.twin for slot in self.slots])

    def bytes(self, wide: bool) -> int:
        """What parameters and gradients take."""
        first = self.slots[0]
        each: int = first.here.element_size() + grad_dtype(first, wide).itemsize
        return self.size * each

    def allocate(self, link: Link, wide: bool) -> None:
        """Have memory for parameters, and for gradients, these in float32 where they are wide.

        Raises:
            MemoryError: the link has none left.
        """
        dtype = self.slots[0].here.dtype
        params = reserve(link, self.size, dtype)
        for slot in self.slots:
            slot.move_in(params)
        self.part = Part([slot.twin for slot in self.slots])
        self.allocate_grads(link, wide)

    def allocate_grads(self, link: Link, wide: bool) -> None:
        """Have memory for gradients alone."""
        grads = reserve(link, self.size, grad_dtype(self.slots[0], wide))
        for slot in self.slots:
            slot.grad = slot.lie(grads)

    @property
    def has_grads(self) -> bool:
        """Whether a gradient has come for any of them."""
        return any(slot.has_grad for slot in self.slots)

    def hold(self) -> None:
        """Have the device wait for what was sent."""
        if self.up is not None:
            self.up.hold()


def grad_dtype(slot: Slot, wide: bool) -> torch.dtype:
    """In what gradients of a parameter are kept here."""
    dtype = slot.here.dtype
    return torch.float32 if wide and dtype != torch.float64 else dtype


def reserve(link: Link, count: int, dtype: torch.dtype) -> torch.Tensor:
    """Host memory that the device can reach.

    Raises:
        MemoryError: there is none left.
    """
    try:
        return link.empty(count, dtype)
    except RuntimeError as error:
        raise MemoryError(
            f"offload: got no {count * dtype.itemsize:,} bytes of host memory that the device can "
            f"reach, wanted them for a bucket: {error}"
        ) from error


def cut(slots: Sequence[Slot], size: int) -> Iterator[list[Slot]]:
    """The last first, as a backward pass comes to them, in buckets of about equal size.

    Args:
        slots: in the order of their layers.
        size: of a bucket, in bytes; a larger tensor has one to itself.
    """
    bucket: list[Slot] = []
    filled = 0
    for slot in reversed(slots):
        own = slot.count * slot.here.element_size()
        if bucket and (filled + own > size or slot.here.dtype != bucket[0].here.dtype):
            yield bucket
            bucket, filled = [], 0
        bucket.append(slot)
        filled += own
    if bucket:
        yield bucket
