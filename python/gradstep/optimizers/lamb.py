"""The class of cpp/rules/lamb.hpp."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..optimizer import Optimizer
from ..rule import Rule

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..arguments import Params, Shared, Value


class LAMB(Optimizer):
    r"""Adam's direction with decay, as long as the parameter it moves, times the rate.

    .. math:: r = \hat m / (\sqrt{\hat v} + \epsilon) + \lambda p;\quad
              p \leftarrow p - \eta\,\frac{\lVert p\rVert}{\lVert r\rVert}\,r

    with Adam's corrected means m̂ and v̂.

    When: batches of thousands of sequences, with which AdamW stalls or diverges. Begin at 0.002 for
    a batch of 512 and grow the rate with the root of the batch. Each array is a layer: give biases
    and norms a group with another ``rule``.

    Args:
        params: see :class:`Optimizer`.
        lr: the rate η ≥ 0.
        betas: β₁ and β₂ in [0, 1).
        eps: ε ≥ 0.
        weight_decay: λ ≥ 0.
        maximize: go up the gradient.
        **shared: storages, stages and more that every rule takes, see :class:`Optimizer`.

    States: ``exp_avg``, ``exp_avg_sq``. Norms are of whole tensors: over all shards, which must
    fill their tensor, or over all processes of a DTensor. With states in few bits ‖r‖ is taken
    before they are rounded.

    Where frameworks differ: ε is optax's, and as there ‖p‖ has no limits. The ratio is 1 where one
    of the norms is 0. bitsandbytes' LAMB is AdamW with a limit on the norm of the update.

    Source: You et al., ICLR 2020, algorithm 2; ``optax.lamb``.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> w, target = np.ones(3), np.array([1.0, -2.0, 3.0])
        >>> opt = gs.LAMB(w, lr=0.05)
        >>> for t in range(101):
        ...     if t % 50 == 0:
        ...         print(f"{((w - target) ** 2).sum():.4f}")  # the loss
        ...     report = opt.step(2 * (w - target))  # its gradient
        13.0000
        0.1168
        0.0069
    """

    rule = Rule("LAMB")
    _family = "large batches"

    def __init__(
        self,
        params: Params,
        lr: Value = 2e-3,
        betas: tuple[Value, Value] = (0.9, 0.999),
        eps: Value = 1e-6,
        weight_decay: Value = 0,
        *,
        maximize: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        values = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**values, "maximize": maximize}, **shared)
