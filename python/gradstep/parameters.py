"""The parameters of an optimizer: their groups, the arrays kept for each, and their names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from . import _core, arrays
from .groups import Group, read_group
from .hyperparameters import CONSTANT, Driven, Rule, compile_group
from .storages import Shard, Storages, compute_type, new_state, zeros
from .tensors import Tensor
from .watched import Watched

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .arrays import Array
    from .storages import Allocate

    CheckGroup = Callable[[str, Mapping[str, Any]], None]


Kind = TypeVar("Kind", bound=Watched)


class Row(Generic[Kind]):
    """What a group was when it was last compiled, and what must be called at each step."""

    __slots__ = ("driven", "fixed", "group", "index", "lr", "on", "present", "single")

    def __init__(self, rule: Rule, index: int, group: Kind, single: bool) -> None:
        self.index = index
        self.group = group
        # What it was built with: which of the rule's states, and their start.
        self.on = tuple(state.is_on(group) for state in rule.states)
        pairs = zip(rule.states, self.on, strict=True)
        self.present = [state.name for state, on in pairs if on]
        self.fixed = {key: group[key] for key in CONSTANT if key in group}
        self.single = single  # whether it has parameters that are stepped in float32
        self.driven: list[Driven] = []
        self.lr = 0.0

    def check_kept(self, rule: Rule, prefix: str) -> None:
        """Raise ValueError if a hyperparameter calls for other states than it was built with."""
        group = self.group
        for state, had in zip(rule.states, self.on, strict=True):
            value = group[state.option] if state.option else None
            if state.is_on(group) != had and (not had or isinstance(value, bool | np.bool_)):
                raise ValueError(
                    f"{prefix}{state.option}: got {value!r}, but the group was built "
                    f"{'with' if had else 'without'} {state.name}, wanted a value that keeps it so"
                )
        for key, value in self.fixed.items():
            if group[key] != value:
                raise ValueError(
                    f"{prefix}{key}: got {group[key]!r}, but the states started from "
                    f"{value!r}, wanted a new optimizer for another start"
                )


class Parameters:
    """An optimizer's groups and the arrays that it keeps for their parameters.

    Args:
        rule: the rule.
        defaults: the hyperparameters of groups that do not name them.
        storages: how states are stored.
        allocate: what makes their arrays, or None.
        averaging: whether each parameter has an average.
        copying: whether each parameter has a copy that a step fills.
        grouped: whether values come in a list, one a group.
    """

    def __init__(
        self,
        rule: Rule,
        defaults: Mapping[str, Any],
        storages: Storages,
        allocate: Allocate | None,
        averaging: bool,
        copying: bool,
        grouped: bool,
    ) -> None:
        self.rule = rule
        self.defaults = defaults
        self.storages = storages
        self.allocate = allocate
        self.averaging = averaging
        self.copying = copying
        self.grouped = grouped
        self.rows: list[Row[Group]] = []
        self.tensors: list[Tensor] = []

    @property
    def groups(self) -> list[Group]:
        return [row.group for row in self.rows]

    # ---- adding ----

    def add(self, given: Sequence[Any], copies: Any, check_group: CheckGroup) -> None:
        """Check groups, then make their arrays; on an error everything is as it was.

        Args:
            given: groups, as a person gives them.
            copies: None, or arrays in the structure of each group's ``params``.
            check_group: what the rule demands of a group's hyperparameters together.
        """
        rows, tensors = len(self.rows), len(self.tensors)
        try:
            fresh: list[tuple[Row[Group], Shard, Array | None]] = []
            for i, group in enumerate(given):
                fresh += self._read(group, copies[i] if self.copying else None, check_group)
            self._check_names()
            params = [shard.array for _, shard, _ in fresh] + [t.param for t in self.tensors]
            self.storages.check_used(self.present(), [param.dtype.name for param in params])
            for name, item in zip(self.names()[tensors:], fresh, strict=True):
                self.tensors.append(self._new_tensor(name, *item))
            self.check_disjoint()
        except BaseException:
            del self.rows[rows:], self.tensors[tensors:]
            raise

    def _read(
        self, given: Mapping[str, Any], copies: Any, check_group: CheckGroup
    ) -> list[tuple[Row[Group], Shard, Array | None]]:
        """Check a group and its arrays, and list it."""
        index = len(self.rows)
        where = f"params[{index}]" if self.grouped else "params"
        argument = f"{where}['params']" if self.grouped else where
        group, shards = read_group(where, argument, given, self.groups)
        group.replace({**self.defaults, **group})
        single = any(compute_type(shard.array.dtype.name) == "float32" for shard in shards)
        compile_group(self.prefix(index), self.rule, self.defaults, group, single)
        check_group(self.prefix(index), group)
        row = Row(self.rule, index, group, single)
        for label, shard in zip(group.labels(), shards, strict=True):
            dtype = shard.array.dtype.name
            self.storages.check_param(argument + label, dtype, shard.start, row.present)
            for state in self.rule.states:
                if state.initial:
                    key = self.prefix(index) + state.initial
                    self.storages.check_initial(key, state.name, group[state.initial], dtype)
        flat = [None] * len(shards)
        if self.copying:
            root = f"copy_to[{index}]" if self.grouped else "copy_to"
            flat = group.flatten(root, copies)
            for label, shard, copy in zip(group.labels(), shards, flat, strict=True):
                arrays.check(root + label, copy, writable=True, shape=shard.array.shape)
        self.rows.append(row)
        return [(row, shard, copy) for shard, copy in zip(shards, flat, strict=True)]

    def _check_names(self) -> None:
        known: dict[str, str] = {}
        for argument, name in zip(self.arguments("params"), self.names(), strict=True):
            if (other := known.setdefault(name, argument)) != argument:
                raise ValueError(
                    f"{argument}: got the name {name!r} in the state, which {other} "
                    "has, wanted group names that keep them apart"
                )

    def _new_tensor(self, name: str, row: Row[Group], shard: Shard, copy: Array | None) -> Tensor:
        """A parameter with its states at their start. ``name`` is what they are called."""
        param, allocate = shard.array, self.allocate
        storages = [self.storages.of(state.name, param.dtype.name) for state in self.rule.states]
        states: list[Array | None] = []
        for state, storage in zip(self.rule.states, storages, strict=True):
            initial = row.fixed[state.initial] if state.initial else 0
            states.append(
                new_state(f"{name}.{state.name}", state, storage, initial, param, allocate)
                if state.name in row.present
                else None
            )
        low = average = None
        if self.storages.split:
            low = zeros(f"{name}.low", param.shape, np.dtype(np.int16), allocate)
        if self.averaging:
            dtype = np.dtype(compute_type(param.dtype.name))
            average = zeros(f"{name}.average", param.shape, dtype, allocate)
            average[...] = param
        if copy is not None:
            np.copyto(copy, param, casting="unsafe")  # also of what no step changes
        return Tensor(
            param,
            low,
            states,
            storages,
            self.storages.stochastic(param.dtype.name, row.present),
            row.index,
            len(self.tensors) if shard.key is None else shard.key,
            shard.start,
            average,
            copy,
        )

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

    # ---- structure and names ----

    def flatten(self, values: Any) -> list[Any]:
        """Gradients in a list, each group's in the structure of its ``params``, as one list."""
        by_group("grads", values, len(self.rows), "gradients")
        return [
            g
            for row in self.rows
            for g in row.group.flatten(f"grads[{row.index}]", values[row.index])
        ]

    def rebuild(self, values: Sequence[Any]) -> Any:
        """One value for each parameter, in the structure of ``params``."""
        parts = [row.group.rebuild(values[self.span(row)]) for row in self.rows]
        return tuple(parts) if self.grouped else parts[0]

    def span(self, row: Row[Group]) -> slice:
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
            return [root + label for label in self.rows[0].group.labels()]
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
        if type(grads[refused]) is np.ndarray:
            argument, array = arguments[refused], grads[refused]
            shape = self.tensors[refused].param.shape
            arrays.check(argument, array, writable=writable, shape=shape)
            arrays.check_apart(argument, array, self.written())
            if writable:
                given = [(a, g) for a, g in zip(arguments, grads, strict=True) if g is not None]
                arrays.check_disjoint(*zip(*given, strict=True))
            raise RuntimeError(f"{argument}: refused by the core, not by the checks: a defect")
        return [
            g
            if g is None or type(g) is np.ndarray
            # arithmetic on a 0-d array gives a NumPy scalar, which no one can set to 0
            else arrays.check(
                argument,
                np.asarray(g) if isinstance(g, np.generic) and not writable else g,
                writable=writable,
                shape=tensor.param.shape,
            )
            for argument, g, tensor in zip(arguments, grads, self.tensors, strict=True)
        ]

    def plan(
        self,
        counts: NDArray[np.int64],
        settings: NDArray[np.float64],
        controls: NDArray[np.float64],
        results: NDArray[np.float64],
        averages: NDArray[np.float64],
    ) -> _core.Plan:
        """The core's plan of a step over all tensors."""
        rows = [tensor.row() for tensor in self.tensors]
        return _core.Plan(self.rule.name, rows, counts, settings, controls, results, averages)

    # ---- what is kept ----

    def present(self) -> list[str]:
        """The rule's states that some group has."""
        return [s.name for s in self.rule.states if any(s.name in row.present for row in self.rows)]

    def stored(self) -> dict[str, Any]:
        """The storage of each state that is there, and whether parameters are split."""
        dtypes = [tensor.param.dtype.name for tensor in self.tensors]
        return self.storages.named(self.present(), dtypes)

    def own(self) -> dict[str, dict[str, Array]]:
        """For each parameter's name the arrays that the optimizer keeps, by name."""
        states = [state.name for state in self.rule.states]
        return {
            name: tensor.named(states)
            for name, tensor in zip(self.names(), self.tensors, strict=True)
        }

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
    """Raise if values do not come in a list, one a group."""
    if not isinstance(values, list | tuple):
        raise TypeError(
            f"{argument}: got {type(values).__name__}, wanted a list of {count}, "
            f"each group's {what}"
        )
    if len(values) != count:
        raise ValueError(f"{argument}: got {len(values)} values, wanted {count}, as many as groups")
