"""The class of cpp/rules/stableadamw.hpp."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..optimizer import Optimizer
from ..rule import Rule

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..arguments import Params, Shared, Value


class StableAdamW(Optimizer):
    r"""AdamW with a smaller rate for a tensor whose gradients are larger than they used to be.

    .. math:: \eta_t = \eta / \max\left(1, \sqrt{\mathrm{mean}\left(
                  g^2 / \max(v, \epsilon^2)\right)}\right);\quad
              p \leftarrow (1 - \eta_t\lambda) p - \eta_t\,\frac{m}{\sqrt{v} + \epsilon}

    with Adam's corrected means m and v, which include this gradient.

    When: transformers whose loss spikes with AdamW, above all in low precision; it takes the place
    of clipping by a norm. Begin at AdamW's rate.

    Args:
        params: see :class:`Optimizer`.
        lr: the rate η ≥ 0.
        betas: β₁ and β₂ in [0, 1).
        weight_decay: λ ≥ 0.
        eps: ε ≥ 0.
        maximize: go up the gradient.
        **shared: storages, stages and more that every rule takes, see :class:`Optimizer`.

    States: ``exp_avg``, ``exp_avg_sq``, both corrected for their start already. The mean is over
    whole tensors: over all shards, which must fill their tensor, or over all processes of a
    DTensor. With states in few bits it is taken before they are rounded.

    Where frameworks differ: all is as in torch-optimi 0.3.3, except for ``decouple_lr``, in whose
    place ``weight_decay`` can be a schedule. The decay uses ηₜ, too. If the mean is NaN,
    ηₜ is η.

    Source: Wortsman et al., NeurIPS 2023, algorithm 2; torch-optimi's ``StableAdamW``.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> w, target = np.ones(3), np.array([1.0, -2.0, 3.0])
        >>> opt = gs.StableAdamW(w, lr=0.1)
        >>> for t in range(100 + 1):
        ...     if t % 50 == 0:
        ...         print(f"{((w - target) ** 2).sum():.4f}")  # the loss
        ...     report = opt.step(2 * (w - target))  # its gradient
        13.0000
        0.0268
        0.0011
    """

    rule = Rule("StableAdamW")

    def __init__(
        self,
        params: Params,
        lr: Value = 1e-3,
        betas: tuple[Value, Value] = (0.9, 0.99),
        weight_decay: Value = 1e-2,
        eps: Value = 1e-6,
        *,
        maximize: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        values = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "eps": eps}
        super().__init__(params, {**values, "maximize": maximize}, **shared)
