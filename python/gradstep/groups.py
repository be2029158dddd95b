"""Groups of parameters: their hyperparameters by name and the structure they were given in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


class Group(dict[str, Any]):
    """A group's hyperparameters by name. What is changed takes effect at the next step.

    Attributes:
        name: the group's name, or None.
    """

    __slots__ = ("_params", "changed", "keys_", "name")

    def __init__(self, name: str | None, params: Any, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.changed = True  # since the optimizer last looked
        self.name = name
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
        return Group, (self.name, self._params, dict(self))

    @property
    def params(self) -> Any:
        """Its parameters, in the structure that was given (a tuple for a sequence)."""
        # A copy: what is added to it is not stepped.
        return dict(self._params) if isinstance(self._params, dict) else self._params

    # Whatever changes a dict marks it, so that a step need not compare.

    def __setitem__(self, key: str, value: Any) -> None:
        self.changed = True
        super().__setitem__(key, value)

    def __delitem__(self, key: str) -> None:
        self.changed = True
        super().__delitem__(key)

    def __ior__(self, other: Any) -> Group:  # type: ignore[override,misc]
        self.update(other)
        return self

    def update(self, *args: Any, **kwargs: Any) -> None:
        self.changed = True
        super().update(*args, **kwargs)

    def setdefault(self, key: str, default: Any = None) -> Any:
        self.changed = True
        return super().setdefault(key, default)

    def pop(self, *args: Any) -> Any:
        self.changed = True
        return super().pop(*args)

    def popitem(self) -> tuple[str, Any]:
        self.changed = True
        return super().popitem()

    def clear(self) -> None:
        self.changed = True
        super().clear()

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
