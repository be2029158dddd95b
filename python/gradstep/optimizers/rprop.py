"""The class of cpp/rules/rprop.hpp."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..optimizer import Optimizer
from ..rule import Rule

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..arguments import Params, Shared, Value


class Rprop(Optimizer):
    r"""A step of its own for each element, which grows while the gradient keeps its sign.

    .. math:: s \leftarrow \begin{cases}\min(\eta^+ s, s_{\max}) & g\, g' > 0\\
              \max(\eta^- s, s_{\min}),\ g = 0 & g\, g' < 0\\ s & \text{else}\end{cases};\quad
              p \leftarrow p - s\, \mathrm{sign}(g);\quad g' \leftarrow g

    When: gradients of the whole data, and no rate to search for: only signs count, and each element
    finds its own step. Minibatches break it, since their signs are noise. Begin at 0.01.

    Args:
        params: see :class:`Optimizer`.
        lr: what each step size s starts from, ≥ 0; no schedule, since no step reads it again.
        etas: η⁻ between 0 and 1, and η⁺ > 1.
        step_sizes: the least and the largest s, ≥ 0.
        maximize: go up the gradient.
        **shared: storages, stages and more that every rule takes, see :class:`Optimizer`.

    States: ``prev``, g'; ``step_size``, s, in float32, float64 or bfloat16: with codes of few bits
    it could not grow by a fifth. ``states="q8"`` is for ``prev`` alone.

    Where frameworks differ: this is PyTorch 2.13, where a rate that is changed after the start, by
    a scheduler for instance, does nothing: here it is refused. PyTorch takes the sign of NaN for 0
    and goes on; here the parameter becomes NaN. optax 0.2.8's ``rprop`` makes each step one update
    late, and none at the first.

    Source: Riedmiller & Braun, "A direct adaptive method for faster backpropagation learning: the
    RPROP algorithm", ICNN 1993.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> w, target = np.zeros(3), np.array([1.0, -2.0, 3.0])
        >>> opt = gs.Rprop(w, lr=0.1)
        >>> for t in range(101):
        ...     if t % 50 == 0:
        ...         print(f"{((w - target) ** 2).sum():.4f}")  # the loss
        ...     report = opt.step(2 * (w - target))  # its gradient
        14.0000
        0.0000
        0.0000
    """

    rule = Rule("Rprop")

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        etas: tuple[Value, Value] = (0.5, 1.2),
        step_sizes: tuple[Value, Value] = (1e-6, 50),
        *,
        maximize: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "etas": etas,
                "step_sizes": step_sizes,
                "maximize": maximize,
            },
            **shared,
        )

    @staticmethod
    def _check(prefix: str, group: Mapping[str, Any], storages: Mapping[str, str]) -> None:
        del storages
        least, most = group["step_sizes"]
        if not (callable(least) or callable(most)) and least > most:
            raise ValueError(
                f"{prefix}step_sizes: got {group['step_sizes']!r}, wanted the least first"
            )
