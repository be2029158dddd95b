"""The class of cpp/rules/nadam.hpp."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..optimizer import Optimizer
from ..rule import Rule

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..arguments import Params, Shared, Value


class NAdam(Optimizer):
    r"""Adam with Nesterov's momentum, which warms up.

    .. math:: \mu_t = \beta_1 (1 - \tfrac12\, 0.96^{t \psi});\quad \Pi_t = \prod_{i \le t} \mu_i

    .. math:: p \leftarrow p - \eta \left(\frac{(1 - \mu_t)\, g}{1 - \Pi_t}
              + \frac{\mu_{t+1}\, m}{1 - \Pi_{t+1}}\right) \Big/ (\sqrt{\hat v} + \epsilon)

    When: what Adam trains; the newest gradient counts for more, which often saves some steps. Begin
    at 2e-3.

    Args:
        params: see :class:`Optimizer`.
        lr: the rate η ≥ 0.
        betas: β₁ and β₂ in [0, 1).
        eps: ε ≥ 0.
        weight_decay: λ ≥ 0, added to the gradient (L2).
        momentum_decay: ψ ≥ 0, how fast μ goes from β₁/2 to β₁; 0: it stays at β₁/2.
        decoupled_weight_decay: multiply the parameter by 1 − ηλ, as AdamW does, instead of adding
            λp to the gradient.
        maximize: go up the gradient.
        **shared: storages, stages and more that every rule takes, see :class:`Optimizer`.

    States: ``exp_avg``, m; ``exp_avg_sq``, v; the number ``mu_product``, Π.

    Where frameworks differ: this is PyTorch 2.13, but Π is kept in float64, where PyTorch uses its
    default dtype, mostly float32. Checkpoints have it in float64; PyTorch casts it when it loads
    one. optax's ``nadam`` has no ψ: μ is β₁ throughout, as with a very large ψ here. In Keras
    ψ = 0.004.

    Source: Dozat, "Incorporating Nesterov momentum into Adam", ICLR 2016 workshop, in PyTorch's
    form.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> w, target = np.zeros(3), np.array([1.0, -2.0, 3.0])
        >>> opt = gs.NAdam(w, lr=0.5)
        >>> for t in range(101):
        ...     if t % 50 == 0:
        ...         print(f"{((w - target) ** 2).sum():.4f}")  # the loss
        ...     report = opt.step(2 * (w - target))  # its gradient
        14.0000
        0.0000
        0.0000
    """

    rule = Rule("NAdam")

    def __init__(
        self,
        params: Params,
        lr: Value = 2e-3,
        betas: tuple[Value, Value] = (0.9, 0.999),
        eps: Value = 1e-8,
        weight_decay: Value = 0,
        momentum_decay: Value = 4e-3,
        decoupled_weight_decay: bool = False,
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
                "momentum_decay": momentum_decay,
                "decoupled_weight_decay": decoupled_weight_decay,
                "maximize": maximize,
            },
            **shared,
        )
