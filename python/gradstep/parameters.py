"""The parameters of an optimizer: their groups, the arrays kept for each, and their names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core, arrays
from .engine import Row
from .groups import Group, read_group, some
from .orthogonal import Redirection, check_dtype
from .rows import Rows, check_rows, parts
from .rule import Rule, named
from .storages import Shard, StorageOptions, Use, compute_type, new_state, zeros
from .tensors import Tensor, byte_count

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .arrays import Array
    from .storages import Allocate


class Parameters:
    """An optimizer's groups and the arrays that it keeps for their parameters.

    Args:
        rule: the rule of groups that name none.
        defaults: the hyperparameters of groups of this rule that do not name them.
        options: how states are to be stored.
        allocate: what makes their arrays, or None.
        averaging: whether each parameter has an average.
        copying: whether each parameter has a copy that a step fills.
        grouped: whether values come in a list, one per group.
    """

    def __init__(
        self,
        rule: Rule,
        defaults: Mapping[str, Any],
        options: StorageOptions,
        allocate: Allocate | None,
        averaging: bool,
        copying: bool,
        grouped: bool,
    ) -> None:
        self.rule = rule
        self.defaults = defaults
        self.options = options
        self.allocate = allocate
        self.averaging = averaging
        self.copying = copying
        self.grouped = grouped
        self.rows: list[Row] = []
        self.tensors: list[Tensor] = []

    @property
    def groups(self) -> list[Group]:
        return [row.group for row in self.rows]  # type: ignore[misc]

    # ---- adding ----

    def added(self, given: Sequence[Any], copies: Any) -> Parameters:
        """These parameters and those of more groups, whose arrays are made.

        Args:
            given: groups, as a person gives them.
            copies: None, or arrays in the structure of each group's ``params``.

        Raises:
            TypeError, ValueError: a group is refused.
        """
        other = Parameters(
            self.rule, self.defaults, self.options, self.allocate, self.averaging, self.copying,
            self.grouped or bool(self.rows),
        )  # fmt: skip
        # Copies: what these rows were compiled to stays true of this one if the other is refused.
        other.rows, other.tensors = [row.copy() for row in self.rows], list(self.tensors)
        if given:
            other._add(given, copies)
        return other

    def snapshot(self) -> Parameters:
        """These parameters with copies of what is kept for them."""
        other = self.added((), ())
        other.grouped = self.grouped
        other.tensors = [
            replace(
                tensor,
                low=_copied(tensor.low),
                average=_copied(tensor.average),
                states=[_copied(state) for state in tensor.states],
                memory=[number.copy() for number in tensor.memory],
            )
            for tensor in self.tensors
        ]
        return other

    def extended(self, missing: Mapping[int, Sequence[str]]) -> Parameters:
        """These parameters, with states that some groups were built without.

        Args:
            missing: the states' names, by the group's position.
        """
        other = self.added((), ())
        other.grouped = self.grouped
        other.tensors = [
            replace(tensor, states=list(tensor.states)) if tensor.group in missing else tensor
            for tensor in self.tensors
        ]
        for index, names in missing.items():
            other.extend(other.rows[index], names)
        return other

    def _add(self, given: Sequence[Any], copies: Any) -> None:
        known = len(self.tensors)
        rules = [row.rule for row in self.rows] + [self._rule_of(group) for group in given]
        fresh: list[tuple[Row, Shard, Array | None]] = []
        for i, group in enumerate(given):
            fresh += self._read(group, copies[i] if self.copying else None, rules)
        self._check_names()
        self.options.check_used(self.uses([(row, shard.array) for row, shard, _ in fresh]))
        for name, item in zip(self.names()[known:], fresh, strict=True):
            self.tensors.append(self._new_tensor(name, *item))
        self._check_parts_whole()
        self.check_disjoint()

    def _rule_of(self, given: Mapping[str, Any]) -> Rule:
        """The rule that a group names."""
        rule = given.get("rule")
        if rule is None:
            return self.rule
        rule = getattr(rule, "rule", rule)  # a class such as AdamW
        return rule if isinstance(rule, Rule) else named(rule)

    def _read(
        self, given: Mapping[str, Any], copies: Any, rules: Sequence[Rule]
    ) -> list[tuple[Row, Shard, Array | None]]:
        """Check a group and its arrays, and list it."""
        index = len(self.rows)
        where = f"params[{index}]" if self.grouped else "params"
        argument = f"{where}['params']" if self.grouped else where
        rule, prefix = rules[index], self.prefix(index)
        values = {key: value for key, value in given.items() if key != "rule"}
        group, shards = read_group(where, argument, values, rule.name, self.groups)
        defaults = self.defaults if rule is self.rule else rule.defaults
        group.replace({**defaults, **group})
        single = any(compute_type(shard.array.dtype.name) == "float32" for shard in shards)
        rule.check_averaging(self.averaging)
        storages = self.options.of(rule, rules)
        rule.compile(prefix, group, single)
        rule.check(prefix, group, storages.states)
        row = Row(rule, storages, index, group, single)
        for label, shard in zip(group.labels(), shards, strict=True):
            dtype = shard.array.dtype.name
            storages.check_param(argument + label, dtype, shard.start, row.present)
            rule.check_param(argument + label, shard.array.shape, shard.start, group)
            for state in rule.states:
                if state.initial:
                    key = prefix + state.initial
                    storages.check_initial(key, state.name, group[state.initial], dtype)
        self.rows.append(row)
        flat = self._read_copies(row, shards, copies)
        return [(row, shard, copy) for shard, copy in zip(shards, flat, strict=True)]

    def _read_copies(self, row: Row, shards: Sequence[Shard], copies: Any) -> Sequence[Any]:
        """A group's copies as a list."""
        if not self.copying:
            return [None] * len(shards)
        group: Group = row.group  # type: ignore[assignment]
        root = f"copy_to[{row.index}]" if self.grouped else "copy_to"
        flat = group.flatten(root, copies)
        for label, shard, copy in zip(group.labels(), shards, flat, strict=True):
            arrays.check(root + label, copy, writable=True, shape=shard.array.shape)
        return flat

    def _check_names(self) -> None:
        known: dict[str, str] = {}
        for argument, name in zip(self.arguments("params"), self.names(), strict=True):
            if (other := known.setdefault(name, argument)) != argument:
                raise ValueError(
                    f"{argument}: got the name {name!r} in the state, which {other} "
                    "has, wanted group names that keep them apart"
                )

    def _new_tensor(self, name: str, row: Row, shard: Shard, copy: Array | None) -> Tensor:
        """A parameter with its states at their start. ``name`` is what they are called."""
        param, allocate = shard.array, self.allocate
        dtype = param.dtype.name
        own = self._new_states(name, row, param, row.present)
        low = average = None
        if self.options.split:
            low = zeros(f"{name}.low", param.shape, np.dtype(np.int16), allocate)
        if self.averaging:
            average = zeros(f"{name}.average", param.shape, np.dtype(compute_type(dtype)), allocate)
        if copy is not None:
            np.copyto(copy, param, casting="unsafe")  # also of what no step changes
        tensor = Tensor(
            param=param,
            low=low,
            states=[own.get(state.name) for state in row.rule.states],
            storages=[row.storages.of(state.name, dtype) for state in row.rule.states],
            memory=[np.zeros(1) for _ in row.rule.memory_names],
            stochastic=row.storages.stochastic(dtype, row.present),
            group=row.index,
            key=len(self.tensors) if shard.key is None else shard.key,
            start=shard.start,
            average=average,
            copy=copy,
        )
        points = [own[state.name] for state in row.rule.states if state.is_point]
        tensor.begin(points)
        tensor.begun = average is None and not points
        return tensor

    def _new_states(
        self, name: str, row: Row, param: Array, wanted: Sequence[str]
    ) -> dict[str, Array]:
        return {
            state.name: new_state(
                f"{name}.{state.name}", state, storage, initial, param, self.allocate
            )
            for state, storage, initial in row.storages.starts(row.group, wanted, param.dtype.name)
            if state.beside(param.shape) is not None
        }

    def extend(self, row: Row, missing: Sequence[str]) -> None:
        """Make states that a group was built without, since a hyperparameter calls for them now."""
        span = self.span(row)
        pairs = list(zip(self.names(), self.tensors, strict=True))[span]
        made = [self._new_states(name, row, tensor.param, missing) for name, tensor in pairs]
        present = [s.name for s in row.rule.states if s.name in {*row.present, *missing}]
        for (_, tensor), own in zip(pairs, made, strict=True):
            for s, state in enumerate(row.rule.states):
                if state.name in own:
                    tensor.states[s] = own[state.name]
            tensor.stochastic = row.storages.stochastic(tensor.param.dtype.name, present)
        row.present = present

    def check_params(self, row: Row, group: Mapping[str, Any]) -> None:
        """Raise ValueError for a parameter that the rule cannot step by such hyperparameters."""
        if row.rule.has_direction:
            check_dtype(self.prefix(row.index), group)
        span = self.span(row)
        for argument, tensor in zip(
            self.arguments("params")[span], self.tensors[span], strict=True
        ):
            row.rule.check_param(argument, tensor.param.shape, tensor.start, group)

    def check_disjoint(self) -> None:
        """Raise ValueError if arrays that came from outside share a byte."""
        params = [tensor.param for tensor in self.tensors]
        found: list[tuple[str, Any]] = [*zip(self.arguments("params"), params, strict=True)]
        if self.copying:
            copies = [tensor.copy for tensor in self.tensors]
            found += zip(self.arguments("copy_to"), copies, strict=True)
        if self.allocate:
            found = [*self.written()]
        arrays.check_disjoint(*zip(*found, strict=True))

    # ---- what starts from a parameter: averages, and states that are points ----

    @property
    def has_fresh(self) -> bool:
        """Whether no step has moved yet what starts from a parameter, such as an average."""
        return any(not tensor.begun for tensor in self.tensors)

    def start_fresh(self) -> None:
        """Put the parameters into what starts from them."""
        for tensor in self.tensors:
            if not tensor.begun:
                tensor.begin(self._points(tensor))

    def note_begun(self, begun: bool = True) -> None:
        """Note that a step has moved all of it."""
        for tensor in self.tensors:
            tensor.begun = begun or (tensor.average is None and not self._points(tensor))

    def _points(self, tensor: Tensor) -> list[Array]:
        states = self.rows[tensor.group].rule.states
        pairs = zip(states, tensor.states, strict=True)
        return [array for state, array in pairs if state.is_point and array is not None]

    # ---- shards of one tensor, where a rule looks at whole tensors ----

    def _parts(self) -> dict[int, list[int]]:
        """The shards of each tensor, by its key, in their order; of rules that gather."""
        parts: dict[int, list[int]] = {}
        for i, tensor in enumerate(self.tensors):
            if self.rows[tensor.group].gathers:
                parts.setdefault(tensor.key, []).append(i)
        return parts

    @property
    def has_parts(self) -> bool:
        """Whether a rule that looks at whole tensors has one in several shards."""
        return any(len(part) > 1 for part in self._parts().values())

    def _check_parts_whole(self) -> None:
        """Raise ValueError unless such shards follow each other from the tensor's start on."""
        arguments = self.arguments("params")
        for key, part in self._parts().items():
            for i in part if len(part) > 1 else ():
                self._check_no_rows(arguments[i], self.tensors[i])
            end = 0
            for i in sorted(part, key=lambda i: self.tensors[i].start):
                tensor = self.tensors[i]
                if tensor.start != end:
                    rule = self.rows[tensor.group].kernels
                    raise ValueError(
                        f"{arguments[i]}: got a shard of key {key} that starts at {tensor.start}, "
                        f"wanted {end}: {rule} looks at whole tensors"
                    )
                end += tensor.param.size

    def _check_no_rows(self, argument: str, tensor: Tensor) -> None:
        """Raise ValueError for a shard of a tensor for whose rows numbers are kept."""
        rule = self.rows[tensor.group].rule
        if rule.factors and tensor.param.ndim > 1:
            raise ValueError(
                f"{argument}: got one of several shards, of shape {tensor.param.shape}, wanted the "
                f"tensor whole: {rule.name} looks at its rows and columns"
            )

    def check_parts(self, grads: Sequence[Any]) -> None:
        """Raise ValueError where some of a tensor's shards have a gradient and others have none."""
        for key, part in self._parts().items():
            given = [grads[i] is not None for i in part]
            if any(given) and not all(given):
                i = part[given.index(False)]
                raise ValueError(
                    f"{self.arguments('grads')[i]}: got None, but other shards of key {key} have a "
                    f"gradient, wanted one: {self.rows[self.tensors[i].group].kernels} looks at "
                    "whole tensors"
                )

    # ---- copies ----

    def fill_copies(self) -> None:
        """Bring all copies in line with their parameters."""
        for tensor in self.tensors:
            if tensor.copy is not None:
                np.copyto(tensor.copy, tensor.param, casting="unsafe")

    # ---- structure and names ----

    def flatten(self, values: Any) -> list[Any]:
        """Gradients in a list, each group's in the structure of its ``params``, as one list."""
        by_group("grads", values, len(self.rows), "gradients")
        return [
            g
            for i, group in enumerate(self.groups)
            for g in group.flatten(f"grads[{i}]", values[i])
        ]

    def rebuild(self, values: Sequence[Any]) -> Any:
        """One value for each parameter, in the structure of ``params``."""
        parts = [
            group.rebuild(values[self.span(row)])
            for row, group in zip(self.rows, self.groups, strict=True)
        ]
        return tuple(parts) if self.grouped else parts[0]

    def span(self, row: Row) -> slice:
        """Where a group's parameters are among all."""
        sizes = [len(group.names()) for group in self.groups]
        first = sum(sizes[: row.index])
        return slice(first, first + sizes[row.index])

    def prefix(self, index: int) -> str:
        """What stands before a hyperparameter's name in an error."""
        return f"groups[{index}] " if self.grouped else ""

    def arguments(self, root: str) -> list[str]:
        """What each parameter, or its gradient or copy, is called in an error."""
        if not self.grouped:
            return [root + label for label in self.groups[0].labels()]
        inner = "['params']" if root == "params" else ""
        return [
            f"{root}[{i}]{inner}{label}"
            for i, group in enumerate(self.groups)
            for label in group.labels()
        ]

    def names(self) -> list[str]:
        """What each parameter is called in the state: its name, after its group's if several."""
        groups = self.groups
        if len(groups) == 1:
            return groups[0].names()
        return [
            f"{i if group.name is None else group.name}.{name}"
            for i, group in enumerate(groups)
            for name in group.names()
        ]

    def explain(self, refused: int, grads: list[Any], *, writable: bool) -> list[Any]:
        """Raise for what the core refused, or replace harmless subclasses by plain arrays."""
        if refused < 0:
            tensor, argument = self.tensors[-3 - refused], self.arguments("params")[-3 - refused]
            arrays.check(argument, tensor.param, writable=True)
            array = tensor.param
            if tensor.copy is not None:
                copy_argument = self.arguments("copy_to")[-3 - refused]
                arrays.check(copy_argument, tensor.copy, writable=True)
                if (tensor.copy.dtype, tensor.copy.size) != (tensor.copied, tensor.param.size):
                    argument, array = copy_argument, tensor.copy
            raise ValueError(
                f"{argument}: got {array.size} elements of {array.dtype} that are not those the "
                "optimizer was built on, wanted an array that was not resized or reinterpreted"
            )
        arguments = self.arguments("grads")
        fitting = [
            None if g is None else _plain_gradient(argument, g, tensor.param.shape, writable)
            for argument, g, tensor in zip(arguments, grads, self.tensors, strict=True)
        ]
        if fitting[refused] is grads[refused]:
            for part in parts(arguments[refused], grads[refused]):
                arrays.check_apart(*part, self.written())
            if writable:
                given = zip(arguments, grads, strict=True)
                every = [part for a, g in given if g is not None for part in parts(a, g)]
                arrays.check_disjoint(*zip(*every, strict=True))
            raise RuntimeError(
                f"{arguments[refused]}: refused by the core, not by the checks: a defect"
            )
        return fitting

    def plan(
        self,
        counts: NDArray[np.int64],
        clock: NDArray[np.int64],
        settings: NDArray[np.float64],
        controls: _core.Controls,
        sums: NDArray[np.float64],
        averages: NDArray[np.float64],
    ) -> _core.Plan:
        """The core's plan of a step over all tensors."""
        gathered = np.zeros((len(self.tensors), _core.max_gathered))
        directions = [self._new_direction(tensor) for tensor in self.tensors]
        plan = _core.Plan(
            rules=[row.kernels for row in self.rows],
            tensors=[
                tensor.spec(count, direction)
                for tensor, count, direction in zip(self.tensors, counts, directions, strict=True)
            ],
            counts=counts,
            clock=clock,
            settings=settings,
            controls=controls,
            sums=sums,
            gathered=gathered,
            averages=averages,
        )
        if any(direction is not None for direction in directions):
            groups = [tensor.group for tensor in self.tensors]
            plan.redirect = Redirection(self, groups, directions, gathered)
        return plan

    def _new_direction(self, tensor: Tensor) -> Array | None:
        """Where a rule's direction lies within a step, if it has one."""
        if not self.rows[tensor.group].rule.has_direction:
            return None
        return np.empty(tensor.param.shape, compute_type(tensor.param.dtype.name))

    # ---- what is kept ----

    def uses(self, more: Sequence[tuple[Row, Array]] = ()) -> list[Use]:
        """What each rule's groups use of its storages.

        Args:
            more: arrays yet to be parameters, with their groups.
        """
        found = []
        known = [*more, *((self.rows[tensor.group], tensor.param) for tensor in self.tensors)]
        for rule in dict.fromkeys(row.rule for row in self.rows):
            rows = [row for row in self.rows if row.rule is rule]
            params = [param for row, param in known if row.rule is rule]
            dtypes = list(dict.fromkeys(param.dtype.name for param in params))
            present = {name for row in rows for name in row.present}
            names = rule.beside_any(present, [param.shape for param in params])
            found.append(Use(rule.name, rows[0].storages, names, dtypes))
        return found

    def present(self) -> list[str]:
        """The states that some group has."""
        return [name for use in self.uses() for name in use.present]

    def describe(self, name: str, t: int) -> str:
        """What an optimizer is, in lines: a summary, then one for each group.

        Args:
            name: of its class.
            t: the steps it has made.
        """
        tensors = self.tensors
        counts = f"{_count(len(tensors), 'parameter')}, " + _count(
            sum(tensor.param.size for tensor in tensors), "element"
        )
        asked = {
            f"{name}={use.storages.states[name]}": None
            for use in self.uses()
            for name in use.present
            if name in use.storages.states
        }
        shown = ", ".join([*asked] + ["split"] * self.options.split)
        kept = f"states {byte_count(tensors):,} bytes" + (f" ({shown})" if shown else "")
        lines = [f"{name}(t={t}, {counts}, {kept})"]
        for i, group in enumerate(self.groups):
            label = f"group {i}" + (f" {group.name!r}" if group.name is not None else "")
            label += f" by {group.rule}" if group.rule != self.rule.name else ""
            values = ", ".join(f"{key}={value!r}" for key, value in group.items())
            lines.append(f"  {label}: {values}" + self._without_rows(self.rows[i]))
        return "\n".join(lines)

    def _without_rows(self, row: Row) -> str:
        """Which parameters have no rows and columns, where the rule keeps numbers for those."""
        group: Group = row.group  # type: ignore[assignment]
        pairs = zip(group.names(), self.tensors[self.span(row)], strict=True)
        names = [name for name, tensor in pairs if row.rule.factors and tensor.param.ndim < 2]
        return f"; without rows, whole: {some(names)}" if names else ""

    def own(self) -> dict[str, dict[str, Array]]:
        """For each parameter's name the arrays that the optimizer keeps, by name."""
        found = {}
        for name, tensor in zip(self.names(), self.tensors, strict=True):
            rule = self.rows[tensor.group].rule
            states = [state.name for state in rule.states]
            found[name] = tensor.named(states, rule.memory_names)
        return found

    def written(self) -> Iterator[tuple[str, Array]]:
        """Every array that a step writes, with its name."""
        copies = self.arguments("copy_to")
        own = self.own().values()
        for argument, tensor, kept, copy in zip(
            self.arguments("params"), self.tensors, own, copies, strict=True
        ):
            yield argument, tensor.param
            for name, array in kept.items():
                yield f"{name} of {argument}", array
            if tensor.copy is not None:
                yield copy, tensor.copy


def by_group(argument: str, values: Any, count: int, what: str) -> None:
    """Raise if values do not come in a list, one per group."""
    if not isinstance(values, list | tuple):
        raise TypeError(
            f"{argument}: got {type(values).__name__}, wanted a list of {count}, "
            f"each group's {what}"
        )
    if len(values) != count:
        raise ValueError(f"{argument}: got {len(values)} values, wanted {count}, as many as groups")


def _plain_gradient(argument: str, gradient: Any, shape: tuple[int, ...], writable: bool) -> Any:
    """A gradient that the core takes, itself where it is one; raise for what is none."""
    if isinstance(gradient, Rows):
        return check_rows(argument, gradient, writable=writable, shape=shape)
    # Arithmetic on a 0-d array gives a NumPy scalar, which no one can set to 0.
    array = np.asarray(gradient) if isinstance(gradient, np.generic) and not writable else gradient
    checked = arrays.check(argument, array, writable=writable, shape=shape)
    return gradient if type(gradient) is np.ndarray else checked


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _copied(array: Array | None) -> Array | None:
    return None if array is None else array.copy()
