"""Parameters sorted into groups: those that Muon steps and the rest, for AdamW."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .groups import some

if TYPE_CHECKING:
    from .arrays import Array

LOGGER = logging.getLogger("gradstep")

# Patterns for what a layer is called: the last word of a name that is not one of WEIGHTS.
EMBEDDINGS: tuple[str, ...] = (
    "embed", "embedding", "embeddings", "embed_*", "*_embed", "*_embedding", "*_embeddings", "wte",
    "wpe",
)  # fmt: skip
HEADS = ("head", "*_head", "classifier", "output", "score", "logits")
WEIGHTS = ("weight", "kernel", "w")

MUON, ADAMW = "Muon", "AdamW"


class Placed:
    """A parameter, what its group is known by (a rule's name, or a layer's), and why."""

    __slots__ = ("name", "parameter", "place", "reason", "shape")

    def __init__(
        self, name: str, parameter: Any, shape: tuple[int, ...], place: str, reason: str
    ) -> None:
        self.name, self.parameter, self.shape = name, parameter, shape
        self.place, self.reason = place, reason

    @property
    def rule(self) -> str:
        """Where groups are known by their rules."""
        return self.place


class SortedGroups(list[dict[str, Any]]):
    """Groups for an optimizer's ``params``; its ``repr`` says which parameter is in which, and why.

    Args:
        placed: all parameters.
        values: what else each group has, by what it is known by.
        read: makes a group's ``params`` of its parameters.
        left_out: parameters that are in no group.

    Attributes:
        placed: the parameters in their order, each with ``name``, ``place`` and ``reason``.
        left_out: those that are in no group, likewise; their ``place`` is ``""``.
    """

    _key: ClassVar[str]  # of a group: under which it has what it is known by

    def __init__(
        self,
        placed: Sequence[Placed],
        values: Mapping[str, Mapping[str, Any]],
        read: Callable[[Sequence[Placed]], Any],
        left_out: Sequence[Placed] = (),
    ) -> None:
        self.placed, self.left_out = list(placed), list(left_out)
        groups = []
        for place, own in values.items():
            if its := [one for one in placed if one.place == place]:
                groups.append({"params": read(its), self._key: place, **own})
        super().__init__(groups)

    def _its(self, group: Mapping[str, Any]) -> list[Placed]:
        return [one for one in self.placed if one.place == group[self._key]]

    def split(self, values: Mapping[str, Any] | Sequence[Any]) -> list[dict[str, Any]]:
        """Sort values of the parameters, such as gradients, into a mapping per group.

        Args:
            values: one for each parameter, by name or in the order of the parameters.

        Raises:
            ValueError: one is missing, or of no parameter.
        """
        names = [one.name for one in self.placed]
        if not isinstance(values, Mapping):
            values = list(values)
            if len(values) != len(names):
                raise ValueError(
                    f"values: got {len(values)}, wanted {len(names)}, as many as parameters"
                )
            values = dict(zip(names, values, strict=True))
        missing = [name for name in names if name not in values]
        unknown = [name for name in values if name not in set(names)]
        if missing or unknown:
            what = [f"no {some(missing)}"] * bool(missing)
            what += [f"the unknown {some(unknown)}"] * bool(unknown)
            raise ValueError(f"values: got {' and '.join(what)}, wanted the names {some(names)}")
        return [{one.name: values[one.name] for one in self._its(group)} for group in self]

    def __repr__(self) -> str:
        lines = []
        for group in self:
            own = "".join(
                f", {key}={value!r}"
                for key, value in group.items()
                if key not in ("params", "name", self._key)
            )
            lines += _listed(group[self._key], self._its(group), own)
        if self.left_out:
            lines += _listed("left out", self.left_out)
        return "\n".join(lines)


class MuonGroups(SortedGroups):
    """Groups of Muon and AdamW: the ``place`` of a parameter is its ``rule``."""

    _key = "rule"

    def __init__(
        self,
        placed: Sequence[Placed],
        values: Mapping[str, Mapping[str, Any]],
        read: Callable[[Sequence[Placed]], Any],
        left_out: Sequence[Placed] = (),
    ) -> None:
        named = {rule: {"name": rule.lower(), **own} for rule, own in values.items()}
        super().__init__(placed, named, read, left_out)
        LOGGER.info("muon_groups: %r", self)


def _listed(title: str, its: Sequence[Placed], own: str = "") -> list[str]:
    """Parameters, each in a line, after one that counts them."""
    n = sum(int(np.prod(one.shape)) for one in its)
    count = f"{len(its)} parameter{'' if len(its) == 1 else 's'}"
    return [
        f"{title}: {count}, {n:,} elements{own}",
        *(f"  {one.name} {one.shape}: {one.reason}" for one in its),
    ]


def by_name(params: Any) -> dict[str, Any]:
    """Arrays by their names; in a sequence those are their positions.

    Raises:
        TypeError: they are neither in a mapping nor in a sequence.
    """
    if isinstance(params, list | tuple):
        return {str(i): array for i, array in enumerate(params)}
    if not isinstance(params, Mapping):
        raise TypeError(
            f"params: got {type(params).__name__}, wanted a mapping from name to array, or a list"
        )
    return dict(params)


def as_mapping(its: Sequence[Placed]) -> dict[str, Any]:
    """Parameters of a group as arrays by name."""
    return {one.name: one.parameter for one in its}


def layer(name: str) -> str:
    """What the layer of a parameter is called: ``"wte"`` for ``"transformer.wte.weight"``."""
    words = re.split(r"[./]", name)
    return words[-2] if len(words) > 1 and words[-1] in WEIGHTS else words[-1]


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name, or its layer's, matches one of some patterns."""
    return any(fnmatchcase(text, pattern) for pattern in patterns for text in (name, layer(name)))


