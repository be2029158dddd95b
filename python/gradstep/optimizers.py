"""The rules as optimizers, one short class each, in order of complexity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from . import _core
from .hyperparameters import BETWEEN, HALVES
from .optimizer import Optimizer
from .rule import RULES, Rule, is_on

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .arguments import Params, Shared, Value


class SGD(Optimizer):
    r"""Stochastic gradient descent with momentum.

    .. math:: d = g + \lambda p;\quad b = \mu b + (1 - \tau) d \ (b_1 = d);\quad
              p \leftarrow p - \eta\,(d + \mu b \text{ if nesterov else } b)

    When: networks for images, and wherever a tuned rate is at hand: with momentum it often reaches
    a better network than Adam, but wants its rate found. Begin at 0.1 with momentum 0.9 for a
    network with normalisation, at 0.01 without, and lower the rate over the run.

    Args:
        params: see :class:`Optimizer`.
        lr: the rate η ≥ 0.
        momentum: μ ≥ 0; 0 keeps no buffer. A schedule keeps one.
        dampening: τ.
        weight_decay: λ ≥ 0, added to the gradient (L2).
        nesterov: look ahead; wants a momentum and no dampening.
        maximize: go up the gradient.
        **shared: storages, stages and more that every rule takes, see :class:`Optimizer`.

    State: ``momentum_buffer``, with momentum.

    Where frameworks differ: Keras keeps the rate inside the buffer, b = μb − ηg, so a changing
    rate acts on old gradients too.

    Source: Sutskever et al., ICML 2013, in PyTorch's form.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> w, target = np.zeros(3), np.array([1.0, -2.0, 3.0])
        >>> opt = gs.SGD(w, lr=0.1, momentum=0.5)
        >>> for t in range(101):
        ...     if t % 50 == 0:
        ...         print(f"{((w - target) ** 2).sum():.4f}")  # the loss
        ...     report = opt.step(2 * (w - target))  # its gradient
        14.0000
        0.0000
        0.0000
    """

    rule = Rule("SGD")

    def __init__(
        self,
        params: Params,
        lr: Value = 1e-3,
        momentum: Value = 0,
        dampening: Value = 0,
        weight_decay: Value = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "maximize": maximize,
            },
            **shared,
        )

    @staticmethod
    def _check(prefix: str, group: Mapping[str, Any], storages: Mapping[str, str]) -> None:
        del storages
        on = {key: is_on(group[key]) for key in ("momentum", "dampening")}
        for key, wanted in (("momentum", True), ("dampening", False)):
            if group["nesterov"] and on[key] != wanted:
                raise ValueError(
                    f"{prefix}nesterov: got True with {key}={group[key]!r}, wanted "
                    "a momentum above 0 and no dampening"
                )
        if on["dampening"] and not on["momentum"]:
            raise ValueError(
                f"{prefix}dampening: got {group['dampening']!r} with momentum="
                f"{group['momentum']!r}, wanted a momentum for it to dampen"
            )


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
        initial_accumulator_value: what s starts from, ≥ 0; a number.
        eps: ε ≥ 0.
        maximize: go up the gradient.
        **shared: storages, stages and more that every rule takes, see :class:`Optimizer`.

    State: ``sum``.

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


class Adam(Optimizer):
    r"""Running means of the gradient and of its square, both corrected for their start at 0.

    .. math:: m \leftarrow m + (1-\beta_1)(g - m);\quad v = \beta_2 v + (1-\beta_2) g^2;\quad
              p \leftarrow p - \frac{\eta}{1-\beta_1^t}\, m /
              (\sqrt{v} / \sqrt{1-\beta_2^t} + \epsilon)

    When: nearly everything at first, since it bears a rate that is off by a few times. Begin at
    0.001; for transformers at 0.0003 with a warm-up. With weight decay take :class:`AdamW`.

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

    Where frameworks differ: TensorFlow and Keras scale ε by √(1 − β₂ᵗ) and take 1e-7; optax's
    amsgrad takes the maximum after the correction.

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


class AdamW(Adam):
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
        maximize: go up the gradient.
        **shared: storages, stages and more that every rule takes, see :class:`Optimizer`.

    States: ``exp_avg``, ``exp_avg_sq``; ``max_exp_avg_sq``, with amsgrad.

    Where frameworks differ: λ is 1e-4 in optax and 4e-3 in Keras.

    Source: Loshchilov & Hutter, ICLR 2019, algorithm 2.

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
        maximize: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize, **shared)


