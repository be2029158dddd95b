"""A rate for each layer, lower with each that lies further from the last one."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .checks import real
from .placing import Placed, SortedGroups, as_mapping, by_name
from .schedules import Schedule

if TYPE_CHECKING:
    from .arrays import Array


class LayerGroups(SortedGroups):
    """A group for each layer, from the first to the last: the ``place`` of a parameter."""

    _key = "name"


def layerwise(
    params: Mapping[str, Array] | Sequence[Array],
    *,
    lr: float | Schedule,
    decay: float = 0.9,
) -> LayerGroups:
    """A group for each layer, whose rate is ``lr · decay^d``, ``d`` layers before the last one.

    Layers are told by the names of parameters, whose parts are separated by ``.`` or ``/``. A layer
    is called like the part of the name up to its first whole number (``"layers.3"`` for
    ``"layers.3.attn.weight"``); without one like all but the last part (``"head"`` for
    ``"head.weight"``), or like a name of one part. Layers come in the order in which they appear
    first, those that are numbered by their numbers. Names say little: read what the groups print.

    Args:
        params: arrays by name; or a sequence, whose names are positions, so that each array is a
            layer.
        lr: the rate of the last layer: a number, or a schedule, which each group scales.
        decay: what the rate is multiplied by from one layer to the one before, above 0, 1 at most.

    Returns:
        The groups, a list for ``params`` of an optimizer, and ``split`` for its gradients. Their
        ``name`` is the layer's. Each can be given more hyperparameters, or another ``lr``.
        ``Prodigy`` and ``DAdaptAdamW`` have one rate for all groups and refuse them; ``Rprop``
        takes no schedule.

    Raises:
        TypeError, ValueError: ``params`` are none, ``lr`` is neither a finite number ≥ 0 nor a
            schedule, or ``decay`` is out of range.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> names = ["embed", "layers.0.w", "layers.0.b", "layers.1.w", "head.w"]
        >>> params = {name: np.ones(2) for name in names}
        >>> groups = gs.layerwise(params, lr=gs.schedules.cosine(0.1, total=100), decay=0.5)
        >>> for group in groups:
        ...     print(group["name"], group["lr"])
        embed schedules.cosine(0.1, total=100).scale(0.125)
        layers.0 schedules.cosine(0.1, total=100).scale(0.25)
        layers.1 schedules.cosine(0.1, total=100).scale(0.5)
        head schedules.cosine(0.1, total=100)
        >>> opt = gs.AdamW(groups)
        >>> opt.step(groups.split({name: np.ones(2) for name in names})).lr
        (0.0125, 0.025, 0.05, 0.1)

    Source: Howard and Ruder, "Universal language model fine-tuning for text classification", 2018
    (there with ``decay`` 1 / 2.6); Clark et al., "ELECTRA", 2020 (0.8 and 0.9).
    """
    named = by_name(params)
    for name in named:
        if not isinstance(name, str):
            raise TypeError(f"params: got the key {name!r}, wanted names as text")
    sizes = {name: tuple(np.shape(array)) for name, array in named.items()}
    return grouped(named, sizes, [], [*named], lr, decay, as_mapping)


def grouped(
    params: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    left_out: Sequence[Placed],
    names: Iterable[str],
    lr: Any,
    decay: Any,
    read: Callable[[Sequence[Placed]], Any],
) -> LayerGroups:
    """Groups by layer; see :func:`layerwise`.

    Args:
        params, shapes: by name.
        left_out: parameters of no group.
        names: of all parameters, those left out too: their layers count.
        lr, decay: as there.
        read: makes a group's ``params`` of its parameters.
    """
    if not params:
        raise ValueError("params: got none, wanted at least one")
    if not isinstance(lr, Schedule):
        rate = real("lr", lr, "a number ≥ 0 or a schedule")
        if not 0 <= rate < math.inf:
            raise ValueError(f"lr: got {lr!r}, wanted a finite number ≥ 0 or a schedule")
        lr = rate
    factor = real("decay", decay, "a number above 0, at most 1")
    if not 0 < factor <= 1:
        raise ValueError(f"decay: got {decay!r}, wanted a number above 0, at most 1")
    order = layers(names)
    depths = {name: len(order) - 1 - i for i, name in enumerate(order)}
    placed = []
    for name, param in params.items():
        its = layer(name)
        reason = f"{depths[its]} before the last layer" if depths[its] else "in the last layer"
        placed.append(Placed(name, param, shapes[name], its, reason))
    rates = {name: {"lr": scaled(lr, factor**depth)} for name, depth in depths.items()}
    return LayerGroups(placed, rates, read, left_out)


def scaled(lr: float | Schedule, factor: float) -> float | Schedule:
    """A rate times a factor; the rate itself where that is 1."""
    return lr if factor == 1 else lr * factor


def numbered(name: str) -> re.Match[str] | None:
    """A layer's name that ends with a number: what is before it, and the number."""
    return re.match(r"((?:.*?[./])??)(\d+)(?=[./]|$)", name)


def layer(name: str) -> str:
    """What the layer of a parameter is called, see :func:`layerwise`."""
    if found := numbered(name):
        return found[0]
    return re.sub(r"[./][^./]*$", "", name)


def layers(names: Iterable[str]) -> list[str]:
    """The layers of parameters, from the first to the last."""
    found = dict.fromkeys(map(layer, names))
    # Where each stands: with the first one that is numbered behind the same words, or by itself.
    first: dict[str, int] = {}
    places = {}
    for i, name in enumerate(found):
        match = numbered(name)
        series, number = (match[1], int(match[2])) if match else (name, 0)
        places[name] = (first.setdefault(series, i), number)
    return sorted(found, key=lambda name: places[name])
