"""What stands in ``.grad`` once a gradient has left the device."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

_LOOK_FOR_NONFINITE = torch.ops.aten._amp_foreach_non_finite_check_and_unscale_.default


class Owner(Protocol):
    """Who has the gradients."""

    def has_nonfinite(self, taken: Sequence[Taken], inverse_scale: float) -> bool:
        """Whether an element of them is infinite or NaN; they are to be scaled by that."""


class Taken(torch.Tensor):  # type: ignore[misc]
    """A gradient without memory here: whoever would use it is told what to do instead.

    A ``GradScaler`` may look for what is not finite, and unscale: the host answers.

    Args:
        like: the parameter.
        owner: who has the gradient.
    """

    owner: weakref.ref[Owner]

    @staticmethod
    def __new__(cls, like: torch.Tensor, owner: Owner) -> Taken:
        made: Taken = torch.Tensor._make_wrapper_subclass(
            cls, like.shape, strides=like.stride(), dtype=like.dtype, device=like.device
        )
        made.owner = weakref.ref(owner)
        return made

    def __repr__(self, **_: Any) -> str:
        return f"Taken(shape={tuple(self.shape)}, dtype={self.dtype}, device={self.device})"

    @classmethod
    def __torch_dispatch__(
        cls,
        function: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Answer a GradScaler; raise for all else."""
        del types, kwargs
        if function is not _LOOK_FOR_NONFINITE:
            raise RuntimeError(
                f"{function}: asked of a gradient that was taken to the host, where offload() "
                "steps with it; wanted clip_norm= or clip_value= of offload() to clip, its report "
                "for the norm, and one backward pass per step, or accumulate="
            )
        gradients, found, inverse_scale = args
        there = [gradient for gradient in gradients if not isinstance(gradient, Taken)]
        if there:
            function(there, found, inverse_scale)
        taken = [gradient for gradient in gradients if isinstance(gradient, Taken)]
        owner = taken[0].owner()
        if owner is not None and owner.has_nonfinite(taken, float(inverse_scale)):
            found.fill_(1)
        return None