class LARS(Optimizer):
    r"""A step as long as the parameter it moves, times a coefficient and the rate, then momentum.

    .. math:: u = g + \lambda p;\quad
              d = \eta\,\tau\,\frac{\lVert p\rVert}{\lVert u\rVert + \epsilon}\,u;\quad
              b = \mu b + d;\quad p \leftarrow p - (\mu b + d \text{ if nesterov else } b)

    When: SGD with batches of thousands of images, where one rate no longer fits all layers. Begin
    at a rate of 1 to 10 with a warm-up, since the coefficient is 0.001. Each array is a layer: give
    biases and norms a group with another ``rule``.

    Args:
        params: see :class:`Optimizer`.
        lr: the rate η ≥ 0.
        momentum: μ ≥ 0; 0 keeps no buffer.
        weight_decay: λ ≥ 0, added to the gradient (L2).
        trust_coefficient: τ ≥ 0.
        eps: ε ≥ 0.
        nesterov: look ahead; wants a momentum.
        maximize: go up the gradient.
        **shared: storages, stages and more that every rule takes, see :class:`Optimizer`.

    State: ``momentum_buffer``, with momentum. Norms are of whole tensors: of all shards that are
    here (they must fill their tensor) or, as DTensors, in other processes.

    Where frameworks differ: the form is optax's; the paper divides by ‖g‖ + λ‖p‖. The ratio is 1
    where one of the norms is 0. bitsandbytes ignores the ratio.

    Source: You, Gitman & Ginsburg, 2017; ``optax.lars``.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> w, target = np.ones(3), np.array([1.0, -2.0, 3.0])
        >>> opt = gs.LARS(w, lr=50, momentum=0.5)
        >>> for t in range(101):
        ...     if t % 50 == 0:
        ...         print(f"{((w - target) ** 2).sum():.4f}")  # the loss
        ...     report = opt.step(2 * (w - target))  # its gradient
        13.0000
        0.0025
        0.0073
    """

    rule = Rule("LARS")

    def __init__(
        self,
        params: Params,
        lr: Value = 1.0,
        momentum: Value = 0.9,
        weight_decay: Value = 0,
        trust_coefficient: Value = 1e-3,
        eps: Value = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "weight_decay": weight_decay,
                "trust_coefficient": trust_coefficient,
                "eps": eps,
                "nesterov": nesterov,
                "maximize": maximize,
            },
            **shared,
        )

    @staticmethod
    def _check(prefix: str, group: Mapping[str, Any], storages: Mapping[str, str]) -> None:
        del storages
        if group["nesterov"] and not is_on(group["momentum"]):
            raise ValueError(
                f"{prefix}nesterov: got True with momentum={group['momentum']!r}, wanted a "
                "momentum above 0"
            )


class LAMB(Optimizer):
    r"""Adam's direction with decay, as long as the parameter it moves, times the rate.

    .. math:: r = \hat m / (\sqrt{\hat v} + \epsilon) + \lambda p;\quad
              p \leftarrow p - \eta\,\frac{\lVert p\rVert}{\lVert r\rVert}\,r

    with Adam's corrected means m̂ and v̂.

    When: batches of thousands of sequences, with which AdamW stalls or diverges. Begin at 0.002 for
    a batch of 512 and grow the rate with the root of the batch. Each array is a layer: give biases
    and norms a group with another ``rule``.

    Args:
        params: see :class:`Optimizer`.
        lr: the rate η ≥ 0.
        betas: β₁ and β₂ in [0, 1).
        eps: ε ≥ 0.
        weight_decay: λ ≥ 0.
        maximize: go up the gradient.
        **shared: storages, stages and more that every rule takes, see :class:`Optimizer`.

    States: ``exp_avg``, ``exp_avg_sq``. Norms are of whole tensors: of all shards that are here
    (they must fill their tensor) or, as DTensors, in other processes. With states in few bits ‖r‖
    is that of the numbers before they are rounded.

    Where frameworks differ: ε and the missing limits of ‖p‖ are optax's. The ratio is 1 where one
    of the norms is 0. bitsandbytes' LAMB is AdamW with a limit on the norm of the update.

    Source: You et al., ICLR 2020, algorithm 2; ``optax.lamb``.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> w, target = np.ones(3), np.array([1.0, -2.0, 3.0])
        >>> opt = gs.LAMB(w, lr=0.05)
        >>> for t in range(101):
        ...     if t % 50 == 0:
        ...         print(f"{((w - target) ** 2).sum():.4f}")  # the loss
        ...     report = opt.step(2 * (w - target))  # its gradient
        13.0000
        0.1168
        0.0069
    """

    rule = Rule("LAMB")

    def __init__(
        self,
        params: Params,
        lr: Value = 2e-3,
        betas: tuple[Value, Value] = (0.9, 0.999),
        eps: Value = 1e-6,
        weight_decay: Value = 0,
        *,
        maximize: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        values = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**values, "maximize": maximize}, **shared)


