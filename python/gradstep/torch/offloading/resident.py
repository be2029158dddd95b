"""Parameters that stay on the device, with their states and PyTorch's own rule."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch

from ...rule import Rule
from .. import layout
from ..groups import EXECUTION, plain
from .slots import Slot


def choose(slots: Sequence[Slot], asked: Any) -> list[Slot]:
    """Which parameters stay on the device.

    Args:
        slots: all of them.
        asked: a fraction of all elements, filled from the largest parameter down; or names, or
            patterns such as ``"*.bias"``.

    Raises:
        TypeError, ValueError: it is neither, or a name is nobody's.
    """
    if not isinstance(asked, float | int | Sequence) or isinstance(asked, bool):
        raise TypeError(f"on_device: got {asked!r}, wanted a fraction from 0 to 1, or names")
    if asked in (0, [], ()):
        return []
    if any(layout.is_sharded(slot.param) for slot in slots):
        raise ValueError(
            f"on_device: got {asked!r} for DTensors, wanted 0: their norm is taken over processes"
        )
    trained = [slot for slot in slots if slot.param.requires_grad]
    if isinstance(asked, str) or not isinstance(asked, int | float):
        patterns = [asked] if isinstance(asked, str) else list(asked)
        for pattern in patterns:
            if not any(fnmatchcase(slot.name, pattern) for slot in slots):
                raise ValueError(f"on_device: got {pattern!r}, which no parameter is called")
        return [s for s in trained if any(fnmatchcase(s.name, pattern) for pattern in patterns)]
    if not 0 <= asked <= 1:
        raise ValueError(f"on_device: got {asked!r}, wanted a fraction from 0 to 1, or names")
    left = asked * sum(slot.count for slot in trained)
    chosen = []
    for slot in sorted(trained, key=lambda slot: -slot.count):
        if slot.count <= left:
            chosen.append(slot)
            left -= slot.count
    return chosen


def check_options(rule: Rule, options: Mapping[str, Any]) -> None:
    """Raise ValueError for what the host's step has and the device's has not."""
    if rule.common or rule.takes_loss or rule.has_direction:
        raise ValueError(
            f"on_device: got {rule.name}, which looks at all parameters together or multiplies "
            "matrices, wanted another rule, or all parameters stepped here"
        )
    twin = getattr(torch.optim, rule.name, None)
    known = set(inspect.signature(twin).parameters) if twin is not None else set(options)
    for key in rule.defaults.keys() - known - {"frozen"}:
        if options.get(key, rule.defaults[key]) != rule.defaults[key]:
            raise ValueError(
                f"{key}: got {options[key]!r} with on_device, which torch.optim.{rule.name} does "
                "not have, wanted either of both"
            )
    for key in ("average", "stats", "clip_value"):
        if options.get(key) not in (None, False):
            raise ValueError(
                f"{key}: got {options[key]!r} with on_device, where PyTorch's rule has none, "
                "wanted either of both"
            )


class Resident:
    """What steps them.

    Args:
        name: the rule's.
        groups: the parameter groups, with hyperparameters.
        slots: which parameters stay.

    Raises:
        ValueError: PyTorch has no such rule, or not with these hyperparameters.
    """

    def __init__(self, name: str, groups: Sequence[Mapping[str, Any]], slots: Sequence[Slot]):
        twin = getattr(torch.optim, name, None)
        if twin is None or any("rule" in group for group in groups):
            raise ValueError(
                f"on_device: got {name}, or a rule per group, wanted one rule that torch.optim has"
            )
        self.slots = list(slots)
        self._known = set(inspect.signature(twin).parameters) - {"params", *EXECUTION}
        own = {id(slot.param) for slot in slots}
        entries = [
            {**self._values(group), "params": [p for p in group["params"] if id(p) in own]}
            for group in groups
        ]
        passes = {"fused": True} if "fused" in inspect.signature(twin).parameters else {}
        try:
            self.optimizer = twin(entries, **passes)
        except RuntimeError:  # not on this device, or not this rule
            self.optimizer = twin(entries)

    def _values(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return {key: plain(group[key]) for key in self._known if key in group}

    def square(self) -> float:
        """The sum of the squares of their gradients."""
        grads = [slot.param.grad for slot in self.slots if slot.param.grad is not None]
        if not grads:
            return 0.0
        norms = torch.stack([torch.linalg.vector_norm(g, dtype=torch.float32) for g in grads])
        return math.fsum(norm * norm for norm in norms.tolist())

    def step(self, groups: Sequence[Mapping[str, Any]], factor: float) -> None:
        """Step them by hyperparameters as the host's last step had them.

        Args:
            groups: with those hyperparameters.
            factor: what the gradients are multiplied by.
        """
        for entry, group in zip(self.optimizer.param_groups, groups, strict=True):
            entry.update(self._values(group))
        if factor != 1:
            for slot in self.slots:
                if slot.param.grad is not None:
                    slot.param.grad.mul_(factor)
        self.optimizer.step()
