"""The class of cpp/rules/adam.hpp."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..optimizer import Optimizer
from ..rule import Rule

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..arguments import Params, Shared, Value


class Adam(Optimizer):
    r"""Running means of the gradient and of its square, both corrected for their start at 0.

    .. math:: m \leftarrow m + (1-\beta_1)(g - m);\quad v = \beta_2 v + (1-\beta_2) g^2;\quad
              p \leftarrow p - \frac{\eta}{1-\beta_1^t}\, m /
              (\sqrt{v} / \sqrt{1-\beta_2^t} + \epsilon)

    When: nearly everything at first, since it still learns at a rate that is a few times too high
    or too low. Begin at 0.001; for transformers at 0.0003 with a warm-up. With weight decay take
    :class:`AdamW`.

    Args:
        params: see :class:`Optimizer`.
        lr: the rate η ≥ 0.
        betas: β₁ and β₂ in [0, 1).
        eps: ε ≥ 0.
        weight_decay: λ ≥ 0, added to the gradient (L2); :class:`AdamW` decays the weights instead.
        amsgrad: divide by the largest √v so far.
        maximize: go up the gradient.
        **shared: storages, stages and more that every rule takes, see :class:`Optimizer`.

    States: ``exp_avg``, ``exp_avg_sq``; ``max_exp_avg_sq``, with amsgrad.

    Takes :class:`Rows` where λ is 0: "lazy" Adam, whose states wait for a row's next gradient.

    Where frameworks differ: TensorFlow and Keras scale ε by √(1 − β₂ᵗ) and take 1e-7; optax's
    amsgrad takes the maximum after the correction. PyTorch's SparseAdam adds ε to √v before the
    correction; this class adds it after, with :class:`Rows` too.

    Source: Kingma & Ba, ICLR 2015, algorithm 1; Reddi, Kale & Kumar, ICLR 2018.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> w, target = np.zeros(3), np.array([1.0, -2.0, 3.0])
        >>> opt = gs.Adam(w, lr=0.1)
        >>> for t in range(101):
        ...     if t % 50 == 0:
        ...         print(f"{((w - target) ** 2).sum():.4f}")  # the loss
        ...     report = opt.step(2 * (w - target))  # its gradient
        14.0000
        0.0343
        0.0005
    """

    rule = Rule("Adam")

    def __init__(
        self,
        params: Params,
        lr: Value = 1e-3,
        betas: tuple[Value, Value] = (0.9, 0.999),
        eps: Value = 1e-8,
        weight_decay: Value = 0,
        amsgrad: bool = False,
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
                "amsgrad": amsgrad,
                "maximize": maximize,
            },
            **shared,
        )
