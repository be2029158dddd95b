"""Parameters of a device and what there is of them in host memory, in buckets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from .. import layout
from ..call import Part
from .links import ALIGNED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .links import Link, Transfer
    from .taken import Taken

SEGMENT = 1 << 16  # elements whose squares the core adds up at a time


class Slot:
    """A parameter on the device, and its twin in host memory.

    Args:
        index: its position among all parameters.
        name: what it is called in an error.
        param: the parameter.

    Attributes:
        device: the memory of the parameter, a plain tensor, the part of this process of a sharded
            one; autograd does not see what is written to it.
        here: the memory of the twin, laid out alike.
        twin: what is stepped: that memory, or a DTensor of it.
        grad: where gradients land, laid out alike; None: it has no bucket.
        buckets: where it lies; several where it was cut.
        has_grad: whether one has come since the last step.
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
        self._is_sharded = layout.is_sharded(param)
        self.device = self._memory().data
        self._place, self._version = self.device.data_ptr(), param._version
        self._form = (self.device.device, self.device.dtype, self.device.shape)
        self.strides = torch.empty_like(self.device, device="meta").stride()
        self.count = self.device.numel()
        self.here = torch.empty_strided(
            self.device.shape, self.strides, dtype=self.device.dtype, device="cpu"
        )
        self.twin = self._as_param(self.here)
        self.grad: torch.Tensor | None = None
        self._shown: torch.Tensor | None = None  # the gradient that the twin has
        self.buckets: list[Bucket] = []
        self.has_grad = False
        self.seen = -1
        self.outside = self._is_sharded  # gathered before a module begins
        self.waits: list[Any] = []
        self.stand_in: Taken | None = None
        self.stays = False

    def _memory(self) -> torch.Tensor:
        """What of the parameter is on this process's device."""
        return layout.local(self.param.detach())

    def _as_param(self, here: torch.Tensor) -> torch.Tensor:
        """Host memory as a tensor such as the parameter is."""
        if not self._is_sharded:
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

    def lie(self, flat: torch.Tensor, offset: int) -> torch.Tensor:
        """Memory at an offset, laid out as the parameter."""
        return flat.as_strided(self.here.shape, self.strides, flat.storage_offset() + offset)

    def move_in(self, params: torch.Tensor, offset: int) -> None:
        """Have the twin in its bucket's memory."""
        self.here = self.lie(params, offset)
        self.twin = self._as_param(self.here)

    def land_in(self, grads: torch.Tensor, offset: int) -> None:
        """Have gradients in its bucket's memory."""
        self.grad = self.lie(grads, offset)
        if self.grad.dtype != self.twin.dtype:
            self.twin.grad_dtype = None  # any

    def give(self) -> None:
        """Show the twin its gradient, if one has come."""
        grad = self.grad if self.has_grad else None
        if grad is not self._shown:
            self.twin.grad = None if grad is None else self._as_param(grad)
            self._shown = grad

    def was_changed(self) -> bool:
        """Whether somebody has written to the parameter, or given it other memory, since.

        Raises:
            ValueError: it cannot be the same parameter any more.
        """
        param = self.param
        if param._version == self._version and (
            self._is_sharded or param.data_ptr() == self._place
        ):
            return False
        self.device = self._memory().data
        form = (self.device.device, self.device.dtype, self.device.shape)
        if form != self._form:
            raise ValueError(
                f"{self.name}: got {form[1]} of shape {tuple(form[2])} on {form[0]}, wanted "
                f"{self._form[1]} of shape {tuple(self._form[2])} on {self._form[0]}, as it was "
                "when offload() took it: move or convert a model before, or make a new offload()"
            )
        self._place, self._version = self.device.data_ptr(), param._version
        return True

    def note_written(self) -> None:
        """Take the parameter's version for that of what was sent."""
        self._version = self.param._version


