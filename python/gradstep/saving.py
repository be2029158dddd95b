"""Whether a state dict fits an optimizer, in words."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import _core, arrays
from .groups import Group, some
from .hyperparameters import whole
from .schedules import Plateau

if TYPE_CHECKING:
    from .arrays import Array

KEYS = ("rule", "t", "state", "groups", "stages", "storages")


def check_state_dict(
    given: Any,
    rule: str,
    storages: Mapping[str, Any],
    groups: Sequence[Group],
    own: Mapping[str, Mapping[str, Array]],
) -> list[dict[str, Any]]:
    """Raise TypeError or ValueError, naming the entry, where a state dict does not fit.

    Args:
        given: what is to be loaded.
        rule: the optimizer's rule.
        storages: how its states are stored, by name.
        groups: its groups.
        own: the arrays that it has, by name, of each parameter by name.

    Returns:
        Each group's hyperparameters, not checked yet.
    """
    check_kind("state_dict", given, Mapping)
    for key in KEYS:
        if key not in given:
            raise ValueError(
                f"state_dict: got no {key!r}, wanted {', '.join(KEYS[:-1])} and {KEYS[-1]}"
            )
    if given["rule"] != rule:
        raise ValueError(f"state_dict['rule']: got {given['rule']!r}, wanted {rule!r}")
    whole("state_dict['t']", given["t"], _core.step_limit)
    values = _check_groups(given["groups"], groups)
    check_kind("state_dict['stages']", given["stages"], Mapping)
    _check_storages(given["storages"], storages)
    _check_state(given["state"], own)
    return values


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
        values.append({k: v for k, v in entry.items() if k not in ("params", "name")})
    return values


def _check_storages(given: Any, storages: Mapping[str, Any]) -> None:
    check_kind("state_dict['storages']", given, Mapping)
    for key, storage in storages.items():
        got = given.get(key)
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
