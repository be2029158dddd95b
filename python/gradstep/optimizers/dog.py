"""The class of cpp/rules/dog.hpp."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..hyperparameters import LENGTH
from ..optimizer import Optimizer
from ..rule import Rule

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..arguments import Params, Shared, Value


class DoG(Optimizer):
    r"""SGD whose rate is the distance from the start over the root of all squared gradients.

    .. math:: \bar r = \max(\bar r, \lVert p - p_0\rVert);\quad
              G = G + \lVert g\rVert^2;\quad
              p \leftarrow p - \eta\,\frac{\bar r}{\sqrt{G + \epsilon}}\,g

    When: trainings for SGD where no rate is known. Leave the rate at 1. The authors evaluate the
    average of the parameters: ``average=0.999``.

    Norms are over all parameters that have a gradient in the step, and over all processes of
    DTensors. An optimizer that holds only some of the parameters, as in
    ``ZeroRedundancyOptimizer``, would see those alone: do not use it there.

    Args:
        params: see :class:`Optimizer`.
        lr: η ≥ 0, what the rate is multiplied by: 1, or a schedule below it.
        reps_rel: > 0: r̄ starts as this times 1 + ‖p₀‖; with batch norm take 1e-4. It and ε are the
            same for all groups.
        eps: ε ≥ 0.
        weight_decay: λ ≥ 0, added to the gradient (L2).
        maximize: go up the gradient.
        **shared: storages, stages and more that every rule takes, see :class:`Optimizer`.

    States: ``init_params``, the parameter as the first step finds it; the numbers ``max_dist``
    and ``sum_sq_norm_grads``, which are the same for all parameters.

    Where frameworks differ: this is ``optax.contrib.dog`` with its init_step ("heuristic",
    ``reps_rel``), and the authors' package dog-optimizer, whose argument has this name.

    Source: Ivgi, Hinder & Carmon, "DoG is SGD's best friend", ICML 2023; optax 0.2.8.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> w, target = np.zeros(3), np.array([1.0, -2.0, 3.0])
        >>> opt = gs.DoG(w)
        >>> for t in range(101):
        ...     if t % 50 == 0:
        ...         print(f"{((w - target) ** 2).sum():.4f}")  # the loss
        ...     report = opt.step(2 * (w - target))  # its gradient
        14.0000
        13.7717
        1.0122
    """

    rule = Rule("DoG")
    _family = "without a rate"
    _ranges = {  # noqa: RUF012
        "reps_rel": LENGTH,
    }

    def __init__(
        self,
        params: Params,
        lr: Value = 1.0,
        reps_rel: Value = 1e-6,
        eps: Value = 1e-8,
        weight_decay: Value = 0,
        *,
        maximize: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "reps_rel": reps_rel,
                "eps": eps,
                "weight_decay": weight_decay,
                "maximize": maximize,
            },
            **shared,
        )
