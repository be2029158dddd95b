"""Groups of parameters: their hyperparameters by name and the structure they were given in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import arrays
from .storages import Shard
from .watched import Watched


class Group(Watched):
    """A group's hyperparameters by name. What is changed takes effect at the next step.

    Attributes:
        name: the group's name, or None.
        rule: the name of the rule that steps its parameters.
    """

    __slots__ = ("_params", "keys_", "name", "rule")

    def __init__(self, name: str | None, params: Any, values: Mapping[str, Any], rule: str) -> None:
        super().__init__(values)
        self.name = name
        self.rule = rule
        # None: one array; a list of names: a mapping; an int: a sequence of that length.
        self.keys_: list[str] | int | None
        self._params: Any
        if isinstance(params, np.ndarray):
            self.keys_, self._params = None, params
        elif isinstance(params, Mapping):
            self.keys_, self._params = list(params), dict(params)
        else:
            self.keys_, self._params = len(params), tuple(params)

    def __reduce__(self) -> tuple[Any, ...]:
        return Group, (self.name, self._params, dict(self), self.rule)

    @property
    def params(self) -> Any:
        """Its parameters, in the structure that was given (a tuple for a sequence)."""
        # A copy: what is added to it is not stepped.
        return dict(self._params) if isinstance(self._params, dict) else self._params

    # How values lie in the group's structure.

    def labels(self) -> list[str]:
        """How each parameter is reached from ``params``: ``""``, ``[0]`` or ``['w']``."""
        if self.keys_ is None:
            return [""]
        keys = range(self.keys_) if isinstance(self.keys_, int) else self.keys_
        return [f"[{key!r}]" for key in keys]

    def names(self) -> list[str]:
        """The parameters' names: a mapping's keys, or their positions."""
        if isinstance(self.keys_, list):
            return self.keys_
        return [str(i) for i in range(1 if self.keys_ is None else self.keys_)]

    def flatten(self, argument: str, values: Any) -> list[Any]:
        """Values given in the structure of ``params``, as a list in its order."""
        keys = self.keys_
        if keys is None:
            return [values]
        if isinstance(keys, int):
            if isinstance(values, list | tuple):
                if len(values) == keys:
                    return list(values)  # holds the arrays, whatever happens to the caller's list
                raise ValueError(
                    f"{argument}: got {len(values)} values, wanted {keys}, as many as parameters"
                )
            raise TypeError(
                f"{argument}: got {type(values).__name__}, wanted a list of {keys}, "
                "the structure of the parameters"
            )
        if not isinstance(values, Mapping):
            raise TypeError(
                f"{argument}: got {type(values).__name__}, wanted a mapping with the "
                f"keys {some(keys)}, the structure of the parameters"
            )
        if len(values) != len(keys) or any(key not in values for key in keys):
            missing = [key for key in keys if key not in values]
            unknown = [key for key in values if key not in set(keys)]
            what = [f"no {some(missing)}"] * bool(missing)
            what += [f"the unknown {some(unknown)}"] * bool(unknown)
            raise ValueError(f"{argument}: got {' and '.join(what)}, wanted the keys {some(keys)}")
        return [values[key] for key in keys]

    def rebuild(self, values: Sequence[Any]) -> Any:
        """A list in the order of ``flatten``, in the structure of ``params``."""
        if self.keys_ is None:
            return values[0]
        return (
            tuple(values)
            if isinstance(self.keys_, int)
            else dict(zip(self.names(), values, strict=True))
        )


def some(keys: Sequence[Any]) -> str:
    """The first few of some keys, for an error."""
    shown = ", ".join(repr(key) for key in keys[:5])
    return shown if len(keys) <= 5 else f"{shown}, … ({len(keys)} in all)"


class Groups(tuple[Group, ...]):
    """The groups in order; one with a name is also found by it."""

    __slots__ = ()

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            for group in self:
                if group.name == key:
                    return group
            raise KeyError(key)
        return super().__getitem__(key)


def read_group(
    where: str, argument: str, given: Mapping[str, Any], rule: str, others: Sequence[Group]
) -> tuple[Group, list[Shard]]:
    """A group as a person gives it, checked except for its hyperparameters.

    Args:
        where: what to call the group in an error.
        argument: what to call its parameters.
        given: ``params``, and if it wants ``name`` and hyperparameters.
        rule: the name of its rule.
        others: the groups whose names are taken.

    Returns:
        The group, and its parameters as shards, in its order.

    Raises:
        TypeError, ValueError: its structure, name or an array is refused.
    """
    values = dict(given)
    if "params" not in values:
        raise ValueError(f"{where}: got a group without 'params', wanted its arrays there")
    params = values.pop("params")
    name = values.pop("name", None)
    if name is not None and (not isinstance(name, str) or any(name == g.name for g in others)):
        raise ValueError(f"{where}['name']: got {name!r}, wanted a text that no other group has")
    items, structure = _read_params(argument, params)
    group = Group(name, structure, values, rule)
    for label, item in zip(group.labels(), items, strict=True):
        array = item.array if isinstance(item, Shard) else item
        arrays.check(argument + label, array, writable=True)
    return group, [item if isinstance(item, Shard) else Shard(item) for item in items]


def _read_params(argument: str, params: Any) -> tuple[list[Any], Any]:
    """A group's parameters as a list, and their arrays in the structure that was given."""
    if isinstance(params, Mapping):
        for key in params:
            if not isinstance(key, str):
                raise TypeError(f"{argument}: got the key {key!r}, wanted names as text")
        if (
            argument == "params"
            and "params" in params
            and not all(isinstance(value, np.ndarray | Shard) for value in params.values())
        ):
            raise TypeError(
                f"{argument}: got one group, wanted groups in a list: [{{'params': …}}]"
            )
    elif not isinstance(params, list | tuple | np.ndarray | Shard):
        raise TypeError(
            f"{argument}: got {type(params).__name__}, wanted an array, a sequence "
            "of arrays, a mapping from name to array, or a list of groups"
        )
    single = isinstance(params, np.ndarray | Shard)
    keys = list(params) if isinstance(params, Mapping) else None
    items = [params] if single else list(params.values() if keys else params)
    if not items:
        raise ValueError(f"{argument}: got no arrays, wanted at least one")
    # Arrays are kept as they were given: a view would not show that one is resized or locked later.
    found = [item.array if isinstance(item, Shard) else item for item in items]
    structure = dict(zip(keys, found, strict=True)) if keys else found[0] if single else found
    return items, structure
