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


# Modules that are gone through without being called.
NOT_CALLED = (torch.nn.ModuleList, torch.nn.ModuleDict)


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


def attach(
    model: torch.nn.Module, pipeline: Pipeline, slots: Iterable[Slot], size: int
) -> list[Any]:
    """Have modules wait for their parameters, and their state dicts for all.

    Args:
        model: of these modules.
        pipeline: what sends parameters.
        slots: the parameters.
        size: a module with fewer bytes of parameters waits for all of them, and for its children.

    Returns:
        The handles of the hooks.
    """
    by_param = {id(slot.param): slot for slot in slots}
    reference = weakref.ref(pipeline)
    everything = Wait(reference)
    handles: list[Any] = []
    waiting: set[torch.nn.Module] = set()  # whose children need not wait
    for module in model.modules():  # parents first
        handles.append(module.register_state_dict_pre_hook(everything))
        if module in waiting:
            continue
        whole = [by_param[id(p)] for p in module.parameters() if id(p) in by_param]
        own = [by_param[id(p)] for p in module.parameters(recurse=False) if id(p) in by_param]
        small = sum(slot.count * slot.here.element_size() for slot in whole) <= size
        if small and not isinstance(module, NOT_CALLED):
            own = whole
            waiting.update(module.modules())
        if own:
            wait = Wait(reference, [slot.index for slot in own])
            for slot in own:
                slot.waits.append(wait)
                if slot.bucket is not None:
                    slot.bucket.waits.add(wait)
            handles.append(module.register_forward_pre_hook(wait, prepend=True))
    for param in model.parameters(recurse=False):
        if id(param) in by_param:
            by_param[id(param)].outside = True  # a copy would read it before any hook
    return handles
