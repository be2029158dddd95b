"""The class of cpp/rules/adafactor.hpp."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..hyperparameters import FLOAT64_MAX, RANGES, Range
from ..optimizer import Optimizer
from ..rule import Rule

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..arguments import Params, Shared, Value


class Adafactor(Optimizer):
    r"""Adaptive rates for each element from a variance for each row and each column.

    .. math:: r \leftarrow r + (\overline{g^2} - r)/t^{-c},\quad
              \hat v_{ij} = r_i\,k_j / \max(\bar r, \epsilon_1);\quad
              u = g / \max(\sqrt{\hat v}, \epsilon_1)

    .. math:: p \leftarrow p (1 - \eta\lambda) -
              \frac{\max(\epsilon_2, R(p))\,\min(\eta, 1/\sqrt t)}{\max(1, R(u)/d)}\,u

    where the mean is over each row, k is updated in the same way from the mean over each column, c
    is ``beta2_decay`` and R the root of the mean square. A vector has a variance for each element
    instead.

    When: memory is short, as with embeddings and layers so large that Adam's two states do not fit:
    the states of an m × n matrix are m + n numbers. The rate is relative to the size of what it
    moves: begin at 0.01, and leave 1/√t to the rule.

    Args:
        params: see :class:`Optimizer`. The last two dimensions are rows and columns; those before
            them count matrices. A shard of a matrix is refused.
        lr: the rate η ≥ 0: the most by which a step changes a parameter, against its size.
        beta2_decay: c ≤ 0: β₂ at update t is 1 − tᶜ.
        eps: ε₁ ≥ 0, the least that √v̂ and the mean of r count as; None: the epsilon of the
            parameter's dtype (2⁻⁵² of float64, 2⁻²³ of float32 and of split parameters, 2⁻⁷ of
            bfloat16, 2⁻¹⁰ of float16); and ε₂ ≥ 0, the least that R(p) counts as.
        d: ≥ 1; an update u with a larger R(u) is scaled down to it.
        weight_decay: λ ≥ 0.
        maximize: go up the gradient.
        **shared: storages, stages and more that every rule takes, see :class:`Optimizer`. Only
            ``variance`` can be stored otherwise than it is computed.

    States: ``row_var`` and ``col_var``, of the parameter's shape with 1 as the last dimension and
    as the last but one; for vectors ``variance``. The optimizer's ``repr`` names those vectors.

    Where frameworks differ: this is PyTorch 2.13's, where ε₁ limits the variance that rows and
    columns make; the paper adds it to g². The default ε₁ for bfloat16 is larger than most
    gradients: give a number there. optax factors only dimensions from 128 on. Hugging Face has the
    paper's form, which with ``relative_step`` chooses its rate itself.

    Source: Shazeer & Stern, ICML 2018; ``torch.optim.Adafactor``.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> w, target = np.ones((2, 3)), np.array([[1.0, -2.0, 3.0], [0.0, 2.0, 1.0]])
        >>> opt = gs.Adafactor(w, lr=0.1)
        >>> for t in range(101):
        ...     if t % 50 == 0:
        ...         print(f"{((w - target) ** 2).sum():.4f}")  # the loss
        ...     report = opt.step(2 * (w - target))  # its gradient
        15.0000
        0.0311
        0.0125
        >>> {name: array.shape for name, array in opt.state["0"].items() if name != "step"}
        {'row_var': (2, 1), 'col_var': (1, 3)}
    """

    rule = Rule("Adafactor")
    _ranges = {  # noqa: RUF012 - the base class says that it is one of the class
        "beta2_decay": Range("a finite number ≤ 0", -FLOAT64_MAX, 0.0),
        "eps[0]": RANGES["eps"]._replace(wanted="a finite number ≥ 0 or None", none=-1.0),
        "d": Range("a finite number ≥ 1", 1.0, FLOAT64_MAX),
    }

    def __init__(
        self,
        params: Params,
        lr: Value = 1e-2,
        beta2_decay: Value = -0.8,
        eps: tuple[Value | None, Value] = (None, 1e-3),
        d: Value = 1.0,
        weight_decay: Value = 0.0,
        *,
        maximize: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        values = {"lr": lr, "beta2_decay": beta2_decay, "eps": eps, "d": d}
        values |= {"weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, values, **shared)
