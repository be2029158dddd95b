"""The class of cpp/rules/adopt.hpp."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..optimizer import Optimizer
from ..rule import Rule

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..arguments import Params, Shared, Value


class ADOPT(Optimizer):
    r"""Adam that converges with any β₂: the gradient is divided by the size of those before.

    .. math:: u = \mathrm{clip}\left(\frac{g}{\max(\sqrt{v}, \epsilon)},\ \pm (t - 1)^{1/4}\right);
              \quad m \leftarrow \beta_1 m + (1 - \beta_1) u;\quad
              p \leftarrow (1 - \eta\lambda) p - \eta m;\quad
              v \leftarrow \beta_2 v + (1 - \beta_2) g^2

    The first update only sets v = g²; nothing moves.

    When: in AdamW's place where gradients are noisy or sparse and Adam wants another β₂ for each
    task. Begin at AdamW's rate.

    Args:
        params: see :class:`Optimizer`.
        lr: the rate η ≥ 0.
        betas: β₁ and β₂ in [0, 1).
        eps: ε ≥ 0, the least that √v counts as.
        weight_decay: λ ≥ 0, apart from the gradient.
        nesterov: look ahead: β₁m + (1 − β₁)u in the place of m.
        use_clipping: limit each element of u; False: algorithm 1 of the paper.
        maximize: go up the gradient.
        **shared: storages, stages and more that every rule takes, see :class:`Optimizer`.

    States: ``exp_avg``, ``exp_avg_sq``.

    Where frameworks differ: all is as in optax 0.2.8, which has no decay; the decay is that of the
    authors' code with ``decouple=True``; by default that adds λp to the gradient.

    Source: Taniguchi et al., NeurIPS 2024, algorithm 2; ``optax.contrib.adopt``.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> w, target = np.ones(3), np.array([1.0, -2.0, 3.0])
        >>> opt = gs.ADOPT(w, lr=0.2)
        >>> for t in range(100 + 1):
        ...     if t % 50 == 0:
        ...         print(f"{((w - target) ** 2).sum():.4f}")  # the loss
        ...     report = opt.step(2 * (w - target))  # its gradient
        13.0000
        0.0734
        0.0004
    """

    rule = Rule("ADOPT")

    def __init__(
        self,
        params: Params,
        lr: Value = 1e-3,
        betas: tuple[Value, Value] = (0.9, 0.9999),
        eps: Value = 1e-6,
        weight_decay: Value = 0,
        nesterov: bool = False,
        use_clipping: bool = True,
        *,
        maximize: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        values = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "use_clipping": use_clipping,
        }
        super().__init__(params, {**values, "maximize": maximize}, **shared)
