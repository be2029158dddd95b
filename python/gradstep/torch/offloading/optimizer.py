"""An optimizer over a device's parameters whose steps are made in host memory."""

from __future__ import annotations

import contextlib
import copy
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from ... import machine
from ...report import Report
from ...storages import StorageOptions
from .. import layout, private
from ..call import evaluated, number
from ..classes import CLASSES
from ..groups import plain, rule_of
from ..keeping import Keeping
from ..optimizer import Optimizer
from .links import AcceleratorLink, Link
from .pipeline import Options, Pipeline, stages_gradients
from .resident import Resident, check_options, choose
from .slots import Slot, grad_dtype
from .waits import attach

if TYPE_CHECKING:
    from ...stages import Stages
    from .simulated import Span

    Params = Iterable[torch.Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, torch.Tensor]]

ACCUMULATE_IN = ("host", "float32", "device")
LEAST, MOST, BUCKETS = 64 << 10, 8 << 20, 16  # bytes of a bucket, and how many there are to be


def offload(
    params: torch.nn.Module | Params,
    rule: type[Optimizer],
    *,
    model: torch.nn.Module | None = None,
    accumulate: int = 1,
    accumulate_in: str = "host",
    in_backward: bool = True,
    on_device: float | str | Sequence[str] = 0.0,
    link: Link | None = None,
    bucket_bytes: int | None = None,
    **options: Any,
) -> Offload:
    """An optimizer of parameters on a device, which keeps its states and steps in host memory.

    Gradients come down as the backward pass brings them, and leave the device; the step is that of
    ``rule`` on the CPU, on twins of the parameters, to the bit; parameters go back up while the
    device computes. Host memory of a bfloat16 model, per parameter: the gradient 2 bytes, the
    parameter 2, with ``split=True`` its other 16 bits 2, states 8, or 2 with ``states="q8"``.

    Args:
        params: a model, or as for ``torch.optim``: then give ``model``, too, or each step waits
            until all parameters are back.
        rule: a class of :mod:`gradstep.torch`, such as ``AdamW``.
        model: whose modules wait for their own parameters where a forward pass comes to them.
        accumulate: how many backward passes make up a step. A step that is asked for earlier takes
            what has come.
        accumulate_in: where the gradients of several backward passes are added: ``"host"``, in the
            dtype of the gradients; ``"float32"``, there, too; or ``"device"``, by PyTorch.
        in_backward: whether parameters are stepped within the backward pass, as their gradients
            come, where nothing has to wait for all of them: no ``clip_norm``, no ``nonfinite``, no
            float16, no rule that looks at all parameters together, no other processes.
            Hyperparameters are then to be set before the backward pass. False: for graphs that
            read a parameter besides through ``detach()`` or ``.data``, and a GradScaler over
            float32 parameters.
        on_device: which parameters stay on the device with their states, under PyTorch's own fused
            rule, in their own dtype: a fraction of all, filled from the largest down, or names and
            patterns.
        link: what copies; None: the accelerator's. See :class:`gradstep.torch.SimulatedLink`.
        bucket_bytes: how many bytes of parameters are copied and stepped together; None: a 16th of
            all, from 64 KiB to 8 MiB.
        options: the rule's keywords, such as ``lr`` and ``clip_norm``; not ``copy_to``.

    Raises:
        TypeError, ValueError: an argument is refused.
        MemoryError: the host has less memory free than this takes, see ``Offload.host_bytes``.

    Example:
        >>> import torch
        >>> from gradstep.torch import AdamW, SimulatedLink, offload
        >>> model = torch.nn.Linear(2, 1).bfloat16()
        >>> optimizer = offload(
        ...     model, AdamW, lr=1e-3, split=True, states="q8", link=SimulatedLink(25e9)
        ... )
        >>> model(torch.ones(1, 2, dtype=torch.bfloat16)).sum().backward()
        >>> optimizer.step()
        >>> optimizer.report.t
        1
    """
    if isinstance(params, torch.nn.Module):
        if model is not None:
            raise TypeError("model: got one besides a model as params, wanted None")
        model, params = params, list(params.named_parameters())
    if rule not in CLASSES.values():
        raise TypeError(f"rule: got {rule!r}, wanted a class of gradstep.torch such as AdamW")
    _check_count("accumulate", accumulate)
    if bucket_bytes is not None:
        _check_count("bucket_bytes", bucket_bytes)
    if accumulate_in not in ACCUMULATE_IN:
        raise ValueError(
            f"accumulate_in: got {accumulate_in!r}, wanted one of "
            f"{', '.join(map(repr, ACCUMULATE_IN))}"
        )
    if model is not None and not isinstance(model, torch.nn.Module):
        raise TypeError(f"model: got {model!r}, wanted a torch.nn.Module")
    if not isinstance(in_backward, bool):
        raise TypeError(f"in_backward: got {in_backward!r}, wanted True or False")
    if link is not None and not all(hasattr(link, name) for name in ("empty", "down", "up")):
        raise TypeError(f"link: got {link!r}, wanted None or a link such as SimulatedLink(25e9)")
    if options.get("copy_to") is not None:
        raise TypeError("copy_to: got copies, wanted none: the device's parameters are the copies")
    how = Options(accumulate, accumulate_in, in_backward, bucket_bytes or 0)
    return Offload(params, rule, model, how, on_device, link, options)


