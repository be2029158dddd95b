"""From gradients on a device to parameters on it: down, step, up, beside the backward pass.

What happens to a bucket of parameters, where nothing has to wait for all gradients::

    backward pass   its last gradient is there: ``arrive``, ``_take``; the copy down begins
    our thread      it has landed: ``_land``; the step: ``_step``; the copy up begins: ``_send``
    forward pass    waits where it comes to a module of it, see waits.py

With clipping, and whatever else looks at all gradients first, buckets land beside the backward
pass, too, and the norm's sums are taken; the steps are made within ``finish``.
"""

from __future__ import annotations

import functools
import math
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ... import _core
from ...engine import not_finite
from .. import layout, private
from ..call import Part
from .simulated import Span
from .slots import Bucket, Piece, Slot, allocate, fill, grad_dtype, is_to_cut, reserve
from .taken import Taken
from .worker import Worker

if TYPE_CHECKING:
    from concurrent.futures import Future

    from ...report import Report
    from ..optimizer import Optimizer
    from .links import Link, Transfer
    from .resident import Resident

NO_PASS = -1


@dataclass
class Round:
    """What has come since the last step.

    Attributes:
        eager: whether buckets are stepped as they come.
        passes: the backward passes so far.
        begun: whether a bucket was stepped.
        report: what the last of them was told.
    """

    eager: bool
    passes: int = 0
    begun: bool = False
    report: Report | None = None


class Staging:
    """Memory where gradients land that are then added to those that are there."""

    def __init__(self, memory: torch.Tensor) -> None:
        self.memory = memory
        self.task: Future[None] | None = None  # that reads it


@dataclass(frozen=True)
class Options:
    """How gradients are taken; see :func:`gradstep.torch.offload`."""

    accumulate: int
    accumulate_in: str
    in_backward: bool
    bucket_bytes: int


def stages_gradients(options: Options) -> bool:
    """Whether gradients land elsewhere before they are added."""
    several = options.accumulate > 1 and options.accumulate_in != "device"
    return several or options.accumulate_in == "float32"


