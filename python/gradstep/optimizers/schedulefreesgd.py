"""The class of cpp/rules/schedulefreesgd.hpp."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..hyperparameters import BETWEEN, HALVES
from ..optimizer import Optimizer
from ..rule import Rule

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..arguments import Params, Shared, Value


class ScheduleFreeSGD(Optimizer):
    r"""SGD without a schedule: gradients are taken between the steps and their average.

    .. math:: \gamma = \eta \min(1, t / w);\quad
              c = t^r \gamma_{\max}^p \Big/ \sum t^r \gamma_{\max}^p;\quad
              u = g + \lambda y

    .. math:: y \leftarrow (1 - c) y + c z + \gamma (\mu (1 - c) - 1) u;\quad
              z \leftarrow z - \gamma u

    The parameter is y. The point to evaluate and to save is x = y + (1 − 1/μ)(z − y):
    ``with opt.averaged():`` puts it into the parameters.

    When: trainings for SGD whose length is not known, and whoever would rather not choose a
    schedule. Begin at 10 times the best rate of SGD without momentum, or at 1; it wants a warm-up
    of some hundred updates. Batch norm gathers its statistics at y: before evaluating, let the
    network see some batches within ``averaged()``.

    Args:
        params: see :class:`Optimizer`.
        lr: the rate η ≥ 0.
        momentum: μ, above 0 and below 1: where gradients are taken between z (0) and the average
            (1).
        weight_decay: λ ≥ 0, taken at y.
        warmup_steps: w ≥ 0, updates over which γ grows to the rate.
        r: what t is raised to in the weights of the average, a multiple of 1/2.
        weight_lr_power: what the largest γ so far is raised to, a multiple of 1/2.
        maximize: go up the gradient.
        **shared: storages, stages and more that every rule takes, see :class:`Optimizer`; without
            ``average``, since the rule has its own.

    States: ``z``, which starts as the parameter is at the first step; the numbers ``lr_max`` and
    ``weight_sum``.

    Where frameworks differ: this is the package schedulefree. That counts a group's steps, this
    rule each parameter's own. ``optax.contrib.schedule_free_sgd`` takes its decay at z.

    Source: Defazio et al., "The road less scheduled", NeurIPS 2024; schedulefree 1.4.1.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> w, target = np.zeros(3), np.array([1.0, -2.0, 3.0])
        >>> opt = gs.ScheduleFreeSGD(w, lr=0.2)
        >>> for t in range(101):
        ...     if t % 50 == 0:
        ...         with opt.averaged():
        ...             print(f"{((w - target) ** 2).sum():.4f}")  # the loss
        ...     report = opt.step(2 * (w - target))  # its gradient
        14.0000
        0.0041
        0.0002
    """

    rule = Rule("ScheduleFreeSGD")
    _family = "without a rate"
    _ranges = {  # noqa: RUF012
        "momentum": BETWEEN,
        "r": HALVES,
        "weight_lr_power": HALVES,
    }

    def __init__(
        self,
        params: Params,
        lr: Value = 1.0,
        momentum: Value = 0.9,
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
                "momentum": momentum,
                "weight_decay": weight_decay,
                "warmup_steps": warmup_steps,
                "r": r,
                "weight_lr_power": weight_lr_power,
                "maximize": maximize,
            },
            **shared,
        )
