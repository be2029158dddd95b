"""The class of cpp/rules/asgd.hpp."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..optimizer import Optimizer
from ..rule import Rule

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..arguments import Params, Shared, Value


class ASGD(Optimizer):
    r"""SGD whose average over updates is the point to evaluate.

    .. math:: p \leftarrow (1 - \lambda' \eta_t)\, p - \eta_t\, g;\quad
              a \leftarrow a + \mu_t (p - a)

    .. math:: \eta_{t+1} = \eta / (1 + \lambda' \eta t)^\alpha,\ \eta_1 = \eta;\quad
              \mu_{t+1} = 1 / \max(1, t - t_0),\ \mu_1 = 1

    The parameter takes the steps; ``with opt.averaged():`` puts the average, a, in its place. Until
    update t₀ the average is the parameter itself.

    When: convex problems, such as linear models, and recurrent language models, whose average is
    better than any of its points. Set t₀ to where the loss is level, about the last quarter of the
    run: PyTorch's default of a million averages nothing in most runs. Begin at 0.01.

    Args:
        params: see :class:`Optimizer`.
        lr: the rate η ≥ 0. It acts one update late, as in PyTorch: the η of update t makes
            the step size of t + 1; the first is η itself.
        lambd: λ' ≥ 0, a decay of the parameter and of the rate.
        alpha: α ≥ 0, the power of the rate's decay.
        t0: t₀ ≥ 0, the updates before the average.
        weight_decay: λ ≥ 0, added to the gradient (L2).
        maximize: go up the gradient.
        **shared: storages, stages and more that every rule takes, see :class:`Optimizer`; without
            ``average``, since the rule has its own.

    States: ``ax``, a, which starts as the parameter; the numbers ``eta`` and ``mu`` of the next
    update. ``states="bfloat16"`` is for ``ax``; q8 and q4 are refused.

    Where frameworks differ: this is PyTorch 2.13, which leaves it to its caller to read ``ax``, and
    keeps ``eta`` and ``mu`` in its default dtype, mostly float32. Here they are float64, in
    checkpoints, too; PyTorch casts them when it loads one.

    Source: Polyak & Juditsky, "Acceleration of stochastic approximation by averaging", SIAM J.
    Control Optim. 1992.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> w, target = np.zeros(3), np.array([1.0, -2.0, 3.0])
        >>> opt = gs.ASGD(w, lr=0.1, t0=10)
        >>> for t in range(101):
        ...     if t % 50 == 0:
        ...         with opt.averaged():
        ...             print(f"{((w - target) ** 2).sum():.4f}")  # the loss
        ...     report = opt.step(2 * (w - target))  # its gradient
        14.0000
        0.0011
        0.0002
    """

    rule = Rule("ASGD")

    def __init__(
        self,
        params: Params,
        lr: Value = 1e-2,
        lambd: Value = 1e-4,
        alpha: Value = 0.75,
        t0: Value = 1e6,
        weight_decay: Value = 0,
        *,
        maximize: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "lambd": lambd,
                "alpha": alpha,
                "t0": t0,
                "weight_decay": weight_decay,
                "maximize": maximize,
            },
            **shared,
        )
