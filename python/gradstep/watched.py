"""A dict that notices when it is changed, so that a step need not compare."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

# A number of its own for each change: two threads that change at once cannot draw the same.
_versions = itertools.count(1)


class Changes:
    """Whether anything of an optimizer was changed: one comparison per step.

    Attributes:
        version: another number after each change.
    """

    __slots__ = ("version",)

    def __init__(self) -> None:
        self.version = next(_versions)


class Watched(dict[str, Any]):
    """Values by name, with a version that differs after each change.

    Attributes:
        version: another number after each change.
        changes: where the optimizer looks, or None.
    """

    __slots__ = ("changes", "version")

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.changes: Changes | None = None
        self.version = next(_versions)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)

    def note(self) -> None:
        """Have a new version."""
        self.version = next(_versions)
        if self.changes is not None:
            self.changes.version = self.version

    # The version changes last: who compiles values between the two compiles them again.

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        self.note()

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        self.note()

    def __ior__(self, other: Any) -> Watched:  # type: ignore[override,misc]
        self.update(other)
        return self

    def update(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().update(*args, **kwargs)
        finally:
            self.note()

    def setdefault(self, key: str, default: Any = None) -> Any:
        value = super().setdefault(key, default)
        self.note()
        return value

    def pop(self, *args: Any) -> Any:
        value = super().pop(*args)
        self.note()
        return value

    def popitem(self) -> tuple[str, Any]:
        item = super().popitem()
        self.note()
        return item

    def clear(self) -> None:
        super().clear()
        self.note()

    def replace(self, values: Mapping[str, Any]) -> None:
        """Have these values and no others."""
        dict.clear(self)
        self.update(values)
