"""What all rules share under PyTorch: its optimizers' interface around one native step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch

from .. import _core
from ..engine import ONE, Engine
from ..groups import some
from ..report import Report
from ..stages import Stages
from ..storages import StorageOptions
from ..turn import alone
from . import layout, private
from .base import Base
from .bound import Bound
from .call import WHOLE, Call, Part, evaluated, number
from .exchange import Exchange
from .groups import Group, plain, rule_of
from .held import Moved, Overlap
from .parts import Bounds
from .sharded import check_group

if TYPE_CHECKING:
    from ..arguments import Value

    Params = Iterable[torch.Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, torch.Tensor]]

CLOCKS = ("call", "round")


class Optimizer(Base):
    """The base of all rules as PyTorch's optimizers.

    Args:
        params: as for ``torch.optim``: tensors, pairs of name and tensor, or groups. On the CPU,
            float32, float64, bfloat16 or float16, of any strides, or DTensors of such. A group may
            name another ``rule`` than the class's.
        defaults: the hyperparameters, those of ``torch.optim``'s class of the same name included.
        states, rounding, split, seed, clip_norm, clip_value, nonfinite, average, stats: as
            :class:`gradstep.Optimizer` has them.
        copy_to: tensors in the order of all parameters, of their shapes, any strides and any of
            the dtypes, that each step fills with the new parameters.
        norm_group: the processes over which parameters are divided, each parameter in one of them:
            for ``clip_norm``, ``nonfinite`` and ``stats`` in ``ZeroRedundancyOptimizer``. A
            ``ProcessGroup``, or ``"world"`` for all. What DTensors are sharded over is known
            without it.
        clock: when the index that schedules get goes on: with each ``"call"`` of ``step``, or, for
            an engine that steps a part of the parameters per call, when a tensor comes round again:
            ``"round"``.

    Each numeric hyperparameter may also be a schedule, or a callable that takes the index of the
    step about to be made. ``param_groups`` then shows the value that was used last; another value
    that is assigned there is used for as long as it stands.

    Attributes:
        report: the :class:`gradstep.Report` of the last step, or None.
        stages: clipping and more by name; assign to its entries to change them.
    """

    _step_supports_amp_scaling = True  # GradScaler leaves unscaling to us

    def __init__(
        self,
        params: Params,
        defaults: dict[str, Any],
        *,
        states: str | Mapping[str, str] | None = None,
        rounding: str | Mapping[str, str] | None = None,
        split: bool = False,
        seed: int = 0,
        clip_norm: Value | None = None,
        clip_value: Value | None = None,
        nonfinite: str = "allow",
        average: Value | None = None,
        copy_to: Sequence[torch.Tensor] | None = None,
        stats: bool | str = False,
        norm_group: Any = None,
        clock: str = "call",
    ) -> None:
        if not hasattr(self, "rule"):
            raise TypeError("Optimizer: got the base class, wanted a rule such as AdamW")
        check_group(norm_group)
        if clock not in CLOCKS:
            raise ValueError(f"clock: got {clock!r}, wanted 'call' or 'round'")
        stages = {
            "clip_norm": clip_norm,
            "clip_value": clip_value,
            "average": average,
            "nonfinite": nonfinite,
            "seed": seed,
        }
        self._engine = Engine(stages, stats)
        self._options = StorageOptions(states, rounding, split)
        self._norm_group = norm_group
        self._rounds = clock == "round"
        self._copies = None if copy_to is None else list(copy_to)
        self._groups: list[Group] = []
        self._is_built = False
        self._start()
        given = params if isinstance(params, torch.Tensor) else list(params)
        self._coming = [group for group in given if isinstance(group, Mapping)]
        rules = [self.rule, *(rule_of(group, self.rule) for group in self._coming)]
        self._options.of(self.rule, rules)  # before anything is made
        super().__init__(given, defaults)
        self._is_built, self._coming = True, ()
        everything = self.params()
        if self._copies is not None:
            for i, (param, target) in enumerate(zip(everything, self._copies, strict=True)):
                layout.check_copy(f"copy_to[{i}]", target, param.tensor)
        self._check_apart()
        if everything:  # a process of several may have none
            self._options.check_used(self._uses(everything))
        self._start_states()

    # ---- what a person reads ----

    @property
    def stages(self) -> Stages:
        """What a step does besides the rule, by name, see :attr:`gradstep.Optimizer.stages`."""
        return self._engine.stages

    def __repr__(self) -> str:
        """As ``torch.optim`` has it, and which parameters have no rows to keep numbers for."""
        text: str = super().__repr__()
        for i, group in enumerate(self.param_groups):
            names = group.get("param_names") or [*map(str, range(len(group["params"])))]
            pairs = zip(names, group["params"], strict=True)
            factors = rule_of(group, self.rule).factors
            vectors = [name for name, tensor in pairs if factors and tensor.dim() < 2]
            if vectors:
                title = f"\nParameter Group {i}\n"
                line = f"{title}    without rows, whole: {some(vectors)}\n"
                text = text.replace(title, line, 1)
        return text

    def averaged(self) -> AbstractContextManager[None]:
        """Have the averages in the parameters for a ``with`` block, to evaluate or save them.

        With ``ScheduleFreeSGD``, ``ScheduleFreeAdamW`` and ``ASGD``, which have an average of their
        own, it is that one. The tensors of ``copy_to`` follow. At the end of the block, also by an
        exception, each of them is again what it was, to the bit.

        Raises:
            RuntimeError: without averages; or, within the block, for a step or a state dict.
        """
        if not self._engine.averaging and not any(group.rule.shows for group in self.groups):
            raise RuntimeError(
                f"averaged: got {type(self).__name__} without averages, wanted one that was built "
                "with average=0.999 or another decay"
            )
        return self._engine.averaged(self._exchange)

    def _exchange(self) -> Exchange:
        shown: list[tuple[torch.Tensor, torch.Tensor]] = []
        bound = self._bounds.get(None)
        if any(group.rule.shows for group in self.groups):
            bound = self._bind(None)
            if bound.held.mirrored:
                bound.held.copy_in()
        places = {} if bound is None else {id(t): i for i, t in enumerate(bound.tensors)}
        for param in self.params():
            state = self._holder.state.get(param.tensor, {})
            if bound is not None and self._groups[param.group].rule.shows and state:
                at = places[id(param.tensor)]
                out = torch.empty_like(bound.held.arrays[at], requires_grad=False)
                value = bound.compiled.show(at, out)
                here = layout.local(param.tensor.detach())
                shown.append((here, value))
            elif "average" in state:
                value = state["average"]
                shown.append((param.tensor, value))
            else:
                continue
            if param.copy is not None:
                shown.append((param.copy, value))
        return Exchange(shown)

    @alone("fill_copies")
    def fill_copies(self) -> None:
        """Bring the tensors of ``copy_to`` in line with the parameters.

        For parameters that you have written to yourself: a step fills the copies of what it
        updates, and loading a state dict fills all of them.

        Raises:
            RuntimeError: without ``copy_to``; or this optimizer is stepping in another thread.
        """
        if self._copies is None:
            raise RuntimeError(
                "fill_copies: got an optimizer without copies, wanted one with copy_to"
            )
        self._fill_copies()

    # ---- the step ----

    def step(self, closure: Callable[[], Any] | None = None, loss: Any = None) -> Any:
        """Update every parameter that has a gradient.

        Args:
            closure: evaluates the model again, with gradients, and returns the loss.
            loss: the loss that the gradients are of, a number or a tensor of one, for rules that
                step by it, such as ``PolyakSGD``, where no closure returns it; others refuse it.

        Returns:
            What ``closure`` returned, or None. What the step did is in ``report``.

        Raises:
            TypeError, ValueError: a gradient, hyperparameter or state is refused; nothing is
                changed then.
            FloatingPointError: with ``nonfinite="raise"``.
            RuntimeError: clipping, or looking for what is not finite, is asked for while a
                backward pass goes on: see :func:`step_in_backward`.
        """
        if private.is_watched(self):
            given = {"closure": closure, "loss": loss}
            return self._hooked_step(**{k: v for k, v in given.items() if v is not None})
        if torch.compiler.is_compiling() or private.is_traced():
            return self._untraced_step(closure, loss)
        return self._step(closure, loss)

    step.hooked = True  # type: ignore[attr-defined]

    def _step(self, closure: Callable[[], Any] | None = None, loss: Any = None) -> Any:
        returned = None
        if closure is not None:
            returned, loss = evaluated(closure, loss, [group.rule for group in self.groups])
        self.report = self._update(WHOLE if loss is None else Call(loss=number(loss)))
        return returned

    _untraced_step = torch.compiler.disable(_step)  # costs a small step a tenth
    _hooked_step = torch.optim.Optimizer.profile_hook_step(_untraced_step)

    def step_part(
        self,
        part: Part,
        *,
        advances: bool | None = None,
        norm: float | None = None,
        loss: Any = None,
    ) -> Report:
        """Update some parameters, in one of several calls that make up a step.

        Args:
            part: which.
            advances: whether it is the first of these calls, with which the clock goes on; None:
                each backward pass, within which these calls are made, is a step.
            norm: of the gradients of all, loss scale and all, where a stage asks for it.
            loss: as ``step`` takes it.
        """
        self.report = self._update(Call(part, loss, advances, norm))
        return self.report

    def step_after_backward(self) -> None:
        """Update every parameter while a backward pass goes on that has brought all gradients."""
        self._is_backward_over = True
        try:
            self.step()
        finally:
            self._is_backward_over = False
        self.zero_grad()

    def _update(self, call: Call) -> Report:
        try:
            del self._turn.free[0]
        except IndexError:
            raise self._turn.taken("step") from None
        try:
            return self._update_alone(call)
        finally:
            self._turn.free.append(None)

    def _update_alone(self, call: Call) -> Report:
        only = call.only
        number = ONE
        if "found_inf" in self.__dict__ or "grad_scale" in self.__dict__:  # of a GradScaler
            found, scale = self.__dict__.get("found_inf"), self.__dict__.get("grad_scale")
            if found is not None and found.item():
                return self._skipped()
            if scale is not None:
                number = scale.item()
        bound, version = self._bounds.get(only), self._holder.state.version
        seen = _core.CHANGED if bound is None else bound.look(version, self.param_groups)
        if seen == _core.CHANGED and only is None:
            bound = self._take_up()
            if bound is not None:
                seen = bound.look(version, self.param_groups)
        if bound is not None and seen != _core.CHANGED:
            if seen == _core.OTHER_VALUES:
                self._sync_groups()
            try:  # contextlib.suppress costs a small step a tenth
                return self._run(bound, number, call)
            except (Moved, Overlap):
                pass
        try:
            return self._run(self._bind(only), number, call)
        except Moved:
            raise RuntimeError("step: refused by the core, not by the checks: a defect") from None

    def _run(self, bound: Bound, scale: float, call: Call) -> Report:
        compiled, held, state = bound.compiled, bound.held, self._holder
        bound.use_threads(torch.get_num_threads())
        grads = bound.leaves.gradients()
        only, loss, advances, norm = call
        plain = only is None and not self._rounds  # then each call is a step of the optimizer
        notes = advances is None and not plain
        if advances is None:
            advances = plain or self._advances(bound, grads, only)
        k = compiled.clock[0] if advances else max(compiled.clock[0] - 1, 0)
        if held.converts:
            grads = held.converted(grads)
        compiled.refresh(k)
        if held.mirrored:
            held.copy_in()
        if norm is None and compiled.wants_norm:
            norm = self._norm(bound, grads)
        # From here on nobody can replace a state except functions that drive the stages.
        proven, looks = False, True
        if bound.trust.asked != state.state.asked:
            proven = bound.trust.prove(state, compiled.plan)  # type: ignore[arg-type]
        elif not compiled.driven_stages:
            looks = False
        bound.set_flags(advances, looks)
        report = compiled.run(k, grads, scale, False, norm, loss)
        if report.skipped:
            return report
        if proven:
            bound.trust.begin()
        if held.mirrored:
            held.copy_back()
        self._note_changes(bound, grads)
        if advances and notes:
            self._note_advance(bound, grads, only)
        if compiled.drive is not None:
            first = _core.FIRST_HYPER
            for group, row, numbers in zip(bound.groups, held.rows, compiled.settings, strict=True):
                group.show(row, numbers[first : first + len(row.rule.hyper_names)].tolist())
        return report

    def _note_changes(self, bound: Bound, grads: list[Any]) -> None:
        """Tell autograd what a step has written."""
        if not bound.leaves.note_written(grads):
            pairs = zip(bound.tensors, grads, strict=True)
            stepped = [tensor for tensor, grad in pairs if grad is not None]
            torch.autograd.graph.increment_version(stepped)
        if bound.held.copied:
            torch.autograd.graph.increment_version(bound.held.copied)

    def forget_steps(self) -> None:
        """Have each part's step compiled anew."""
        self._bounds = Bounds()

    # ---- the clock ----

    def _advances(self, bound: Bound, grads: Sequence[Any], only: Part | None) -> bool:
        """Whether this call is a new step of the optimizer, or goes on with the last one."""
        if only is not None:
            return self._backward != private.backward_pass()
        if not self._rounds or not self._stepped:
            return True
        stepped = [id(t) for t, g in zip(bound.tensors, grads, strict=True) if g is not None]
        if self._stepped.isdisjoint(stepped):
            self._stepped.update(stepped)
            return False
        return True

    def _note_advance(self, bound: Bound, grads: Sequence[Any], only: Part | None) -> None:
        if only is not None:
            self._backward = private.backward_pass()
        elif self._rounds:
            pairs = zip(bound.tensors, grads, strict=True)
            self._stepped = {id(tensor) for tensor, grad in pairs if grad is not None}

    def _norm(self, bound: Bound, grads: list[Any]) -> float | None:
        """The norm of all gradients in all processes; None where the core takes it itself."""
        if private.backward_pass() != -1 and not self._is_backward_over:
            raise RuntimeError(
                "step: got clip_norm or nonfinite within a backward pass, which may bring more "
                "gradients; wanted a step after it, or gradstep.torch.step_in_backward"
            )
        if bound.norm.is_local:
            return None
        return bound.norm(bound.held.realigned(grads))

    def _skipped(self) -> Report:
        """The report of a step that the GradScaler found infinite."""
        self._sync_groups()
        rates = tuple(float(plain(group["lr"])) for group in self.param_groups)
        return Report(self._engine.t, rates[0] if len(rates) == 1 else rates, {"skipped": True})