class ScheduleFreeAdamW(Optimizer):
    r"""AdamW without a schedule: gradients are taken between the steps and their average.

    .. math:: \gamma = \eta \min(1, t / w);\quad
              c = t^r \gamma_{\max}^p \Big/ \sum t^r \gamma_{\max}^p;\quad
              u = g / (\sqrt{\hat v} + \epsilon) + \lambda y

    .. math:: y \leftarrow (1 - c) y + c z + \gamma (\beta_1 (1 - c) - 1) u;\quad
              z \leftarrow z - \gamma u

    The parameter is y. The point to evaluate and to save is x = y + (1 − 1/β₁)(z − y):
    ``with opt.averaged():`` has it in the parameters.

    When: runs whose length is not known, and whoever would rather not choose a schedule. Begin at
    0.0025, which is 1 to 10 times AdamW's rate, with a warm-up of some hundred updates and β₁ of
    0.9 to 0.98. Statistics of batch norm are of y: let the network see some batches within
    ``averaged()``.

    Args:
        params: see :class:`Optimizer`.
        lr: the rate η ≥ 0.
        betas: β₁ and β₂, above 0 and below 1.
        eps: ε ≥ 0.
        weight_decay: λ ≥ 0, taken at y.
        warmup_steps: w ≥ 0, updates over which γ grows to the rate.
        r: what t is raised to in the weights of the average, a multiple of 1/2.
        weight_lr_power: what the largest γ so far is raised to, a multiple of 1/2.
        maximize: go up the gradient.
        **shared: storages, stages and more that every rule takes, see :class:`Optimizer`; without
            ``average``, since the rule has its own.

    States: ``z``, which starts as the parameter is at the first step; ``exp_avg_sq``; the numbers
    ``lr_max`` and ``weight_sum``. ``states="q8"`` is for ``exp_avg_sq`` alone.

    Where frameworks differ: this is the package schedulefree from 1.3 on; older ones corrected γ
    instead of v. It counts a group's steps, this rule each parameter's own. ``optax.contrib`` wraps
    AdamW and takes its decay at z.

    Source: Defazio et al., "The road less scheduled", NeurIPS 2024; schedulefree 1.4.1.

    Example:
        >>> import numpy as np, gradstep as gs
        >>> w, target = np.zeros(3), np.array([1.0, -2.0, 3.0])
        >>> opt = gs.ScheduleFreeAdamW(w, lr=0.2)
        >>> for t in range(101):
        ...     if t % 50 == 0:
        ...         with opt.averaged():
        ...             print(f"{((w - target) ** 2).sum():.4f}")  # the loss
        ...     report = opt.step(2 * (w - target))  # its gradient
        14.0000
        0.0403
        0.0092
    """

    rule = Rule("ScheduleFreeAdamW")
    _ranges = {"betas": BETWEEN, "r": HALVES, "weight_lr_power": HALVES}  # noqa: RUF012

    def __init__(
        self,
        params: Params,
        lr: Value = 2.5e-3,
        betas: tuple[Value, Value] = (0.9, 0.999),
        eps: Value = 1e-8,
        weight_decay: Value = 0,
        warmup_steps: Value = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
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
                "warmup_steps": warmup_steps,
                "r": r,
                "weight_lr_power": weight_lr_power,
                "maximize": maximize,
            },
            **shared,
        )


class Lion(Optimizer):
    r"""The sign of a mean of gradients: each element moves by the rate, with half of Adam's states.

    .. math:: p \leftarrow (1 - \eta\lambda) p
                  - \eta\,\mathrm{sign}(\beta_1 m + (1 - \beta_1) g);\quad
              m \leftarrow \beta_2 m + (1 - \beta_2) g

    When: large models and large batches, where AdamW's second state is too much memory. Begin at a
    third to a tenth of AdamW's rate, with 3 to 10 times its weight decay, so that their product
    stays.

    Args:
        params: see :class:`Optimizer`.
        lr: the rate η ≥ 0.
        betas: β₁ and β₂ in [0, 1).
        weight_decay: λ ≥ 0.
        maximize: go up the gradient.
        **shared: storages, stages and more that every rule takes, see :class:`Optimizer`.

    States: ``exp_avg``.

    Where frameworks differ: the means are optax's and the paper's. The sign of 0 is 0. The default
    decay is optax's 1e-3, the paper's is task by task.

    Source: Chen et al., NeurIPS 2023, algorithm 2; ``optax.lion``.

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
        maximize: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        values = {"lr": lr, "betas": betas, "weight_decay": weight_decay}
        super().__init__(params, {**values, "maximize": maximize}, **shared)


__all__ = [*RULES]  # noqa: PLE0604 - the classes are called as their rules
