"""The parameters that have a state, as an engine wants them held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from .. import _core
from ..engine import Row
from ..storages import compute_type
from . import layout
from .call import Part
from .groups import Group
from .keeping import Keeping, Param
from .orthogonal import TensorRedirection
from .private import SOURCE
from .sharded import begin

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Doubles = NDArray[np.float64]


class Moved(Exception):
    """A parameter or state is not where it was when the plan was made."""


class Overlap(ValueError):
    """A gradient lies in memory that the step writes, or wrote when the plan was made."""


class Mirrored(NamedTuple):
    """A tensor on which the core cannot work, and memory on which it does."""

    whole: torch.Tensor  # as it was given
    here: torch.Tensor
    memory: torch.Tensor


class Held:
    """Parameters and their states, see :class:`gradstep.engine.Held`.

    Args:
        keepings: what is kept for each parameter of a group.
        groups: the groups.
        params: the parameters that have a state.
        states: theirs, by name, plain dictionaries.
        fresh: the parameters whose averages, and whatever else starts from them, no step has moved.
        part: which part of all this is, for one that is a piece of a tensor.
    """

    def __init__(
        self,
        keepings: Sequence[Keeping],
        groups: Sequence[Group],
        params: Sequence[Param],
        states: Sequence[dict[str, torch.Tensor]],
        fresh: set[torch.Tensor],
        part: Part | None = None,
    ) -> None:
        self.keepings = keepings
        self.params = params
        self.states = states
        self._fresh = fresh
        self.rows = [
            Row(
                keeping.rule, keeping.storages, group.index, group.values, group.single, group.fixed
            )
            for keeping, group in zip(keepings, groups, strict=True)
        ]
        here = [layout.local(param.tensor.detach()) for param in params]
        self._arrange(here)
        self._piece = None if part is None else part.piece
        if part is not None and self._piece is not None and params:
            self._take_piece(self._piece, is_last=part.is_last)
            return
        layout.check_apart(self._named(here))

    def _arrange(self, here: Sequence[torch.Tensor]) -> None:
        """Find what the core works on: other memory for a parameter with gaps."""
        params, states = self.params, self.states
        self.arrays = [
            layout.dense(tensor, in_order=self._in_order(param))
            for param, tensor in zip(params, here, strict=True)
        ]
        self.copies = [
            None if param.copy is None else layout.dense_as(param.copy, array)
            for param, array in zip(params, self.arrays, strict=True)
        ]
        self.mirrored = [
            Mirrored(whole, tensor, memory)
            for whole, tensor, memory in (
                *zip((p.tensor for p in params), here, self.arrays, strict=True),
                *zip((p.copy for p in params), (p.copy for p in params), self.copies, strict=True),
            )
            if tensor is not memory
        ]
        # the tensor itself, whose memory may be replaced, where the core can look at it
        self._looked_at = [
            param.tensor if array is tensor and not layout.is_sharded(param.tensor) else array
            for param, tensor, array in zip(params, here, self.arrays, strict=True)
        ]
        self.copied = [param.copy for param in params if param.copy is not None]
        self.sharded = any(layout.is_sharded(param.tensor) for param in params)
        self.converts = self.sharded  # gradients: of DTensors, and sparse ones once one came
        # What the core looks at in each step: the states themselves, or the parts of DTensors.
        self.own = (
            [{name: layout.local(value) for name, value in state.items()} for state in states]
            if self.sharded
            else states
        )

    def _take_piece(self, piece: slice, *, is_last: bool) -> None:
        """Have a piece of the only parameter and of its states in their place."""
        (param,), (state,) = self.params, self.states
        storages, dtype = self.keepings[param.group].storages, layout.STORAGES[param.tensor.dtype]
        self.arrays = self._looked_at = [layout.piece_of(param.tensor.detach(), piece)]
        self._whole = dict(state)  # of which these are pieces
        own = {}
        for name, value in state.items():
            if name == "step":
                own[name] = value if is_last else value.clone()
            elif value.dim() == 1 and value.dtype == torch.uint8:  # blocks
                storage = storages.of(name, dtype)
                ends = [_core.storage_bytes(storage, n) for n in (piece.start, piece.stop)]
                own[name] = value[slice(*ends)]
            else:
                own[name] = layout.piece_of(value, piece)
        self.own = [own]
        self.converts = True

    def _check_whole(self) -> None:
        """Raise Moved where the tensor or a state is not the one of which this is a piece."""
        (param,), (state,) = self.params, self.states
        place = layout.piece_of(param.tensor.detach(), self._piece).data_ptr()
        if place != self.arrays[0].data_ptr() or state.keys() != self._whole.keys():
            raise Moved
        if any(state[name] is not value for name, value in self._whole.items()):
            raise Moved

    def _in_order(self, param: Param) -> bool:
        return self.keepings[param.group].in_order(param.tensor, self.rows[param.group].present)

    def _named(self, here: Sequence[torch.Tensor]) -> list[tuple[str, torch.Tensor]]:
        """All memory that a step writes, by its names in errors."""
        return [
            *((param.argument, tensor) for param, tensor in zip(self.params, here, strict=True)),
            *(
                (f"state of {param.argument}: {name!r}", value)
                for param, own in zip(self.params, self.own, strict=True)
                for name, value in own.items()
                if name != "step" and isinstance(value, torch.Tensor)
            ),
            *(
                (f"copy_to[{param.key}]", param.copy)
                for param in self.params
                if param.copy is not None
            ),
        ]

    def plan(
        self,
        counts: NDArray[np.int64],
        clock: NDArray[np.int64],
        settings: Doubles,
        controls: _core.Controls,
        sums: Doubles,
        averages: Doubles,
    ) -> _core.TensorPlan:
        """The core's plan of all tensors."""
        gathered = np.zeros((len(self.params), _core.max_gathered))
        directions = [self._new_direction(i) for i in range(len(self.params))]
        plan = _core.TensorPlan(
            rules=[row.kernels for row in self.rows],
            tensors=[self._spec(i, direction) for i, direction in enumerate(directions)],
            counts=counts,
            clock=clock,
            settings=settings,
            controls=controls,
            sums=sums,
            gathered=gathered,
            averages=averages,
            source=SOURCE,
        )
        if any(direction is not None for direction in directions):
            params = [param.tensor for param in self.params]
            groups = [param.group for param in self.params]
            plan.redirect = TensorRedirection(self, groups, directions, gathered, params)
        return plan

    def _new_direction(self, i: int) -> torch.Tensor | None:
        """Where a rule's direction lies within a step, as the parameter does, if it has one."""
        if not self.rows[self.params[i].group].rule.has_direction:
            return None
        array = self.arrays[i]
        dtype = layout.DTYPES[compute_type(layout.STORAGES[array.dtype])]
        return torch.empty_like(array, dtype=dtype, requires_grad=False)

    def _spec(self, i: int, direction: torch.Tensor | None) -> _core.TensorSpec:
        param, array, own = self.params[i], self._looked_at[i], self.own[i]
        row, keeping = self.rows[param.group], self.keepings[param.group]
        dtype, states = layout.STORAGES[array.dtype], row.rule.states
        there = {s.name for s in states if s.beside(param.tensor.shape) is not None}
        present = there.intersection(row.present)
        return _core.TensorSpec(
            param=array,
            low=own.get("low") if keeping.storages.split else None,
            states=[own[s.name] if s.name in present else None for s in states],
            storages=[keeping.storages.of(s.name, dtype) for s in states],
            memory=[own[name] for name in row.rule.memory_names],
            stochastic=keeping.storages.stochastic(dtype, row.present),
            group=param.group,
            key=param.key,
            start=self._start(param),
            first=not _has_begun(row, self.states[i] if self._piece else own),
            average=own.get("average") if keeping.averaging else None,
            copy=self.copies[i],
            own=own,
            direction=direction,
        )

    def _start(self, param: Param) -> int:
        """At which element of the whole tensor it begins."""
        if self._piece is not None:
            return int(self._piece.start)
        return begin(param.tensor) or 0  # None: nothing depends on it

    def extend(self, row: Row, missing: Sequence[str]) -> None:
        """Have a state made that a hyperparameter calls for only now."""
        del row, missing
        raise Moved  # it is made when the plan is made anew

    def check_params(self, row: Row, group: Mapping[str, Any]) -> None:
        """Raise ValueError for a parameter that the rule cannot step by such hyperparameters."""
        for param in self.params:
            if param.group == row.index:
                row.rule.check_param(param.argument, tuple(param.tensor.shape), 0, group)

    @property
    def has_fresh(self) -> bool:
        """Whether no step has moved yet what starts from a parameter, such as an average."""
        return any(param.tensor in self._fresh for param in self.params)

    def start_fresh(self) -> None:
        """Put the parameters into what starts from them."""
        for param, state in zip(self.params, self.states, strict=True):
            if param.tensor in self._fresh:
                self.keepings[param.group].start(param, state)

    def note_begun(self) -> None:
        """Note that a step has moved all of it."""
        self._fresh.difference_update(param.tensor for param in self.params)

    has_parts = False  # PyTorch's shards are DTensors, whose sums are added up over processes

    def check_parts(self, grads: Sequence[Any]) -> None:
        """Nothing: see ``has_parts``."""

    def copy_in(self) -> None:
        """Bring parameters with gaps to where the core works on them.

        Raises:
            Moved: one is not where it was.
        """
        for whole, tensor, _ in self.mirrored:
            now = layout.local(whole)
            if now.data_ptr() != tensor.data_ptr() or layout.form(now) != layout.form(tensor):
                raise Moved
            if not layout.has_memory(now):
                raise Moved
        with torch.no_grad():
            for _, tensor, memory in self.mirrored:
                memory.copy_(tensor)

    def copy_back(self) -> None:
        """Bring them back."""
        with torch.no_grad():
            for _, tensor, memory in self.mirrored:
                tensor.copy_(memory)

    def prefix(self, index: int) -> str:
        """What stands before a hyperparameter's name in an error."""
        return f"param_groups[{index}] "

    def arguments(self, root: str) -> list[str]:
        """What each parameter or its gradient is called in an error."""
        end = ".grad" if root == "grads" else ""
        return [param.argument + end for param in self.params]

    def converted(self, grads: list[Any]) -> list[Any]:
        """Gradients as the core takes them, where it would be slow to find that it does not."""
        if self.sharded:
            return self.local(grads)
        if self._piece is not None:
            self._check_whole()
            return [None if g is None else layout.piece_of(g, self._piece) for g in grads]
        named = zip(self.arguments("grads"), grads, self.arrays, strict=True)
        return [
            layout.rows(argument, g, array) if g is not None and g.layout == torch.sparse_coo else g
            for argument, g, array in named
        ]

    def local(self, grads: Sequence[Any]) -> list[Any]:
        """The parts of gradients that are here.

        Raises:
            Moved: a parameter is not where it was.
        """
        for param, array, state, own in zip(
            self.params, self._looked_at, self.states, self.own, strict=True
        ):
            here = layout.local(param.tensor)
            if here.data_ptr() != array.data_ptr() or here.shape != array.shape:
                raise Moved
            own.update({name: layout.local(value) for name, value in state.items()})
        return [
            None if g is None else layout.local_grad(argument, g, param.tensor)
            for argument, g, param in zip(self.arguments("grads"), grads, self.params, strict=True)
        ]

    def realigned(self, grads: Sequence[Any]) -> list[Any]:
        """Gradients in their parameters' layout, copied where they have another."""
        return [
            None if g is None else layout.realigned(argument, g, array)
            for argument, g, array in zip(self.arguments("grads"), grads, self.arrays, strict=True)
        ]

    def explain(self, refused: int, grads: list[Any], *, writable: bool) -> list[Any]:
        """Gradients in their parameters' layout; raise for what is none.

        Raises:
            Moved: the parameter or its state is not where it was.
        """
        del writable  # gradients are never set to 0 here
        if refused < 0:
            raise Moved
        if layout.form(self._looked_at[refused]) != layout.form(self.arrays[refused]):
            raise Moved  # to other strides, in the same memory
        fitting = self.realigned(grads)
        self.converts = self.converts or any(isinstance(g, _core.RowGradient) for g in fitting)
        if fitting[refused] is grads[refused]:
            self._overlapping(refused, grads[refused])
        return fitting

    def _overlapping(self, refused: int, grad: Any) -> None:
        grad = grad.values if isinstance(grad, _core.RowGradient) else grad
        raise Overlap(
            f"{self.arguments('grads')[refused]}: got memory that overlaps what the step writes, "
            f"at {grad.data_ptr():#x}, wanted memory of its own"
        )


def _has_begun(row: Row, own: Mapping[str, torch.Tensor]) -> bool:
    """Whether a step has used a parameter's states: then they are not all zeros, as a rule."""
    if not own["step"]:
        return False
    later = [name for name in row.rule.later if name in row.present]
    return not later or any(bool(own[name].any()) for name in later)
