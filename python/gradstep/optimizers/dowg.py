"""The class of cpp/rules/dowg.hpp."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..hyperparameters import LENGTH
from ..optimizer import Optimizer
from ..rule import Rule, is_on

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from typing_extensions import Unpack

    from ..arguments import Params, Shared, Value


class DoWG(Optimizer):
    r"""SGD by the distance from the start, as DoG, with later gradients weighing more.

    .. math:: r^2 = \max(r^2, \lVert p - p_0\rVert^2);\quad
              G = G + r^2 \lVert g\rVert^2;\quad
              p \leftarrow p - \eta\,\frac{r^2}{\sqrt G + \epsilon}\,g

    When: as DoG, which it overtakes where the start is far from the end; but it diverges more
    easily. Leave the rate at 1.

    Norms are over all parameters that have a gradient in the step, and over all processes of
    DTensors. An optimizer that holds only some of the parameters, as in
    ``ZeroRedundancyOptimizer``, would see those alone: do not use it there.

    Args:
        params: see :class:`Optimizer`.
        lr: η ≥ 0, what the rate is multiplied by: 1, or a schedule below it.
        init_estim_sq_dist: r² at first, > 0; None: ε. It and ε are the same for all groups.
        eps: ε ≥ 0; > 0 where ``init_estim_sq_dist`` is None.
        weight_decay: λ ≥ 0, added to the gradient (L2).
        maximize: go up the gradient.
        **shared: storages, stages and more that every rule takes, see :class:`Optimizer`.

    States: ``init_params``, the parameter as the first step finds it; the numbers
    ``estim_sq_dist`` and ``weighted_sq_norm_grads``, which are the same for all parameters.

    Where frameworks differ: this is ``optax.contrib.dowg``.

    Source: Khaled, Mishchenko & Jin, "DoWG unleashed", NeurIPS 2023; optax 0.2.8.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> w, target = np.zeros(3), np.array([1.0, -2.0, 3.0])
        >>> opt = gs.DoWG(w)
        >>> for t in range(101):
        ...     if t % 50 == 0:
        ...         print(f"{((w - target) ** 2).sum():.4f}")  # the loss
        ...     report = opt.step(2 * (w - target))  # its gradient
        14.0000
        0.0000
        0.0000
    """

    rule = Rule("DoWG")
    _family = "without a rate"
    _ranges = {  # noqa: RUF012
        "init_estim_sq_dist": LENGTH._replace(wanted="a finite number > 0 or None", none=-1.0),
    }

    def __init__(
        self,
        params: Params,
        lr: Value = 1.0,
        init_estim_sq_dist: Value | None = None,
        eps: Value = 1e-4,
        weight_decay: Value = 0,
        *,
        maximize: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "init_estim_sq_dist": init_estim_sq_dist,
                "eps": eps,
                "weight_decay": weight_decay,
                "maximize": maximize,
            },
            **shared,
        )

    @staticmethod
    def _check(prefix: str, group: Mapping[str, Any], storages: Mapping[str, str]) -> None:
        del storages
        if group["init_estim_sq_dist"] is None and not is_on(group["eps"]):
            raise ValueError(
                f"{prefix}eps: got {group['eps']!r} with init_estim_sq_dist=None, which starts "
                "from it, wanted a finite number > 0"
            )
