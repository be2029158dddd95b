"""The class of cpp/rules/lars.hpp."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..optimizer import Optimizer
from ..rule import Rule, is_on

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..arguments import Params, Shared, Value


class LARS(Optimizer):
    r"""A step as long as the parameter it moves, times a coefficient and the rate, then momentum.

    .. math:: u = g + \lambda p;\quad
              d = \eta\,\tau\,\frac{\lVert p\rVert}{\lVert u\rVert + \epsilon}\,u;\quad
              b = \mu b + d;\quad p \leftarrow p - (\mu b + d \text{ if nesterov else } b)

    When: SGD with batches of thousands of images, where one rate no longer fits all layers. Begin
    at a rate of 1 to 10 with a warm-up, since the coefficient is 0.001. Each array is a layer: give
    biases and norms a group with another ``rule``.

    Args:
        params: see :class:`Optimizer`.
        lr: the rate η ≥ 0.
        momentum: μ ≥ 0; 0 keeps no buffer.
        weight_decay: λ ≥ 0, added to the gradient (L2).
        trust_coefficient: τ ≥ 0.
        eps: ε ≥ 0.
        nesterov: look ahead; wants a momentum.
        maximize: go up the gradient.
        **shared: storages, stages and more that every rule takes, see :class:`Optimizer`.

    State: ``momentum_buffer``, with momentum. Norms are of whole tensors: over all shards, which
    must fill their tensor, or over all processes of a DTensor.

    Where frameworks differ: the form is optax's; the paper divides by ‖g‖ + λ‖p‖. The ratio is 1
    where one of the norms is 0. bitsandbytes ignores the ratio.

    Source: You, Gitman & Ginsburg, 2017; ``optax.lars``.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> w, target = np.ones(3), np.array([1.0, -2.0, 3.0])
        >>> opt = gs.LARS(w, lr=50, momentum=0.5)
        >>> for t in range(101):
        ...     if t % 50 == 0:
        ...         print(f"{((w - target) ** 2).sum():.4f}")  # the loss
        ...     report = opt.step(2 * (w - target))  # its gradient
        13.0000
        0.0025
        0.0073
    """

    rule = Rule("LARS")
    _family = "large batches"

    def __init__(
        self,
        params: Params,
        lr: Value = 1.0,
        momentum: Value = 0.9,
        weight_decay: Value = 0,
        trust_coefficient: Value = 1e-3,
        eps: Value = 0,
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
                "weight_decay": weight_decay,
                "trust_coefficient": trust_coefficient,
                "eps": eps,
                "nesterov": nesterov,
                "maximize": maximize,
            },
            **shared,
        )

    @staticmethod
    def _check(prefix: str, group: Mapping[str, Any], storages: Mapping[str, str]) -> None:
        del storages
        if group["nesterov"] and not is_on(group["momentum"]):
            raise ValueError(
                f"{prefix}nesterov: got True with momentum={group['momentum']!r}, wanted a "
                "momentum above 0"
            )