def reason_by_name(
    name: str, embeddings: Iterable[str], heads: Iterable[str]
) -> tuple[str, str] | None:
    """The rule that a matrix's name suggests, and why; None: it suggests none."""
    if matches(name, embeddings):
        return ADAMW, f"{layer(name)!r} is the name of an embedding"
    if matches(name, heads):
        return ADAMW, f"{layer(name)!r} is the name of a head"
    return None


def by_request(name: str, muon_for: Iterable[str], adamw_for: Iterable[str]) -> str | None:
    """The rule that somebody asked for by a parameter's name; None: nobody did.

    Raises:
        ValueError: both were asked for.
    """
    to_muon, to_adamw = matches(name, muon_for), matches(name, adamw_for)
    if to_muon and to_adamw:
        raise ValueError(f"muon_for: got a pattern for {name!r}, which adamw_for has, too")
    return MUON if to_muon else ADAMW if to_adamw else None


def read_patterns(argument: str, given: Any) -> tuple[str, ...]:
    """Patterns as a tuple, whatever they come in: a generator can be read only once.

    Raises:
        TypeError: they are not patterns, or a single one outside of a list.
    """
    patterns = tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else None
    if patterns is None or not all(isinstance(pattern, str) for pattern in patterns):
        shown = given if patterns is None else patterns
        raise TypeError(f"{argument}: got {shown!r}, wanted a list of names or patterns")
    return patterns


def check_answered(argument: str, patterns: Sequence[str], names: Sequence[str], what: str) -> None:
    """Raise ValueError for a pattern that no name matches; ``what``: what has the names."""
    for pattern in patterns:
        if not any(matches(name, [pattern]) for name in names):
            raise ValueError(
                f"{argument}: got {pattern!r}, which no {what} is called, wanted one of "
                f"{some(names)}"
            )


def check_muon(placed: Sequence[Placed]) -> None:
    """Raise ValueError where nothing is left for Muon, or what is asked for it is no matrix."""
    for one in placed:
        if one.place == MUON and len(one.shape) != 2:
            raise ValueError(
                f"muon_for: got {one.name!r} of shape {one.shape}, wanted a matrix for Muon"
            )
    if not any(one.place == MUON for one in placed):
        raise ValueError(
            "params: got no matrix for Muon, wanted hidden layers; muon_for takes names"
        )


def muon_groups(
    params: Mapping[str, Array] | Sequence[Array],
    *,
    muon: Mapping[str, Any] | None = None,
    adamw: Mapping[str, Any] | None = None,
    embeddings: Iterable[str] = EMBEDDINGS,
    heads: Iterable[str] = HEADS,
    muon_for: Iterable[str] = (),
    adamw_for: Iterable[str] = (),
) -> MuonGroups:
    """Sort parameters into those for Muon, matrices of hidden layers, and the rest for AdamW.

    Every parameter is in one group. To AdamW go those that are no matrices, and those whose layer
    is called like an embedding or a head: the last word of the name that is not ``weight``,
    ``kernel`` or ``w``. Names say little: read what the groups print, which is also logged.

    Args:
        params: arrays by name; or a sequence, whose names are positions.
        muon: hyperparameters of Muon's group.
        adamw: hyperparameters of AdamW's group.
        embeddings: patterns, as of file names, for layers or whole names.
        heads: patterns likewise.
        muon_for: names or patterns of matrices for Muon, whatever the other arguments say.
        adamw_for: names or patterns of parameters for AdamW, likewise.

    Returns:
        The groups, a list for ``params`` of an optimizer, and ``split`` for its gradients.

    Raises:
        TypeError, ValueError: a pattern matches nothing, or there is no matrix for Muon.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> params = {"wte": np.zeros((50, 8)), "fc.weight": np.ones((8, 4)), "fc.bias": np.ones(4)}
        >>> groups = gs.muon_groups(params, muon={"lr": 0.02}, adamw={"lr": 3e-4})
        >>> groups
        Muon: 1 parameter, 32 elements, lr=0.02
          fc.weight (8, 4): a matrix
        AdamW: 2 parameters, 404 elements, lr=0.0003
          wte (50, 8): 'wte' is the name of an embedding
          fc.bias (4,): no matrix
        >>> opt = gs.Muon(groups, clip_norm=1.0)
        >>> opt.step(groups.split({name: np.ones_like(p) for name, p in params.items()})).t
        1
    """
    params = by_name(params)
    embeddings, heads = read_patterns("embeddings", embeddings), read_patterns("heads", heads)
    muon_for, adamw_for = read_patterns("muon_for", muon_for), read_patterns("adamw_for", adamw_for)
    check_answered("muon_for", muon_for, [*params], "parameter")
    check_answered("adamw_for", adamw_for, [*params], "parameter")
    placed = []
    for name, array in params.items():
        shape = tuple(np.shape(array))
        rule, reason = by_request(name, muon_for, adamw_for), "as was asked"
        if rule is None:
            rule, reason = (ADAMW, "no matrix") if len(shape) != 2 else (MUON, "a matrix")
            if rule == MUON:
                rule, reason = reason_by_name(name, embeddings, heads) or (rule, reason)
        placed.append(Placed(name, array, shape, rule, reason))
    check_muon(placed)
    values = {MUON: dict(muon or {}), ADAMW: dict(adamw or {})}
    return MuonGroups(placed, values, as_mapping)
