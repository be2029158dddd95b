"""The class of cpp/rules/signsgd.hpp."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..optimizer import Optimizer
from ..rule import Rule

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..arguments import Params, Shared, Value


class SignSGD(Optimizer):
    r"""The sign of the gradient, or of a mean of gradients: then it is also known as Signum.

    .. math:: m \leftarrow \mu m + (1 - \mu) g;\quad
              p \leftarrow (1 - \eta\lambda) p - \eta\,\mathrm{sign}(m)

    When: gradients of very different scales: with no state at all, or with ``momentum=0.9`` as
    Signum, which is Lion with one β. Begin at a tenth of AdamW's rate and let it decay: each
    element moves by the whole rate.

    Args:
        params: see :class:`Optimizer`.
        lr: the rate η ≥ 0.
        momentum: μ ≥ 0, below 1 to be a mean; 0: the sign of the gradient itself.
        weight_decay: λ ≥ 0, apart from the gradient.
        maximize: go up the gradient.
        **shared: storages, stages and more that every rule takes, see :class:`Optimizer`.

    States: ``momentum_buffer``, with momentum.

    Where frameworks differ: optax 0.2.8 has two names, ``sign_sgd`` and ``signum`` with μ = 0.9,
    and no decay. The paper's buffer is the same mean. The sign of 0 is 0.

    Source: Bernstein et al., ICML 2018, algorithm 1 and Signum; ``optax.sign_sgd``,
    ``optax.signum``.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> w, target = np.ones(3), np.array([1.0, -2.0, 3.0])
        >>> opt = gs.SignSGD(w, lr=0.025, momentum=0.9)
        >>> for t in range(100 + 1):
        ...     if t % 50 == 0:
        ...         print(f"{((w - target) ** 2).sum():.4f}")  # the loss
        ...     report = opt.step(2 * (w - target))  # its gradient
        13.0000
        3.6250
        0.2525
    """

    rule = Rule("SignSGD")

    def __init__(
        self,
        params: Params,
        lr: Value = 1e-3,
        momentum: Value = 0,
        weight_decay: Value = 0,
        *,
        maximize: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        values = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, {**values, "maximize": maximize}, **shared)
