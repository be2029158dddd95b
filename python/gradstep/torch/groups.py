"""One of PyTorch's parameter groups: what drives its hyperparameters, and what it shows of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
import torch

from .. import _core
from ..engine import Row
from ..hyperparameters import call
from ..rule import RULES, Rule, named
from ..watched import Watched

# How a step is carried out by PyTorch: it changes no number. Kept in checkpoints for swapping back.
EXECUTION = ("foreach", "fused", "capturable", "differentiable")
PASSES = ("foreach", "fused")  # they ask for one pass over all tensors, which each step is


def plain(value: Any) -> Any:
    """A hyperparameter as a number where it is a tensor; in pairs, too."""
    if isinstance(value, torch.Tensor):
        return value.item() if value.numel() == 1 else value
    if isinstance(value, tuple | list):
        return tuple(plain(item) for item in value)
    return value


def portable(value: Any) -> Any:
    """A value that ``torch.load(weights_only=True)`` takes: NumPy's scalars as Python's."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple | list):
        return type(value)(portable(item) for item in value)
    return value


def rule_of(group: Mapping[str, Any], rule: Rule) -> Rule:
    """The rule that a group names, or the optimizer's."""
    given = group.get("rule")
    if given is None:
        return rule
    known = getattr(given, "rule", given)
    return known if isinstance(known, Rule) else named(known)


def _is_driven(value: Any) -> bool:
    return any(map(callable, value)) if isinstance(value, tuple) else callable(value)


def load_state(argument: str, one: Any, saved: Any, undo: list[Callable[[], None]]) -> None:
    """Load what has a state of its own, after what undoes it was added to ``undo``.

    Raises:
        ValueError: it does not take the state, by the name of where that stands.
    """
    undo.append(partial(one.load_state_dict, one.state_dict()))
    try:
        one.load_state_dict(saved)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{argument}: {error}") from error


