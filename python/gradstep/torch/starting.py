"""What the states of a group started from, which cannot change while the states are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .groups import Group
from .keeping import Keeping, Param


def fix(groups: Sequence[Group], params: Sequence[Param], state: Mapping[Any, Any]) -> None:
    """Note what states started from, for each group whose parameters have some now."""
    begun = {param.group for param in params if state.get(param.tensor)}
    for group in groups:
        if group.index not in begun:
            group.fixed = {}
        elif not group.fixed:
            group.fixed = group.rule.fixed(group.values)


def restart(
    groups: Sequence[Group],
    keepings: Sequence[Keeping],
    params: Sequence[Param],
    state: Mapping[Any, Any],
) -> None:
    """Let states start from what was changed before the first step, such as Rprop's rate."""
    for group, keeping in zip(groups, keepings, strict=True):
        start = {key: group.values[key] for key in group.rule.constant}
        if all(group.fixed.get(key, value) == value for key, value in start.items()):
            continue
        own = [param for param in params if param.group == group.index and state.get(param.tensor)]
        if any(state[param.tensor].get("step") for param in own):
            continue  # compiling the group refuses it
        for param in own:
            keeping.restart(param, group.values, state[param.tensor])
        group.fixed = {**group.fixed, **start}
