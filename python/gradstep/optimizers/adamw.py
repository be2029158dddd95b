"""The class of cpp/rules/adamw.hpp."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..optimizer import Optimizer
from ..rule import Rule

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..arguments import Params, Shared, Value


class AdamW(Optimizer):
    r"""Adam with weight decay apart from the gradient: first p ← (1 − ηλ)p, then Adam's step.

    When: transformers, and wherever Adam wants weight decay: the decay is then the same for all
    weights, whatever their gradients. Begin at 0.001 for small networks, at 0.0003 for
    transformers of 100M parameters, with a warm-up and a decay of 0.01 to 0.1.

    Args:
        params: see :class:`Optimizer`.
        lr: the rate η ≥ 0.
        betas: β₁ and β₂ in [0, 1).
        eps: ε ≥ 0.
        weight_decay: λ ≥ 0.
        amsgrad: divide by the largest √v so far.
        cautious: do not move elements whose step the newest gradient g opposes, mg ≤ 0; the steps
            of the others are divided by max(their share in the tensor, 0.001). It costs a second
            pass, and cannot be changed once the group is built.
        cautious_weight_decay: decay only where the step u, which is subtracted, does not lead away
            from 0: up ≥ 0. It costs no second pass; it cannot be changed later either.
        maximize: go up the gradient.
        **shared: storages, stages and more that every rule takes, see :class:`Optimizer`.

    States: ``exp_avg``, ``exp_avg_sq``; ``max_exp_avg_sq``, with amsgrad.

    Where frameworks differ: λ is 1e-4 in optax and 4e-3 in Keras. ``cautious`` is as in C-Optim's
    ``c_adamw.py`` and timm's ``caution=True``, with the decay and ε of this class; the share is
    that of all shards of a tensor, counted before states are rounded. ``cautious_weight_decay`` is
    as in dion and nanochat, where u is the step after ``cautious``. torch-optimi's ``decouple_lr``
    and AdamC's decay are values of ``weight_decay``, see the example.

    Source: Loshchilov & Hutter, ICLR 2019, algorithm 2; cautious: Liang et al., 2024; Chen et al.,
    2025.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> w, target = np.zeros(3), np.array([1.0, -2.0, 3.0])
        >>> opt = gs.AdamW(w, lr=0.1)
        >>> for t in range(101):
        ...     if t % 50 == 0:
        ...         print(f"{((w - target) ** 2).sum():.4f}")  # the loss
        ...     report = opt.step(2 * (w - target))  # its gradient
        14.0000
        0.0174
        0.0022

        A decay of 0.01 whatever the peak rate (it follows the rate's schedule once), and AdamC's,
        for weights that a normalisation follows (it follows the schedule twice):

        >>> lr = gs.schedules.cosine(0.1, total=100)
        >>> apart = gs.AdamW(w, lr=lr, weight_decay=0.01 / 0.1)  # 0.1: the peak
        >>> corrected = gs.AdamW(w, lr=lr, weight_decay=0.01 / 0.1 * lr)
        >>> [f"{corrected.groups[0]['weight_decay'](k):.4f}" for k in (0, 50, 100)]
        ['0.0100', '0.0050', '0.0000']
    """

    rule = Rule("AdamW")

    def __init__(
        self,
        params: Params,
        lr: Value = 1e-3,
        betas: tuple[Value, Value] = (0.9, 0.999),
        eps: Value = 1e-8,
        weight_decay: Value = 1e-2,
        amsgrad: bool = False,
        *,
        cautious: bool = False,
        cautious_weight_decay: bool = False,
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
                "cautious": cautious,
                "cautious_weight_decay": cautious_weight_decay,
                "maximize": maximize,
            },
            **shared,
        )