class Group:
    """What stands behind one entry of ``param_groups``.

    Args:
        source: the entry, a dictionary that anyone may change.
        index: its position.
        rule: the rule that steps its parameters.
        twin: what PyTorch's class has in its groups besides, and the only value it may have here.

    Attributes:
        values: the hyperparameters as the engine compiles them; what drives one stands in it.
        driven: what drives hyperparameters, by their names.
        entry: tells a step at little cost whether the values are the same objects as they were.
        fixed: what the states of its parameters started from, see :meth:`Rule.fixed`; empty while
            there are none.

    Raises:
        TypeError, ValueError: a hyperparameter is refused.
    """

    def __init__(
        self, source: dict[str, Any], index: int, rule: Rule, twin: Mapping[str, Any]
    ) -> None:
        self._source = source
        self.index = index
        self.rule = rule
        self.driven: dict[str, Any] = {}
        self.fixed: dict[str, Any] = {}
        self._shown: dict[str, Any] = {}  # what stands in the entry for what drives
        self._twin = {} if "rule" in source else dict(twin)
        self._keys = [key for key in rule.defaults if key != "frozen"]
        always = [key for key in self._keys if key not in rule.switches]
        always += [key for key in self._twin if key not in EXECUTION]
        self._watched = (*always, *rule.switches)
        self._getter = itemgetter(*always)
        self._drop_what_is_off()
        self.entry = _core.Entry(source, self._watched)
        self._seen: Any = None  # the entry's values, when they were last taken
        self._is_live = False  # whether they are tensors or lists, which change in place
        self._check_execution()
        for key in self._keys:
            if isinstance(source.get(key), list):
                source[key] = tuple(source[key])
        self.values = Watched(self._taken())

    def __getstate__(self) -> dict[str, Any]:
        kept = {key: value for key, value in vars(self).items() if key != "entry"}
        return {**kept, "_seen": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({"fixed": {}, **state})  # which older pickles lack
        self.entry = _core.Entry(self._source, self._watched)

    @property
    def source(self) -> dict[str, Any]:
        """The entry of ``param_groups``; another one may be put in its place."""
        return self._source

    @source.setter
    def source(self, source: dict[str, Any]) -> None:
        self._source = source
        self._drop_what_is_off()
        self.entry = _core.Entry(source, self._watched)
        self._seen = None

    def _drop_what_is_off(self) -> None:
        """Drop the keys of switches that are off: PyTorch's groups and checkpoints have none."""
        for key in self.rule.switches:
            if self._source.get(key) is False:
                del self._source[key]

    def _current(self) -> Any:
        """The values that stand in the entry, in the order in which they are watched."""
        values = self._getter(self._source)
        if self.rule.switches:
            values = (*values, *(self._source.get(key, ...) for key in self.rule.switches))
        return values

    @property
    def prefix(self) -> str:
        """What stands before a hyperparameter's name in an error."""
        return f"param_groups[{self.index}] "

    @property
    def single(self) -> bool:
        """Whether it has parameters that are stepped in float32."""
        return any(tensor.dtype != torch.float64 for tensor in self.source["params"])

    def check(self, source: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        """The hyperparameters of an entry such as this, checked one by one."""
        self._check_twin(source, prefix)
        values = self.hyperparameters(source)
        self.rule.compile(prefix, values, self.single)
        return values

    def numbers(self, values: Mapping[str, Any]) -> list[float]:
        """Hyperparameters in the kernels' order; NaN for what a function gives."""
        return self.rule.compile(self.prefix, values, self.single).hyper

    def hyperparameters(self, source: Mapping[str, Any]) -> dict[str, Any]:
        """The rule's hyperparameters in an entry, as numbers where they are tensors."""
        values = {key: plain(source[key]) for key in self._keys if key in source}
        return {**dict.fromkeys(self.rule.switches, False), **values, "frozen": False}

    def _check_execution(self) -> None:
        """Raise ValueError for a way to step that is not ours; a checkpoint may have been of it."""
        for key in EXECUTION:
            allowed = (None, False, True) if key in PASSES else (None, False)
            if self.source.get(key) not in allowed:
                raise ValueError(
                    f"{self.prefix}{key}: got {self.source[key]!r}, wanted "
                    f"{', '.join(map(str, allowed[:-1]))} or {allowed[-1]}: every step is one "
                    "native pass on the CPU"
                )

    def _check_twin(self, source: Mapping[str, Any], prefix: str) -> None:
        for key, meant in self._twin.items():
            if key not in EXECUTION and source.get(key, meant) != meant:
                raise ValueError(f"{prefix}{key}: got {source[key]!r}, wanted {meant!r}")
        others = {key for rule in RULES.values() for key in rule.defaults} - {*self._keys}
        for key in source if "rule" in source else ():
            if key in others and key not in (*self._twin, *EXECUTION):
                raise TypeError(
                    f"{prefix}{key}: got a hyperparameter that {self.rule.name} does not have, "
                    f"wanted one of {', '.join(self._keys)}"
                )

    # ---- from the entry to the engine ----

    def _taken(self) -> dict[str, Any]:
        """The entry's values, and what drives them where nobody has put another value."""
        if any(_is_driven(self.source.get(key)) for key in self._keys):
            self._take_drivers()
        values = self.check(self.source, self.prefix)
        for key, shown in self._shown.items():
            if values[key] == shown or self._is_as_scheduled(key, values[key]):
                values[key] = self.driven[key]
        return values

    def _take_drivers(self) -> None:
        """Keep what drives hyperparameters, and put what it gives at first in its place."""
        values = self.hyperparameters(self.source)
        numbers = self.rule.compile(self.prefix, values, self.single)
        row = list(numbers.hyper)
        for one in numbers.driven:
            row[one.column] = call(one, 0)
        first = self.rule.by_name(row)
        for one in numbers.driven:
            self.driven[one.key] = values[one.key]
            self._shown[one.key] = self.source[one.key] = first[one.key]

    def _is_as_scheduled(self, key: str, value: Any) -> bool:
        """Whether one of PyTorch's schedulers has put a driven rate back to where it began.

        A scheduler multiplies the rate that it found. Times 1, as Trainer's "constant" is, our own
        schedule goes on; two schedules at once have no plain meaning.
        """
        if key != "lr" or "initial_lr" not in self.source:
            return False
        if value == plain(self.source["initial_lr"]):
            return True
        raise ValueError(
            f"{self.prefix}lr: got {value!r} from an lr_scheduler, or assigned beside one, but "
            f"{self.driven[key]!r} drives the rate; wanted one of the two: a number as lr for the "
            "lr_scheduler, or one that keeps the rate, such as Trainer's lr_scheduler_type="
            "'constant'"
        )

    def sync(self) -> None:
        """Bring what was assigned in the entry to the engine."""
        values = self._current()
        try:
            if not self._is_live and values == self._seen:
                return
        except RuntimeError:  # a tensor that is no number: refused below
            pass
        except ValueError:  # an array of several numbers: likewise
            pass
        taken = self._taken()
        self._note(self._current())
        if taken != self.values:
            self.values.replace(taken)

    def _note(self, values: Any) -> None:
        self._seen = values
        many = values if isinstance(values, tuple) else (values,)
        flat = chain.from_iterable(v if isinstance(v, tuple | list) else (v,) for v in many)
        self._is_live = any(isinstance(value, torch.Tensor) for value in flat) or any(
            isinstance(value, list) for value in many
        )
        self.entry.note(None if self._is_live else many)

    # ---- from the engine to the entry ----

    def show(self, row: Row, numbers: Sequence[float]) -> None:
        """Put the values that drove a step where people look for them.

        Args:
            row: the group as it is compiled.
            numbers: the rule's hyperparameters in that step, in the kernels' order.
        """
        if not row.driven:
            return
        used = self.rule.by_name(list(numbers))
        now = {one.key: used[one.key] for one in row.driven}
        self._shown.update(now)
        self.source.update(now)
        self._note(self._current())

    # ---- checkpoints ----

    def states_of_drivers(self) -> dict[str, Any]:
        """What drives hyperparameters and has a state of its own, by name: that state."""
        return {name: one.state_dict() for name, one in self._stateful()}

    def load_states_of_drivers(
        self, argument: str, saved: Mapping[str, Any], undo: list[Callable[[], None]]
    ) -> None:
        """Load them, after what undoes each was added to ``undo``."""
        for name, one in self._stateful():
            if name in saved:
                load_state(f"{argument}[{name!r}]", one, saved[name], undo)

    def _stateful(self) -> list[tuple[str, Any]]:
        return [
            (name, one)
            for key, value in self.driven.items()
            for name, one in (
                [(f"{key}[{i}]", item) for i, item in enumerate(value)]
                if isinstance(value, tuple)
                else [(key, value)]
            )
            if hasattr(one, "state_dict") and hasattr(one, "load_state_dict")
        ]

    def accept_loaded(self) -> None:
        """Take the values that stand in the entry as those that show what drives."""
        self.fixed = {}
        values = self.hyperparameters(self.source)
        self._shown = {key: values[key] for key in self.driven}
        self._seen = None
        self.entry.note(None)
        self.values.replace(self._taken())


def check_common(groups: Sequence[Group]) -> None:
    """Raise ValueError where groups of a rule differ in what they are to share."""
    for rule in dict.fromkeys(group.rule for group in groups):
        own = [group for group in groups if group.rule is rule] if rule.common else []
        for group in own:
            group.sync()
        rule.check_common([(group.prefix, group.numbers(group.values)) for group in own])
