"""The class of cpp/rules/sgd.hpp."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..optimizer import Optimizer
from ..rule import Rule, is_on

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..arguments import Params, Shared, Value


class SGD(Optimizer):
    r"""Stochastic gradient descent with momentum.

    .. math:: d = g + \lambda p;\quad b = \mu b + (1 - \tau) d \ (b_1 = d);\quad
              p \leftarrow p - \eta\,(d + \mu b \text{ if nesterov else } b)

    When: networks for images, and wherever a tuned rate is at hand: with momentum it often reaches
    a better network than Adam, but wants its rate found. Begin at 0.1 with momentum 0.9 for a
    network with normalisation, at 0.01 without, and lower the rate over the run.

    Args:
        params: see :class:`Optimizer`.
        lr: the rate η ≥ 0.
        momentum: μ ≥ 0; 0 keeps no buffer. A schedule keeps one.
        dampening: τ.
        weight_decay: λ ≥ 0, added to the gradient (L2).
        nesterov: look ahead; wants a momentum and no dampening.
        maximize: go up the gradient.
        **shared: storages, stages and more that every rule takes, see :class:`Optimizer`.

    State: ``momentum_buffer``, with momentum.

    Takes :class:`Rows` where momentum and λ are 0, as both move rows without a gradient, too.

    Where frameworks differ: Keras keeps the rate inside the buffer, b = μb − ηg, so a changing
    rate acts on old gradients too.

    Source: Sutskever et al., ICML 2013, in PyTorch's form.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> w, target = np.zeros(3), np.array([1.0, -2.0, 3.0])
        >>> opt = gs.SGD(w, lr=0.1, momentum=0.5)
        >>> for t in range(101):
        ...     if t % 50 == 0:
        ...         print(f"{((w - target) ** 2).sum():.4f}")  # the loss
        ...     report = opt.step(2 * (w - target))  # its gradient
        14.0000
        0.0000
        0.0000
    """

    rule = Rule("SGD")

    def __init__(
        self,
        params: Params,
        lr: Value = 1e-3,
        momentum: Value = 0,
        dampening: Value = 0,
        weight_decay: Value = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "maximize": maximize,
            },
            **shared,
        )

    @staticmethod
    def _check(prefix: str, group: Mapping[str, Any], storages: Mapping[str, str]) -> None:
        del storages
        on = {key: is_on(group[key]) for key in ("momentum", "dampening")}
        for key, wanted in (("momentum", True), ("dampening", False)):
            if group["nesterov"] and on[key] != wanted:
                raise ValueError(
                    f"{prefix}nesterov: got True with {key}={group[key]!r}, wanted "
                    "a momentum above 0 and no dampening"
                )
        if on["dampening"] and not on["momentum"]:
            raise ValueError(
                f"{prefix}dampening: got {group['dampening']!r} with momentum="
                f"{group['momentum']!r}, wanted a momentum for it to dampen"
            )
