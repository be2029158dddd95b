"""The class of cpp/rules/dadaptadamw.hpp."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..hyperparameters import LENGTH, POSITIVE
from ..optimizer import Optimizer
from ..rule import Rule

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..arguments import Params, Shared, Value


class DAdaptAdamW(Optimizer):
    r"""AdamW that estimates its rate by D-adaptation: the estimate d only grows.

    .. math:: \delta = d\,\eta\,\sqrt{1 - \beta_2^t} / (1 - \beta_1^t);\quad
              n = \sqrt{\beta_2}\,n + (1 - \sqrt{\beta_2})\,\delta\,
              \langle g, s / (\sqrt v + \epsilon)\rangle

    .. math:: m = \beta_1 m + (1 - \beta_1) \delta g;\quad
              v = \beta_2 v + (1 - \beta_2) g^2;\quad
              s = \sqrt{\beta_2}\,s + (1 - \sqrt{\beta_2}) \delta g

    .. math:: d = \max\bigl(d, n / ((1 - \sqrt{\beta_2}) \lVert s\rVert_1)\bigr);\quad
              p \leftarrow p - \delta \lambda p - m / (\sqrt v + \epsilon)

    When: whatever AdamW trains, where no rate is known; its successor :class:`Prodigy` finds the
    rate sooner. Leave the rate at 1, with a schedule from 1 to 0 if you like one.

    n and the norm of s are sums over all parameters that have a gradient in the step, and over all
    processes of DTensors. An optimizer that holds only some of the parameters, as in
    ``ZeroRedundancyOptimizer``, would see those alone: do not use it there.

    Args:
        params: see :class:`Optimizer`.
        lr: η ≥ 0, what d is multiplied by. The same for all groups, except that it may be 0: such a
            group has no part in d.
        betas: β₁ and β₂ in [0, 1), the same for all groups.
        eps: ε > 0: s / (√v + ε) begins as 0 / ε.
        estim_lr0: d at first, > 0; too high is never taken back.
        weight_decay: λ ≥ 0, apart from the gradient.
        maximize: go up the gradient.
        **shared: storages, stages and more that every rule takes, see :class:`Optimizer`.

    States: ``exp_avg`` (m, which has the rates in it), ``exp_avg_sq`` (v) and ``grad_sum`` (s); the
    numbers ``estim_lr`` (d), ``numerator_weighted`` (n) and ``k``, the steps made, which are the
    same for all parameters.

    Where frameworks differ: this is ``optax.contrib.dadapt_adamw``, except that nothing moves until
    a gradient is not 0. The package dadaptation corrects the bias only on request.

    Source: Defazio & Mishchenko, "Learning-rate-free learning by D-adaptation", ICML 2023; optax
    0.2.8.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> w, target = np.zeros(3), np.array([1.0, -2.0, 3.0])
        >>> opt = gs.DAdaptAdamW(w)
        >>> for t in range(101):
        ...     if t % 50 == 0:
        ...         print(f"{((w - target) ** 2).sum():.4f}")  # the loss
        ...     report = opt.step(2 * (w - target))  # its gradient
        14.0000
        0.4580
        0.0011
    """

    rule = Rule("DAdaptAdamW")
    _family = "without a rate"
    _ranges = {  # noqa: RUF012
        "eps": POSITIVE._replace(never_to_zero=True),
        "estim_lr0": LENGTH,
    }

    def __init__(
        self,
        params: Params,
        lr: Value = 1.0,
        betas: tuple[Value, Value] = (0.9, 0.999),
        eps: Value = 1e-8,
        estim_lr0: Value = 1e-6,
        weight_decay: Value = 0,
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
                "estim_lr0": estim_lr0,
                "weight_decay": weight_decay,
                "maximize": maximize,
            },
            **shared,
        )
