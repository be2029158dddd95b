"""What stands behind a step under PyTorch: groups, states, the plan over them, checkpoints."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from ..engine import Compiled, Engine
from ..report import Report
from ..rule import Rule
from ..storages import StorageOptions, Use
from ..turn import Turn, alone
from . import layout, private, starting
from .bound import Bound
from .call import Part
from .groups import EXECUTION, Group, check_common, rule_of
from .held import Held
from .keeping import Keeping, Param
from .loading import Loading, complete
from .parts import Bounds, Left
from .sharded import Norm
from .trust import Holder, State


class Base(torch.optim.Optimizer):  # type: ignore[misc]
    """The part of :class:`gradstep.torch.Optimizer` that does not step.

    Attributes:
        rule: the rule of groups that name none.
    """

    rule: ClassVar[Rule]
    _twin: ClassVar[dict[str, Any]]  # what the class of torch.optim has besides in its groups
    _is_loading = False
    _coming: Sequence[Mapping[str, Any]] = ()  # groups that the constructor has yet to add

    _engine: Engine
    _options: StorageOptions
    _norm_group: Any
    _rounds: bool  # whether the clock goes round the tensors
    _copies: list[torch.Tensor] | None
    _groups: list[Group]
    _is_built: bool
    _turn: Turn
    _holder: Holder

    def _start(self) -> None:
        """What neither a pickle nor a copy takes along."""
        self.report: Report | None = None
        self._turn = self._engine.turn
        self._bounds = Bounds()
        self._left = Left()
        self._fresh: set[torch.Tensor] = set()  # whose averages no step has moved
        self._stepped: set[int] = set()  # the tensors since the clock went on, where it goes round
        self._backward = -1  # the backward pass that the clock has counted
        self._is_backward_over = False  # it goes on, but has brought all gradients

    @property
    def engine(self) -> Engine:
        """The optimizer's life, which is its turn, clock and stages."""
        return self._engine

    @property
    def state(self) -> Any:
        """For each parameter that has had a gradient its arrays by name, live, and its ``step``.

        Any of them may be replaced, now or later: the next step re-checks the states, and so does
        each after it while anything outside holds a reference, which costs a fraction of a
        microsecond per parameter. Code that reaches them otherwise, e.g. through
        ``gc.get_objects()``, must not replace their memory.
        """
        return self._holder.state.hand_out()

    @state.setter
    def state(self, values: Mapping[Any, Any]) -> None:
        state = values if isinstance(values, State) else State(values)
        state.note()
        self._holder = Holder(state)
        self._bounds = Bounds()

    @property
    def groups(self) -> list[Group]:
        """What stands behind each entry of ``param_groups``, in its order."""
        self._follow_groups()
        return self._groups

    # ---- binding ----

    def _take_up(self) -> Bound | None:
        """The step over the groups and parameters that are there again, if there was one."""
        return self._bounds.take_up(self.param_groups, self.groups)

    def _bind(self, only: Part | None) -> Bound:
        """Make the step over the parameters that have a state, or need one now."""
        with torch.inference_mode(mode=False):  # tensors made there are for there alone
            return self._bound_anew(only)

    def _bound_anew(self, only: Part | None) -> Bound:
        self._sync_groups()
        self._fix_groups()
        groups = self._groups
        params, waiting = [], []
        present = self.params(only)
        if only is not None and len(present) != len(only.tensors):
            raise RuntimeError(
                "step_in_backward: got a parameter that was taken out of its group, wanted the "
                "handle of its hook removed"
            )
        if only is None:
            self._bounds.parts.check_whole(groups, present, self._holder.state.version)
        state = self._holder.state
        keepings = [self.keeping(group.rule) for group in groups]
        for param in present:
            keeping, values = keepings[param.group], groups[param.group].values
            if own := state.get(param.tensor):
                keeping.fit_state(f"state of {param.argument}", param, values, own)
            # An average moves at every step, with or without a gradient.
            elif param.tensor.grad is None and not self._engine.averaging:
                waiting.append(param.tensor)
                continue
            else:
                self._make_state(param, keeping)
            params.append(param)
        starting.restart(groups, keepings, self.params(), state)
        self._fix_groups()
        states = [state[param.tensor] for param in params]
        held = Held(keepings, groups, params, states, self._fresh, only)
        norm = Norm([param.tensor for param in params], self._norm_group)
        compiled = Compiled(self._engine, held, np.zeros(len(params), np.int64))
        if not norm.is_local:
            if self._engine.stats:
                norm.check_alike()
                compiled.add_up = norm.add_up
            compiled.plan.add_up = norm.add_up_parts
        bound = Bound(self._holder.state, groups, held, compiled, norm, waiting, only)
        self._bounds.put(only, self.param_groups, bound)
        # States that somebody has put in, as ZeroRedundancyOptimizer does from a checkpoint.
        if self._engine.t == 0 and compiled.counts.size:
            self._engine.clock[0] = compiled.counts.max()
        return bound

    def keeping(self, rule: Rule) -> Keeping:
        """What is kept for parameters of a rule."""
        rules = [rule_of(group, self.rule) for group in (*self.param_groups, *self._coming)]
        return Keeping(rule, self._options.of(rule, rules), self._engine.averaging)

    def _make_state(self, param: Param, keeping: Keeping) -> None:
        values = self._groups[param.group].values
        self._holder.state[param.tensor] = keeping.new_state(param, values)
        if keeping.has_points():
            self._fresh.add(param.tensor)

    def _start_states(self) -> None:
        """Give parameters a state at once where the rule's starts from a hyperparameter.

        As PyTorch does, whose Adagrad expects it in a checkpoint that was saved before any step.
        """
        for param in self.params():
            group = self.groups[param.group]
            if group.rule.constant and not self._holder.state.get(param.tensor):
                self._make_state(param, self.keeping(group.rule))
        self._fix_groups()

    def _fix_groups(self) -> None:
        starting.fix(self.groups, self.params(), self._holder.state)

    # ---- groups ----

    @private.keeping_grad_mode
    @alone("add_param_group")
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as in ``torch.optim``; one that is refused is not added.

        Args:
            param_group: ``params``, and if it wants hyperparameters, and the name of another
                ``rule``, whose hyperparameters it then has.
        """
        if self._is_built and self._copies is not None:
            raise ValueError(
                "param_group: got a group for an optimizer with copy_to, wanted all groups in the "
                "constructor"
            )
        given = set(param_group)
        if "rule" in param_group:
            rule = rule_of(param_group, self.rule)
            param_group["rule"] = rule.name
            for key, default in rule.defaults.items():
                if key != "frozen":
                    param_group.setdefault(key, default)
        super().add_param_group(param_group)
        self._forget_group(param_group)
        try:
            if "rule" in param_group:
                for key in self.defaults:
                    if key not in given | rule.defaults.keys() | {*EXECUTION}:
                        del param_group[key]
            self._follow_groups()
            if self._is_built:
                self._check_apart()
                self._start_states()
        except BaseException:
            self.param_groups.pop()
            self._forget_group(param_group)
            raise

    def _forget_group(self, source: dict[str, Any]) -> None:
        """Have nothing stand behind a group, which may have been another one before."""
        self._bounds = Bounds()
        self._left.forget(source)
        self._groups = [group for group in self._groups if group.source is not source]

    def _check_apart(self) -> None:
        params = self.params()
        copies = [
            (f"copy_to[{param.key}]", param.copy) for param in params if param.copy is not None
        ]
        layout.check_apart([*((param.argument, param.tensor) for param in params), *copies])

    def _sync_groups(self) -> None:
        """Bring what was changed in ``param_groups`` to what stands behind it."""
        for group in self.groups:
            group.sync()

    def _follow_groups(self) -> None:
        """Keep what stands behind the groups in line with their list, which anyone may change."""
        if list(map(id, self.param_groups)) == [id(group.source) for group in self._groups]:
            return
        known = [*self._left.groups, *self._bounds.parts.groups(), *self._groups]
        by_source = {id(group.source): group for group in known}
        now = []
        for index, source in enumerate(self.param_groups):
            group = by_source.get(id(source))
            if group is None or group.rule is not rule_of(source, self.rule):
                group = self._new_group(index, source)
            now.append(group)
        for index, group in enumerate(now):
            group.index = index
        check_common(now)
        self._groups = now
        self._left.note(by_source.values(), now)

    def _new_group(self, index: int, source: dict[str, Any]) -> Group:
        """What stands behind a group that is new, checked."""
        rule = rule_of(source, self.rule)
        rule.check_averaging(self._engine.averaging)
        for argument, given, wanted in (
            ("clock", "'round'" if self._rounds else None, "'call'"),
            ("norm_group", self._norm_group, "None and all parameters in one optimizer"),
        ):
            if rule.common and given is not None:
                raise ValueError(
                    f"{argument}: got {given} with {rule.name}, which looks at all parameters "
                    f"together, wanted {wanted}"
                )
        params = [
            Param(tensor, index, -1, _argument(source, index, i), None)
            for i, tensor in enumerate(source["params"])
        ]
        for param in params:
            layout.check_param(param.argument, param.tensor)
        group = Group(source, index, rule, self._twin)
        keeping = self.keeping(rule)
        if not self._is_loading:
            rule.check(group.prefix, group.values, keeping.storages.states)
        for param in params:
            keeping.check(param, group.values)
        return group

    def params(self, only: Part | None = None) -> list[Param]:
        """All parameters in their order, or those of a part."""
        places = [
            (index, i, tensor)
            for index, group in enumerate(self.param_groups)
            for i, tensor in enumerate(group["params"])
        ]
        copies: Sequence[Any] = [None] * len(places) if self._copies is None else self._copies
        if len(copies) != len(places):
            raise ValueError(
                f"copy_to: got {len(copies)} tensors, wanted {len(places)}, as many as parameters"
            )
        return [
            Param(tensor, index, key, _argument(self.param_groups[index], index, i), target)
            for key, ((index, i, tensor), target) in enumerate(zip(places, copies, strict=True))
            if only is None or tensor in only
        ]

    def _uses(self, params: Sequence[Param]) -> list[Use]:
        """What each rule's groups use of its storages."""
        uses = []
        for rule in dict.fromkeys(group.rule for group in self.groups):
            groups = [group for group in self.groups if group.rule is rule]
            present = {name for group in groups for name in rule.present(group.values)}
            own = [param for param in params if self.groups[param.group].rule is rule]
            dtypes = [layout.STORAGES[param.tensor.dtype] for param in own]
            names = rule.beside_any(present, [param.tensor.shape for param in own])
            uses.append(Use(rule.name, self.keeping(rule).storages, names, dtypes))
        return uses

    def _fill_copies(self) -> None:
        with torch.no_grad():
            for param in self.params():
                if param.copy is not None:
                    param.copy.copy_(param.tensor)

    # ---- saving and loading ----

    @private.keeping_grad_mode
    @alone("state_dict")
    def state_dict(self) -> dict[str, Any]:
        """As ``torch.optim`` has it, in the names of the class of the same name.

        Where the optimizer has made more steps than any of its parameters, the first entry of
        ``param_groups`` has ``clock``, their number; and what drives a hyperparameter or a stage
        and has a state of its own, such as a ``Plateau``, is there.
        """
        self._sync_groups()
        return complete(super().state_dict(), self._groups, self._engine)

    @private.keeping_grad_mode
    @alone("load_state_dict")
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state dict, of this class or of ``torch.optim``'s.

        Its tensors are copied, in the dtype that states have here, which must hold them exactly.
        What a schedule drives stays with the schedule. The tensors of ``copy_to`` are filled with
        the parameters as they are now. An interrupt leaves everything as it was, or everything
        loaded.

        Raises:
            TypeError, ValueError: it does not fit this optimizer; nothing is changed then.
        """
        before, after = private.load_hooks(self)
        given = dict(state_dict)
        for hook in before:
            given = hook(self, given) or given
        Loading(self, given)()
        self._fill_copies()
        for hook in after:
            hook(self)

    def replace(
        self, state: Mapping[Any, Any], groups: list[dict[str, Any]], *, fresh: bool
    ) -> None:
        """Have other states and groups, whose drivers stay; see ``loading.Loading``."""
        drivers = list(self._groups)
        self.__setstate__({"state": state, "param_groups": groups})
        for group, source in zip(drivers, groups, strict=True):
            group.source = source
            group.accept_loaded()
        self._groups, self._left = drivers, Left()
        self._fresh = set(self._holder.state) if fresh else set()
        self._start_states()

    def share_memory(self) -> None:
        """Move all states into memory that other processes share, as Adagrad of PyTorch can."""
        for value in (value for state in self.state.values() for value in state.values()):
            value.share_memory_()

    @alone("copy")
    def __copy__(self) -> Base:
        """An optimizer of the same parameters, states and turn, as PyTorch's copies are."""
        other = type(self).__new__(type(self))
        kept = {key: value for key, value in self.__dict__.items() if key in _PICKLED}
        other.__setstate__({**kept, "state": dict(self._holder.state)})
        return other

    @alone("pickling")
    def __getstate__(self) -> dict[str, Any]:
        kept = {key: value for key, value in self.__dict__.items() if key in _PICKLED}
        # Copies: tensors are written only once this has returned, when a step may go on.
        state = {
            param: {name: value.clone() for name, value in own.items()}
            for param, own in self._holder.state.items()
        }
        return {**kept, "_engine": copy.deepcopy(self._engine), "state": state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        if "state" in state:
            self.state = state.pop("state")
        report = self.__dict__.get("report")
        super().__setstate__(state)
        self._start()
        self.report = report


_PICKLED = (
    "defaults", "param_groups", "_engine", "_options", "_norm_group", "_rounds", "_copies",
    "_groups", "_is_built",
)  # fmt: skip


def _argument(group: Mapping[str, Any], index: int, i: int) -> str:
    """What a parameter is called in an error."""
    names = group.get("param_names")
    return names[i] if names else f"param_groups[{index}]['params'][{i}]"
