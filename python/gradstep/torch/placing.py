"""A module's parameters sorted into groups: for Muon and AdamW, or by their layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from ..layers import LayerGroups, grouped
from ..placing import (
    ADAMW,
    HEADS,
    MUON,
    MuonGroups,
    Placed,
    by_request,
    check_answered,
    check_muon,
    matches,
    read_patterns,
)
from ..schedules import Schedule


def muon_groups(
    module: torch.nn.Module,
    *,
    muon: Mapping[str, Any] | None = None,
    adamw: Mapping[str, Any] | None = None,
    heads: Iterable[str] = HEADS,
    muon_for: Iterable[str] = (),
    adamw_for: Iterable[str] = (),
) -> MuonGroups:
    """Sort a module's parameters into those for Muon, hidden matrices, and the rest for AdamW.

    Every parameter that wants a gradient is in one group, tied ones once. To AdamW go those that
    are no matrices, those of ``nn.Embedding`` and ``nn.EmbeddingBag`` (with a head that is tied to
    one), and those of heads: each ``nn.Linear`` with a head's name or, where none has one, the
    last one of the module. The groups print what went where, or was left out, and why; it is also
    logged at INFO.

    Args:
        module: whose parameters.
        muon: hyperparameters of Muon's group.
        adamw: hyperparameters of AdamW's group.
        heads: patterns, as of file names, for what a head is called: the last part of its name, or
            the whole name. Empty: no layer is a head.
        muon_for: names or patterns of matrices for Muon, whatever the other arguments say.
        adamw_for: names or patterns of parameters for AdamW, likewise.

    Returns:
        The groups, for ``params`` of an optimizer.

    Raises:
        TypeError, ValueError: a pattern matches nothing, or there is no matrix for Muon.

    Example:
        >>> import torch, gradstep.torch
        >>> layers = [torch.nn.Embedding(9, 4), torch.nn.Linear(4, 6), torch.nn.Linear(6, 9)]
        >>> groups = gradstep.torch.muon_groups(torch.nn.Sequential(*layers), muon={"lr": 0.02})
        >>> groups
        Muon: 1 parameter, 24 elements, lr=0.02
          1.weight (6, 4): a matrix
        AdamW: 4 parameters, 105 elements
          0.weight (9, 4): an embedding's
          1.bias (6,): no matrix
          2.weight (9, 6): the head's, being the last nn.Linear
          2.bias (9,): no matrix
        >>> optimizer = gradstep.torch.Muon(groups, clip_norm=1.0)
    """
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module: got {type(module).__name__}, wanted a torch.nn.Module")
    heads = read_patterns("heads", heads)
    muon_for, adamw_for = read_patterns("muon_for", muon_for), read_patterns("adamw_for", adamw_for)
    wanted, left_out = by_gradient(module.named_parameters())
    names = [name for name, _ in wanted]
    check_answered("muon_for", muon_for, names, "parameter that wants a gradient")
    check_answered("adamw_for", adamw_for, names, "parameter that wants a gradient")
    special = _special(module, heads)
    placed = []
    for name, param in wanted:
        rule, reason = by_request(name, muon_for, adamw_for), "as was asked"
        if rule is None:
            rule = MUON if param.dim() == 2 and id(param) not in special else ADAMW
            matrix = special.get(id(param), "a matrix")
            reason = matrix if param.dim() == 2 else "no matrix"
        placed.append(Placed(name, param, tuple(param.shape), rule, reason))
    check_muon(placed)
    values = {MUON: dict(muon or {}), ADAMW: dict(adamw or {})}
    return MuonGroups(placed, values, as_pairs, left_out)


def layerwise(
    params: torch.nn.Module | Iterable[tuple[str, torch.Tensor]],
    *,
    lr: float | Schedule,
    decay: float = 0.9,
) -> LayerGroups:
    """A group for each layer, whose rate is ``lr · decay^d``, ``d`` layers before the last one.

    Every parameter that wants a gradient is in one group, tied ones once. Layers are told by names,
    as :func:`gradstep.layerwise` does: one is called like the part of a name up to its first whole
    number (``"encoder.layer.3"``), without one like all but the last part. They come in the order
    in which they appear first, those that are numbered by their numbers; those without a parameter
    that wants a gradient are counted, too. Read what the groups print.

    Args:
        params: a module, or its ``named_parameters()``.
        lr: the rate of the last layer: a number, or a schedule, which each group scales.
        decay: what the rate is multiplied by from one layer to the one before, above 0, 1 at most.

    Returns:
        The groups, for ``params`` of an optimizer, also of one of ``torch.optim`` where ``lr`` is
        a number. Their ``name`` is the layer's. ``Prodigy`` and ``DAdaptAdamW`` have one rate for
        all groups and refuse them; ``Rprop`` takes no schedule.

    Raises:
        TypeError, ValueError: ``params`` are no named parameters, or none wants a gradient; ``lr``
            is neither a finite number ≥ 0 nor a schedule; or ``decay`` is out of range.

    Example:
        >>> import torch, gradstep.torch
        >>> layers = [torch.nn.Embedding(9, 4), torch.nn.Linear(4, 6), torch.nn.Linear(6, 9)]
        >>> groups = gradstep.torch.layerwise(torch.nn.Sequential(*layers), lr=0.1, decay=0.5)
        >>> groups
        0: 1 parameter, 36 elements, lr=0.025
          0.weight (9, 4): 2 before the last layer
        1: 2 parameters, 30 elements, lr=0.05
          1.weight (6, 4): 1 before the last layer
          1.bias (6,): 1 before the last layer
        2: 2 parameters, 63 elements, lr=0.1
          2.weight (9, 6): in the last layer
          2.bias (9,): in the last layer
        >>> optimizer = gradstep.torch.AdamW(groups, clip_norm=1.0)
    """
    every = params.named_parameters() if isinstance(params, torch.nn.Module) else params
    wanted_type = "params: got {}, wanted a torch.nn.Module or its named_parameters()"
    if isinstance(every, torch.Tensor | Mapping) or not isinstance(every, Iterable):
        raise TypeError(wanted_type.format(type(params).__name__))
    named = []
    for one in every:
        if not (isinstance(one, tuple) and len(one) == 2 and isinstance(one[0], str)
                and isinstance(one[1], torch.Tensor)):  # fmt: skip
            raise TypeError(wanted_type.format(f"{type(one).__name__} among them"))
        named.append(one)
    wanted, left_out = by_gradient(named)
    shapes = {name: tuple(param.shape) for name, param in wanted}
    return grouped(dict(wanted), shapes, left_out, [name for name, _ in named], lr, decay, as_pairs)


def by_gradient(
    named: Iterable[tuple[str, Any]],
) -> tuple[list[tuple[str, Any]], list[Placed]]:
    """Parameters that want a gradient, with their names, and the others, which are left out."""
    every = [*named]
    wanted = [(name, param) for name, param in every if param.requires_grad]
    left_out = [
        Placed(name, param, tuple(param.shape), "", "wants no gradient")
        for name, param in every
        if not param.requires_grad
    ]
    return wanted, left_out


def as_pairs(its: Sequence[Placed]) -> list[tuple[str, Any]]:
    """Parameters of a group as PyTorch takes them with their names."""
    return [(one.name, one.parameter) for one in its]


def _special(module: torch.nn.Module, heads: Sequence[str]) -> dict[int, str]:
    """Why a weight is not for Muon, by its id."""
    found: dict[int, str] = {}
    embeddings = (torch.nn.Embedding, torch.nn.EmbeddingBag)
    linear = [(n, m) for n, m in module.named_modules() if isinstance(m, torch.nn.Linear)]
    named = [(name, layer) for name, layer in linear if matches(name, heads)]
    for name, layer in named:
        found[id(layer.weight)] = f"the head's, which is called {name.rpartition('.')[2]!r}"
    if heads and linear and not named:
        found[id(linear[-1][1].weight)] = "the head's, being the last nn.Linear"
    for layer in module.modules():
        if isinstance(layer, embeddings):
            found[id(layer.weight)] = "an embedding's"
    return found
