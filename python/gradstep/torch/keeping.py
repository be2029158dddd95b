"""What is kept for each parameter, and whether what comes from elsewhere fits."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from .. import _core
from ..rule import Rule
from ..storages import Storages, compute_type
from . import layout
from .sharded import begin, check_placements


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
        self.rule.check_param(argument, tuple(tensor.shape), 0, group)
        if not layout.is_sharded(tensor):
            return
        if self.rule.factors and tensor.dim() > 1:
            raise ValueError(
                f"{argument}: got a DTensor of shape {tuple(tensor.shape)}, wanted a plain tensor: "
                f"{self.rule.name} looks at rows and columns, which are added up in one process"
            )
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

    def in_order(self, param: torch.Tensor, present: Sequence[str]) -> bool:
        """Whether a parameter's elements must lie in C order for these states.

        Blocks follow it, and so do rows.
        """
        return (self.rule.factors and param.dim() > 1) or any(
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
            like = layout.dense(like.detach(), in_order=self.in_order(like, present))
        kept = {"step": torch.zeros((), dtype=torch.float32, device="cpu")}
        names = {*present, *unused}
        for state, storage, initial in self.storages.starts(group, names, dtype):
            if state.initial:
                self.storages.check_initial(state.initial, state.name, initial, dtype)
            shape = state.beside(like.shape)
            if shape is not None:
                beside = torch.empty(shape, device="cpu") if state.is_factor else like
                kept[state.name] = layout.zeros(beside, storage, state, initial)
        for name in self.rule.memory_names:
            kept[name] = torch.zeros((), dtype=torch.float64, device="cpu")
        if self.storages.split:
            kept["low"] = layout.zeros(like, "int16")
        if self.averaging:
            kept["average"] = layout.zeros(like, compute_type(dtype))
        self.start(param, kept)
        return kept

    def _forms(self, param: Param, group: Mapping[str, Any]) -> dict[str, str] | None:
        """The forms of a new state, without its memory; None where they depend on more."""
        like, present = param.tensor.detach(), self.rule.present(group)
        in_order = self.in_order(like, present)
        if layout.is_sharded(like) or not layout.is_dense(like, in_order=in_order):
            return None
        dtype = layout.STORAGES[like.dtype]
        forms = {"step": layout.form_of(torch.float32, (), ())}
        for state, storage, _ in self.storages.starts(group, present, dtype):
            shape = state.beside(like.shape)
            if shape is None:
                continue
            if storage not in layout.DTYPES:
                forms[state.name] = layout.form_of(
                    torch.uint8, (_core.storage_bytes(storage, math.prod(shape)),), (1,)
                )
            elif state.is_factor:
                beside = torch.empty(shape, dtype=layout.DTYPES[storage], device="meta")
                forms[state.name] = layout.form_of(beside.dtype, shape, beside.stride())
            else:
                forms[state.name] = layout.form_of(
                    layout.DTYPES[storage], like.shape, like.stride()
                )
        for name in self.rule.memory_names:
            forms[name] = layout.form_of(torch.float64, (), ())
        if self.storages.split:
            forms["low"] = layout.form_of(torch.int16, like.shape, like.stride())
        if self.averaging:
            average = layout.DTYPES[compute_type(dtype)]
            forms["average"] = layout.form_of(average, like.shape, like.stride())
        return forms

    def bytes_of(self, like: torch.Tensor, group: Mapping[str, Any]) -> int:
        """The bytes that a state takes of a parameter in a group with these hyperparameters."""
        dtype, count = layout.STORAGES[like.dtype], like.numel()
        total = 4 + 8 * len(self.rule.memory_names)
        for state, storage, _ in self.storages.starts(group, self.rule.present(group), dtype):
            shape = state.beside(like.shape)
            if shape is not None:
                total += _core.storage_bytes(storage, math.prod(shape))
        if self.storages.split:
            total += 2 * count
        if self.averaging:
            total += _core.storage_bytes(compute_type(dtype), count)
        return total

    def start(self, param: Param, state: Mapping[str, torch.Tensor]) -> None:
        """Put a parameter, with its lower half where it is split, into what starts from it."""
        points = [kept.name for kept in self.rule.states if kept.is_point]
        with torch.no_grad():
            for name in (*points, "average"):
                if name in state:
                    state[name].copy_(layout.whole(param.tensor, state.get("low")))

    def restart(
        self, param: Param, group: Mapping[str, Any], state: Mapping[str, torch.Tensor]
    ) -> None:
        """Have what starts from a hyperparameter start from it as it is now."""
        made = self.new_state(param, group)
        with torch.no_grad():
            for kept in self.rule.states:
                if kept.initial and kept.name in made:
                    state[kept.name].copy_(made[kept.name])

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
        self.check(param, group)
        if self._forms(param, group) == _forms_of(state):
            for name, got in state.items():
                layout.check_memory(f"{where}: {name!r}", got)
            return
        later = set(self.rule.later)
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
        later = set(self.rule.later)
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
                value = saved[name]
                if name in self.rule.memory_names and isinstance(value, int | float):
                    value = torch.tensor(value, dtype=torch.float64)  # as torch was, before 1.12
                layout.adopt(f"{where}[{name!r}]", value, memory)
        return wanted


def _forms_of(state: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: layout.form(value) if isinstance(value, torch.Tensor) else repr(value)
        for name, value in state.items()
    }
