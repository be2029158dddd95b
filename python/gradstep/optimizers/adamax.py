"""The class of cpp/rules/adamax.hpp."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..optimizer import Optimizer
from ..rule import Rule

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..arguments import Params, Shared, Value


class Adamax(Optimizer):
    r"""Adam that divides by the largest recent gradient, a maximum that decays.

    .. math:: m \leftarrow m + (1 - \beta_1)(g - m);\quad
              u \leftarrow \max(\beta_2 u, |g| + \epsilon);\quad
              p \leftarrow p - \frac{\eta}{1 - \beta_1^t}\, m / u

    When: gradients that are large now and then, such as those of embeddings: no step of an element
    is longer than about η. Begin at 2e-3, twice Adam's rate.

    Args:
        params: see :class:`Optimizer`.
        lr: the rate η ≥ 0.
        betas: β₁ and β₂ in [0, 1).
        eps: ε ≥ 0.
        weight_decay: λ ≥ 0, added to the gradient (L2).
        maximize: go up the gradient.
        **shared: storages, stages and more that every rule takes, see :class:`Optimizer`.

    States: ``exp_avg``, m; ``exp_inf``, u: in bfloat16, q8 and q4 it is rounded stochastically,
    since rounded to nearest it would never decay.

    Where frameworks differ: this is PyTorch 2.13, with ε inside the maximum. Keras has
    m / (max(β₂u, ``|g|``) + ε), ε = 1e-7 and a rate of 0.001; optax has PyTorch's form, without
    decay.

    Source: Kingma & Ba, ICLR 2015, algorithm 2.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> w, target = np.zeros(3), np.array([1.0, -2.0, 3.0])
        >>> opt = gs.Adamax(w, lr=0.5)
        >>> for t in range(101):
        ...     if t % 50 == 0:
        ...         print(f"{((w - target) ** 2).sum():.4f}")  # the loss
        ...     report = opt.step(2 * (w - target))  # its gradient
        14.0000
        0.0142
        0.0000
    """

    rule = Rule("Adamax")

    def __init__(
        self,
        params: Params,
        lr: Value = 2e-3,
        betas: tuple[Value, Value] = (0.9, 0.999),
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
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "maximize": maximize,
            },
            **shared,
        )
