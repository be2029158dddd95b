"""The class of cpp/rules/schedulefreeadamw.hpp."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..hyperparameters import BETWEEN, HALVES
from ..optimizer import Optimizer
from ..rule import Rule

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..arguments import Params, Shared, Value


class ScheduleFreeAdamW(Optimizer):
    r"""AdamW without a schedule: gradients are taken between the steps and their average.

    .. math:: \gamma = \eta \min(1, t / w);\quad
              c = t^r \gamma_{\max}^p \Big/ \sum t^r \gamma_{\max}^p;\quad
              u = g / (\sqrt{\hat v} + \epsilon) + \lambda y

    .. math:: y \leftarrow (1 - c) y + c z + \gamma (\beta_1 (1 - c) - 1) u;\quad
              z \leftarrow z - \gamma u

    The parameter is y. The point to evaluate and to save is x = y + (1 − 1/β₁)(z − y):
    ``with opt.averaged():`` puts it into the parameters.

    When: runs whose length is not known, and whoever would rather not choose a schedule. Begin at
    0.0025, which is 1 to 10 times AdamW's rate, with a warm-up of some hundred updates and β₁ of
    0.9 to 0.98. Batch norm gathers its statistics at y: before evaluating, let the network see some
    batches within ``averaged()``.

    Args:
        params: see :class:`Optimizer`.
        lr: the rate η ≥ 0.
        betas: β₁ and β₂, above 0 and below 1; gradients are taken between z (β₁ = 0) and the
            average (1).
        eps: ε ≥ 0.
        weight_decay: λ ≥ 0, taken at y.
        warmup_steps: w ≥ 0, updates over which γ grows to the rate.
        r: what t is raised to in the weights of the average, a multiple of 1/2.
        weight_lr_power: what the largest γ so far is raised to, a multiple of 1/2.
        maximize: go up the gradient.
        **shared: storages, stages and more that every rule takes, see :class:`Optimizer`; without
            ``average``, since the rule has its own.

    States: ``z``, which starts as the parameter is at the first step; ``exp_avg_sq``; the numbers
    ``lr_max`` and ``weight_sum``. ``states="q8"`` is for ``exp_avg_sq`` alone.

    Where frameworks differ: this is the package schedulefree from 1.3 on; older ones corrected γ
    instead of v. That counts a group's steps, this rule each parameter's own. ``optax.contrib``
    wraps AdamW and takes its decay at z.

    Source: Defazio et al., "The road less scheduled", NeurIPS 2024; schedulefree 1.4.1.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> w, target = np.zeros(3), np.array([1.0, -2.0, 3.0])
        >>> opt = gs.ScheduleFreeAdamW(w, lr=0.2)
        >>> for t in range(101):
        ...     if t % 50 == 0:
        ...         with opt.averaged():
        ...             print(f"{((w - target) ** 2).sum():.4f}")  # the loss
        ...     report = opt.step(2 * (w - target))  # its gradient
        14.0000
        0.0403
        0.0092
    """

    rule = Rule("ScheduleFreeAdamW")
    _family = "without a rate"
    _ranges = {"betas": BETWEEN, "r": HALVES, "weight_lr_power": HALVES}  # noqa: RUF012

    def __init__(
        self,
        params: Params,
        lr: Value = 2.5e-3,
        betas: tuple[Value, Value] = (0.9, 0.999),
        eps: Value = 1e-8,
        weight_decay: Value = 0,
        warmup_steps: Value = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        *,
        maximize: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "warmup_steps": warmup_steps,
                "r": r,
                "weight_lr_power": weight_lr_power,
                "maximize": maximize,
            },
            **shared,
        )