class Pipeline:
    """What takes gradients, steps by them and sends parameters back.

    Args:
        slots: all parameters.
        link: the way to them.
        options: how.
        begin: a method, called to bring hyperparameters in line before a step.

    Attributes:
        inner: steps the twins.
        resident: steps what stays on the device, if there is any.
        steps: how many were made.
        spans: where it is a list, each bucket's step and its time are noted there.
    """

    inner: Optimizer
    resident: Resident | None = None

    def __init__(
        self,
        slots: Sequence[Slot],
        link: Link,
        options: Options,
        begin: Callable[[], None],
    ) -> None:
        self.slots = list(slots)
        self.buckets: list[Bucket] = []
        self.pieces: list[Piece] = []  # of all buckets
        self.link = link
        self.steps = 0
        self._options = options
        self._push = weakref.WeakMethod(begin)  # its object is to go when nobody else holds it
        self._worker = Worker()
        self._staging: list[Staging] = []
        self._round: Round | None = None
        self._begun_with: Round | None = None  # for which hyperparameters were brought in line
        self._number = 0  # of backward passes
        self._pass, self._is_over = NO_PASS, True
        self._keeps = self._is_last = False
        self._unscaled = 1.0  # by what a GradScaler was told that gradients are multiplied
        self._hooks: list[Any] = []
        self._everything: Part | None = None
        self.spans: list[Span] | None = None

    # ---- memory and hooks ----

    @property
    def _wide(self) -> bool:
        return self._options.accumulate_in == "float32"

    def lay_out(self, slots: Sequence[Slot], cuts: set[Slot]) -> None:
        """Have buckets, in memory of the link's, for parameters that were not there before.

        Args:
            slots: those.
            cuts: which of them may lie in several.

        Raises:
            MemoryError: there is not enough.
        """
        size = self._options.bucket_bytes
        new = fill(slots, size, {slot for slot in cuts if is_to_cut(slot, size)})
        allocate(self.link, new, self._wide)
        self._add(new)
        if stages_gradients(self._options):
            self._staging = [
                Staging(reserve(self.link, largest, dtype))
                for dtype, largest in self._largest().items()
                for _ in range(2)
            ]

    def _add(self, buckets: Sequence[Bucket]) -> None:
        self.buckets = [*self.buckets, *buckets]
        self.pieces = [piece for bucket in self.buckets for piece in bucket.pieces]
        self._everything = None

    def keep_only(self, buckets: Sequence[Bucket]) -> None:
        """Forget all other buckets, of a group that was refused."""
        for bucket in self.buckets:
            if bucket not in buckets:
                bucket.forget()
        self.buckets = []
        self._add(buckets)

    def _largest(self) -> dict[torch.dtype, int]:
        """The elements of the largest piece of each dtype."""
        largest: dict[torch.dtype, int] = {}
        for bucket in self.buckets:
            largest[bucket.dtype] = max(largest.get(bucket.dtype, 0), bucket.largest)
        return largest

    def attach(self, slots: Sequence[Slot]) -> None:
        """Fill twins from the device, and take gradients from now on, as they come."""
        self._leaves = private.leaves([slot.param for slot in self.slots])
        reference = weakref.ref(self)
        for slot in slots:
            with torch.no_grad():
                slot.here.copy_(slot.device)
            slot.stand_in = None if layout.is_sharded(slot.param) else Taken(slot.param, self)
            if _is_alone():
                hook = functools.partial(_arrived, reference, slot.index)
                self._hooks.append(slot.param.register_post_accumulate_grad_hook(hook))

    def detach(self) -> None:
        """Take no more gradients."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    # ---- arrivals, in the backward pass ----

    def arrive(self, slot: Slot) -> None:
        """Take note of a parameter's gradient."""
        if private.backward_pass() != self._pass:
            self._begin_pass(slot)
        if self._keeps:
            return
        if slot.seen == self._number:
            raise RuntimeError(f"{slot.name}: got a second gradient in a backward pass, wanted one")
        slot.seen = self._number
        bucket = slot.bucket
        assert bucket is not None
        bucket.waiting -= 1
        if bucket.waiting == 0:
            self._take(bucket, bucket.slots)

    def _begin_pass(self, slot: Slot) -> None:
        # On an accelerator, a pass within another is the only one in its thread.
        most = 1 if slot.param.device.type == "cpu" else 0
        if private.backward_depth() > most:
            raise RuntimeError(
                "offload: got a backward pass within another, which brings only some gradients, "
                "wanted torch.utils.checkpoint with use_reentrant=False"
            )
        if not self._is_over:
            raise RuntimeError(
                "offload: got a backward pass after one that has failed, wanted zero_grad() between"
            )
        if self._round is None:
            self._round = self._new_round()
        if self._round.passes == self._options.accumulate:
            slot.param.grad = None
            raise _too_many(self._options.accumulate)
        self._round.passes += 1
        self._number += 1
        self._pass, self._is_over = private.backward_pass(), False
        self._is_last = self._round.passes == self._options.accumulate
        self._keeps = self._options.accumulate_in == "device" and not self._is_last
        if self._is_last:
            self._begin()
            self._begun_with = self._round
        private.at_end_of_backward(self._end_pass)

    def _begin(self) -> None:
        """Bring hyperparameters in line."""
        push = self._push()
        if push is not None:
            push()
        if self.steps:
            return
        for group in self.inner.groups:
            group.sync()
        if any(group.rule.gathers_for(group.values) for group in self.inner.groups):
            for bucket in self.buckets:  # a switch may have been turned on before the first step
                if len(bucket.pieces) > 1:
                    bucket.join()
            self._add([])

    def _new_round(self) -> Round:
        return Round(self._options.in_backward and not self._looks_at_all())

    def _looks_at_all(self) -> bool:
        """Whether the step has to wait for all gradients."""
        half = any(slot.here.dtype == torch.float16 for slot in self.slots if slot.bucket)
        return half or self._wants_norm() or self._is_whole() or not _is_alone()

    def _wants_norm(self) -> bool:
        stages = self.inner.stages
        return stages["clip_norm"] is not None or stages["nonfinite"] != "allow"

    def _is_whole(self) -> bool:
        """Whether all parameters must be stepped in one call."""
        rules = {group.rule for group in self.inner.groups}
        together = any(rule.common or rule.takes_loss or rule.has_direction for rule in rules)
        sharded = any(slot.is_sharded for slot in self.slots)
        return together or sharded or bool(self.inner.engine.stats)

    def _end_pass(self) -> None:
        """Take what has come of buckets of which not everything did."""
        self._is_over = True
        round_ = self._round
        if round_ is None or self._keeps:
            return
        self._take_what_is_there()
        if round_.eager and self._is_last:
            for bucket in self.buckets:
                for piece in bucket.pieces if bucket.has_grads else ():
                    if not piece.is_stepped:
                        piece.is_stepped = True
                        now = self.link.down([])  # behind all that the device was told
                        self._worker.begin(self._land, round_, piece, now, (), True)

    def _take_what_is_there(self) -> None:
        """Take all gradients that are on the device, whoever has brought them there."""
        found: dict[Bucket, list[Slot]] = {}
        for slot, grad in zip(self.slots, self._leaves.gradients(), strict=True):
            if slot.is_marked and grad is None:
                self._drop(slot)
            if grad is None or type(grad) is Taken or slot.stays:
                continue
            has_come = slot.seen == self._number != slot.taken
            if slot.has_grad and not has_come:
                raise RuntimeError(
                    f"{slot.name}.grad: got another gradient than the one that the backward pass "
                    "has brought, wanted one of both"
                )
            if slot.bucket is None:
                self._adopt(slot)
            assert slot.bucket is not None
            found.setdefault(slot.bucket, []).append(slot)
        for bucket, slots in found.items():
            self._take(bucket, slots)

    def _drop(self, slot: Slot) -> None:
        """Forget a gradient that somebody has set to None on the device.

        Raises:
            RuntimeError: layers were stepped by gradients already.
        """
        if self.is_eager:
            raise _stepped_already(f"{slot.name}.grad")
        slot.has_grad = slot.is_marked = False
        for piece in slot.bucket.pieces if slot.bucket is not None else ():
            piece.sums.pop(slot, None)

    def _take(self, bucket: Bucket, slots: Sequence[Slot]) -> None:
        """Begin to bring gradients of a bucket down, and drop them on the device."""
        grads = bucket.gradients()
        if slots is not bucket.slots:
            grads = [g for slot, g in zip(bucket.slots, grads, strict=True) if slot in slots]
            slots = [slot for slot in bucket.slots if slot in slots]
        if not all(type(g) is torch.Tensor and g.layout == torch.strided for g in grads):
            grads = [_checked(slot) for slot in slots]
        if not all(wait.seen == self.steps for wait in bucket.waits):
            for slot in slots:
                if not (slot.has_grad or slot.outside):
                    self._check_read(slot)
        has_some = bucket.has_grads
        changed = [] if has_some else bucket.changed()
        more = [has_some and slot.has_grad for slot in slots]
        number, is_last = self._number, self._is_last
        for slot in slots:  # before our thread may see it
            slot.has_grad, slot.taken = True, number
            slot.is_marked = is_last and slot.stand_in is not None
            slot.param.grad = slot.stand_in if is_last else None
        bucket.waiting = len(bucket.slots)
        for piece in bucket.pieces:
            self._bring_down(piece, slots, grads, more, changed)
            changed = []

    def _bring_down(
        self,
        piece: Piece,
        slots: Sequence[Slot],
        grads: Sequence[torch.Tensor],
        more: Sequence[bool],
        others: Sequence[tuple[torch.Tensor, torch.Tensor]],
    ) -> None:
        """Bring gradients of a piece down, those of which there are some already to be added."""
        round_ = self._round
        assert round_ is not None
        if piece.cut is not None:
            grads = [piece.of(grad) for grad in grads]
        targets = [piece.grads[slot] for slot in slots]
        adds, staging = [], None
        if self._wide or any(more):
            for i, (slot, is_more) in enumerate(zip(slots, more, strict=True)):
                if is_more or targets[i].dtype != grads[i].dtype:
                    staging = staging or self._free_staging(piece.bucket)
                    landing = piece.staged(slot, staging.memory)
                    adds.append((targets[i], landing, is_more))
                    targets[i] = landing
        transfer = self.link.down([*others, *zip(targets, grads, strict=True)])
        steps = round_.eager and self._is_last and len(slots) == len(piece.bucket.slots)
        piece.is_stepped = steps
        task = self._worker.begin(self._land, round_, piece, transfer, adds, steps)
        if staging is not None:
            staging.task = task

    def _free_staging(self, bucket: Bucket) -> Staging:
        """Memory that nobody reads any more, in turns."""
        for index, one in enumerate(self._staging):
            if one.memory.dtype == bucket.dtype and one.memory.numel() >= bucket.largest:
                self._staging.append(self._staging.pop(index))
                break
        else:  # for a parameter that was frozen before
            one = Staging(reserve(self.link, bucket.largest, bucket.dtype))
            self._staging.append(one)
        if one.task is not None:
            one.task.result()
        return one

    def _check_read(self, slot: Slot) -> None:
        """Notice a forward pass that reads a parameter without its module.

        From then on each step waits for such a parameter.

        Raises:
            RuntimeError: it may have been read while it was on its way.
        """
        for wait in slot.waits:
            if wait.seen == self.steps:
                return
        slot.outside = True
        if slot.waits and slot.bucket is not None and not slot.bucket.is_up:
            for piece in slot.bucket.pieces:
                piece.hold()  # for the next one
            raise RuntimeError(
                f"{slot.name}: got read in the forward pass without its module's own forward "
                "pass, which waits for it; wanted optimizer.wait() before this one. From now on "
                "each step waits for it"
            )

    # ---- our thread ----

    def _land(
        self,
        round_: Round,
        piece: Piece,
        transfer: Transfer,
        adds: Sequence[tuple[torch.Tensor, torch.Tensor, bool]],
        steps: bool,
    ) -> None:
        """Wait for gradients, add them to those that are there, and step where that is due."""
        transfer.wait()
        with torch.no_grad():
            for grad, landed, is_more in adds:
                (grad.add_ if is_more else grad.copy_)(landed)
        piece.sums = {}
        if steps:
            self._step(round_, piece)
        elif self._is_last and self._wants_norm():
            for slot in piece.bucket.slots:
                if slot.has_grad:
                    _square(piece, slot)

    def _step(self, round_: Round, piece: Piece, norm: float | None = None) -> None:
        """Step a piece, and send it on its way."""
        piece.wait()  # until nothing reads its memory
        for slot in piece.bucket.slots:
            slot.give()
        piece.is_dirty = True
        advances, round_.begun = not round_.begun, True
        begin = time.perf_counter()
        round_.report = self.inner.step_part(piece.part, advances=advances, norm=norm)
        if self.spans is not None:
            self.spans.append(("step", begin, time.perf_counter()))
        if round_.report.skipped:
            piece.is_dirty = False
        else:
            self._send(piece)

    def _send(self, piece: Piece) -> None:
        """Begin to bring a piece's parameters up."""
        slots = piece.bucket.slots
        if not all(slot.has_grad for slot in slots):
            slots = [slot for slot in slots if slot.has_grad]
        piece.bucket.note_written(slots)  # before it is so: who still reads them is told
        piece.up = self.link.up(piece.ways_up(slots))
        piece.is_dirty = False

    # ---- the step ----

    def finish(self, loss: Any, scale: float, found_inf: bool) -> Report | None:
        """Complete the step: on return nothing of the caller's is read any more.

        Args:
            loss: see :meth:`gradstep.torch.Optimizer.step`.
            scale: what the gradients are divided by, of a GradScaler.
            found_inf: whether it has found what is not finite: then nothing is stepped.

        Returns:
            The report; None where it was skipped because of ``found_inf``.
        """
        try:
            report = self._finished(loss, scale, found_inf)
        except BaseException:
            self.abandon()
            raise
        self._reset()
        self.steps += 1
        for bucket in self.buckets:
            if not bucket.is_up and any(s.outside or not s.waits for s in bucket.slots):
                for piece in bucket.pieces:
                    piece.hold()
        return report

    def _finished(self, loss: Any, scale: float, found_inf: bool) -> Report | None:
        if not self._is_over:
            raise RuntimeError("step: got a backward pass that has failed, wanted a whole one")
        round_ = self._round
        if round_ is None:
            round_ = self._round = Round(eager=False)
        self._is_last = True
        if not self.is_under_way:
            self._begin()  # what was changed since the backward pass counts
        self._take_what_is_there()
        self._worker.finish()
        if round_.eager and (found_inf or scale != 1 or self._unscaled != 1):
            raise RuntimeError(
                "step: got a GradScaler, whose scale is known only after the backward pass, within "
                "which layers were stepped already; wanted offload(..., in_backward=False)"
            )
        if found_inf:
            return None
        if not all(piece.is_stepped for piece in self.pieces):
            self.read_again()
            self.link.synchronize()  # nothing reads the parameters that are written now
        self._step_rest(round_, loss, scale)
        return round_.report

    def read_again(self) -> None:
        """Take over what somebody has written to parameters of which nothing was stepped since."""
        pairs = [
            pair
            for bucket in self.buckets
            if not any(piece.is_stepped for piece in bucket.pieces)
            for pair in bucket.changed()
        ]
        if pairs:
            self.link.down(pairs).wait()

    def _step_rest(self, round_: Round, loss: Any, known_scale: float) -> None:
        scale = known_scale / self._unscaled  # of the gradients that are here
        self.inner.grad_scale = None if scale == 1 else torch.tensor(scale, dtype=torch.float64)
        try:
            if self._is_whole():
                self._step_whole(round_, loss)
                return
            norm = self._checked_norm() if self._wants_norm() else None
            for piece in self._as_a_forward_pass_comes():
                if piece.is_stepped or not (piece.bucket.has_grads or self.inner.engine.averaging):
                    continue
                piece.is_stepped = True
                self._step(round_, piece, norm)
                if round_.report is not None and round_.report.skipped:
                    return
            if not round_.begun:  # the clock goes on, as in a step without gradients
                self._step_whole(round_, loss, norm)
            if self.resident is not None:
                self._step_resident(self.resident, round_, known_scale)
        finally:
            del self.inner.grad_scale

    def _as_a_forward_pass_comes(self) -> list[Piece]:
        """The pieces of the first layers first."""
        return [piece for bucket in reversed(self.buckets) for piece in bucket.pieces]

    def _step_resident(self, resident: Resident, round_: Round, scale: float) -> None:
        """Step what stays on the device as the rest was."""
        report, stages = round_.report, self.inner.stages
        if report is None or report.skipped:
            return
        factor = 1 / scale
        if (limit := stages["clip_norm"]) is not None:
            limit = limit(report.t - 1) if callable(limit) else limit
            assert report.grad_norm is not None
            factor *= min(1.0, limit / (report.grad_norm + 1e-6))
        resident.step(self.inner.param_groups, factor)

    def _step_whole(self, round_: Round, loss: Any, norm: float | None = None) -> None:
        for piece in self.pieces:
            for slot in piece.bucket.slots:
                slot.give()
            piece.is_dirty = True
        if self._everything is None:
            held = [slot for slot in self.slots if slot.bucket is not None]
            self._everything = Part([slot.twin for slot in held])
        round_.report = self.inner.step_part(self._everything, advances=True, loss=loss, norm=norm)
        if any(piece.cut is not None for piece in self.pieces):
            self.inner.forget_steps()  # pieces have counts of their own
        for piece in self.pieces:
            if not round_.report.skipped and piece.bucket.has_grads:
                self._send(piece)
            piece.is_dirty = False

    def _checked_norm(self) -> float:
        """The norm of all gradients.

        Raises:
            FloatingPointError: it is not finite, with ``nonfinite="raise"``.
        """
        norm = self._norm()
        if self.inner.stages["nonfinite"] == "raise" and not math.isfinite(norm):
            for slot in self.slots:
                if slot.has_grad and slot.grad is not None and not slot.grad.isfinite().all():
                    raise not_finite(f"{slot.name}.grad")
        return norm

    def _norm(self) -> float:
        """The norm of all gradients, loss scale and all, as one call over all of them has it."""
        slots = [slot for slot in self.slots if slot.has_grad]
        sums = []
        for slot in slots:
            for piece in slot.bucket.pieces if slot.bucket is not None else ():
                if slot not in piece.sums:
                    _square(piece, slot)
                sums.append(piece.sums[slot])
        # What stays there has been unscaled there, by a GradScaler that was told to.
        stays = 0.0 if self.resident is None else self.resident.square() / self._unscaled**2
        total = _added_up(sums) + stays
        if not math.isinf(total):
            return math.sqrt(total)
        scale = _core.overflow_scale
        grads = [slot.grad for slot in slots]
        scaled = _core.segment_sums_of_tensors(grads, private.SOURCE, scale)
        return math.sqrt(_added_up([scaled]) + stays * scale * scale) / scale

    def _adopt(self, slot: Slot) -> None:
        """Have a bucket for a parameter that was frozen so far, in the memory that it has."""
        bucket = Bucket([slot])
        bucket.move_in(None, reserve(self.link, bucket.size, grad_dtype(slot, self._wide)))
        self._add([bucket])
        self.attach([slot])

    def has_nonfinite(self, taken: Sequence[Taken], inverse_scale: float) -> bool:
        """Whether gradients that were taken have an infinite element, or a NaN."""
        self._take_what_is_there()
        self._worker.drain()
        stand_ins = set(map(id, taken))
        if inverse_scale != 1:  # otherwise it only looks
            self._unscaled = inverse_scale
        found = False
        for slot in self.slots:
            if slot.has_grad and id(slot.stand_in) in stand_ins and slot.grad is not None:
                found |= not bool(torch.isfinite(slot.grad).all())
        return found

    # ---- what interrupts ----

    @property
    def is_open(self) -> bool:
        """Whether gradients have come since the last step."""
        return self._round is not None

    @property
    def is_eager(self) -> bool:
        """Whether parameters are stepped as their gradients come, since the last step."""
        return self._round is not None and self._round.eager

    @property
    def is_under_way(self) -> bool:
        """Whether the step has begun, with hyperparameters as they were, within a backward pass."""
        return self.is_eager and self._begun_with is self._round

    def discard(self, what: str) -> None:
        """Forget the gradients that have come.

        Args:
            what: who asks, for the error.

        Raises:
            RuntimeError: by some of them layers were stepped already.
        """
        round_ = self._round
        if round_ is None:
            return
        self._worker.drain()
        if self._is_over and round_.eager and round_.begun:
            raise _stepped_already(what)
        self.abandon()

    def before_forward(self) -> None:
        """Have nothing half done: a backward pass that has failed, or one without step() so far."""
        if private.backward_pass() != NO_PASS:  # it computes something again
            return
        if not self._is_over:
            if not private.is_backward_running():  # in another thread, either
                self.abandon()
        elif self.is_eager:
            self.settle()

    def abandon(self) -> None:
        """End a step that cannot be completed; host and device agree."""
        self._worker.forget()
        for piece in self.pieces:
            if piece.is_dirty:
                self._send(piece)
        for slot in self.slots:
            if slot.bucket is not None:
                slot.param.grad = None
        self._reset()

    def _reset(self) -> None:
        for slot in self.slots:
            if slot.has_grad:
                slot.param.grad = None
                slot.has_grad = slot.is_marked = False
        for bucket in self.buckets:
            bucket.waiting = len(bucket.slots)
        for piece in self.pieces:
            piece.sums = {}
            piece.is_stepped = False
        self._round = None
        self._unscaled = 1.0
        self._pass, self._is_over = NO_PASS, True

    def settle(self) -> None:
        """Wait until the host has nothing left to do."""
        self._worker.drain()

    def wait(self) -> None:
        """Wait until host and device have the same parameters."""
        self.settle()
        for piece in self.pieces:
            piece.hold()
            piece.wait()

    def leave(self, handles: Sequence[Any]) -> None:
        """Go: the device has all parameters then, nothing is taken any more, memory is let go.

        Args:
            handles: of hooks to remove.
        """
        self._worker.forget()
        self.wait()
        self.detach()
        for handle in handles:
            handle.remove()
        for slot in self.slots:
            if slot.stand_in is not None and slot.param.grad is slot.stand_in:
                slot.param.grad = None
        for bucket in self.buckets:
            bucket.forget()
        self.buckets, self.pieces, self._everything = [], [], None

    def send_all(self) -> None:
        """Bring all parameters up, and wait."""
        self.wait()
        self.link.synchronize()
        for piece in self.pieces:
            piece.bucket.note_written(piece.bucket.slots)
            piece.up = self.link.up(piece.ways_up(piece.bucket.slots))
        self.wait()


