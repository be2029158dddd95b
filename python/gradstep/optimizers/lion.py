"""The class of cpp/rules/lion.hpp."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..optimizer import Optimizer
from ..rule import Rule

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..arguments import Params, Shared, Value


class Lion(Optimizer):
    r"""The sign of a mean of gradients: each element moves by the rate, with half of Adam's states.

    .. math:: p \leftarrow (1 - \eta\lambda) p
                  - \eta\,\mathrm{sign}(\beta_1 m + (1 - \beta_1) g);\quad
              m \leftarrow \beta_2 m + (1 - \beta_2) g

    When: large models and large batches, where AdamW's second state is too much memory. Begin at a
    third to a tenth of AdamW's rate, with 3 to 10 times its weight decay, so that their product
    stays the same.

    Args:
        params: see :class:`Optimizer`.
        lr: the rate η ≥ 0.
        betas: β₁ and β₂ in [0, 1).
        weight_decay: λ ≥ 0.
        cautious: do not move elements whose step the newest gradient opposes; the steps of the
            others are multiplied by n / (their number + 1), where the tensor has n elements. It
            costs a second pass, and cannot be changed once the group is built.
        cautious_weight_decay: decay only where the step u, which is subtracted, does not lead away
            from 0: up ≥ 0. It costs no second pass; it cannot be changed later either.
        maximize: go up the gradient.
        **shared: storages, stages and more that every rule takes, see :class:`Optimizer`.

    States: ``exp_avg``.

    Where frameworks differ: the means are optax's and the paper's. The sign of 0 is 0. The default
    decay is optax's 1e-3; the paper chooses it by task. ``cautious`` is as in C-Optim's
    ``c_lion.py``, over all shards of a tensor; ``cautious_weight_decay`` as in dion.

    Source: Chen et al., NeurIPS 2023, algorithm 2; ``optax.lion``; cautious: Liang et al., 2024;
    Chen et al., 2025.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> w, target = np.ones(3), np.array([1.0, -2.0, 3.0])
        >>> opt = gs.Lion(w, lr=0.025)
        >>> for t in range(101):
        ...     if t % 50 == 0:
        ...         print(f"{((w - target) ** 2).sum():.4f}")  # the loss
        ...     report = opt.step(2 * (w - target))  # its gradient
        13.0000
        3.6270
        0.4958
    """

    rule = Rule("Lion")

    def __init__(
        self,
        params: Params,
        lr: Value = 1e-3,
        betas: tuple[Value, Value] = (0.9, 0.99),
        weight_decay: Value = 1e-3,
        *,
        cautious: bool = False,
        cautious_weight_decay: bool = False,
        maximize: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        values = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize}
        switches = {"cautious": cautious, "cautious_weight_decay": cautious_weight_decay}
        super().__init__(params, {**values, **switches}, **shared)
