"""The class of cpp/rules/adan.hpp."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..optimizer import Optimizer
from ..rule import Rule

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..arguments import Params, Shared, Value


class Adan(Optimizer):
    r"""Adam that looks ahead: Nesterov's momentum from the difference of gradients.

    .. math:: m \leftarrow \beta_1 m + (1 - \beta_1) g;\quad
              \delta \leftarrow \beta_2 \delta + (1 - \beta_2)(g - g_{-1});\quad
              n \leftarrow \beta_3 n + (1 - \beta_3)(g + \beta_2 (g - g_{-1}))^2;\quad
              p \leftarrow \frac{1}{1 + \eta\lambda}\left(p
                  - \eta\,\frac{\hat m + \beta_2 \hat\delta}{\sqrt{\hat n} + \epsilon}\right)

    with each mean corrected for its start, as m̂ = m / (1 − β₁ᵗ); the first difference is 0.

    When: vision models and large batches, with up to twice the memory of AdamW to spend. Begin at
    AdamW's rate, and try up to 5 to 10 times as much with a warm-up; a decay of 0.02.

    Args:
        params: see :class:`Optimizer`.
        lr: the rate η ≥ 0.
        betas: β₁, β₂ and β₃ in [0, 1).
        eps: ε ≥ 0.
        weight_decay: λ ≥ 0. The parameter shrinks after the step, by division.
        maximize: go up the gradient.
        **shared: storages, stages and more that every rule takes, see :class:`Optimizer`.

    States: ``exp_avg``, ``exp_avg_sq``, ``exp_avg_diff``, and ``neg_pre_grad``, the gradient of the
    step before times −1.

    Where frameworks differ: all is as in the authors' code; its β is 1 − β in the paper. optax
    0.2.8 averages with β₂ = 0.92, as here, but multiplies the differences by 1 − β₂ = 0.08 in place
    of β₂, adds 1e-8 under the root and puts the decay into the step.

    Source: Xie et al., TPAMI 2024; ``adan.py`` of sail-sg/Adan.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> w, target = np.ones(3), np.array([1.0, -2.0, 3.0])
        >>> opt = gs.Adan(w, lr=0.1)
        >>> for t in range(100 + 1):
        ...     if t % 50 == 0:
        ...         print(f"{((w - target) ** 2).sum():.4f}")  # the loss
        ...     report = opt.step(2 * (w - target))  # its gradient
        13.0000
        1.4611
        0.1660
    """

    rule = Rule("Adan")

    def __init__(
        self,
        params: Params,
        lr: Value = 1e-3,
        betas: tuple[Value, Value, Value] = (0.98, 0.92, 0.99),
        eps: Value = 1e-8,
        weight_decay: Value = 0,
        *,
        maximize: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        values = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**values, "maximize": maximize}, **shared)
