"""Saving and loading: the state dict, whether one fits, and then all of it or nothing."""

from __future__ import annotations

import copy
from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from . import _core, arrays
from .groups import Group, some
from .hyperparameters import whole
from .rule import RULES, Rule, is_on
from .schedules import Plateau
from .storages import named
from .tensors import check_params
from .turn import alone

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

    from .arrays import Array
    from .engine import Compiled, Engine
    from .parameters import Parameters

KEYS = ("rule", "t", "state", "groups", "stages", "storages")  # and, since 0.2, sample


class Saved:
    """What an optimizer is saved as: a state dict, a file, a pickle.

    The part of :class:`gradstep.Optimizer` that its checkpoints are.
    """

    rule: ClassVar[Rule]
    _engine: Engine
    _compiled: Compiled

    @property
    def _held(self) -> Parameters:
        held: Parameters = self._compiled.held  # type: ignore[assignment]
        return held

    @property
    def state(self) -> dict[str, dict[str, Any]]:
        """For each parameter's name its own update count ``step`` and its arrays, live."""
        raise NotImplementedError

    def _take(self, held: Parameters, counts: NDArray[np.int64]) -> None:
        """Step these parameters from now on."""
        raise NotImplementedError

    @alone("state_dict")
    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on besides the parameters, as copies.

        Returns:
            ``rule``; ``t``; ``state``: for each parameter's name its ``step`` and arrays;
            ``groups``: each group's hyperparameters, its ``name``, its ``rule`` and the names of
            its ``params``; ``stages``; ``storages``: of each state by name, and ``split``;
            ``sample``: what ``stats="sample"`` keeps of the gradients.
        """
        saved = self._saved()
        for entry in saved["state"].values():
            entry.update({k: v.copy() for k, v in entry.items() if k != "step"})
        saved["sample"] = saved["sample"].copy()
        return saved

    def _saved(self) -> dict[str, Any]:
        """The state dict, its arrays live."""
        held = self._held
        return {
            "rule": self.rule.name,
            "t": self._engine.t,
            "state": self.state,
            "groups": [
                # copies: a Plateau goes on observing
                {
                    **copy.deepcopy(dict(group)),
                    "name": group.name,
                    "rule": group.rule,
                    "params": group.names(),
                }
                for group in held.groups
            ],
            "stages": copy.deepcopy(dict(self._engine.stages)),
            "storages": named(held.uses()),
            "sample": self._engine.sample,
        }

    @alone("load_state_dict")
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a :meth:`state_dict`; its arrays are copied, hyperparameters included.

        What was given to the constructor is replaced: to go on at another rate, assign it
        afterwards. A ``Plateau`` that stands where an equal one was saved takes over what that
        has seen, so that your reference to it stays the one in use. The arrays of ``copy_to`` are
        filled with the parameters as they are now. An interrupt leaves everything as it was, or
        everything loaded.

        Raises:
            TypeError, ValueError: it does not fit this optimizer; nothing is changed then.
        """
        Loading(self, state_dict)()

    @alone("save")
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the :meth:`state_dict` to a safetensors file, whole or not at all.

        The parameters are not in it: they are yours to save. Nothing is pickled, so a
        hyperparameter that is a callable of your own is refused; a schedule is saved.

        Args:
            path: where; a file that is there is replaced.

        Raises:
            TypeError: a hyperparameter is a callable that is no schedule.
            OSError: the file cannot be written; what was there is still there.
        """
        from . import checkpoint  # noqa: PLC0415 - what few steps need waits until it is asked for

        checkpoint.save(path, self._saved())

    def load(self, path: str | os.PathLike[str]) -> None:
        """Take over what :meth:`save` wrote, in an optimizer that was built alike.

        Args:
            path: the file.

        Raises:
            TypeError, ValueError: the file is damaged, of another kind or a newer version, or does
                not fit this optimizer; nothing is changed then.
            OSError: the file cannot be read.
        """
        from . import checkpoint  # noqa: PLC0415

        checkpoint.pass_on(path, self.load_state_dict)

    def __copy__(self) -> Any:
        raise TypeError(
            f"copy: got {type(self).__name__}, whose copy would share its states; "
            "wanted copy.deepcopy"
        )

    @alone("deepcopy")
    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        other = type(self).__new__(type(self))
        memo[id(self)] = other
        other.__setstate__(copy.deepcopy(self._picklable(), memo))
        return other

    @alone("pickling")
    def __getstate__(self) -> dict[str, Any]:
        # Copies: arrays are written only once this has returned, when a step may go on.
        parts = (self._held.snapshot(), self._compiled.counts.copy())
        return {**self._picklable(), "_engine": copy.deepcopy(self._engine), "_parts": parts}

    def _picklable(self) -> dict[str, Any]:
        own = {key: value for key, value in self.__dict__.items() if key not in _BUILT}
        return {**own, "_parts": (self._held, self._compiled.counts)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        held, counts = self.__dict__.pop("_parts")
        check_params(held.arguments("params"), held.tensors)
        self._take(held, counts)


_BUILT = ("_compiled", "_flatten", "_turn")  # what follows from the rest


class Loading:
    """A state dict on its way into an optimizer: checked, then taken over whole or not at all.

    Args:
        optimizer: where it is to go.
        given: what is to be loaded.

    Raises:
        TypeError, ValueError: it does not fit, naming the entry; nothing is changed then.
    """

    def __init__(self, optimizer: Saved, given: Any) -> None:
        self._optimizer, self._given = optimizer, given
        self._engine: Engine = optimizer._engine
        self._old: Compiled = optimizer._compiled
        self._held = self._built = optimizer._held
        self._check(optimizer.rule.name)
        self._watched = [*self._held.groups, self._engine.stages]
        self._before = [dict(values) for values in self._watched]
        self._fixed = [row.fixed for row in self._held.rows]
        self._begun = [tensor.begun for tensor in self._held.tensors]
        self._loaded, self._plateaus = keep_plateaus(self._before, [*self._groups, given["stages"]])
        self._seen = [plateau.state_dict() for plateau, _ in self._plateaus]

    def __call__(self) -> None:
        """Take it over."""
        optimizer, held, counts = self._optimizer, self._held, self._old.counts
        done = np.zeros(1, dtype=np.int64)
        try:
            if held is not self._built:
                optimizer._take(held, counts)
            pairs = self._pairs(counts)
            for values, new in zip(self._watched, self._loaded, strict=True):
                values.replace(new)
            for row in held.rows:  # the states come with what they started from
                row.fixed = {**row.fixed, **{key: row.group[key] for key in row.rule.constant}}
            optimizer._compiled.compile_changes()
            for plateau, saved in self._plateaus:
                plateau.load_state_dict(saved.state_dict())
            held.fill_copies()  # they follow the parameters, whatever is loaded
            held.note_begun(self._given["t"] > 0)
            optimizer._compiled.look_at_fresh()
            optimizer._compiled.renew_plan()
            # One compiled call, which no signal divides: before it all is undone, after it all is
            # done.
            _core.assign(pairs, done)
        except BaseException:
            if not done[0]:
                try:
                    self._undo()
                except BaseException:  # Ctrl-C again
                    self._undo()
                    raise
            raise

    def _undo(self) -> None:
        for values, old in zip(self._watched, self._before, strict=True):
            values.replace(old)
        for row, fixed in zip(self._built.rows, self._fixed, strict=True):
            row.fixed = fixed
        for (plateau, _), seen in zip(self._plateaus, self._seen, strict=True):
            plateau.load_state_dict(seen)
        for tensor, begun in zip(self._held.tensors, self._begun, strict=True):
            tensor.begun = begun
        if self._held is not self._built:
            self._optimizer._take(self._built, self._old.counts)
        self._optimizer._compiled.compile_changes()
        self._optimizer._compiled.look_at_fresh()

    def _pairs(self, counts: NDArray[np.int64]) -> list[tuple[Array, Array]]:
        """What is to be written, and with what."""
        given, own = self._given, self._held.own()
        steps = [given["state"][name]["step"] for name in own]
        pairs: list[tuple[Array, Array]] = [
            (self._engine.clock, np.array([given["t"]], dtype=np.int64)),
            (counts, np.array(steps, dtype=np.int64)),
        ]
        if self._engine.sample.size:
            saved = given.get("sample")
            none = np.zeros_like(self._engine.sample)
            pairs.append((self._engine.sample, none if saved is None or not saved.size else saved))
        for name, kept in own.items():
            for key, array in kept.items():
                entry = given["state"][name].get(key)
                # one that the saved optimizer had no use for yet starts anew
                pairs.append((array, np.zeros_like(array) if entry is None else entry))
        return pairs

    # ---- checks ----

    def _check(self, rule: str) -> None:
        given = self._given
        check_kind("state_dict", given, Mapping)
        for key in KEYS:
            if key not in given:
                raise ValueError(
                    f"state_dict: got no {key!r}, wanted {', '.join(KEYS[:-1])} and {KEYS[-1]}"
                )
        if given["rule"] != rule:
            raise ValueError(f"state_dict['rule']: got {given['rule']!r}, wanted {rule!r}")
        whole("state_dict['t']", given["t"], _core.step_limit)
        self._groups = _check_groups(given["groups"], self._held.groups)
        check_kind("state_dict['stages']", given["stages"], Mapping)
        self._check_sample(given.get("sample"))
        self._extend()
        wanted = self._wanted()
        unused = {key for own in self._held.own().values() for key in own}
        unused -= {key for own in wanted.values() for key in own}
        _check_storages(given["storages"], named(self._held.uses()), unused)
        _check_state(given["state"], wanted)

    def _extend(self) -> None:
        """Make the states that a hyperparameter called for only after the group was built."""
        held = self._held
        missing: dict[int, list[str]] = {}
        for entry, tensor in zip(self._entries(), held.tensors, strict=True):
            row = held.rows[tensor.group]
            later = row.rule.later
            if new := [key for key in later if key in entry and key not in row.present]:
                missing[tensor.group] = new
        if missing:
            self._held = held.extended(missing)

    def _wanted(self) -> dict[str, dict[str, Array]]:
        """The arrays that the state must have, by name, of each parameter by name.

        One that a hyperparameter has no use for yet, such as the buffer of a momentum of 0, may
        be missing: it begins later.
        """
        held = self._held
        wanted = held.own()
        for own, entry, tensor in zip(wanted.values(), self._entries(), held.tensors, strict=True):
            rule, group = held.rows[tensor.group].rule, self._groups[tensor.group]
            for state in rule.states:
                off = state.name in rule.later and not is_on(group.get(str(state.option)))
                if off and state.name not in entry:
                    own.pop(state.name, None)
        return wanted

    def _entries(self) -> list[Mapping[str, Any]]:
        """What is given for each parameter; nothing where that is no mapping, as is said later."""
        state = self._given["state"]
        names = self._held.names()
        entries = [state.get(name) if isinstance(state, Mapping) else None for name in names]
        return [entry if isinstance(entry, Mapping) else {} for entry in entries]

    def _check_sample(self, saved: Any) -> None:
        if saved is None:  # before 0.2
            return
        shape = np.shape(saved)
        if shape != (0,):
            shape = (_core.sample_elements,)
        arrays.check(
            "state_dict['sample']", saved, writable=False, dtypes=("float64",), shape=shape
        )


def _check_groups(given: Any, groups: Sequence[Group]) -> list[dict[str, Any]]:
    check_kind("state_dict['groups']", given, list | tuple)
    if len(given) != len(groups):
        raise ValueError(f"state_dict['groups']: got {len(given)}, wanted {len(groups)}")
    values = []
    for i, (entry, group) in enumerate(zip(given, groups, strict=True)):
        where = f"state_dict['groups'][{i}]"
        check_kind(where, entry, Mapping)
        params = entry.get("params", ())
        check_kind(f"{where}['params']", params, list | tuple)
        if list(params) != group.names():
            raise ValueError(
                f"{where}['params']: got {some(params) or 'nothing'}, wanted {some(group.names())}"
            )
        if (rule := entry.get("rule", group.rule)) != group.rule:
            raise ValueError(f"{where}['rule']: got {rule!r}, wanted {group.rule!r}")
        kept = {k: v for k, v in entry.items() if k not in ("params", "name", "rule")}
        # A switch that is not named, as in files from before it came, was off.
        off = [key for key in RULES[group.rule].switches if key not in kept]
        values.append(kept | dict.fromkeys(off, False))
    return values


def _check_storages(given: Any, storages: Mapping[str, Any], unused: Container[str]) -> None:
    check_kind("state_dict['storages']", given, Mapping)
    for key, storage in storages.items():
        got = given.get(key)
        if got is None and key in unused:
            continue
        if type(got) is not type(storage) or got != storage:
            raise ValueError(f"state_dict['storages'][{key!r}]: got {got!r}, wanted {storage!r}")


def _check_state(given: Any, own: Mapping[str, Mapping[str, Array]]) -> None:
    check_kind("state_dict['state']", given, Mapping)
    if set(given) != set(own):
        raise ValueError(f"state_dict['state']: got {some(list(given))}, wanted {some(list(own))}")
    for name, wanted in own.items():
        where = f"state_dict['state'][{name!r}]"
        check_kind(where, given[name], Mapping)
        if set(given[name]) != {"step", *wanted}:
            raise ValueError(
                f"{where}: got {some(list(given[name]))}, wanted {some(['step', *wanted])}: an "
                "optimizer that was built with the same options"
            )
        whole(f"{where}['step']", given[name]["step"], _core.step_limit)
    for name, wanted in own.items():
        for key, array in wanted.items():
            arrays.check(
                f"state_dict['state'][{name!r}][{key!r}]",
                given[name][key],
                writable=False,
                dtypes=(array.dtype.name,),
                shape=array.shape,
            )


def keep_plateaus(
    own: Sequence[Mapping[str, Any]], given: Sequence[Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], list[tuple[Plateau, Plateau]]]:
    """Values to load, as copies, with a Plateau of one's own where it differs in nothing but what
    it has seen.

    Returns:
        The values, and for each Plateau that stays the one whose state it is to take over.
    """
    values, kept = [], []
    for old, new in zip(own, given, strict=True):
        entry = copy.deepcopy(dict(new))
        for key, value in entry.items():
            mine = old.get(key)
            if isinstance(mine, Plateau) and isinstance(value, Plateau) and mine.is_like(value):
                entry[key] = mine
                kept.append((mine, value))
        values.append(entry)
    return values, kept


def check_kind(argument: str, value: object, kind: Any) -> None:
    """Raise TypeError if ``value`` is no mapping, or no list."""
    if not isinstance(value, kind):
        wanted = "a mapping" if kind is Mapping else "a list"
        raise TypeError(f"{argument}: got {type(value).__name__}, wanted {wanted}")
