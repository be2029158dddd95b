"""What all rules share: groups, states, the step and its report, saving and loading."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from . import _core, arrays
from .groups import Group, Groups, some
from .hyperparameters import CONSTANT, Drive, Driven, Rule, compile_group

if TYPE_CHECKING:
    from .arrays import Array

    Params = Array | Sequence[Array] | Mapping[str, Array] | Sequence[Mapping[str, Any]]
    Grads = Array | Sequence[Any] | Mapping[str, Any] | None
    Value = float | Callable[[int], float]


class Report:
    """What a step did.

    Attributes:
        t: updates applied so far, this one included.
        lr: the rate that was used; a tuple, one a group, where there are several.
    """

    __slots__ = ("lr", "t")

    def __init__(self, t: int, lr: float | tuple[float, ...]) -> None:
        self.t = t
        self.lr = lr

    def to_dict(self) -> dict[str, Any]:
        """The attributes by name, as plain numbers and tuples: ``json.dumps`` takes it."""
        return {"t": self.t, "lr": self.lr}

    def to_json(self) -> str:
        """The report as one JSON object on one line."""
        return json.dumps(self.to_dict())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Report) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.t, self.lr))

    def __repr__(self) -> str:
        return f"Report(t={self.t}, lr={self.lr})"


class _Row:
    """What a group was when it was last compiled, and what must be called at each step."""

    __slots__ = ("driven", "fixed", "group", "index", "on", "single")

    def __init__(
        self,
        index: int,
        group: Group,
        on: tuple[bool, ...],
        fixed: dict[str, Any],
        single: bool,
    ) -> None:
        self.index = index
        self.group = group
        self.on = on  # which of the rule's states it was built with
        self.fixed = fixed  # the hyperparameters that its states started from
        self.single = single  # whether it has float32 parameters
        self.driven: list[Driven] = []


class Optimizer:
    """The base of all rules: groups, states, the step and its report.

    Args:
        params: one array, a sequence of arrays, a mapping from name to array, or a list of groups.
            A group is a mapping with ``params`` (one of the former three) and, if it wants,
            ``name``, ``frozen`` and hyperparameters of its own. Arrays are float32 or float64,
            of any shape, C-contiguous and writable; they are updated in place and kept, not copied.
        defaults: the hyperparameters of groups that do not name them.

    Any numeric hyperparameter may be a number, a schedule, or a callable that takes the index k of
    the step about to be made (0, 1, …) and returns a number.

    Raises:
        TypeError, ValueError: naming the argument, what it got and what it wanted.
    """

    rule: ClassVar[str]
    _drive: Drive | None

    def __init__(self, params: Params, defaults: Mapping[str, Any]) -> None:
        if not hasattr(self, "rule"):
            raise TypeError("Optimizer: got the base class, wanted a rule such as AdamW")
        self._defaults = {**defaults, "frozen": False}
        self._groups: list[Group] = []
        self._rows: list[_Row] = []
        self._params: list[Array] = []
        self._states: list[list[Array | None]] = []
        # Of each parameter and, last, of the optimizer: the core counts with the step, so that no
        # signal can come between.
        self._counts = np.zeros(1, dtype=np.int64)
        self._group_of: list[int] = []
        self._lock = threading.Lock()
        self._catalogue = Rule(self.rule)
        if (
            isinstance(params, list | tuple)
            and params
            and all(isinstance(item, Mapping) for item in params)
        ):
            self._grouped = True
            for group in params:
                self._append(group)
        else:
            self._grouped = False
            self._append({"params": params})
        self._prepare()

    # ---- what a person reads ----

    @property
    def t(self) -> int:
        """Updates applied so far: the index that schedules get at the next step."""
        return self._counts.item(-1)

    @property
    def groups(self) -> Groups:
        """The groups; assign to their entries to change hyperparameters."""
        return Groups(self._groups)

    @property
    def state(self) -> dict[str, dict[str, Any]]:
        """For each parameter's name its own update count ``step`` and its state arrays, live."""
        # Views, which cannot be resized: the core keeps the arrays' addresses.
        return {
            name: {
                "step": int(count),
                **{key: array.view() for key, array in self._named(states).items()},
            }
            for name, count, states in zip(
                self._names(), self._counts[:-1], self._states, strict=True
            )
        }

    def __repr__(self) -> str:
        elements = sum(p.size for p in self._params)
        state_bytes = sum(s.nbytes for states in self._states for s in states if s is not None)
        counts = f"{_count(len(self._params), 'parameter')}, {_count(elements, 'element')}"
        lines = [f"{type(self).__name__}(t={self.t}, {counts}, states {state_bytes:,} bytes)"]
        for i, group in enumerate(self._groups):
            label = f"group {i}" + (f" {group.name!r}" if group.name is not None else "")
            values = ", ".join(f"{key}={value!r}" for key, value in group.items())
            lines.append(f"  {label}: {values}")
        return "\n".join(lines)

    # ---- the step ----

    def step(self, grads: Grads) -> Report:
        """Update every parameter in place.

        Args:
            grads: gradients in the structure of ``params`` (for groups: a list with each group's
                structure), each of its parameter's dtype and shape. None leaves its parameter,
                state and own count untouched. They are read, never written.

        Returns:
            The :class:`Report` of this step.

        Raises:
            TypeError, ValueError: before anything is written, naming the gradient or
                hyperparameter, what it got and what it wanted.
            RuntimeError: this optimizer is stepping in another thread at this moment.
        """
        if not self._lock.acquire(False):
            raise RuntimeError("step: this optimizer is at work in another thread")
        try:
            k = self._counts.item(-1)
            for row in self._rows:
                if row.group.changed:
                    self._compile(row)
            if self._drive is None:
                driven = [(row.index, one) for row in self._rows for one in row.driven]
                self._drive = Drive(self._settings, driven)
            self._drive(k)
            flat = self._flatten(grads)
            while (refused := self._plan.step(flat)) != -1:
                flat = self._explain(refused, flat)
            if len(self._rows) == 1:
                return Report(k + 1, self._settings.item(self._lr_column))
            return Report(k + 1, tuple(self._settings[:, self._lr_column].tolist()))
        finally:
            self._lock.release()

    def _flatten(self, grads: Any) -> list[Any]:
        if not self._grouped:
            return self._groups[0].flatten("grads", grads)
        if not isinstance(grads, list | tuple):
            raise TypeError(
                f"grads: got {type(grads).__name__}, wanted a list of "
                f"{len(self._groups)}, each group's gradients"
            )
        if len(grads) != len(self._groups):
            raise ValueError(
                f"grads: got {len(grads)} values, wanted {len(self._groups)}, as many as groups"
            )
        return [
            g
            for i, group in enumerate(self._groups)
            for g in group.flatten(f"grads[{i}]", grads[i])
        ]

    def _explain(self, refused: int, grads: list[Any]) -> list[Any]:
        """Raise for what the core refused, or replace harmless subclasses by plain arrays."""
        if refused < -1:
            i = -2 - refused
            argument = self._arguments("params")[i]
            param = arrays.check(argument, self._params[i], writable=True)
            raise ValueError(
                f"{argument}: got {param.size} elements at another address than when "
                "the optimizer was built, wanted an array that was not resized"
            )
        if type(grads[refused]) is np.ndarray:
            argument, array = self._arguments("grads")[refused], grads[refused]
            arrays.check(argument, array, writable=False, like=self._params[refused])
            arrays.check_apart(argument, array, self._written())
            raise RuntimeError(f"{argument}: refused by the core, not by the checks: a defect")
        arguments = self._arguments("grads")
        return [
            g
            if g is None or type(g) is np.ndarray
            # arithmetic on a 0-d array gives a NumPy scalar
            else arrays.check(
                argument, np.asarray(g) if isinstance(g, np.generic) else g, writable=False, like=p
            )
            for argument, g, p in zip(arguments, grads, self._params, strict=True)
        ]

    # ---- groups ----

    def add_group(self, group: Mapping[str, Any]) -> None:
        """Add a group of parameters, a mapping as in the constructor.

        From then on ``step`` takes a list with each group's gradients.

        Raises:
            TypeError, ValueError: as the constructor; nothing is added then.
        """
        _check_kind("group", group, Mapping)
        with self._exclusive("add_group"):
            before = len(self._params)
            self._append(group)
            try:
                self._prepare()
            except BaseException:
                self._groups.pop()
                self._rows.pop()
                del self._params[before:], self._states[before:], self._group_of[before:]
                self._counts = np.append(self._counts[:before], self._counts[-1])
                self._prepare()
                raise
            self._grouped = True

    def _append(self, given: Mapping[str, Any]) -> None:
        """Check a group and make its states. Changes nothing if it raises."""
        index = len(self._groups)
        numbered = self._grouped or index > 0
        where = f"params[{index}]" if numbered else "params"
        values = dict(given)
        if "params" not in values:
            raise ValueError(f"{where}: got a group without 'params', wanted its arrays there")
        params = values.pop("params")
        name = values.pop("name", None)
        if name is not None and (
            not isinstance(name, str) or any(name == g.name for g in self._groups)
        ):
            raise ValueError(
                f"{where}['name']: got {name!r}, wanted a text that no other group has"
            )
        argument = f"{where}['params']" if numbered else where
        if isinstance(params, Mapping):
            for key in params:
                if not isinstance(key, str):
                    raise TypeError(f"{argument}: got the key {key!r}, wanted names as text")
            if (
                not numbered
                and "params" in params
                and not all(isinstance(value, np.ndarray) for value in params.values())
            ):
                raise TypeError(
                    f"{argument}: got one group, wanted groups in a list: [{{'params': …}}]"
                )
            params = dict(params)
        elif isinstance(params, list | tuple):
            params = list(params)
        elif not isinstance(params, np.ndarray):
            raise TypeError(
                f"{argument}: got {type(params).__name__}, wanted an array, a sequence "
                "of arrays, a mapping from name to array, or a list of groups"
            )
        if not isinstance(params, np.ndarray) and not params:
            raise ValueError(f"{argument}: got no arrays, wanted at least one")
        group = Group(name, params, {**self._defaults, **values})
        # Kept as they were given: a view would not show that one is resized or locked later.
        flat = group.flatten("", params)
        for label, array in zip(group.labels(), flat, strict=True):
            arrays.check(argument + label, array, writable=True)
        single = any(p.dtype == np.float32 for p in flat)
        compile_group(self._prefix(index), self._catalogue, self._defaults, group, single)
        self._check_group(self._prefix(index), group)
        row = _Row(
            index,
            group,
            tuple(state.is_on(group) for state in self._catalogue.states),
            {key: group[key] for key in CONSTANT if key in group},
            single,
        )
        states = [
            [self._new_state(i, group, p) if on else None for i, on in enumerate(row.on)]
            for p in flat
        ]
        self._groups.append(group)
        self._rows.append(row)
        self._params += flat
        self._states += states
        self._group_of += [index] * len(flat)
        self._counts = np.insert(self._counts, -1, np.zeros(len(flat), dtype=np.int64))

    def _new_state(self, index: int, group: Group, param: Array) -> Array:
        initial = self._catalogue.states[index].initial
        if initial is None or group[initial] == 0:
            return np.zeros(param.shape, param.dtype)
        return np.full(param.shape, group[initial], param.dtype)

    def _check_group(self, prefix: str, group: Mapping[str, Any]) -> None:
        """What a rule demands of several hyperparameters together."""

    def _compile(self, row: _Row) -> None:
        """Bring a group that was changed into the core's settings."""
        group, prefix = row.group, self._prefix(row.index)
        group.changed = False  # first: what another thread assigns from here on is seen next time
        try:
            self._compile_checked(row, group, prefix)
        except BaseException:
            group.changed = True
            raise

    def _compile_checked(self, row: _Row, group: Group, prefix: str) -> None:
        values, driven = compile_group(prefix, self._catalogue, self._defaults, group, row.single)
        self._check_group(prefix, group)
        for state, had in zip(self._catalogue.states, row.on, strict=True):
            value = group[state.option] if state.option else None
            if state.is_on(group) != had and (not had or isinstance(value, bool | np.bool_)):
                raise ValueError(
                    f"{prefix}{state.option}: got {value!r}, but the group was built "
                    f"{'with' if had else 'without'} {state.name}, wanted a value that keeps it so"
                )
        for key, value in row.fixed.items():
            if group[key] != value:
                raise ValueError(
                    f"{prefix}{key}: got {group[key]!r}, but the states started from "
                    f"{value!r}, wanted a new optimizer for another start"
                )
        self._settings[row.index] = values
        for key, value in group.items():
            if isinstance(value, list):
                dict.__setitem__(group, key, tuple(value))  # a change within would go unnoticed
        row.driven = driven
        self._drive = None  # to be made anew

    def _prepare(self) -> None:
        """Build what the core needs for a step, anew whenever the arrays have changed."""
        arguments = self._arguments("params")
        arrays.check_disjoint(arguments, self._params)
        first: dict[str, str] = {}
        for argument, name in zip(arguments, self._names(), strict=True):
            if (other := first.setdefault(name, argument)) != argument:
                raise ValueError(
                    f"{argument}: got the name {name!r} in the state, which {other} "
                    "has, wanted group names that keep them apart"
                )
        columns = len(self._catalogue.hyper_names) + 2
        self._settings = np.zeros((len(self._groups), columns))
        self._lr_column = self._catalogue.hyper_names.index("lr")
        for row in self._rows:
            self._compile(row)
        self._plan = _core.Plan(
            self.rule, self._params, self._states, self._group_of, self._counts, self._settings
        )

    # ---- names ----

    def _prefix(self, index: int) -> str:
        return f"groups[{index}] " if self._grouped or index else ""

    def _arguments(self, root: str) -> list[str]:
        """What each parameter, or its gradient, is called in an error."""
        if not self._grouped and len(self._groups) == 1:
            return [root + label for label in self._groups[0].labels()]
        inner = "['params']" if root == "params" else ""
        return [
            f"{root}[{i}]{inner}{label}"
            for i, group in enumerate(self._groups)
            for label in group.labels()
        ]

    def _names(self) -> list[str]:
        """What each parameter is called in the state: its name, after its group's if several."""
        if len(self._groups) == 1:
            return self._groups[0].names()
        return [
            f"{i if group.name is None else group.name}.{name}"
            for i, group in enumerate(self._groups)
            for name in group.names()
        ]

    def _named(self, states: Sequence[Array | None]) -> dict[str, Array]:
        pairs = zip(self._catalogue.states, states, strict=True)
        return {state.name: array for state, array in pairs if array is not None}

    def _written(self) -> Iterator[tuple[str, Array]]:
        """Every array that a step writes, with its name."""
        for argument, param, states in zip(
            self._arguments("params"), self._params, self._states, strict=True
        ):
            yield argument, param
            for name, array in self._named(states).items():
                yield f"{name} of {argument}", array

    # ---- saving and loading ----

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, as copies.

        Returns:
            ``rule``; ``t``; ``state``: for each parameter's name its ``step`` and state arrays;
            ``groups``: each group's hyperparameters, its ``name`` and the names of its ``params``.
        """
        with self._exclusive("state_dict"):
            return {
                "rule": self.rule,
                "t": self.t,
                "state": {
                    name: {
                        key: value.copy() if isinstance(value, np.ndarray) else value
                        for key, value in entry.items()
                    }
                    for name, entry in self.state.items()
                },
                "groups": [
                    {**group, "name": group.name, "params": group.names()} for group in self._groups
                ],
            }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a :meth:`state_dict`; its arrays are copied, hyperparameters included.

        Raises:
            TypeError, ValueError: it does not fit this optimizer; nothing is changed then.
        """
        with self._exclusive("load_state_dict"):
            groups = self._check_state_dict(state_dict)
            before = [dict(group) for group in self._groups]
            try:
                for row, values in zip(self._rows, groups, strict=True):
                    row.group.clear()
                    row.group.update(values)
                    self._compile(row)
            except BaseException:
                for group, values in zip(self._groups, before, strict=True):
                    group.clear()
                    group.update(values)
                raise
            self._counts[-1] = state_dict["t"]
            for i, (name, states) in enumerate(zip(self._names(), self._states, strict=True)):
                entry = state_dict["state"][name]
                self._counts[i] = entry["step"]
                for key, array in self._named(states).items():
                    array[...] = entry[key]

    def _check_state_dict(self, given: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Raise if a state dict does not fit; return its groups' hyperparameters."""
        _check_kind("state_dict", given, Mapping)
        for key in ("rule", "t", "state", "groups"):
            if key not in given:
                raise ValueError(f"state_dict: got no {key!r}, wanted rule, t, state and groups")
        if given["rule"] != self.rule:
            raise ValueError(f"state_dict['rule']: got {given['rule']!r}, wanted {self.rule!r}")
        _check_count("state_dict['t']", given["t"])
        _check_kind("state_dict['groups']", given["groups"], list | tuple)
        if len(given["groups"]) != len(self._groups):
            raise ValueError(
                f"state_dict['groups']: got {len(given['groups'])}, wanted {len(self._groups)}"
            )
        values = []
        for i, (entry, group) in enumerate(zip(given["groups"], self._groups, strict=True)):
            where = f"state_dict['groups'][{i}]"
            _check_kind(where, entry, Mapping)
            params = entry.get("params", ())
            _check_kind(f"{where}['params']", params, list | tuple)
            if list(params) != group.names():
                raise ValueError(
                    f"{where}['params']: got {some(params) or 'nothing'}, "
                    f"wanted {some(group.names())}"
                )
            values.append({k: v for k, v in entry.items() if k not in ("params", "name")})
        names = self._names()
        _check_kind("state_dict['state']", given["state"], Mapping)
        if set(given["state"]) != set(names):
            raise ValueError(
                f"state_dict['state']: got {some(list(given['state']))}, wanted {some(names)}"
            )
        for name, states in zip(names, self._states, strict=True):
            entry, own = given["state"][name], self._named(states)
            where = f"state_dict['state'][{name!r}]"
            _check_kind(where, entry, Mapping)
            if set(entry) != {"step", *own}:
                raise ValueError(f"{where}: got {some(list(entry))}, wanted {some(['step', *own])}")
            _check_count(f"{where}['step']", entry["step"])
            for key, array in own.items():
                arrays.check(f"{where}[{key!r}]", entry[key], writable=False, like=array)
        return values

    def __copy__(self) -> Optimizer:
        raise TypeError(
            f"copy: got {type(self).__name__}, whose copy would share its states; "
            "wanted copy.deepcopy"
        )

    def __getstate__(self) -> dict[str, Any]:
        with self._exclusive("pickling"):
            state = self.__dict__.copy()
        for key in ("_plan", "_lock", "_settings", "_drive", "_rows", "_catalogue", "_params"):
            del state[key]
        state["_built"] = [(row.on, row.fixed, row.single) for row in self._rows]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        built = state.pop("_built")
        self.__dict__.update(state)
        self._lock = threading.Lock()
        self._catalogue = Rule(self.rule)
        self._rows = [
            _Row(i, group, *kept)
            for i, (group, kept) in enumerate(zip(self._groups, built, strict=True))
        ]
        self._params = [p for group in self._groups for p in group.flatten("", group.params)]
        for label, array in zip(self._arguments("params"), self._params, strict=True):
            arrays.check(label, array, writable=True)
        self._prepare()

    def _exclusive(self, what: str) -> _Exclusive:
        return _Exclusive(self._lock, what)


class _Exclusive:
    """Holds an optimizer's lock, or raises at once where another thread does."""

    def __init__(self, lock: threading.Lock, what: str) -> None:
        self._lock = lock
        self._what = what

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise RuntimeError(f"{self._what}: this optimizer is at work in another thread")

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _check_count(argument: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{argument}: got {type(value).__name__}, wanted an integer")
    if not 0 <= value < _core.step_limit:
        raise ValueError(f"{argument}: got {value}, wanted 0 or more, below 2**52")


def _check_kind(argument: str, value: object, kind: Any) -> None:
    if not isinstance(value, kind):
        wanted = "a mapping" if kind is Mapping else "a list"
        raise TypeError(f"{argument}: got {type(value).__name__}, wanted {wanted}")


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
