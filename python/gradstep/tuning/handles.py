"""What the tools need of an optimizer: set its rate, keep its state, put it back to the bit.

A torch optimizer is known by what it has, so that torch is not imported.
"""

from __future__ import annotations

import copy
from typing import Any, Protocol

import numpy as np

from ..optimizer import Optimizer
from ..rule import ADAPTIVE, MOMENTUM, PLAIN, RULES, SIGN


class Handle(Protocol):
    """An optimizer as the tools see it.

    Attributes:
        kind: ``"adaptive"`` where gradients are divided by the root of a second moment, ``"sign"``
            where only their sign counts, ``"momentum"``, ``"plain"``, or None where that is
            unknown. Of several groups' rules, the first of these.
    """

    kind: str | None

    def set_lr(self, lr: float) -> None:
        """Have every group step at this rate from now on."""

    def snapshot(self) -> Any:
        """Parameters, states, counts and hyperparameters, as copies."""

    def restore(self, snapshot: Any) -> None:
        """Put a snapshot back, to the bit; the snapshot stays good for another time."""


def handle(optimizer: Any) -> Handle:
    """The handle of an optimizer: one of ours, one of torch's, or any that has its methods.

    Raises:
        TypeError: it is none of these.
    """
    if all(callable(getattr(optimizer, name, None)) for name in ("set_lr", "snapshot", "restore")):
        return _Own(optimizer)
    if isinstance(optimizer, Optimizer):
        return _Ours(optimizer)
    if isinstance(getattr(optimizer, "param_groups", None), list) and all(
        callable(getattr(optimizer, name, None)) for name in ("state_dict", "load_state_dict")
    ):
        return _Torch(optimizer)
    raise TypeError(
        f"optimizer: got {type(optimizer).__name__}, wanted an optimizer of gradstep or torch, or "
        "an object with set_lr, snapshot and restore"
    )


def _kind(optimizer: Any, groups: Any) -> str:
    kinds = {_group_kind(group.get("rule", type(optimizer).__name__), group) for group in groups}
    return next((kind for kind in (ADAPTIVE, SIGN, MOMENTUM) if kind in kinds), PLAIN)


def _group_kind(name: str, group: Any) -> str:
    """What a group's rule does; of one that is not ours: what divides by a root has an ε."""
    if name in RULES:
        return RULES[name].kind(group)
    if "eps" in group:
        return ADAPTIVE
    return MOMENTUM if group.get("momentum") else PLAIN


class _Own:
    """An object with the methods itself."""

    def __init__(self, optimizer: Any) -> None:
        kind = getattr(optimizer, "kind", None)
        self.kind: str | None = kind if kind in (ADAPTIVE, MOMENTUM, PLAIN, SIGN) else None
        self.set_lr = optimizer.set_lr
        self.snapshot = optimizer.snapshot
        self.restore = optimizer.restore


class _Ours:
    """An optimizer of gradstep."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self.kind: str | None = _kind(optimizer, optimizer.groups)

    def set_lr(self, lr: float) -> None:
        for group in self._optimizer.groups:
            group["lr"] = lr

    def _arrays(self) -> list[Any]:
        """Parameters and copies: what a state dict lacks."""
        tensors = self._optimizer._held.tensors
        return [a for tensor in tensors for a in (tensor.param, tensor.copy) if a is not None]

    def snapshot(self) -> Any:
        optimizer = self._optimizer
        state = optimizer.state_dict()  # first: it raises within averaged()
        # As they are: a state dict has copies of what gives a hyperparameter.
        watched = [dict(values) for values in (*optimizer.groups, optimizer.stages)]
        return [np.array(array, copy=True) for array in self._arrays()], state, watched

    def restore(self, snapshot: Any) -> None:
        arrays, state, watched = snapshot
        for array, kept in zip(self._arrays(), arrays, strict=True):
            array[...] = kept
        optimizer = self._optimizer
        # Before the state, so that a Plateau is there to take over what it had seen; and after it,
        # so that all others are those that were there.
        self._put(watched)
        optimizer.load_state_dict(state)
        self._put(watched)

    def _put(self, watched: list[dict[str, Any]]) -> None:
        optimizer = self._optimizer
        for values, kept in zip((*optimizer.groups, optimizer.stages), watched, strict=True):
            values.replace(kept)


class _Torch:
    """An optimizer of torch, or one that is built like it."""

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        self.kind: str | None = _kind(optimizer, optimizer.param_groups)

    def set_lr(self, lr: float) -> None:
        for group in self._optimizer.param_groups:
            if _is_tensor(group["lr"]):  # compiled steps hold on to it
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr

    def _params(self) -> list[Any]:
        return [p for group in self._optimizer.param_groups for p in group["params"]]

    def snapshot(self) -> Any:
        optimizer = self._optimizer
        params = [
            (p.detach().clone(), p.grad, None if p.grad is None else p.grad.detach().clone())
            for p in self._params()
        ]
        groups = [
            {
                key: (value, value.detach().clone() if _is_tensor(value) else None)
                for key, value in group.items()
                if key != "params"
            }
            for group in optimizer.param_groups
        ]
        return params, groups, copy.deepcopy(optimizer.state_dict())

    def restore(self, snapshot: Any) -> None:
        optimizer = self._optimizer
        params, groups, state = snapshot
        for p, (data, grad, grad_data) in zip(self._params(), params, strict=True):
            p.detach().copy_(data)
            p.grad = grad  # what a step has left half done must not be added to
            if grad is not None:
                grad.detach().copy_(grad_data)
        optimizer.load_state_dict(copy.deepcopy(state))  # it may keep what it is given
        for group, kept in zip(optimizer.param_groups, groups, strict=True):
            for key in [key for key in group if key != "params" and key not in kept]:
                del group[key]
            for key, (value, data) in kept.items():
                if data is not None:
                    value.detach().copy_(data)
                group[key] = value
        # torch casts floating-point states to the parameter's dtype when it loads them.
        for i, p in enumerate(self._params()):
            for key, kept in state["state"].get(i, {}).items():
                if _is_tensor(kept) and optimizer.state[p][key].dtype != kept.dtype:
                    optimizer.state[p][key] = kept.detach().clone()


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "detach") and hasattr(value, "clone")
