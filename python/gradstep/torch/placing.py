"""Which parameter of a module Muon steps, and which goes to AdamW."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

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
    every = [*module.named_parameters()]
    wanted = [(name, param) for name, param in every if param.requires_grad]
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
    left_out = [
        Placed(name, param, tuple(param.shape), "", "wants no gradient")
        for name, param in every
        if not param.requires_grad
    ]
    return MuonGroups(
        placed, values, lambda its: [(one.name, one.parameter) for one in its], left_out
    )


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
