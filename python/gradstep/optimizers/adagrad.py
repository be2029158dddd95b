"""The class of cpp/rules/adagrad.hpp."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..optimizer import Optimizer
from ..rule import Rule

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..arguments import Params, Shared, Value


class Adagrad(Optimizer):
    r"""A rate for each element that shrinks with the gradients it has seen.

    .. math:: s \leftarrow s + g^2;\quad
              p \leftarrow p - \frac{\eta}{1 + (t-1)\,\eta_d}\, g / (\sqrt{s} + \epsilon)

    When: sparse features, such as words of which most are rare: a rare one keeps its large steps.
    On long runs the rate shrinks to nothing; RMSprop and Adam forget instead. Begin at 0.01.

    Args:
        params: see :class:`Optimizer`.
        lr: the rate η ≥ 0.
        lr_decay: η_d ≥ 0.
        weight_decay: λ ≥ 0, added to the gradient (L2).
        initial_accumulator_value: what s starts from, ≥ 0; no schedule.
        eps: ε ≥ 0.
        maximize: go up the gradient.
        **shared: storages, stages and more that every rule takes, see :class:`Optimizer`.

    State: ``sum``.

    Takes :class:`Rows` where λ is 0.

    Where frameworks differ: optax starts s at 0.1 and puts ε inside the root.

    Source: Duchi, Hazan & Singer, JMLR 2011.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> w, target = np.zeros(3), np.array([1.0, -2.0, 3.0])
        >>> opt = gs.Adagrad(w, lr=0.5)
        >>> for t in range(101):
        ...     if t % 50 == 0:
        ...         print(f"{((w - target) ** 2).sum():.4f}")  # the loss
        ...     report = opt.step(2 * (w - target))  # its gradient
        14.0000
        0.0015
        0.0000
    """

    rule = Rule("Adagrad")

    def __init__(
        self,
        params: Params,
        lr: Value = 1e-2,
        lr_decay: Value = 0,
        weight_decay: Value = 0,
        initial_accumulator_value: float = 0,
        eps: Value = 1e-10,
        *,
        maximize: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "lr_decay": lr_decay,
                "weight_decay": weight_decay,
                "initial_accumulator_value": initial_accumulator_value,
                "eps": eps,
                "maximize": maximize,
            },
            **shared,
        )
