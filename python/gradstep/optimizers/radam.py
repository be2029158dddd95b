"""The class of cpp/rules/radam.hpp."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..optimizer import Optimizer
from ..rule import Rule

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..arguments import Params, Shared, Value


class RAdam(Optimizer):
    r"""Adam that begins as momentum, until it knows how large gradients are.

    .. math:: \rho_\infty = \frac{2}{1 - \beta_2} - 1;\quad
              \rho = \rho_\infty - \frac{2 t \beta_2^t}{1 - \beta_2^t};\quad
              r = \sqrt{\frac{(\rho - 4)(\rho - 2)\rho_\infty}
              {(\rho_\infty - 4)(\rho_\infty - 2)\rho}}

    .. math:: p \leftarrow p - \eta\, \hat m\, r \sqrt{1 - \beta_2^t} / (\sqrt{v} + \epsilon)
              \ \text{where } \rho > 5, \text{ else}\ p - \eta \hat m

    When: instead of a warm-up of Adam's rate: r grows from 0 to 1 within some 2 / (1 − β₂) updates.
    Begin at 1e-3. The first five updates are not divided by √v: where gradients are large, use a
    small rate or clipping.

    Args:
        params: see :class:`Optimizer`.
        lr: the rate η ≥ 0.
        betas: β₁ and β₂ in [0, 1).
        eps: ε ≥ 0.
        weight_decay: λ ≥ 0, added to the gradient (L2).
        decoupled_weight_decay: multiply the parameter by 1 − ηλ, as AdamW does, instead of adding
            λp to the gradient.
        maximize: go up the gradient.
        **shared: storages, stages and more that every rule takes, see :class:`Optimizer`.

    States: ``exp_avg``, m; ``exp_avg_sq``, v.

    Where frameworks differ: this is PyTorch 2.13. optax rectifies where ρ ≥ 5, adds ε to the
    corrected √v̂, and has no decay.

    Source: Liu et al., "On the variance of the adaptive learning rate and beyond", ICLR 2020.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> w, target = np.zeros(3), np.array([1.0, -2.0, 3.0])
        >>> opt = gs.RAdam(w, lr=0.5)
        >>> for t in range(101):
        ...     if t % 50 == 0:
        ...         print(f"{((w - target) ** 2).sum():.4f}")  # the loss
        ...     report = opt.step(2 * (w - target))  # its gradient
        14.0000
        0.0205
        0.0000
    """

    rule = Rule("RAdam")

    def __init__(
        self,
        params: Params,
        lr: Value = 1e-3,
        betas: tuple[Value, Value] = (0.9, 0.999),
        eps: Value = 1e-8,
        weight_decay: Value = 0,
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
                "decoupled_weight_decay": decoupled_weight_decay,
                "maximize": maximize,
            },
            **shared,
        )
