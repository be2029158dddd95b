"""The class of cpp/rules/prodigy.hpp."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..hyperparameters import BELOW_ONE, GROWTH, LENGTH
from ..optimizer import Optimizer
from ..rule import Rule

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..arguments import Params, Shared, Value


class Prodigy(Optimizer):
    r"""AdamW that finds its rate: it grows to the distance that the parameters have to go.

    .. math:: \delta = d\,\eta\,(\sqrt{1 - \beta_2^t} / (1 - \beta_1^t) \text{ if corrected});\quad
              m = \beta_1 m + d (1 - \beta_1) g;\quad
              v = \beta_2 v + d^2 (1 - \beta_2) g^2

    .. math:: s = \beta_3 s + \tfrac{d}{d_0} \delta g;\quad
              n = \beta_3 n + \tfrac{d}{d_0} \delta \langle g, p_0 - p\rangle;\quad
              \hat d = c\,n / \lVert s\rVert_1;\quad
              d' = \min(\max \hat d, d \cdot \text{growth})

    .. math:: p \leftarrow p - \delta \lambda p;\quad
              p \leftarrow p - \delta\,m / (\sqrt v + d' \epsilon)

    When: fine-tuning and whatever AdamW trains, where no rate is known. Leave the rate at 1, with a
    cosine schedule from 1 if you like one; change ``d_coef``, between 0.5 and 2, instead. With a
    warm-up set ``safeguard_warmup=True``.

    n and the norm of s are sums over all parameters that have a gradient in the step, and over all
    processes of DTensors, so all have one d. An optimizer that holds only some of the parameters,
    as in ``ZeroRedundancyOptimizer``, would see those alone: do not use it there.

    Args:
        params: see :class:`Optimizer`.
        lr: η ≥ 0, what d is multiplied by: 1, or a schedule below it. The same for all groups,
            except that it may be 0: such a group has no part in d.
        betas: β₁ and β₂ in [0, 1).
        beta3: β₃ in [0, 1) of the averages behind d; None: √β₂.
        eps: ε ≥ 0, multiplied by d.
        weight_decay: λ ≥ 0.
        decouple: whether the decay is AdamW's; False: it is added to the gradient (L2).
        use_bias_correction: correct the moments for their start at 0, as Adam does.
        safeguard_warmup: leave the rate out of s, so that a warm-up does not disturb the estimate.
        d0: d at first, > 0; too low costs a few updates, too high is never taken back.
        d_coef: c > 0.
        growth_rate: the factor ≥ 1 by which d may grow in a step; infinity: no limit.
        maximize: go up the gradient.
        **shared: storages, stages and more that every rule takes, see :class:`Optimizer`.

    States: ``exp_avg`` (m), ``exp_avg_sq`` (v), ``s`` and ``p0``, the parameter as the first step
    finds it; the numbers ``d``, ``d_max``, ``d_numerator`` and ``k``, the steps made, which are the
    same for all parameters. v is scaled by d², so statistics have no g²/v.

    Where frameworks differ: this is the package prodigyopt. Here groups must agree in all that d
    depends on; there it is taken from the first, and a group of rate 0 still decays. ``slice_p`` is
    missing here. ``optax.contrib.prodigy`` calls d ``estim_lr`` and always corrects the bias.

    Source: Mishchenko & Defazio, "Prodigy", ICML 2024; prodigyopt 1.1.2.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> w, target = np.zeros(3), np.array([1.0, -2.0, 3.0])
        >>> opt = gs.Prodigy(w)
        >>> for t in range(101):
        ...     if t % 50 == 0:
        ...         print(f"{((w - target) ** 2).sum():.4f}")  # the loss
        ...     report = opt.step(2 * (w - target))  # its gradient
        14.0000
        0.1945
        0.0012
    """

    rule = Rule("Prodigy")
    _family = "without a rate"
    _ranges = {  # noqa: RUF012
        "beta3": BELOW_ONE._replace(wanted="a number in [0, 1) or None", none=-1.0),
        "d0": LENGTH,
        "d_coef": LENGTH,
        "growth_rate": GROWTH,
    }

    def __init__(
        self,
        params: Params,
        lr: Value = 1.0,
        betas: tuple[Value, Value] = (0.9, 0.999),
        beta3: Value | None = None,
        eps: Value = 1e-8,
        weight_decay: Value = 0,
        decouple: bool = True,
        use_bias_correction: bool = False,
        safeguard_warmup: bool = False,
        d0: Value = 1e-6,
        d_coef: Value = 1.0,
        growth_rate: Value = math.inf,
        *,
        maximize: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "beta3": beta3,
                "eps": eps,
                "weight_decay": weight_decay,
                "decouple": decouple,
                "use_bias_correction": use_bias_correction,
                "safeguard_warmup": safeguard_warmup,
                "d0": d0,
                "d_coef": d_coef,
                "growth_rate": growth_rate,
                "maximize": maximize,
            },
            **shared,
        )
