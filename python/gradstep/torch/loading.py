"""What a PyTorch optimizer is saved as, and how that comes back: all of it or nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch

from ..rule import Rule, switched
from .groups import Group, load_state, portable, rule_of

if TYPE_CHECKING:
    from ..engine import Engine
    from ..stages import Stages
    from .keeping import Keeping, Param

# What the first group of a state dict has besides: the optimizer's own.
CLOCK, STAGES, SAMPLE = "clock", "stages", "sample"
DRIVERS = "drivers"  # of each group: the states of what drives its hyperparameters
OWN = (CLOCK, STAGES, SAMPLE, DRIVERS)


def complete(saved: dict[str, Any], groups: Sequence[Group], engine: Engine) -> dict[str, Any]:
    """A state dict as PyTorch makes it, with what the next step depends on besides.

    Args:
        saved: PyTorch's.
        groups: what stands behind its groups.
        engine: the optimizer's.
    """
    entries = [
        {key: value if key == "params" else portable(value) for key, value in entry.items()}
        for entry in saved["param_groups"]
    ]
    for entry, group in zip(entries, groups, strict=True):
        if states := group.states_of_drivers():
            entry[DRIVERS] = states
        if "rule" in entry:
            entry["rule"] = group.rule.name
    if entries:
        # As PyTorch's own checkpoints, where nothing would be lost: distributed checkpoints of
        # either class load into the other only while they have the same entries.
        if engine.t != largest_count(saved["state"]):
            entries[0][CLOCK] = engine.t
        if states := _states_of_stages(engine):
            entries[0][STAGES] = states
        if engine.sample.any():
            entries[0][SAMPLE] = torch.from_numpy(engine.sample.copy())
    return {**saved, "param_groups": entries}


def largest_count(state: Mapping[Any, Mapping[str, Any]]) -> int:
    """The updates of the parameter that has had the most."""
    return int(max((float(entry["step"]) for entry in state.values() if entry), default=0))


def _states_of_stages(engine: Engine) -> dict[str, Any]:
    return {name: stage.state_dict() for name, stage in engine.stages.items() if _has_state(stage)}


def _has_state(value: Any) -> bool:
    return hasattr(value, "state_dict") and hasattr(value, "load_state_dict")


class Owner(Protocol):
    """An optimizer, as far as loading goes."""

    rule: Rule
    engine: Engine
    groups: list[Group]
    stages: Stages
    state: Any
    param_groups: list[dict[str, Any]]
    defaults: dict[str, Any]

    def keeping(self, rule: Rule) -> Keeping:
        """What is kept for parameters of a rule."""

    def params(self) -> list[Param]:
        """All parameters in their order."""

    def replace(
        self, state: Mapping[Any, Any], groups: list[dict[str, Any]], *, fresh: bool
    ) -> None:
        """Have other states and groups, whose drivers stay."""


class Loading:
    """A state dict on its way into an optimizer: checked, then taken over whole or not at all.

    Args:
        optimizer: where it is to go.
        given: what is to be loaded.

    Raises:
        TypeError, ValueError: it does not fit, naming the entry.
    """

    def __init__(self, optimizer: Owner, given: Mapping[str, Any]) -> None:
        self._optimizer = optimizer
        self._own = [{key: g[key] for key in OWN if key in g} for g in given["param_groups"]]
        self._groups = self._read_groups(given["param_groups"])
        self._check_params()
        self._state = self._read_state(given)
        self._clock = self._read_clock()

    def _read_groups(self, given: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """A checkpoint's groups, checked, with our parameters."""
        own = self._optimizer.param_groups
        if len(given) != len(own):
            raise ValueError(f"state_dict['param_groups']: got {len(given)}, wanted {len(own)}")
        entries = [self._read_group(i, saved, own[i]) for i, saved in enumerate(given)]
        self._check_common(entries)
        return entries

    def _check_common(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Raise ValueError where groups of a rule would differ in what they are to share."""
        groups = self._optimizer.groups
        for rule in dict.fromkeys(group.rule for group in groups):
            own = [group for group in groups if group.rule is rule]
            values = [{**g.hyperparameters(entries[g.index]), **g.driven} for g in own]
            rule.check_common(
                [
                    (f"state_dict['param_groups'][{group.index}] ", group.numbers(its))
                    for group, its in zip(own, values, strict=True)
                ]
            )

    def _read_group(self, i: int, saved: Mapping[str, Any], own: dict[str, Any]) -> dict[str, Any]:
        where = f"state_dict['param_groups'][{i}]"
        if len(saved["params"]) != len(own["params"]):
            raise ValueError(
                f"{where}['params']: got {len(saved['params'])}, wanted {len(own['params'])}"
            )
        group = self._optimizer.groups[i]
        rule = rule_of(saved, self._optimizer.rule)
        if rule is not group.rule:
            raise ValueError(f"{where}['rule']: got {rule.name!r}, wanted {group.rule.name!r}")
        kept = {key: value for key, value in saved.items() if key not in OWN}
        defaults = {} if "rule" in own else self._optimizer.defaults
        off = dict.fromkeys(rule.switches, False)  # missing, also in PyTorch's own checkpoints
        entry = {**defaults, **off, **copy.deepcopy(kept), "params": own["params"]}
        if "param_names" in own:
            entry.setdefault("param_names", own["param_names"])
        group.check(entry, f"{where} ")
        for key in rule.switches:
            if entry[key] != (built := own.get(key, False)):
                raise ValueError(switched(f"{where} {key}", entry[key], built))
        return entry

    def _check_params(self) -> None:
        """Raise ValueError for a parameter of ours that a group's rule cannot step."""
        for param in self._optimizer.params():
            group = self._optimizer.groups[param.group]
            values = group.hyperparameters(self._groups[param.group])
            group.rule.check_param(param.argument, tuple(param.tensor.shape), 0, values)

    def _read_state(self, given: Mapping[str, Any]) -> dict[Any, Any]:
        saved_ids = [key for group in given["param_groups"] for key in group["params"]]
        params = dict(zip(saved_ids, self._optimizer.params(), strict=True))
        state: dict[Any, Any] = {}
        for key, entry in given["state"].items():
            where = f"state_dict['state'][{key!r}]"
            if key not in params:
                raise ValueError(f"{where}: got a state, wanted those of param_groups")
            param: Param = params[key]
            group = self._optimizer.groups[param.group]
            keeping: Keeping = self._optimizer.keeping(group.rule)
            values = group.hyperparameters(self._groups[param.group])
            if loaded := keeping.loaded_state(where, param, values, entry):
                state[param.tensor] = loaded
        return state

    def _read_clock(self) -> int:
        """The steps made; of PyTorch's own checkpoints the largest count of a parameter."""
        own = self._own[0] if self._own else {}
        if CLOCK not in own:
            return largest_count(self._state)
        clock = own[CLOCK]
        if isinstance(clock, bool) or not isinstance(clock, int) or clock < 0:
            raise ValueError(
                f"state_dict['param_groups'][0]['clock']: got {clock!r}, wanted an integer, 0 or "
                "more"
            )
        return clock

    def __call__(self) -> None:
        """Take it over."""
        optimizer, engine = self._optimizer, self._optimizer.engine
        entries = [(group.source, dict(group.source)) for group in optimizer.groups]
        fixed = [(group, group.fixed) for group in optimizer.groups]
        before = (optimizer.state, optimizer.param_groups, engine.t, engine.sample.copy())
        undo: list[Callable[[], None]] = []

        def restore() -> None:
            for entry, old in entries:
                entry.clear()
                entry.update(old)
            self._put(*before)
            for group, old_start in fixed:
                group.fixed = old_start
            for step in undo:
                step()

        try:
            for i, (group, own) in enumerate(zip(optimizer.groups, self._own, strict=True)):
                argument = f"state_dict['param_groups'][{i}][{DRIVERS!r}]"
                group.load_states_of_drivers(argument, own.get(DRIVERS, {}), undo)
            self._load_stages(undo)
            self._put(self._state, self._groups, self._clock, self._sample())
        except BaseException:
            try:
                restore()
            except BaseException:  # Ctrl-C again
                restore()
                raise
            raise

    def _put(self, state: Any, groups: list[dict[str, Any]], clock: int, sample: Any) -> None:
        optimizer = self._optimizer
        optimizer.engine.clock[0] = clock
        optimizer.engine.sample[:] = sample
        optimizer.replace(state, groups, fresh=clock == 0)

    def _sample(self) -> Any:
        saved = (self._own[0] if self._own else {}).get(SAMPLE)
        sample = self._optimizer.engine.sample
        if saved is None or not sample.size:
            return 0.0
        if not isinstance(saved, torch.Tensor) or saved.shape != sample.shape:
            raise ValueError(
                "state_dict['param_groups'][0]['sample']: got something else, wanted a float64 "
                f"tensor of {sample.size} elements"
            )
        return saved.numpy()

    def _load_stages(self, undo: list[Callable[[], None]]) -> None:
        saved = (self._own[0] if self._own else {}).get(STAGES, {})
        for name, stage in self._optimizer.stages.items():
            if name in saved and _has_state(stage):
                argument = f"state_dict['param_groups'][0][{STAGES!r}][{name!r}]"
                load_state(argument, stage, saved[name], undo)
