"""The class of cpp/rules/rmsprop.hpp."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .. import _core
from ..optimizer import Optimizer
from ..rule import Rule

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..arguments import Params, Shared, Value


class RMSprop(Optimizer):
    r"""The gradient over the root of its running mean square.

    .. math:: v = \alpha v + (1-\alpha) g^2;\quad
              u = g / (\sqrt{v} + \epsilon);\quad b = \mu b + u;\quad p \leftarrow p - \eta b

    With ``centered``, :math:`\sqrt{\max(v - \bar g^2, 0)}` in place of :math:`\sqrt v`.

    When: reinforcement learning and recurrent networks, whose published settings often name it;
    elsewhere Adam, which is this with momentum and a corrected start. Begin at 0.001.

    Args:
        params: see :class:`Optimizer`.
        lr: the rate η ≥ 0.
        alpha: α ≥ 0; an average for α below 1.
        eps: ε ≥ 0.
        weight_decay: λ ≥ 0, added to the gradient (L2).
        momentum: μ ≥ 0; 0 keeps no buffer. A schedule keeps one.
        centered: subtract the squared running mean of the gradient.
        maximize: go up the gradient.
        **shared: storages, stages and more that every rule takes, see :class:`Optimizer`.

    States: ``square_avg``; ``grad_avg``, centered; ``momentum_buffer``, with momentum.

    Where frameworks differ: optax has α = 0.9 and ε inside the root; TensorFlow starts v at 1 and
    keeps the rate inside the buffer. PyTorch takes the root of a negative number where rounding
    makes v − ḡ² negative.

    Source: Tieleman & Hinton, 2012; centered: Graves, 2013.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> w, target = np.zeros(3), np.array([1.0, -2.0, 3.0])
        >>> opt = gs.RMSprop(w, lr=0.05)
        >>> for t in range(101):
        ...     if t % 50 == 0:
        ...         print(f"{((w - target) ** 2).sum():.4f}")  # the loss
        ...     report = opt.step(2 * (w - target))  # its gradient
        14.0000
        0.0005
        0.0000
    """

    rule = Rule("RMSprop")

    def __init__(
        self,
        params: Params,
        lr: Value = 1e-2,
        alpha: Value = 0.99,
        eps: Value = 1e-8,
        weight_decay: Value = 0,
        momentum: Value = 0,
        centered: bool = False,
        *,
        maximize: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "alpha": alpha,
                "eps": eps,
                "weight_decay": weight_decay,
                "momentum": momentum,
                "centered": centered,
                "maximize": maximize,
            },
            **shared,
        )

    @staticmethod
    def _check(prefix: str, group: Mapping[str, Any], storages: Mapping[str, str]) -> None:
        for state, storage in storages.items():
            if group["centered"] and _core.storage_block(storage) > 1:
                raise ValueError(
                    f"{prefix}centered: got True with {state} in {storage}, wanted states in "
                    "float32, float64, bfloat16 or float16: v − ḡ² is lost in codes of few bits"
                )
