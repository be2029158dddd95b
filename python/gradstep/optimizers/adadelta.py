"""The class of cpp/rules/adadelta.hpp."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..optimizer import Optimizer
from ..rule import Rule

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..arguments import Params, Shared, Value


class Adadelta(Optimizer):
    r"""Steps as long as those before them: the units of the gradient cancel.

    .. math:: v \leftarrow \rho v + (1 - \rho) g^2;\quad
              d = \sqrt{a + \epsilon} \,/ \sqrt{v + \epsilon}\; g;\quad
              a \leftarrow \rho a + (1 - \rho) d^2;\quad p \leftarrow p - \eta d

    When: to repeat published results that used it, and models whose layers want rates of very
    different sizes. Begin at a rate of 1, which is the paper's rule. It starts slowly, since a
    starts at 0: with a larger ε, such as 1e-4, it starts faster.

    Args:
        params: see :class:`Optimizer`.
        lr: the rate η ≥ 0; the paper has none, as if it were 1.
        rho: ρ from 0 to 1.
        eps: ε ≥ 0.
        weight_decay: λ ≥ 0, added to the gradient (L2).
        maximize: go up the gradient.
        **shared: storages, stages and more that every rule takes, see :class:`Optimizer`.

    States: ``square_avg``, v; ``acc_delta``, a.

    Where frameworks differ: this is PyTorch 2.13. Keras has η = 0.001, ρ = 0.95 and ε = 1e-7.
    optax has the same formula and defaults, but no default rate.

    Source: Zeiler, "ADADELTA: an adaptive learning rate method", 2012.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> w, target = np.zeros(3), np.array([1.0, -2.0, 3.0])
        >>> opt = gs.Adadelta(w, eps=1e-3)
        >>> for t in range(101):
        ...     if t % 50 == 0:
        ...         print(f"{((w - target) ** 2).sum():.4f}")  # the loss
        ...     report = opt.step(2 * (w - target))  # its gradient
        14.0000
        0.0543
        0.0000
    """

    rule = Rule("Adadelta")

    def __init__(
        self,
        params: Params,
        lr: Value = 1.0,
        rho: Value = 0.9,
        eps: Value = 1e-6,
        weight_decay: Value = 0,
        *,
        maximize: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "rho": rho,
                "eps": eps,
                "weight_decay": weight_decay,
                "maximize": maximize,
            },
            **shared,
        )
