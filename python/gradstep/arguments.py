"""What people pass to an optimizer, as types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .arrays import Array
    from .rows import Rows
    from .storages import Allocate, Shard

Param: TypeAlias = "Array | Shard"
Params: TypeAlias = "Param | Sequence[Param] | Mapping[str, Param] | Sequence[Mapping[str, Any]]"
Grads: TypeAlias = "Array | Rows | Sequence[Any] | Mapping[str, Any] | None"
Value: TypeAlias = "float | Callable[[int], float]"


class Shared(TypedDict, total=False):
    """What every rule takes besides its own; see :class:`Optimizer`."""

    states: str | Mapping[str, str] | None
    rounding: str | Mapping[str, str] | None
    split: bool
    seed: int
    allocate: Allocate | None
    clip_norm: Value | None
    clip_value: Value | None
    nonfinite: str
    average: Value | None
    copy_to: Any
    stats: bool | str
