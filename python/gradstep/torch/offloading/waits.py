"""What has a forward pass wait for the parameters that are still on their way to the device."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch

from .. import private

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .pipeline import Pipeline
    from .slots import Slot


class Nothing:
    """What a copy of a model has in place of its hooks."""

    def __call__(self, *_: Any) -> None:
        """Do nothing."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Nothing, ()


class Wait:
    """A hook of a module. In a copy of the module, or a file of it, there is none.

    Args:
        pipeline: what sends the parameters, by a weak reference.
        own: the positions of the module's own parameters; None: everybody's.

    Attributes:
        seen: how many steps there had been when the module last ran.
    """

    def __init__(self, pipeline: weakref.ref[Pipeline], own: Sequence[int] | None = None) -> None:
        self._pipeline = pipeline
        self._own = own
        self.seen = -1

    def __call__(self, *_: Any) -> None:
        """Have the device wait."""
        if private.is_traced():
            self._untraced()
        else:
            self._wait()

    def _wait(self) -> None:
        pipeline = self._pipeline()
        if pipeline is None:
            return
        if pipeline.is_open:
            pipeline.before_forward()
        self.seen = pipeline.steps
        if self._own is None:
            pipeline.wait()
            return
        for i in self._own:
            bucket = pipeline.slots[i].bucket
            for piece in bucket.pieces if bucket is not None else ():
                if piece.up is not None:
                    piece.hold()

    _untraced = torch.compiler.disable(_wait)

    def __reduce__(self) -> tuple[Any, ...]:
        self()  # the copy is to have whole parameters
        return Nothing, ()


def attach(model: torch.nn.Module, pipeline: Pipeline, slots: Iterable[Slot]) -> list[Any]:
    """Have modules wait for their own parameters, and state dicts and their loading for all.

    Returns:
        The handles of the hooks.
    """
    by_param = {id(slot.param): slot for slot in slots}
    reference = weakref.ref(pipeline)
    everything = Wait(reference)
    handles: list[Any] = []
    for module in model.modules():
        handles.append(module.register_state_dict_pre_hook(everything))
        handles.append(module.register_load_state_dict_pre_hook(everything))
        own = [by_param[id(p)] for p in module.parameters(recurse=False) if id(p) in by_param]
        if not own:
            continue
        wait = Wait(reference, [slot.index for slot in own])
        for slot in own:
            slot.waits.append(wait)
            if slot.bucket is not None:
                slot.bucket.waits.add(wait)
            slot.outside |= module is model  # a copy of it would read them before any hook
        handles.append(module.register_forward_pre_hook(wait, prepend=True))
    return handles