class Bucket:
    """Parameters whose gradients come down, are stepped and go back up together.

    Args:
        slots: those parameters, in the order in which a backward pass comes to them.
        piece: of the only one, the elements; None: all.
        is_last: whether they are its last.

    Attributes:
        arrived: those whose gradients are there in this backward pass and still on the device.
        is_stepped: whether it was, since the last step began.
        is_dirty: whether the host has other parameters than were sent.
        up: how they get back, until they are there.
        sums: of each parameter, what adds up to the square of its gradient's norm.
        size: elements, gaps between tensors included.
    """

    def __init__(
        self, slots: Sequence[Slot], piece: slice | None = None, *, is_last: bool = True
    ) -> None:
        self.slots = list(slots)
        self.piece = piece
        self._is_last = is_last
        self.arrived: list[Slot] = []
        self.is_stepped = self.is_dirty = False
        self.up: Transfer | None = None
        self.sums: dict[Slot, NDArray[Any]] = {}
        self.offsets: dict[Slot, int] = {}
        self.size = 0
        unit = self.slots[0].here.element_size()
        for slot in self.slots:
            slot.buckets.append(self)
            self.offsets[slot] = self.size
            count = slot.count if piece is None else piece.stop - piece.start
            self.size += -(-count * unit // ALIGNED) * ALIGNED // unit
        self.note_twins()

    def note_twins(self) -> None:
        """Have the twins as they are now stepped."""
        twins = [slot.twin for slot in self.slots]
        self.part = Part(twins, self.piece, is_last=self._is_last)

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """What lies here of a tensor that is laid out as its parameter."""
        return layout.piece_of(tensor, self.piece)

    def staged(self, slot: Slot, memory: torch.Tensor) -> torch.Tensor:
        """Where a gradient lands that is then added: memory for the bucket."""
        if self.piece is not None:
            return memory[: self.piece.stop - self.piece.start]
        return slot.lie(memory, self.offsets[slot])

    @property
    def has_grads(self) -> bool:
        """Whether a gradient has come for any of them."""
        return any(slot.has_grad for slot in self.slots)

    def hold(self) -> None:
        """Have the device wait for what was sent."""
        up = self.up
        if up is not None:
            up.hold()
            if up.is_done():
                self.up = None

    def wait(self) -> None:
        """Block until the device has what was sent."""
        up = self.up
        if up is not None:
            up.hold()
            up.wait()
            self.up = None


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


def allocate(link: Link, buckets: Sequence[Bucket], wide: bool) -> None:
    """Have memory for parameters, and for gradients, these in float32 where they are wide.

    Raises:
        MemoryError: the link has none left.
    """
    several = [bucket for bucket in buckets if bucket.piece is None or bucket.piece.start == 0]
    sizes = [sum(b.size for b in bucket.slots[0].buckets) for bucket in several]
    units = [bucket.slots[0].here.element_size() for bucket in several]
    dtypes = [grad_dtype(bucket.slots[0], wide) for bucket in several]
    each = zip(sizes, units, dtypes, strict=True)
    link.expect(sum(size * (unit + dtype.itemsize) for size, unit, dtype in each))
    for bucket, size, dtype in zip(several, sizes, dtypes, strict=True):
        params = reserve(link, size, bucket.slots[0].here.dtype)
        grads = reserve(link, size, dtype)
        for slot in bucket.slots:
            slot.move_in(params, bucket.offsets[slot])
            slot.land_in(grads, bucket.offsets[slot])
    for bucket in buckets:
        bucket.note_twins()


def is_to_cut(slot: Slot, size: int) -> bool:
    """Whether a parameter is to lie in several buckets, if its rule allows that."""
    plain = slot.here.is_contiguous() and not layout.is_sharded(slot.param)
    return plain and slot.count * slot.here.element_size() > size and slot.count > SEGMENT


def fill(slots: Sequence[Slot], size: int, cuts: set[Slot]) -> list[Bucket]:
    """Buckets of about equal size, the last parameters first, as a backward pass comes to them.

    Args:
        slots: in the order of their layers.
        size: of a bucket, in bytes.
        cuts: those of which each piece has a bucket to itself; other large ones have one whole.
    """
    return [
        bucket
        for some in _together(slots, size, cuts)
        for bucket in ([Bucket(some)] if some[0] not in cuts else _pieces(some[0], size))
    ]


def _pieces(slot: Slot, size: int) -> list[Bucket]:
    step = max(size // slot.here.element_size() // SEGMENT, 1) * SEGMENT
    ends = [(begin, min(begin + step, slot.count)) for begin in range(0, slot.count, step)]
    return [Bucket([slot], slice(*one), is_last=one[1] == slot.count) for one in ends]


def _together(slots: Sequence[Slot], size: int, cuts: set[Slot]) -> Iterator[list[Slot]]:
    bucket: list[Slot] = []
    filled = 0
    for slot in reversed(slots):
        own = slot.count * slot.here.element_size()
        other = bool(bucket) and slot.here.dtype != bucket[0].here.dtype
        if bucket and (filled + own > size or other or slot in cuts or bucket[0] in cuts):
            yield bucket
            bucket, filled = [], 0
        bucket.append(slot)
        filled += own
    if bucket:
        yield bucket
