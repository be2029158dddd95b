"""The class of cpp/rules/polyaksgd.hpp."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..hyperparameters import FINITE, UNLIMITED
from ..optimizer import Optimizer
from ..rule import Rule

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..arguments import Params, Shared, Value


class PolyakSGD(Optimizer):
    r"""SGD with Polyak's rate: how far the loss is above its least, over the squared gradient.

    .. math:: \gamma = \min\left(\frac{f - f_{\min}}{\lVert g\rVert^2 + \epsilon},
              \gamma_{\max}\right);\quad p \leftarrow p - \eta\,\gamma\,g

    When: the least that the loss can be is known, as 0 for a network that can learn its data by
    heart. Begin with the defaults. Where the loss of some batches stays above ``f_min``, steps do
    not become shorter by themselves: give ``lr`` a schedule to 0. A step takes the loss:
    ``opt.step(grads, loss=loss)``; with PyTorch ``opt.step(loss=loss)``, or a closure that returns
    it.

    The norm of g is over all parameters that have a gradient in the step, and over all processes of
    DTensors. An optimizer that holds only some of the parameters, as in
    ``ZeroRedundancyOptimizer``, would see those alone: do not use it there. Several processes must
    all give the same loss, such as the mean of theirs.

    Args:
        params: see :class:`Optimizer`.
        lr: η ≥ 0, what the rate is multiplied by.
        max_learning_rate: γ_max ≥ 0, the most that the rate may be.
        f_min: the least that the loss can be; the same for all groups, as the next two.
        eps: ε ≥ 0.
        positive: no step where the loss is below ``f_min``; False: such a step goes uphill.
        maximize: go up the gradient; ``f_min`` is then the least of the loss times −1.
        **shared: storages, stages and more that every rule takes, see :class:`Optimizer`.

    States: none.

    Where frameworks differ: this is ``optax.polyak_sgd``, whose ``scaling`` is ``lr`` here and
    whose variant ``sps+`` is ``positive``. Where ‖g‖² + ε is at most 2⁻⁵² there is no step.

    Source: Loizou et al., AISTATS 2021; optax 0.2.8.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> w, target = np.zeros(3), np.array([1.0, -2.0, 3.0])
        >>> opt = gs.PolyakSGD(w)
        >>> for t in range(11):
        ...     loss = ((w - target) ** 2).sum()
        ...     if t % 5 == 0:
        ...         print(f"{loss:.4f}")
        ...     report = opt.step(2 * (w - target), loss=loss)
        14.0000
        0.0137
        0.0000
    """

    rule = Rule("PolyakSGD")
    _family = "without a rate"
    _ranges = {  # noqa: RUF012
        "max_learning_rate": UNLIMITED,
        "f_min": FINITE._replace(exact=True),
    }

    def __init__(
        self,
        params: Params,
        lr: Value = 1.0,
        max_learning_rate: Value = 1.0,
        f_min: Value = 0,
        eps: Value = 0,
        positive: bool = False,
        *,
        maximize: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "max_learning_rate": max_learning_rate,
                "f_min": f_min,
                "eps": eps,
                "positive": positive,
                "maximize": maximize,
            },
            **shared,
        )
