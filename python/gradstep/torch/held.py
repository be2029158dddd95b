"""The parameters that have a state, as an engine wants them held."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from .. import _core
from ..engine import Row
from ..rule import Rule
from ..storages import Storages, compute_type
from . import layout
from .groups import Group
from .private import SOURCE
from .sharded import begin, check_placements

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Doubles = NDArray[np.float64]


class Param(NamedTuple):
    """A parameter and where it stands among all of its optimizer."""

    tensor: torch.Tensor
    group: int
    key: int  # its position among all
    argument: str  # what it is called in an error
    copy: torch.Tensor | None


class Keeping(NamedTuple):
    """What an optimizer keeps for each parameter of one rule."""

    rule: Rule
    storages: Storages
    averaging: bool

    def check(self, param: Param, group: Mapping[str, Any]) -> None:
        """Raise TypeError or ValueError for a parameter that cannot be kept as was asked."""
        argument, tensor = param.argument, param.tensor
        dtype = layout.check_param(argument, tensor)
        present = self.rule.present(group)
        self.storages.check_param(argument, dtype, 0, present)
        check_placements(argument, tensor)
        if not layout.is_sharded(tensor):
            return
        for name in present:
            if (storage := self.storages.of(name, dtype)) not in layout.DTYPES:
                raise ValueError(
                    f"{argument}: got a DTensor with {name} in {storage}, whose blocks cannot be "
                    "sharded anew, wanted states in float32, bfloat16 or float16"
                )
        if begin(tensor) is None and self.storages.stochastic(dtype, present):
            raise ValueError(
                f"{argument}: got the placements {tensor.placements}, by which its part is no run "
                "of elements, wanted it sharded along its first dimension where something is "
                "rounded stochastically"
            )

    def in_blocks(self, present: Sequence[str]) -> bool:
        """Whether one of these states is kept in blocks, which follow the C order of elements."""
        return any(
            _core.storage_block(self.storages.states.get(name, "float32")) > 1 for name in present
        )

    def new_state(
        self, param: Param, group: Mapping[str, Any], unused: Collection[str] = ()
    ) -> dict[str, torch.Tensor]:
        """A parameter's state before its first step, by the names of PyTorch's checkpoints.

        Args:
            param: the parameter.
            group: its group's hyperparameters.
            unused: states that they do not call for now.
        """
        self.check(param, group)
        dtype = layout.STORAGES[param.tensor.dtype]
        present = self.rule.present(group)
        like = param.tensor
        if not layout.is_sharded(like):
            like = layout.dense(like.detach(), in_order=self.in_blocks(present))
        kept = {"step": torch.zeros((), dtype=torch.float32, device="cpu")}
        names = {*present, *unused}
        for state, storage, initial in self.storages.starts(group, names, dtype):
            if state.initial:
                self.storages.check_initial(state.initial, state.name, initial, dtype)
            kept[state.name] = layout.zeros(like, storage, state, initial)
        for name in self.rule.memory_names:
            kept[name] = torch.zeros((), dtype=torch.float64, device="cpu")
        if self.storages.split:
            kept["low"] = layout.zeros(like, "int16")
        if self.averaging:
            kept["average"] = layout.zeros(like, compute_type(dtype))
        self.start(param, kept)
        return kept

    def start(self, param: Param, state: Mapping[str, torch.Tensor]) -> None:
        """Put a parameter, with its lower half where it is split, into what starts from it."""
        points = [kept.name for kept in self.rule.states if kept.is_point]
        with torch.no_grad():
            for name in (*points, "average"):
                if name in state:
                    state[name].copy_(layout.whole(param.tensor, state.get("low")))

    def has_points(self) -> bool:
        """Whether something starts from a parameter."""
        return self.averaging or any(state.is_point for state in self.rule.states)

    def fit_state(
        self, where: str, param: Param, group: Mapping[str, Any], state: dict[str, Any]
    ) -> None:
        """Raise ValueError unless a state is such as :meth:`new_state` makes it.

        What differs in its strides alone, since those of the parameter were changed, is replaced;
        what a hyperparameter calls for only now, such as the buffer of a momentum, is made.
        """
        later = {kept.name for kept in self.rule.states if self.rule.begins_later(kept)}
        for name, wanted in self.new_state(param, group).items():
            got = state.get(name)
            if isinstance(got, torch.Tensor):
                layout.check_memory(f"{where}: {name!r}", layout.local(got))
                if layout.form(got) == layout.form(wanted):
                    continue
            if got is None and name in later:
                state[name] = wanted
            elif isinstance(got, torch.Tensor) and layout.differ_in_strides(got, wanted):
                with torch.no_grad():
                    state[name] = wanted.copy_(got)
            else:
                shown = layout.form(got) if isinstance(got, torch.Tensor) else repr(got)
                raise ValueError(
                    f"{where}: got {shown} as {name!r}, wanted {layout.form(wanted)}, as the "
                    "options and the parameter have it"
                )

    def loaded_state(
        self, where: str, param: Param, group: Mapping[str, Any], entry: Any
    ) -> dict[str, Any]:
        """A checkpoint's state of a parameter, copied; empty where it has had no step."""
        if not isinstance(entry, Mapping):
            raise TypeError(f"{where}: got {type(entry).__name__}, wanted a mapping")
        saved = {name: value for name, value in entry.items() if value is not None}
        later = {kept.name for kept in self.rule.states if self.rule.begins_later(kept)}
        wanted = self.new_state(param, group, later & set(saved))
        if not saved.keys() - {"step"} and len(wanted) > 1:
            return {}
        # torch.optim.SGD does not count: where it has a buffer it has made a step.
        saved.setdefault("step", 1.0)
        if saved.keys() != wanted.keys() and saved.keys() != wanted.keys() - later:
            raise ValueError(
                f"{where}: got {', '.join(map(repr, saved))}, wanted "
                f"{', '.join(map(repr, wanted))}: an optimizer with the same options"
            )
        step = saved["step"]
        if isinstance(step, torch.Tensor) and step.numel() == 1:
            step = step.item()
        if not isinstance(step, int | float) or not step >= 0 or step % 1:  # a NaN is none, too
            raise ValueError(
                f"{where}['step']: got {saved['step']!r}, wanted a whole number, 0 or more"
            )
        wanted["step"].fill_(min(step, 2**24))
        for name, memory in wanted.items():
            if name != "step" and name in saved:
                layout.adopt(f"{where}[{name!r}]", saved[name], memory)
        return wanted


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
    """

    def __init__(
        self,
        keepings: Sequence[Keeping],
        groups: Sequence[Group],
        params: Sequence[Param],
        states: Sequence[dict[str, torch.Tensor]],
        fresh: set[torch.Tensor],
    ) -> None:
        self.keepings = keepings
        self.params = params
        self.states = states
        self._fresh = fresh
        self.rows = [
            Row(keeping.rule, keeping.storages, group.index, group.values, group.single)
            for keeping, group in zip(keepings, groups, strict=True)
        ]
        here = [layout.local(param.tensor.detach()) for param in params]
        self._arrange(here)
        layout.check_apart(self._named(here))

    def _arrange(self, here: Sequence[torch.Tensor]) -> None:
        """Find what the core works on: other memory for a parameter with gaps."""
        params, states = self.params, self.states
        self.arrays = [
            layout.dense(tensor, in_order=self._in_blocks(param.group))
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
        # What the core looks at in each step: the states themselves, or the parts of DTensors.
        self.own = (
            [{name: layout.local(value) for name, value in state.items()} for state in states]
            if self.sharded
            else states
        )

    def _in_blocks(self, group: int) -> bool:
        return self.keepings[group].in_blocks(self.rows[group].present)

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
        return _core.TensorPlan(
            rules=[row.rule.name for row in self.rows],
            tensors=[self._spec(i) for i in range(len(self.params))],
            counts=counts,
            clock=clock,
            settings=settings,
            controls=controls,
            sums=sums,
            gathered=np.zeros((len(self.params), _core.max_gathered)),
            averages=averages,
            source=SOURCE,
        )

    def _spec(self, i: int) -> _core.TensorSpec:
        param, array, own = self.params[i], self._looked_at[i], self.own[i]
        row, keeping = self.rows[param.group], self.keepings[param.group]
        dtype, states = layout.STORAGES[array.dtype], row.rule.states
        return _core.TensorSpec(
            param=array,
            low=own.get("low") if keeping.storages.split else None,
            states=[own[s.name] if s.name in row.present else None for s in states],
            storages=[keeping.storages.of(s.name, dtype) for s in states],
            memory=[own[name] for name in row.rule.memory_names],
            stochastic=keeping.storages.stochastic(dtype, row.present),
            group=param.group,
            key=param.key,
            start=begin(param.tensor) or 0,  # None: nothing depends on it
            first=not _has_begun(row, own),
            average=own.get("average") if keeping.averaging else None,
            copy=self.copies[i],
            own=own,
        )

    def extend(self, row: Row, missing: Sequence[str]) -> None:
        """Have a state made that a hyperparameter calls for only now."""
        del row, missing
        raise Moved  # it is made when the plan is made anew

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
        if fitting[refused] is grads[refused]:
            self._overlapping(refused, grads[refused])
        return fitting

    def _overlapping(self, refused: int, grad: torch.Tensor) -> None:
        raise Overlap(
            f"{self.arguments('grads')[refused]}: got memory that overlaps what the step writes, "
            f"at {grad.data_ptr():#x}, wanted memory of its own"
        )


def _has_begun(row: Row, own: Mapping[str, torch.Tensor]) -> bool:
    """Whether a step has used a parameter's states: then they are not all zeros, as a rule."""
    if not own["step"]:
        return False
    later = [s.name for s in row.rule.states if row.rule.begins_later(s) and s.name in row.present]
    return not later or any(bool(own[name].any()) for name in later)
