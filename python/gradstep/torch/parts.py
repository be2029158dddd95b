"""Engines that change the groups from call to call: what is kept for those that come back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .bound import Bound
    from .call import Part
    from .groups import Group
    from .keeping import Param

MOST_LEFT = 1000  # whoever puts in new groups all the time must not fill the memory


class Parts:
    """Steps over parts of the parameters, for engines that change the groups from call to call.

    DeepSpeed puts one group, or one tensor of a group, in place before each step. Each part's step
    is found again by which groups and tensors are there. A tensor is in no more than one part,
    since each compiled step keeps its own counts; and all parts are of one version of the states,
    since those of an older one would be compiled anew.
    """

    def __init__(self) -> None:
        self._bounds: dict[tuple[tuple[int, ...], ...], Bound] = {}
        self._places: dict[int, tuple[tuple[int, ...], ...]] = {}  # of each tensor
        self._version = -1

    def __len__(self) -> int:
        return len(self._bounds)

    def get(self, groups: list[dict[str, Any]]) -> Bound | None:
        """The step over these groups and their tensors, if there is one."""
        return self._bounds.get(_identity(groups))

    def drop(self, bound: Bound) -> None:
        """Forget the steps that this one replaces: what shares a tensor with it, or is older."""
        if bound.version != self._version:
            self._bounds, self._places, self._version = {}, {}, bound.version
        for key in {self._places[one] for one in bound.identities & self._places.keys()}:
            for one in self._bounds.pop(key).identities:
                del self._places[one]

    def put(self, groups: list[dict[str, Any]], bound: Bound) -> None:
        """Keep a step over these groups."""
        self.drop(bound)
        key = _identity(groups)
        self._bounds[key] = bound
        self._places.update(dict.fromkeys(bound.identities, key))

    def groups(self) -> list[Group]:
        """What stands behind the groups of all parts."""
        return [group for bound in self._bounds.values() for group in bound.groups]

    def check_whole(self, groups: Sequence[Group], params: Sequence[Param], version: int) -> None:
        """Raise ValueError for a part of what a rule looks at together, if others were stepped."""
        bounds = self._bounds.values() if version == self._version else ()
        for rule in {group.rule for group in groups if group.rule.common}:
            own = {id(param.tensor) for param in params if groups[param.group].rule is rule}
            parts = [bound.common.get(rule.name, frozenset()) for bound in bounds]
            if own and any(part and part.isdisjoint(own) for part in parts):
                raise ValueError(
                    f"step: got some of the parameters of {rule.name}, and others in a call "
                    "before; it looks at all together, wanted all of them in each call"
                )


def _identity(groups: list[dict[str, Any]]) -> tuple[tuple[int, ...], ...]:
    return tuple((id(group), *map(id, group["params"])) for group in groups)


class Bounds:
    """Steps that are compiled: over all parameters that there are now, over each part, and others.

    Each has counts of its own, so that no two may step one tensor in turns.
    """

    def __init__(self) -> None:
        self._now: dict[Part | None, Bound] = {}
        self._places: dict[int, Part | None] = {}  # of each tensor
        self.parts = Parts()

    def get(self, only: Part | None) -> Bound | None:
        """The step of a part; None: of all."""
        return self._now.get(only)

    def put(self, only: Part | None, groups: list[dict[str, Any]], bound: Bound) -> None:
        """Take a step in, and drop those that share a tensor with it."""
        self._keep(only, bound)
        if only is None:
            self.parts.put(groups, bound)
        else:
            self.parts.drop(bound)

    def _keep(self, only: Part | None, bound: Bound) -> None:
        gone = {self._places[one] for one in bound.identities & self._places.keys()}
        if only in self._now:
            gone.add(only)
        for key in gone:
            for one in self._now.pop(key).identities:
                del self._places[one]
        self._now[only] = bound
        self._places.update(dict.fromkeys(bound.identities, only))

    def take_up(self, entries: list[dict[str, Any]], groups: Sequence[Group]) -> Bound | None:
        """The part that these entries are, if the same groups stand behind: now all there is."""
        bound = self.parts.get(entries)
        if bound is None or list(map(id, bound.groups)) != list(map(id, groups)):
            return None
        self._keep(None, bound)
        return bound


class Left:
    """Groups that were taken out of the list, and come back with what drives them."""

    def __init__(self) -> None:
        self.groups: list[Group] = []

    def note(self, known: Iterable[Group], now: Iterable[Group]) -> None:
        """Take in those that are there no more, if they have more than their entry tells."""
        here = {id(group.source) for group in now}
        gone = [group for group in known if id(group.source) not in here]
        self.groups = [group for group in gone if group.driven or group.fixed][-MOST_LEFT:]

    def forget(self, source: dict[str, Any]) -> None:
        """Have nothing stand behind an entry, which may come back as another group."""
        self.groups = [group for group in self.groups if group.source is not source]
