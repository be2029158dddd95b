"""The parameters that have a state, as an engine wants them held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from .. import _core
from ..hyperparameters import Rule
from ..parameters import Row
from ..storages import Storages, compute_type
from ..watched import Watched
from . import layout
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
    """What an optimizer keeps for each parameter."""

    rule: Rule
    storages: Storages
    averaging: bool

    def present(self, group: Mapping[str, Any]) -> list[str]:
        """The states that parameters of a group have."""
        return [state.name for state in self.rule.states if state.is_on(group)]

    def check(self, param: Param, group: Mapping[str, Any]) -> None:
        """Raise TypeError or ValueError for a parameter that cannot be kept as was asked."""
        argument, tensor = param.argument, param.tensor
        dtype = layout.check_param(argument, tensor)
        present = self.present(group)
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

    def new_state(self, param: Param, group: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """A parameter's state before its first step, by the names of PyTorch's checkpoints."""
        self.check(param, group)
        dtype = layout.STORAGES[param.tensor.dtype]
        present = self.present(group)
        like = param.tensor
        if not layout.is_sharded(like):
            like = layout.dense(like.detach(), in_order=self.in_blocks(present))
        kept = {"step": torch.zeros((), dtype=torch.float32, device="cpu")}
        for state in self.rule.states:
            if state.name in present:
                initial = group[state.initial] if state.initial else 0
                if state.initial:
                    self.storages.check_initial(state.initial, state.name, initial, dtype)
                storage = self.storages.of(state.name, dtype)
                kept[state.name] = layout.zeros(like, storage, state, initial)
        if self.storages.split:
            kept["low"] = layout.zeros(like, "int16")
        if self.averaging:
            average = layout.zeros(like, compute_type(dtype))
            with torch.no_grad():
                kept["average"] = average.copy_(param.tensor)
        return kept

    def fit_state(
        self, where: str, param: Param, group: Mapping[str, Any], state: dict[str, Any]
    ) -> None:
        """Raise ValueError unless a state is such as :meth:`new_state` makes it.

        What differs in its strides alone, since those of the parameter were changed, is replaced.
        """
        for name, wanted in self.new_state(param, group).items():
            got = state.get(name)
            if isinstance(got, torch.Tensor):
                layout.check_memory(f"{where}: {name!r}", layout.local(got))
                if layout.form(got) == layout.form(wanted):
                    continue
            if isinstance(got, torch.Tensor) and layout.differ_in_strides(got, wanted):
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
        wanted = self.new_state(param, group)
        if not saved.keys() - {"step"} and len(wanted) > 1:
            return {}
        # torch.optim.SGD does not count: where it has a buffer it has made a step.
        saved.setdefault("step", 1.0)
        if saved.keys() != wanted.keys():
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
            if name != "step":
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
        keeping: what is kept for each.
        defaults: the hyperparameters that each group has.
        groups: the values of each group.
        params: the parameters that have a state.
        states: theirs, by name, plain dictionaries.
    """

    def __init__(
        self,
        keeping: Keeping,
        defaults: Mapping[str, Any],
        groups: Sequence[Mapping[str, Any]],
        params: Sequence[Param],
        states: Sequence[dict[str, torch.Tensor]],
    ) -> None:
        self.rule, self.storages, self.averaging = keeping
        self.defaults = defaults
        self.params = params
        self.states = states
        self.rows: list[Row[Watched]] = []
        for i, values in enumerate(groups):
            own = [param for param in params if param.group == i]
            single = any(param.tensor.dtype != torch.float64 for param in own)
            self.rows.append(Row(self.rule, i, Watched(values), single))
        here = [layout.local(param.tensor.detach()) for param in params]
        # What the core works on: other memory for a parameter with gaps.
        self.arrays = [
            layout.dense(tensor, in_order=keeping.in_blocks(self.rows[param.group].present))
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
        layout.check_apart(
            [
                *((param.argument, tensor) for param, tensor in zip(params, here, strict=True)),
                *(
                    (f"state of {param.argument}: {name!r}", value)
                    for param, own in zip(params, self.own, strict=True)
                    for name, value in own.items()
                    if name != "step" and isinstance(value, torch.Tensor)
                ),
                *(
                    (f"copy_to[{param.key}]", param.copy)
                    for param in params
                    if param.copy is not None
                ),
            ]
        )

    def plan(
        self,
        counts: NDArray[np.int64],
        settings: Doubles,
        controls: Doubles,
        results: Doubles,
        averages: Doubles,
    ) -> _core.TensorPlan:
        """The core's plan of all tensors."""
        tensors = []
        for param, array, own, copy in zip(
            self.params, self._looked_at, self.own, self.copies, strict=True
        ):
            dtype = layout.STORAGES[array.dtype]
            present = self.rows[param.group].present
            stochastic = self.storages.stochastic(dtype, present)
            start = begin(param.tensor) or 0  # None: nothing depends on it
            tensors.append(
                (
                    array,
                    own.get("low") if self.storages.split else None,
                    [own[s.name] if s.name in present else None for s in self.rule.states],
                    [self.storages.of(s.name, dtype) for s in self.rule.states],
                    stochastic,
                    param.group,
                    param.key,
                    start,
                    own.get("average") if self.averaging else None,
                    copy,
                    own,
                )
            )
        return _core.TensorPlan(
            self.rule.name, tensors, counts, settings, controls, results, averages, torch.Tensor
        )

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