def _arrived(reference: weakref.ref[Pipeline], index: int, _: torch.Tensor) -> None:
    """The hook of a parameter; it does not keep the pipeline."""
    pipeline = reference()
    if pipeline is not None:
        pipeline.arrive(pipeline.slots[index])


def _square(piece: Piece, slot: Slot) -> None:
    piece.sums[slot] = _core.segment_sums_of_tensors([piece.grads[slot]], private.SOURCE)


def _is_alone() -> bool:
    """Whether gradients are whole when the backward pass brings them: no other process adds any."""
    distributed = torch.distributed
    is_there = distributed.is_available() and distributed.is_initialized()
    return not is_there or distributed.get_world_size() == 1


def _checked(slot: Slot) -> torch.Tensor:
    """A gradient, which must be dense."""
    grad = slot.param.grad
    name = f"{slot.name}.grad"
    if isinstance(grad, Taken):
        raise RuntimeError(
            f"{name}: got a gradient that another offload() has taken, wanted close() of the other "
            "one, or different parameters"
        )
    if grad is None:
        raise RuntimeError(f"{name}: got None in a hook of the backward pass, wanted a gradient")
    if layout.is_sharded(slot.param):
        grad = layout.local_grad(name, grad, slot.param)
    if grad.layout != torch.strided:
        raise TypeError(f"{name}: got {grad.layout}, wanted a dense gradient to offload")
    return grad


def _added_up(sums: Sequence[Any]) -> float:
    """One after the other, as the core adds."""
    every = np.concatenate([np.zeros(1), *sums])
    return float(np.add.accumulate(every)[-1])


def _stepped_already(what: str) -> RuntimeError:
    return RuntimeError(
        f"{what}: asked to drop gradients by which layers were stepped already, within the "
        "backward pass; wanted step() first, or offload(..., in_backward=False)"
    )


def _too_many(accumulate: int) -> RuntimeError:
    return RuntimeError(
        f"offload: got a backward pass before step(), after {accumulate} that were to be a step, "
        f"wanted step(), or accumulate={accumulate + 1}"
    )
