"""Parameters of a device and what there is of them in host memory, in buckets."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from .. import layout, private
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
        is_sharded: whether it is a DTensor.
        device: the memory of the parameter, a plain tensor, the part of this process of a sharded
            one; autograd does not see what is written to it.
        here: the memory of the twin, laid out alike.
        twin: what is stepped: that memory, or a DTensor of it.
        grad: where gradients land, laid out alike; None: it has no bucket.
        bucket: where it lies; None: nowhere.
        has_grad: whether one has come since the last step.
        seen: the last backward pass that brought one.
        taken: the last one whose gradient has left the device.
        outside: whether the forward pass reads it elsewhere than in a module that waits for it.
        waits: what waits for it in the forward pass.
        is_marked: whether ``stand_in`` was put there, since the last step.
        stand_in: what stands in the parameter's ``.grad`` meanwhile.
        stays: whether it is stepped on the device.
    """

    def __init__(self, index: int, name: str, param: torch.Tensor) -> None:
        self.index = index
        self.name = name
        self.param = param
        self.is_sharded = layout.is_sharded(param)
        self.device = self._memory().data
        self._place, self._version = self.device.data_ptr(), param._version
        if getattr(param, "grad_dtype", None) not in (None, param.dtype):
            raise TypeError(
                f"{name}: got gradients of {param.grad_dtype} for {param.dtype}, wanted the same"
            )
        self._form = (self.device.device, self.device.dtype, self.device.shape)
        self.strides = torch.empty_like(self.device, device="meta").stride()
        self.count = self.device.numel()
        self.here = torch.empty_strided(
            self.device.shape, self.strides, dtype=self.device.dtype, device="cpu"
        )
        self.twin = self._as_param(self.here)
        self.grad: torch.Tensor | None = None
        self._shown: torch.Tensor | None = None  # the gradient that the twin has
        self.bucket: Bucket | None = None
        self.has_grad = False
        self.seen = self.taken = -1
        self.is_marked = False
        self.outside = self.is_sharded  # gathered before a module begins
        self.waits: list[Any] = []
        self.stand_in: Taken | None = None
        self.stays = False

    def _memory(self) -> torch.Tensor:
        """What of the parameter is on this process's device."""
        return layout.local(self.param.detach())

    def _as_param(self, here: torch.Tensor) -> torch.Tensor:
        """Host memory as a tensor such as the parameter is."""
        if not self.is_sharded:
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

    def was_changed(self, version: int | None) -> bool:
        """Whether somebody has written to the parameter, or given it other memory, since.

        Args:
            version: autograd's, after what was sent last; None: as this remembers it.

        Raises:
            ValueError: it cannot be the same parameter any more.
        """
        param = self.param
        if param._version == (self._version if version is None else version) and (
            self.is_sharded or param.data_ptr() == self._place
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
    """Parameters whose gradients are taken together.

    Args:
        slots: those parameters, in the order in which a backward pass comes to them.
        cuts: of the only one, where it is cut into pieces: all ends; empty: it is whole.

    Attributes:
        pieces: what is copied and stepped at once.
        waiting: how many gradients have yet to come in this backward pass.
        size: elements, gaps between tensors included.
    """

    def __init__(self, slots: Sequence[Slot], cuts: Sequence[int] = ()) -> None:
        self.slots = list(slots)
        self.waiting = len(self.slots)
        self._leaves = private.leaves([slot.param for slot in self.slots])
        self._params = [slot.param for slot in self.slots]
        self.waits: set[Any] = set()  # what waits for them in a forward pass
        self._versions: list[int] | None = None  # None: they are to be looked at one by one
        self._places: list[int] = []
        self.offsets: dict[Slot, int] = {}
        self.size = 0
        unit = self.slots[0].here.element_size()
        for slot in self.slots:
            slot.bucket = self
            self.offsets[slot] = self.size
            self.size += -(-slot.count * unit // ALIGNED) * ALIGNED // unit
        pairs = itertools.pairwise((0, *cuts))
        self.pieces = [Piece(self, slice(*ends)) for ends in pairs] or [Piece(self, None)]

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters."""
        return self.slots[0].here.dtype

    @property
    def largest(self) -> int:
        """The elements of the largest piece, gaps included."""
        return self.size if self.pieces[0].cut is None else self.pieces[0].cut.stop

    def move_in(self, params: torch.Tensor | None, grads: torch.Tensor) -> None:
        """Have parameters, None: as they are, and gradients in some memory."""
        for slot in self.slots:
            if params is not None:
                slot.move_in(params, self.offsets[slot])
            slot.land_in(grads, self.offsets[slot])
        for piece in self.pieces:
            piece.arrange(is_last=piece is self.pieces[-1])

    def gradients(self) -> list[Any]:
        """The gradients on the device, or what stands for them."""
        return self._leaves.gradients()

    def changed(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Where to, and from where, parameters are read again that somebody has written to.

        Raises:
            ValueError: one cannot be the same parameter any more.
        """
        if (
            self._versions is not None
            and [param._version for param in self._params] == self._versions
            and [param.data_ptr() for param in self._params] == self._places
        ):
            return []
        versions: Sequence[int | None] = self._versions or [None] * len(self.slots)
        pairs = zip(self.slots, versions, strict=True)
        found = [(slot.here, slot.device) for slot, v in pairs if slot.was_changed(v)]
        if found:  # in other memory, it may be
            for piece in self.pieces:
                piece.arrange(is_last=piece is self.pieces[-1])
        self.note()
        return found

    def note_written(self, slots: Sequence[Slot]) -> None:
        """Tell autograd that parameters were written, and take that for what was sent."""
        torch.autograd.graph.increment_version([slot.param for slot in slots])
        if self._versions is None:
            for slot in slots:
                slot.note_written()
        elif slots is self.slots:
            self._versions = [param._version for param in self._params]
        else:  # to the others somebody may have written
            sent = set(slots)
            self._versions = [
                slot.param._version if slot in sent else version
                for slot, version in zip(self.slots, self._versions, strict=True)
            ]

    def note(self) -> None:
        """Remember parameters as they are now."""
        if not any(slot.is_sharded for slot in self.slots):
            self._versions = [param._version for param in self._params]
            self._places = [param.data_ptr() for param in self._params]

    def join(self) -> None:
        """Have one piece of what was cut."""
        self.pieces = [Piece(self, None)]
        self.pieces[0].arrange(is_last=True)

    def forget(self) -> None:
        """Let go of all memory, whoever holds this."""
        for slot in self.slots:
            slot.bucket = slot.grad = slot.stand_in = None
        self.pieces, self.slots, self._params = [], [], []

    @property
    def has_grads(self) -> bool:
        """Whether a gradient has come for any of them."""
        return any(slot.has_grad for slot in self.slots)

    @property
    def is_up(self) -> bool:
        """Whether all that was sent is there."""
        return all(piece.up is None for piece in self.pieces)


class Piece:
    """What of a bucket is copied and stepped at once: all of it, or some of its only parameter.

    Args:
        bucket: the bucket.
        cut: the elements of its only parameter; None: all of it.

    Attributes:
        part: what is stepped.
        is_stepped: whether it was, since the last step began.
        is_dirty: whether the host has other parameters than were sent.
        up: how they get back, until they are there.
        sums: of each parameter, what adds up to the square of its gradient's norm.
    """

    def __init__(self, bucket: Bucket, cut: slice | None) -> None:
        self.bucket = bucket
        self.cut = cut
        self.is_stepped = self.is_dirty = False
        self.up: Transfer | None = None
        self.sums: dict[Slot, NDArray[Any]] = {}
        self.part = Part([])

    def arrange(self, *, is_last: bool) -> None:
        """Take parameters and gradients as they lie now."""
        slots = self.bucket.slots
        twins = [slot.twin for slot in slots]
        if list(map(id, self.part.tensors)) != list(map(id, twins)):
            self.part = Part(twins, self.cut, is_last=is_last)  # another one is compiled anew
        self.grads = {slot: self.of(slot.grad) for slot in slots if slot.grad is not None}
        if self.cut is None or slots[0].device.is_contiguous():
            self._up = {slot: [(self.of(slot.device), self.of(slot.here))] for slot in slots}
        else:  # no piece of it is a run of memory
            self._up = {slots[0]: [(slots[0].device, slots[0].here)] if is_last else []}
        self._all_up = [pair for pairs in self._up.values() for pair in pairs]

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """What lies here of a tensor that is laid out as its parameter."""
        return layout.piece_of(tensor, self.cut)

    def staged(self, slot: Slot, memory: torch.Tensor) -> torch.Tensor:
        """Where a gradient lands that is then added, in memory for all of this."""
        if self.cut is not None:
            return memory[: self.cut.stop - self.cut.start]
        return slot.lie(memory, self.bucket.offsets[slot])

    def ways_up(self, slots: Sequence[Slot]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Where to, and from where, parameters are sent."""
        if slots is self.bucket.slots:
            return self._all_up
        return [pair for slot in slots for pair in self._up[slot]]

    def hold(self) -> None:
        """Have the device wait for what was sent."""
        up = self.up
        if up is not None:
            up.hold()
            if up.is_done() and self.up is up:
                self.up = None

    def wait(self) -> None:
        """Block until the device has what was sent."""
        up = self.up
        if up is not None:
            up.wait()
            if self.up is up:
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
    dtypes = [grad_dtype(bucket.slots[0], wide) for bucket in buckets]
    pairs = list(zip(buckets, dtypes, strict=True))
    link.expect(sum(b.size * (b.dtype.itemsize + grads.itemsize) for b, grads in pairs))
    for bucket, dtype in pairs:
        bucket.move_in(reserve(link, bucket.size, bucket.dtype), reserve(link, bucket.size, dtype))


def is_to_cut(slot: Slot, size: int) -> bool:
    """Whether a parameter is to be cut into pieces, if its rule allows that."""
    plain = slot.here.is_contiguous() and not slot.is_sharded
    return plain and slot.count * slot.here.element_size() > size and slot.count > SEGMENT


def fill(slots: Sequence[Slot], size: int, cuts: set[Slot]) -> list[Bucket]:
    """Buckets of about equal size, the last parameters first, as a backward pass comes to them.

    Args:
        slots: in the order of their layers.
        size: of a bucket, or a piece of one, in bytes.
        cuts: those that are cut; other large ones are not.
    """
    return [
        Bucket(some, _ends(some[0], size) if some[0] in cuts else ())
        for some in _together(slots, size, cuts)
    ]


def _ends(slot: Slot, size: int) -> list[int]:
    """Where pieces of a parameter end."""
    step = max(size // slot.here.element_size() // SEGMENT, 1) * SEGMENT
    return [*range(step, slot.count, step), slot.count]


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
