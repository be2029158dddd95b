"""Steps within the backward pass."""

from __future__ import annotations

import functools
from typing import Any

import torch

from . import private
from .call import Part
from .optimizer import Optimizer
from .sharded import awaits_sum


def step_in_backward(optimizer: Optimizer) -> list[Any]:
    """Have each backward pass step, and drop the gradients.

    Each parameter is stepped, and its gradient dropped, as soon as that is there: gradients of the
    whole model never lie in memory together. The pass is one step of the optimizer: schedules give
    all of its parameters the same value. With ``clip_norm`` or ``nonfinite``, which want all
    gradients, the step comes at the end of the backward pass instead, and means what it means
    elsewhere. So it does with rules that look at all parameters together, such as ``Prodigy``, and
    for plain parameters in one of several processes, whose gradients ``DistributedDataParallel``
    may have summed only then; DTensors, as of ``fully_shard``, are stepped one by one.

    Args:
        optimizer: whose parameters, those that it has now; do not call its ``step``.

    Returns:
        The handles of the hooks; ``remove()`` each to end it.

    Raises:
        ValueError: a rule steps by the loss, such as ``PolyakSGD``: a backward pass knows none.
        RuntimeError: from the backward pass, if a step at its end comes in a pass within another,
            as ``torch.utils.checkpoint`` makes it with ``use_reentrant=True``.

    Example:
        >>> import torch
        >>> from gradstep.torch import SGD, step_in_backward
        >>> w = torch.nn.Parameter(torch.ones(2))
        >>> handles = step_in_backward(SGD([w], lr=0.5))
        >>> w.sum().backward()
        >>> w.tolist(), w.grad
        ([0.5, 0.5], None)
    """
    for group in optimizer.groups:
        if group.rule.takes_loss:
            raise ValueError(
                f"step_in_backward: got {group.rule.name}, which steps by the loss, wanted a rule "
                "that needs none, or step(loss=...) after the backward pass"
            )
    waiting = -1  # the backward pass at whose end there will be a step

    def finish() -> None:
        if private.backward_depth() > 1:
            raise RuntimeError(
                "step_in_backward: got a backward pass within another, which brings only some "
                "gradients, wanted torch.utils.checkpoint with use_reentrant=False"
            )
        optimizer.step_after_backward()

    def hook(part: Part, tensor: torch.Tensor) -> None:
        nonlocal waiting
        stages = optimizer.stages
        each = stages["clip_norm"] is None and stages["nonfinite"] == "allow"
        each = each and not any(group.rule.common for group in optimizer.groups)
        if each and not awaits_sum(tensor):
            optimizer.step_part(part)
            tensor.grad = None
        elif waiting != (now := private.backward_pass()):
            waiting = now
            # Twice: behind what others, as DDP does, have queued for the end by then.
            private.at_end_of_backward(functools.partial(private.at_end_of_backward, finish))

    return [
        tensor.register_post_accumulate_grad_hook(functools.partial(hook, Part([tensor])))
        for group in optimizer.param_groups
        for tensor in group["params"]
        if tensor.requires_grad
    ]
