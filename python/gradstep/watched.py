"""A dict that notices when it is changed, so that a step need not compare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Watched(dict[str, Any]):
    """Values by name; whatever changes one sets ``changed``, which the optimizer clears.

    Attributes:
        changed: whether a value was changed since the optimizer last looked.
    """

    __slots__ = ("changed",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.changed = True

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)

    def __setitem__(self, key: str, value: Any) -> None:
        self.changed = True
        super().__setitem__(key, value)

    def __delitem__(self, key: str) -> None:
        self.changed = True
        super().__delitem__(key)

    def __ior__(self, other: Any) -> Watched:  # type: ignore[override,misc]
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

    def replace(self, values: Mapping[str, Any]) -> None:
        """Have these values and no others."""
        self.clear()
        self.update(values)
