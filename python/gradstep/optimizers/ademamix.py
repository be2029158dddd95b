"""The class of cpp/rules/ademamix.hpp."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..optimizer import Optimizer
from ..rule import Rule

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..arguments import Params, Shared, Value


class AdEMAMix(Optimizer):
    r"""AdamW with a second, slow mean of gradients, which remembers thousands of steps.

    .. math:: m_1 \leftarrow \beta_1 m_1 + (1 - \beta_1) g;\quad
              m_2 \leftarrow \beta_{3,t}\, m_2 + (1 - \beta_{3,t}) g;\quad
              v \leftarrow \beta_2 v + (1 - \beta_2) g^2;\quad
              p \leftarrow (1 - \eta\lambda) p
                  - \eta\,\frac{\hat m_1 + \alpha_t m_2}{\sqrt{\hat v} + \epsilon}

    with m̂₁ and v̂ corrected for their start, m₂ not. αₜ grows in a straight line from 0 to α, and
    β₃ₜ from β₁ to β₃, such that the half-life of the slow mean grows in a straight line.

    When: long trainings of language models, of 10,000 steps and more, with memory for a third
    state. Begin at AdamW's rate and decay with both warm-ups as long as the training.

    Args:
        params: see :class:`Optimizer`.
        lr: the rate η ≥ 0.
        betas: β₁, β₂ and β₃ in [0, 1).
        alpha: α ≥ 0, the weight of the slow mean.
        eps: ε ≥ 0.
        weight_decay: λ ≥ 0.
        alpha_warmup: the updates until α is reached; 0: from the first on.
        beta3_warmup: the updates until β₃ is reached; 0: from the first on.
        maximize: go up the gradient.
        **shared: storages, stages and more that every rule takes, see :class:`Optimizer`.

    States: ``exp_avg_fast``, ``exp_avg_slow``, ``exp_avg_sq``.

    Where frameworks differ: α is optax's and bitsandbytes' 5, the authors' code has 2. Warm-ups are
    the authors', which count updates from 1; in optax 0.2.8 α and β₃ may be schedules, which count
    from 0, as ``alpha`` may be here, too. bitsandbytes has a decay of 0.01.

    Source: Pagliardini, Ablin & Grangier, ICLR 2025; ``optax.contrib.ademamix``.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> w, target = np.ones(3), np.array([1.0, -2.0, 3.0])
        >>> opt = gs.AdEMAMix(w, lr=0.1, betas=(0.9, 0.999, 0.99))
        >>> for t in range(100 + 1):
        ...     if t % 50 == 0:
        ...         print(f"{((w - target) ** 2).sum():.4f}")  # the loss
        ...     report = opt.step(2 * (w - target))  # its gradient
        13.0000
        0.6693
        0.0212
    """

    rule = Rule("AdEMAMix")

    def __init__(
        self,
        params: Params,
        lr: Value = 1e-3,
        betas: tuple[Value, Value, Value] = (0.9, 0.999, 0.9999),
        alpha: Value = 5.0,
        eps: Value = 1e-8,
        weight_decay: Value = 0,
        alpha_warmup: Value = 0,
        beta3_warmup: Value = 0,
        *,
        maximize: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        values = {
            "lr": lr,
            "betas": betas,
            "alpha": alpha,
            "eps": eps,
            "weight_decay": weight_decay,
            "alpha_warmup": alpha_warmup,
            "beta3_warmup": beta3_warmup,
        }
        super().__init__(params, {**values, "maximize": maximize}, **shared)
