"""What all rules share under PyTorch: its optimizers' interface around one native step."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch.autograd import profiler
from torch.optim import optimizer as torch_optimizer

from .. import optimizer as arrays
from ..engine import Engine, check_stats
from ..hyperparameters import Driven, Rule, call, compile_group
from ..report import Report
from ..stages import Stages, compile_stages
from ..storages import Storages
from . import layout
from .bound import Bound, State
from .held import Held, Keeping, Moved, Overlap, Param
from .sharded import Norm, awaits_sum, check_group

if TYPE_CHECKING:
    Params = Iterable[torch.Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, torch.Tensor]]

# How a step is carried out by PyTorch: it changes no number. Kept in checkpoints for swapping back.
EXECUTION = ("foreach", "fused", "capturable", "differentiable")
UNUSED = (None, False)


class Optimizer(torch.optim.Optimizer):  # type: ignore[misc]
    """The base of all rules as PyTorch's optimizers.

    Args:
        params: as for ``torch.optim``: tensors, pairs of name and tensor, or groups. On the CPU,
            float32, float64, bfloat16 or float16, of any strides, or DTensors of such.
        defaults: the hyperparameters, those of ``torch.optim``'s class of the same name included.
        states, rounding, split, seed, clip_norm, clip_value, nonfinite, average, stats: as
            :class:`gradstep.Optimizer` has them.
        copy_to: tensors in the order of all parameters, of their shapes, any strides and any of
            the dtypes, that each step fills with the new parameters.
        norm_group: the processes over which parameters are divided, each parameter in one of them:
            for ``clip_norm``, ``nonfinite`` and ``stats`` in ``ZeroRedundancyOptimizer``. A
            ``ProcessGroup``, or ``"world"`` for all. What DTensors are sharded over is known
            without it.

    Each numeric hyperparameter may also be a schedule, or a callable that takes the index of the
    step about to be made. ``param_groups`` then shows the value that was used last; another value
    that is assigned there is used for as long as it stands.

    Attributes:
        report: the :class:`gradstep.Report` of the last step, or None.
        stages: clipping and more by name; assign to its entries to change them.
    """

    rule: ClassVar[str]
    engine_class: ClassVar[type[Engine]]
    _hyper: ClassVar[dict[str, Any]]  # the rule's hyperparameters with their defaults
    _twin: ClassVar[dict[str, Any]]  # what the class of torch.optim has besides in its groups
    _getter: ClassVar[Any]  # their values in a group
    _step_supports_amp_scaling = True  # GradScaler leaves unscaling to us
    _backward_over = False  # whether the backward pass that goes on has brought all gradients

    def __init__(
        self,
        params: Params,
        defaults: dict[str, Any],
        *,
        states: str | Mapping[str, str] | None = None,
        rounding: str | Mapping[str, str] | None = None,
        split: bool = False,
        seed: int = 0,
        clip_norm: arrays.Value | None = None,
        clip_value: arrays.Value | None = None,
        nonfinite: str = "allow",
        average: arrays.Value | None = None,
        copy_to: Sequence[torch.Tensor] | None = None,
        stats: bool | str = False,
        norm_group: Any = None,
    ) -> None:
        if not hasattr(self, "rule"):
            raise TypeError("Optimizer: got the base class, wanted a rule such as AdamW")
        check_group(norm_group)
        check_stats(stats)
        rule = Rule(self.rule)
        self._stages = Stages(
            {
                "clip_norm": clip_norm,
                "clip_value": clip_value,
                "average": average,
                "nonfinite": nonfinite,
                "seed": seed,
            }
        )
        compile_stages(self._stages, average is not None, single=False)
        storages = Storages(rule, states, rounding, split)
        self._keeping = Keeping(rule, storages, average is not None)
        self._stats = stats
        self._norm_group = norm_group
        self._copies = None if copy_to is None else list(copy_to)
        # What drives hyperparameters of each group, and what stands in the group for it.
        self._given: list[dict[str, Any]] = []
        self._shown: list[dict[str, Any]] = []
        self._known: list[dict[str, Any]] = []  # the groups
        self._complete = False
        self._start()
        super().__init__(params, defaults)
        self._complete = True
        everything = self._params()
        if self._copies is not None:
            for i, (param, target) in enumerate(zip(everything, self._copies, strict=True)):
                layout.check_copy(f"copy_to[{i}]", target, param.tensor)
        self._check_apart()
        present = {
            name
            for group in self.param_groups
            for name in self._keeping.present(self._hyperparameters(group))
        }
        if everything:  # a process of several may have none
            storages.check_used(present, [layout.STORAGES[p.tensor.dtype] for p in everything])
        self._start_states()

    def _start(self) -> None:
        self.report: Report | None = None
        self._averaged = False
        self._idle = [None]  # one at a time takes it, as in `gradstep.Optimizer`

    # ---- what a person reads ----

    @property
    def state(self) -> Any:
        """For each parameter that has had a gradient its arrays by name, live, and its ``step``.

        Any of them may be replaced, now or later: steps look at them for as long as somebody
        holds one, and some more, which costs up to a microsecond a parameter. Who finds them in
        another way, as ``gc.get_objects()`` is one, must not put other memory behind them.
        """
        return self._state.hand_out()

    @state.setter
    def state(self, values: Mapping[Any, Any]) -> None:
        self._state = values if isinstance(values, State) else State(values)
        self._state.changed = True
        self._bounds: dict[torch.Tensor | None, Bound] = {}  # over all, or of one parameter

    @property
    def stages(self) -> Stages:
        """What a step does besides the rule, by name, see :attr:`gradstep.Optimizer.stages`."""
        return self._stages

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Have the averages in the parameters for a ``with`` block, to evaluate or save them.

        At its end, also by an exception, each parameter is again what it was, to the bit.

        Raises:
            RuntimeError: without averages; or, within the block, for a step or a state dict.
        """
        if not self._keeping.averaging:
            raise RuntimeError(
                f"averaged: got {type(self).__name__} without averages, wanted one that was built "
                "with average=0.999 or another decay"
            )
        self._check_parameters("averaged")
        kept = [(p, state["average"]) for p, state in self.state.items() if "average" in state]
        before = [param.detach().clone() for param, _ in kept]

        def fill(values: Iterable[torch.Tensor]) -> None:
            with torch.no_grad():
                for (param, _), value in zip(kept, values, strict=True):
                    param.copy_(value)

        self._averaged = True
        try:
            fill(average for _, average in kept)
            yield
        finally:
            try:
                try:
                    fill(before)
                except BaseException:  # Ctrl-C on the way out
                    fill(before)
                    raise
            finally:
                self._averaged = False

    def _check_parameters(self, what: str) -> None:
        if self._averaged:
            raise RuntimeError(
                f"{what}: asked for within averaged(), where the parameters hold the averages; "
                "wanted it before or after"
            )

    # ---- the step ----

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient.

        Args:
            closure: evaluates the model again, with gradients, and returns the loss.

        Returns:
            What ``closure`` returned, or None. What the step did is in :attr:`report`.

        Raises:
            TypeError, ValueError: a gradient, hyperparameter or state is refused; nothing is
                changed then.
            FloatingPointError: with ``nonfinite="raise"``.
            RuntimeError: clipping, or looking for what is not finite, is asked for while a
                backward pass goes on: see :func:`step_in_backward`.
        """
        # What PyTorch wraps around each step, where there is something in it.
        if (
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or torch_optimizer._global_optimizer_pre_hooks
            or torch_optimizer._global_optimizer_post_hooks
            or profiler._is_profiler_enabled
        ):
            return self._hooked_step(closure) if closure is not None else self._hooked_step()
        return self._step(closure)

    step.hooked = True  # type: ignore[attr-defined]

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.report = self._update()
        return loss

    _hooked_step = torch.optim.Optimizer.profile_hook_step(_step)

    def _update(self, only: torch.Tensor | None = None) -> Report:
        """A step of all parameters, or of this one."""
        self._check_parameters("step")
        if only is not None:
            return self._update_alone(only)
        try:
            del self._idle[0]
        except IndexError:
            raise RuntimeError("step: this optimizer is at work in another thread") from None
        try:
            return self._update_alone(only)
        finally:
            self._idle.append(None)

    def _update_alone(self, only: torch.Tensor | None) -> Report:
        found = self.__dict__.get("found_inf")  # of a GradScaler
        if found is not None and found.item():
            return self._skipped()
        scale = self.__dict__.get("grad_scale")
        number = 1.0 if scale is None else scale.item()
        bound = self._bounds.get(only)
        if bound is not None and bound.holds(self):
            try:  # contextlib.suppress costs a small step a tenth
                return self._run(bound, number)
            except (Moved, Overlap):
                pass
        try:
            return self._run(self._bind(only), number)
        except Moved:
            raise RuntimeError("step: refused by the core, not by the checks: a defect") from None

    def _run(self, bound: Bound, scale: float) -> Report:
        engine, held = bound.engine, bound.held
        if (threads := torch.get_num_threads()) != bound.threads:
            bound.threads = engine._plan.threads = threads
        self._sync(bound)
        grads = [tensor.grad for tensor in bound.tensors]
        if held.sharded:
            grads = held.local(grads)
        if engine._drive is not None or engine._driven:
            bound.read_counts()
        k = engine._clock[-1]
        engine._refresh(k)
        if held.mirrored:
            held.copy_in()
        norm = self._norm(bound, grads)
        # From here on nobody can replace a state but functions that drive the stages.
        asked = self._state.asked
        looks = bound.trusted != asked or bool(engine._driven)
        alone = looks and bound.is_alone(self)
        engine._plan.looks = looks  # type: ignore[union-attr]
        report = engine.run(k, grads, scale, norm)
        if alone and not report.skipped:
            bound.trusted = asked
        if held.mirrored:
            held.copy_back()
        if not report.skipped:
            stepped = bound.tensors
            if engine._plan.without_gradient:
                pairs = zip(stepped, grads, strict=True)
                stepped = [tensor for tensor, grad in pairs if grad is not None]
            torch.autograd.graph.increment_version(stepped)
            if held.copied:
                torch.autograd.graph.increment_version(held.copied)
        if engine._drive is not None:
            self._show(bound)
        return report

    def _norm(self, bound: Bound, grads: list[Any]) -> float | None:
        """The norm of all gradients in all processes; None where nobody asks, or this one knows."""
        if not bound.engine._clipping and bound.engine._nonfinite == "allow":
            return None
        if torch._C._current_graph_task_id() != -1 and not self._backward_over:
            raise RuntimeError(
                "step: got clip_norm or nonfinite within a backward pass, which may bring more "
                "gradients; wanted a step after it, or gradstep.torch.step_in_backward"
            )
        if bound.norm.is_local:
            return None
        return bound.norm(bound.held.realigned(grads))

    def _skipped(self) -> Report:
        """The report of a step that the GradScaler found infinite."""
        self._follow_groups()
        for i in range(len(self.param_groups)):
            self._values(i)
        rates = tuple(float(_plain(group["lr"])) for group in self.param_groups)
        bound = self._bounds.get(None)
        t = 0 if bound is None else bound.engine._clock[-1]
        return Report(t, rates[0] if len(rates) == 1 else rates, {"skipped": True})

    def _bind(self, only: torch.Tensor | None) -> Bound:
        """Make the engine over the parameters that have a state, or need one now."""
        with torch.inference_mode(mode=False):  # tensors made there are for there alone
            return self._bound_anew(only)

    def _bound_anew(self, only: torch.Tensor | None) -> Bound:
        self._follow_groups()
        values = [self._values(i) for i in range(len(self.param_groups))]
        params, waiting = [], []
        present = self._params(only)
        if only is not None and not present:
            raise RuntimeError(
                "step_in_backward: got a parameter that was taken out of its group, wanted the "
                "handle of its hook removed"
            )
        for param in present:
            group = values[param.group]
            if self.state.get(param.tensor):
                state = self.state[param.tensor]
                self._keeping.fit_state(f"state of {param.argument}", param, group, state)
            elif param.tensor.grad is None:
                waiting.append(param.tensor)
                continue
            else:
                self.state[param.tensor] = self._keeping.new_state(param, group)
            params.append(param)
        states = [self.state[param.tensor] for param in params]
        held = Held(self._keeping, self._hyper, values, params, states)
        norm = Norm([param.tensor for param in params], self._norm_group)
        counts = np.zeros(len(params) + 1, np.int64)
        engine = self.engine_class(held, self.stages, self._stats, counts)
        if self._stats and not norm.is_local:
            norm.check_alike()
            engine.add_up = norm.add_up
        self._bounds[only] = Bound(self, held, engine, norm, waiting, only)
        return self._bounds[only]

    # ---- groups ----

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as in ``torch.optim``; one that is refused is not added."""
        if self._complete and self._copies is not None:
            raise ValueError(
                "param_group: got a group for an optimizer with copy_to, wanted all groups in the "
                "constructor"
            )
        super().add_param_group(param_group)
        self._bounds.clear()
        try:
            self._follow_groups()
            if self._complete:
                self._check_apart()
                self._start_states()
        except BaseException:
            self.param_groups.pop()
            raise

    def _check_apart(self) -> None:
        params = self._params()
        copies = [
            (f"copy_to[{param.key}]", param.copy) for param in params if param.copy is not None
        ]
        layout.check_apart([*((param.argument, param.tensor) for param in params), *copies])

    def _follow_groups(self) -> None:
        """Keep what drives hyperparameters with their groups, whose list anyone may change."""
        groups = self.param_groups
        if len(self._known) == len(groups) and all(map(operator.is_, self._known, groups)):
            return
        kept = zip(self._known, self._given, self._shown, strict=True)
        by_id = {id(group): (given, shown) for group, given, shown in kept}
        drives = [
            by_id.get(id(group)) or self._take_group(index) for index, group in enumerate(groups)
        ]
        self._given, self._shown = map(list, zip(*drives, strict=True)) if drives else ([], [])
        self._known = list(groups)

    def _take_group(self, index: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Check a group that is new; what drives its hyperparameters, and what stands for it."""
        group, prefix = self.param_groups[index], f"param_groups[{index}] "
        for key in EXECUTION:
            if group.get(key) not in UNUSED:
                raise ValueError(
                    f"{prefix}{key}: got {group[key]!r}, wanted None or False: every step is one "
                    "native pass on the CPU"
                )
        for key, value in group.items():
            if key in self._hyper and isinstance(value, list):
                group[key] = tuple(value)
        values = self._hyperparameters(group)
        params = [
            Param(tensor, index, -1, _argument(group, index, i), None)
            for i, tensor in enumerate(group["params"])
        ]
        dtypes = {layout.check_param(param.argument, param.tensor) for param in params}
        row, driven = self._check_values(prefix, group, values, dtypes != {"float64"})
        for param in params:
            self._keeping.check(param, values)
        for one in driven:
            row[one.column] = call(one, 0)
        shown = self._by_name(row)
        given = {one.key: values[one.key] for one in driven}
        group.update({key: shown[key] for key in given})
        return given, {key: shown[key] for key in given}

    def _check_values(
        self, prefix: str, group: Mapping[str, Any], values: Mapping[str, Any], single: bool
    ) -> tuple[list[float], list[Driven]]:
        """Raise unless a group's values are such as the rule takes them."""
        self._check_twin(prefix, group)
        compiled = compile_group(prefix, self._keeping.rule, self._hyper, values, single)
        probe = self.engine_class.__new__(self.engine_class)
        probe._held = Held(self._keeping, self._hyper, [], [], [])
        probe._check_group(prefix, values)
        return compiled

    def _check_twin(self, prefix: str, group: Mapping[str, Any]) -> None:
        """Raise unless what PyTorch's class has beyond ours says what the rule does anyway."""
        for key, meant in self._twin.items():
            if key not in EXECUTION and group.get(key, meant) != meant:
                raise ValueError(f"{prefix}{key}: got {group[key]!r}, wanted {meant!r}")

    def _hyperparameters(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """The rule's hyperparameters of a group, as numbers where they are tensors."""
        values = {key: _plain(group[key]) for key in self._hyper if key in group}
        return {**values, "frozen": False}

    def _values(self, index: int) -> dict[str, Any]:
        """The same, with what drives them where nobody has put another value."""
        group, drives = self.param_groups[index], (self._given[index], self._shown[index])
        if any(_is_driven(group.get(key)) for key in self._hyper):
            for known, new in zip(drives, self._take_group(index), strict=True):
                known.update(new)
        values = self._hyperparameters(group)
        for key, shown in drives[1].items():
            if values[key] == shown:
                values[key] = drives[0][key]
        return values

    def _by_name(self, row: Sequence[float]) -> dict[str, Any]:
        """Numbers in the rule's order, by hyperparameter."""
        found: dict[str, Any] = {}
        for name, number in zip(self._keeping.rule.hyper_names, row, strict=False):
            key, _, index = name.partition("[")
            found[key] = (*found.get(key, ()), number) if index else number
        return found

    def _sync(self, bound: Bound) -> None:
        """Bring what was assigned in ``param_groups`` to the engine."""
        for i, group in enumerate(self.param_groups):
            values = self._getter(group)
            try:
                if not bound.live[i] and values == bound.seen[i]:
                    continue
            except RuntimeError:  # a tensor that is no number: refused below
                pass
            bound.seen[i] = values
            flat = chain.from_iterable(v if isinstance(v, tuple | list) else (v,) for v in values)
            bound.live[i] = any(isinstance(value, torch.Tensor) for value in flat) or any(
                isinstance(value, list) for value in values
            )
            self._check_twin(f"param_groups[{i}] ", group)
            bound.held.rows[i].group.replace(self._values(i))

    def _show(self, bound: Bound) -> None:
        """Put the values that drove this step where people look for them."""
        for i, row in enumerate(bound.held.rows):
            if row.driven:
                used = self._by_name(bound.engine._settings[i].tolist())
                now = {one.key: used[one.key] for one in row.driven}
                self._shown[i].update(now)
                self.param_groups[i].update(now)
                bound.seen[i] = self._getter(self.param_groups[i])

    def _params(self, only: torch.Tensor | None = None) -> list[Param]:
        """All parameters in their order, or this one."""
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
            if only is None or tensor is only
        ]

    def _start_states(self) -> None:
        """Give parameters a state at once where the rule's starts from a hyperparameter.

        As PyTorch does, whose class expects it in a checkpoint that was saved before any step.
        """
        if any(state.initial for state in self._keeping.rule.states):
            for param in self._params():
                if not self.state.get(param.tensor):
                    values = self._hyperparameters(self.param_groups[param.group])
                    self.state[param.tensor] = self._keeping.new_state(param, values)

    # ---- saving and loading ----

    def state_dict(self) -> dict[str, Any]:
        """As ``torch.optim`` has it, in the names of the class of the same name."""
        self._check_parameters("state_dict")
        self._follow_groups()
        for i in range(len(self.param_groups)):
            self._values(i)  # which takes schedules that were assigned out of the groups
        saved: dict[str, Any] = super().state_dict()
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state dict, of this class or of ``torch.optim``'s.

        Its tensors are copied, in the dtype that states have here, which must hold them exactly.
        What a schedule drives stays with the schedule.

        Raises:
            TypeError, ValueError: it does not fit this optimizer; nothing is changed then.
        """
        self._check_parameters("load_state_dict")
        given = dict(state_dict)
        for hook in self._optimizer_load_state_dict_pre_hooks.values():
            given = hook(self, given) or given
        groups = self._loaded_groups(given["param_groups"])
        saved_ids = [key for group in given["param_groups"] for key in group["params"]]
        params = dict(zip(saved_ids, self._params(), strict=True))
        state: dict[Any, Any] = {}
        for key, entry in given["state"].items():
            if key not in params:
                raise ValueError(
                    f"state_dict['state'][{key!r}]: got a state, wanted those of param_groups"
                )
            param = params[key]
            values = self._hyperparameters(groups[param.group])
            loaded = self._keeping.loaded_state(
                f"state_dict['state'][{key!r}]", param, values, entry
            )
            if loaded:
                state[param.tensor] = loaded
        self.__setstate__({"state": state, "param_groups": groups, "_known": list(groups)})
        self._shown = [
            {key: self._hyperparameters(group)[key] for key in given}
            for group, given in zip(groups, self._given, strict=True)
        ]
        self._start_states()
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)

    def _loaded_groups(self, given: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """A checkpoint's groups, checked, with our parameters."""
        if len(given) != len(self.param_groups):
            raise ValueError(
                f"state_dict['param_groups']: got {len(given)}, wanted {len(self.param_groups)}"
            )
        groups = []
        for i, (saved, own) in enumerate(zip(given, self.param_groups, strict=True)):
            where = f"state_dict['param_groups'][{i}]"
            if len(saved["params"]) != len(own["params"]):
                raise ValueError(
                    f"{where}['params']: got {len(saved['params'])}, wanted {len(own['params'])}"
                )
            group = {**self.defaults, **copy.deepcopy(dict(saved)), "params": own["params"]}
            if "param_names" in own:
                group.setdefault("param_names", own["param_names"])
            single = any(tensor.dtype != torch.float64 for tensor in own["params"])
            self._check_values(f"{where} ", group, self._hyperparameters(group), single)
            groups.append(group)
        return groups

    def __getstate__(self) -> dict[str, Any]:
        self._check_parameters("pickling")
        kept = {k: v for k, v in self.__dict__.items() if k in _PICKLED}
        return {**kept, "state": dict(self.state)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        if "state" in state:
            self.state = state.pop("state")
        self._bounds = {}
        super().__setstate__(state)
        self.__dict__.setdefault("_averaged", False)
        self.__dict__.setdefault("_idle", [None])
        self.__dict__.setdefault("report", None)


_PICKLED = (
    "defaults", "param_groups", "_stages", "_keeping", "_stats", "_norm_group", "_copies", "_given",
    "_shown", "_known", "_complete",
)  # fmt: skip


def _plain(value: Any) -> Any:
    """A hyperparameter as a number where it is a tensor; in pairs, too."""
    if isinstance(value, torch.Tensor):
        return value.item() if value.numel() == 1 else value
    if isinstance(value, tuple | list):
        return tuple(_plain(item) for item in value)
    return value


def _is_driven(value: Any) -> bool:
    """Whether a hyperparameter, or one of a pair, is a function of the step."""
    return any(map(callable, value)) if isinstance(value, tuple) else callable(value)


def _argument(group: Mapping[str, Any], index: int, i: int) -> str:
    """What a parameter is called in an error."""
    names = group.get("param_names")
    return names[i] if names else f"param_groups[{index}]['params'][{i}]"


def _backward_passes() -> int:
    """How many backward passes of this thread go on, one within the other."""
    count, frame = 0, inspect.currentframe()
    while frame is not None:
        count += frame.f_code is torch.autograd.graph._engine_run_backward.__code__
        frame = frame.f_back
    return count


def step_in_backward(optimizer: Optimizer) -> list[Any]:
    """Have each backward pass step, and drop the gradients.

    Each parameter is stepped, and its gradient dropped, as soon as that is there: gradients of the
    whole model never lie in memory together. With ``clip_norm`` or ``nonfinite``, which want all
    gradients, the step comes at the end of the backward pass instead, and means what it means
    elsewhere. So it does for plain parameters in one of several processes, whose gradients
    ``DistributedDataParallel`` may have summed only then; DTensors, as of ``fully_shard``, are
    stepped one by one.

    Args:
        optimizer: whose parameters, those that it has now; do not call its ``step``.

    Returns:
        The handles of the hooks: ``remove()`` each to end it.

    Raises:
        RuntimeError: from the backward pass, if a step at its end comes in a pass within another,
            as ``torch.utils.checkpoint`` makes it with ``use_reentrant=True``.

    Example:
        >>> import torch
        >>> from gradstep.torch import SGD, step_in_backward
        >>> w = torch.nn.Parameter(torch.ones(2))
        >>> handles = step_in_backward(SGD([w], lr=0.5))
        >>> w.sum().backward()
        >>> w.tolist(), w.grad
        ([0.5, 0.5], None)
    """
    engine = torch.autograd.Variable._execution_engine
    waiting = -1  # the backward pass at whose end there will be a step

    def finish() -> None:
        if _backward_passes() > 1:
            raise RuntimeError(
                "step_in_backward: got a backward pass within another, which brings only some "
                "gradients, wanted torch.utils.checkpoint with use_reentrant=False"
            )
        optimizer._backward_over = True
        try:
            optimizer.step()
        finally:
            optimizer._backward_over = False
        optimizer.zero_grad()

    def hook(tensor: torch.Tensor) -> None:
        nonlocal waiting
        stages = optimizer.stages
        each = stages["clip_norm"] is None and stages["nonfinite"] == "allow"
        if each and not awaits_sum(tensor):
            optimizer.report = optimizer._update(tensor)
            tensor.grad = None
        elif waiting != (now := torch._C._current_graph_task_id()):
            waiting = now
            # Twice: behind what others, as DDP does, have queued for the end by then.
            engine.queue_callback(functools.partial(engine.queue_callback, finish))

    return [
        param.tensor.register_post_accumulate_grad_hook(hook)
        for param in optimizer._params()
        if param.tensor.requires_grad
    ]