def _check_count(argument: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{argument}: got {value!r}, wanted an integer, 1 or more")


class Offload(torch.optim.Optimizer):  # type: ignore[misc]
    """What :func:`offload` makes.

    ``step()`` returns once all parameters are stepped; those that are still on their way to the
    device are waited for where a forward pass comes to their module. Before you read parameters
    otherwise, call :meth:`wait`; state dicts of model and optimizer, and copies of the model, do.

    Attributes:
        report: the :class:`gradstep.Report` of the last step, or None.
        host_bytes: the host memory that it takes, once states are there: gradients, parameters,
            states and what several backward passes need.
    """

    _step_supports_amp_scaling = True
    _is_built = False
    report: Report | None = None

    def __init__(
        self,
        params: Params,
        rule: type[Optimizer],
        model: torch.nn.Module | None,
        how: Options,
        on_device: float | str | Sequence[str],
        link: Link | None,
        options: Mapping[str, Any],
    ) -> None:
        super().__init__(params, {})
        named = () if model is None else model.named_parameters()
        self._names = {id(param): name for name, param in named}
        slots = self._new_slots(self.param_groups)
        stays = choose(slots, on_device)
        for slot in stays:
            slot.stays = True
        if stays:
            check_options(rule.rule, options)
        held = _held(slots)
        if not how.bucket_bytes:
            total = sum(slot.count * slot.here.element_size() for slot in held)
            how = replace(how, bucket_bytes=min(max(total // BUCKETS, LEAST), MOST))
        link = _link_of(slots) if link is None else link
        self._made_of = (rule, how, on_device, link, dict(options))
        self.host_bytes = self._bytes_of(slots, rule, how, options)
        _check_free(self.host_bytes)
        pipeline = Pipeline(slots, link, how, self._push)
        pipeline.lay_out(held, self._cuts(held, rule, options))
        entries = _with(self.param_groups, slots)
        pipeline.inner = self._inner = rule(entries, **options)
        self._pipeline = pipeline
        self.defaults = dict(self._inner.defaults)
        self._pull()
        self._resident = Resident(rule.__name__, self.param_groups, stays) if stays else None
        pipeline.resident = self._resident
        pipeline.attach(held)
        self._handles = [] if model is None else attach(model, pipeline, slots)
        self._is_built = True
        # The model may outlive this: it has all parameters then, and no hooks.
        weakref.finalize(self, pipeline.leave, self._handles).atexit = False

    def _new_slots(self, groups: Sequence[dict[str, Any]], first: int = 0) -> list[Slot]:
        slots: list[Slot] = []
        start = len(self.param_groups) - len(groups)
        for g, group in enumerate(groups, start):
            names = group.get("param_names")
            for i, param in enumerate(group["params"]):
                place = f"param_groups[{g}]['params'][{i}]"
                name = names[i] if names else self._names.get(id(param), place)
                slots.append(Slot(first + len(slots), name, param))
        return slots

    def _bytes_of(
        self, slots: Sequence[Slot], rule: type[Optimizer], how: Options, options: Mapping[str, Any]
    ) -> int:
        """What parameters take in host memory."""
        wide = how.accumulate_in == "float32"
        held = _held(slots)
        asked = StorageOptions(
            options.get("states"), options.get("rounding"), options.get("split", False)
        )
        groups = {id(p): group for group in self.param_groups for p in group["params"]}
        rules = [rule.rule, *(rule_of(group, rule.rule) for group in self.param_groups)]
        total = 0
        for slot in slots:
            group = groups[id(slot.param)]
            own = rule_of(group, rule.rule)
            values = {**own.defaults, **options, **group}
            keeping = Keeping(own, asked.of(own, rules), options.get("average") is not None)
            if slot in held:
                total += slot.count * slot.here.element_size()
                total += slot.count * grad_dtype(slot, wide).itemsize
            if slot in held or own.constant:  # some states are there from the start
                total += keeping.bytes_of(slot.here, values)
        if stages_gradients(how):
            largest: dict[torch.dtype, int] = {}
            for slot in held:
                size, dtype = slot.count * slot.here.element_size(), slot.here.dtype
                largest[dtype] = max(largest.get(dtype, 0), min(size, how.bucket_bytes))
            total += 2 * sum(largest.values())
        return total

    def _cuts(
        self, slots: Sequence[Slot], rule: type[Optimizer], options: Mapping[str, Any]
    ) -> set[Slot]:
        """Parameters whose elements know nothing of each other, so that pieces can be stepped."""
        groups = {id(p): group for group in self.param_groups for p in group["params"]}
        if options.get("stats") or any(layout.is_sharded(slot.param) for slot in slots):
            return set()
        cuts = set()
        for slot in slots:
            group = groups[id(slot.param)]
            own = rule_of(group, rule.rule)
            values = {**own.defaults, **options, **group}
            whole = own.memory_names or own.factors or own.has_direction or own.common
            if not (whole or own.takes_loss or own.gathers_for(values)):
                cuts.add(slot)
        return cuts

    # ---- hyperparameters ----

    def _push(self) -> None:
        """Bring hyperparameters to what steps, before a step begins."""
        inner = self._inner.param_groups
        if len(self.param_groups) != len(inner):
            raise RuntimeError(
                f"param_groups: got {len(self.param_groups)} of them, wanted {len(inner)}: add "
                "groups by add_param_group()"
            )
        for group, own in zip(self.param_groups, inner, strict=True):
            for key, value in group.items():
                if key != "params" and own.get(key) is not value:
                    own[key] = value
        self._seen = [dict(group) for group in self.param_groups]
        self._seen_stages = dict(self._inner.stages)

    def _pull(self) -> None:
        """Show the hyperparameters of the step that was made."""
        for group, own in zip(self.param_groups, self._inner.param_groups, strict=True):
            group.update({key: value for key, value in own.items() if key != "params"})

    def _changed(self) -> str | None:
        """What was changed too late for the step that was begun within the backward pass."""
        values = [
            (f"param_groups[{i}] {key}", group[key], seen.get(key))
            for i, (group, seen) in enumerate(zip(self.param_groups, self._seen, strict=True))
            for key in group
            if key != "params"
        ]
        seen_stages = self._seen_stages
        values += [(f"stages[{k!r}]", now, seen_stages[k]) for k, now in self._inner.stages.items()]
        for name, now, before in values:
            if now is not before and now != before:
                return (
                    f"{name}: got {now!r} after the backward pass, within which layers were "
                    f"stepped with {before!r}, as all were now; wanted it set before the backward "
                    "pass, or offload(..., in_backward=False)"
                )
        return None

    # ---- the step ----

    def step(self, closure: Callable[[], Any] | None = None, loss: Any = None) -> Any:
        """Update every parameter whose gradient has come, see :meth:`Optimizer.step`.

        Args:
            closure: evaluates the model again, with gradients, and returns the loss.
            loss: the loss, for rules that step by it, where no closure returns it.

        Returns:
            What ``closure`` returned, or None.

        Raises:
            RuntimeError: hyperparameters were changed after layers were stepped by the gradients,
                within the backward pass: the step is made with those from before.
        """
        returned = None
        rules = {group.rule for group in self._inner.groups}
        if closure is not None:
            returned, loss = evaluated(closure, loss, rules)
        if loss is not None and not any(rule.takes_loss for rule in rules):
            names = ", ".join(rule.name for rule in rules)
            raise ValueError(f"loss: got {loss!r}, which {names} does not use, wanted none")
        found, scale = getattr(self, "found_inf", None), getattr(self, "grad_scale", None)
        changed = self._changed() if self._pipeline.is_under_way else None
        try:
            report = self._pipeline.finish(
                number(loss),
                1.0 if scale is None else float(scale),
                found is not None and bool(found),
            )
        except BaseException:
            for name in ("found_inf", "grad_scale"):  # a GradScaler leaves them
                self.__dict__.pop(name, None)
            raise
        self.report = self._skipped() if report is None else report
        if changed is not None:
            raise RuntimeError(changed)
        self._pull()
        return returned

    def _skipped(self) -> Report:
        rates = tuple(float(plain(group["lr"])) for group in self.param_groups)
        t = self._inner.engine.t
        return Report(t, rates[0] if len(rates) == 1 else rates, {"skipped": True})

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget gradients that no step has used.

        Raises:
            RuntimeError: layers were stepped by them already, within the backward pass.
        """
        self._pipeline.discard("zero_grad")
        super().zero_grad(set_to_none)

    def wait(self) -> None:
        """Wait until the device has all parameters."""
        self._pipeline.wait()

    def close(self) -> None:
        """Take no more gradients: remove all hooks, once the device has all parameters."""
        self.wait()
        self._pipeline.detach()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    # ---- what a person reads ----

    @property
    def spans(self) -> list[Span] | None:
        """When buckets were stepped, ``("step", begin, end)`` by ``time.perf_counter()``.

        None: nobody notes it. Assign a list to have it noted there.
        """
        return self._pipeline.spans

    @spans.setter
    def spans(self, spans: list[Span] | None) -> None:
        self._pipeline.spans = spans

    @property
    def stages(self) -> Stages:
        """Clipping and more by name, see :attr:`Optimizer.stages`."""
        self._pipeline.settle()
        return self._inner.stages

    @property
    def state(self) -> dict[torch.Tensor, Any]:
        """The state of each parameter of the device, in host memory."""
        if not self._is_built:
            return {}
        self._pipeline.settle()
        kept = self._inner.state
        found = {s.param: kept[s.twin] for s in self._pipeline.slots if kept.get(s.twin)}
        if self._resident is not None:
            found.update(self._resident.optimizer.state)
        return found

    @state.setter
    def state(self, values: Mapping[Any, Any]) -> None:
        if values:
            raise AttributeError("state: got another one, wanted load_state_dict()")

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Have the averages in the device's parameters, see :meth:`Optimizer.averaged`."""
        self.wait()
        self._pipeline.read_again()
        try:
            with self._inner.averaged():
                self._pipeline.send_all()
                yield
        finally:
            self._pipeline.send_all()

    # ---- groups, saving and loading ----

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as in ``torch.optim``."""
        if not self._is_built:
            super().add_param_group(param_group)
            return
        if self._resident is not None:
            raise ValueError(
                "add_param_group: got a group with on_device, wanted all groups in the constructor"
            )
        if self._pipeline.is_open:
            raise RuntimeError(
                "add_param_group: got a group while gradients wait for step(), wanted it after that"
            )
        self.wait()
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        pipeline, (rule, how, _, _, options) = self._pipeline, self._made_of
        before = pipeline.buckets
        try:
            slots = self._new_slots([group], len(pipeline.slots))
            held = _held(slots)
            more = self._bytes_of(slots, rule, how, options)
            _check_free(more)
            pipeline.lay_out(held, self._cuts(held, rule, options))
            self._inner.add_param_group(_with([group], slots)[0])
        except BaseException:
            self.param_groups.pop()
            pipeline.keep_only(before)
            raise
        self.host_bytes += more
        pipeline.slots += slots
        pipeline.attach(held)
        self._pull()

    @private.keeping_grad_mode
    def state_dict(self) -> dict[str, Any]:
        """As ``torch.optim``'s class of the rule's name has it."""
        self.wait()
        for hook in self._optimizer_state_dict_pre_hooks.values():
            hook(self)
        self._push()
        saved = self._inner.state_dict()
        if self._resident is not None:
            places = {id(slot.param): slot.index for slot in self._pipeline.slots}
            state = self._resident.optimizer.state
            saved["state"] = {**saved["state"], **{places[id(p)]: s for p, s in state.items()}}
        for hook in self._optimizer_state_dict_post_hooks.values():
            saved = hook(self, saved) or saved
        return saved

    @private.keeping_grad_mode
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state dict, see :meth:`Optimizer.load_state_dict`.

        Load the model before or after: its parameters are read again at the next step.
        """
        self.wait()
        self._pipeline.discard("load_state_dict")
        before, after = private.load_hooks(self)
        given = dict(state_dict)
        for hook in before:
            given = hook(self, given) or given
        if self._resident is not None:
            given = self._load_resident(given)
        self._inner.load_state_dict(given)
        self._pull()
        for hook in after:
            hook(self)

    def _load_resident(self, given: dict[str, Any]) -> dict[str, Any]:
        """Load what stays on the device; the rest is returned."""
        assert self._resident is not None
        own = {slot.index: slot.param for slot in self._resident.slots}
        keys = [key for group in given["param_groups"] for key in group["params"]]
        optimizer, rest = self._resident.optimizer, {}
        for key, entry in given["state"].items():
            if keys.index(key) in own:
                param = own[keys.index(key)]
                optimizer.state[param] = {
                    name: value.to(param.device, copy=True)
                    if isinstance(value, torch.Tensor) and name != "step"
                    else copy.deepcopy(value)
                    for name, value in entry.items()
                }
            else:
                rest[key] = entry
        return {**given, "state": rest}

    def __deepcopy__(self, memo: dict[int, Any]) -> Offload:
        saved = copy.deepcopy(self.state_dict())
        groups = [
            {
                **{key: value for key, value in own.source.items() if key in own.rule.defaults},
                **own.driven,
                **{key: group[key] for key in ("param_names", "rule") if key in group},
                "params": copy.deepcopy(group["params"], memo),
            }
            for group, own in zip(self.param_groups, self._inner.groups, strict=True)
        ]
        rule, how, on_device, link, options = self._made_of
        other = Offload(groups, rule, None, how, on_device, link, options)
        other.load_state_dict(saved)
        return other

    def __reduce__(self) -> Any:
        raise TypeError(
            "Offload: got asked for a pickle, wanted its state_dict() saved: hooks and threads are "
            "not in a file"
        )

    def __repr__(self) -> str:
        rule = self._made_of[0].__name__
        text: str = super().__repr__()
        return text.replace("Offload", f"Offload of {rule}", 1)


def _held(slots: Sequence[Slot]) -> list[Slot]:
    """Those that are stepped here."""
    return [slot for slot in slots if slot.param.requires_grad and not slot.stays]


def _with(groups: Sequence[Mapping[str, Any]], slots: Sequence[Slot]) -> list[dict[str, Any]]:
    """Groups with the twins in the place of parameters."""
    rest = iter(slots)
    return [{**g, "params": [next(rest).twin for _ in g["params"]]} for g in groups]


def _link_of(slots: Sequence[Slot]) -> Link:
    """The link of the device on which all parameters are.

    Raises:
        ValueError: they are on several, or on none.
    """
    devices = {slot.device.device for slot in slots}
    if len(devices) > 1:
        raise ValueError(f"params: got some on each of {sorted(map(str, devices))}, wanted one")
    device = devices.pop() if devices else torch.device("cpu")
    if device.type == "cpu":
        raise ValueError(
            "params: got a model on the CPU, wanted one on an accelerator; here the rule's own "
            "class steps it, or link=SimulatedLink() stands for a device"
        )
    return AcceleratorLink(device)


def _check_free(wanted: int) -> None:
    """Raise MemoryError where there is less memory free."""
    free = machine.free_memory()
    if free is not None and wanted > free:
        raise MemoryError(
            f"offload: got {free:,} bytes of free host memory, wanted {wanted:,} for gradients, "
            'parameters and states; states="q8" with split=True takes 8 bytes per parameter of '
            "a bfloat16 model"
        )
