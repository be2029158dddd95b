"""The class of cpp/rules/muon.hpp."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ..hyperparameters import Choice
from ..optimizer import Optimizer
from ..orthogonal import CHOICES, check_matrix
from ..rule import Rule

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..arguments import Params, Shared, Value


class Muon(Optimizer):
    r"""Momentum whose matrix is made orthogonal: every direction of a step is as long as any other.

    .. math:: b \leftarrow b + (1 - \mu)(g - b);\quad
              u = g + \mu (b - g) \text{ if nesterov else } b;\quad
              X = u / \max(\lVert u\rVert, \epsilon);\quad
              n \text{ times } A = X X^\top,\ X \leftarrow a X + (b A + c A^2) X;\quad
              p \leftarrow (1 - \eta\lambda) p - \eta \sqrt{\max(1, r / k)}\,X

    for a matrix of r rows and k columns; where r > k the products are of its transpose.

    When: hidden layers of transformers and MLPs, where it reaches a loss in fewer steps than AdamW.
    Embeddings, heads, biases and norms stay with AdamW: :func:`muon_groups` sorts them. Begin at a
    rate of 0.02, or with ``adjust_lr_fn="match_rms_adamw"`` at AdamW's rate and decay.

    Args:
        params: matrices; see :class:`Optimizer`.
        lr: the rate η ≥ 0.
        weight_decay: λ ≥ 0, times the rate η itself, whatever the shape.
        momentum: μ ≥ 0.
        nesterov: look ahead.
        ns_coefficients: a, b and c; or a tuple of three for each step, the last for all that
            follow; or ``"polar_express"``: those of Amsel et al., 2025.
        eps: ε, the least norm that a matrix is divided by.
        ns_steps: n, at most 99.
        adjust_lr_fn: ``"original"`` (or None): √max(1, r / k) as above; ``"match_rms_adamw"``:
            0.2 √max(r, k), with which elements move about as far as with AdamW.
        dtype: what the products are computed in: None: what the step computes in, float32, or
            float64 for float64 parameters. Nothing is cast unless asked: ``"float32"``,
            ``"float64"``; ``"bfloat16"`` for tensors, fast where the processor has units for it.
        splits: for a fused weight, such as the query, key and value of attention: the number of
            its parts, or a tuple of the rows of each; every part is made orthogonal by itself.
        transposed: whether a matrix is (inputs, outputs), as kernels of Keras and flax are, and
            not PyTorch's (outputs, inputs): then r and k, rows and columns change places.
        maximize: go up the gradient.
        **shared: storages, stages and more that every rule takes, see :class:`Optimizer`.

    State: ``momentum_buffer``. Products are NumPy's (PyTorch's for tensors), in its threads: their
    last bits follow the machine; all else of a step has the same bits everywhere.

    Where frameworks differ: the form is that of torch.optim 2.13, which always casts to bfloat16.
    With optax the momentum is corrected for its start; with Keras and microsoft/dion it is heavy
    ball, 1/(1 − μ) times as large, which the division by ‖u‖ undoes. Keras' default is 6 steps, and
    its ratio is rows / columns although its kernels are (inputs, outputs): as here without
    ``transposed``.

    Source: Jordan et al., 2024; ``torch.optim.Muon``.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> w, target = np.zeros((2, 3)), np.array([[1.0, -2.0, 3.0], [2.0, 1.0, 0.0]])
        >>> opt = gs.Muon(w, lr=0.05, weight_decay=0)
        >>> for t in range(101):
        ...     if t % 50 == 0:
        ...         print(f"{((w - target) ** 2).sum():.2f}")  # the loss
        ...     report = opt.step(2 * (w - target))  # its gradient
        19.00
        2.99
        0.03
    """

    rule = Rule("Muon")
    _choices: ClassVar[Mapping[str, Choice]] = CHOICES
    _check_param = staticmethod(check_matrix)

    def __init__(
        self,
        params: Params,
        lr: Value = 1e-3,
        weight_decay: Value = 0.1,
        momentum: Value = 0.95,
        nesterov: bool = True,
        ns_coefficients: Any = (3.4445, -4.775, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        *,
        dtype: str | None = None,
        splits: int | tuple[int, ...] | None = None,
        transposed: bool = False,
        maximize: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "weight_decay": weight_decay,
                "momentum": momentum,
                "nesterov": nesterov,
                "ns_coefficients": ns_coefficients,
                "eps": eps,
                "ns_steps": ns_steps,
                "adjust_lr_fn": adjust_lr_fn,
                "dtype": dtype,
                "splits": splits,
                "transposed": transposed,
                "maximize": maximize,
            },
            **shared,
        )
