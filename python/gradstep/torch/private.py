"""What PyTorch does not promise to keep: each such name stands behind one function here."""

from __future__ import annotations

import ctypes
import inspect
import struct
import sys
import sysconfig
import traceback
import weakref
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch.autograd import profiler
from torch.optim import optimizer as torch_optimizer

from .. import _core
from . import memory

M = TypeVar("M", bound=Callable[..., Any])

# ---- the backward pass ----


def keeping_grad_mode(method: M) -> M:
    """A method after which gradients are recorded as before it, even where it was interrupted.

    ``torch.no_grad()`` alone does not promise that: it is Python code, and a signal that comes
    as it ends leaves the whole thread without gradients.
    """

    @wraps(method)
    def keeping_grad_mode(*args: Any, **kwargs: Any) -> Any:
        before = torch.is_grad_enabled()
        try:
            return method(*args, **kwargs)
        finally:
            torch._C._set_grad_enabled(before)

    return cast("M", keeping_grad_mode)


def backward_pass() -> int:
    """Which backward pass of this thread goes on; −1: none."""
    number: int = torch._C._current_graph_task_id()
    return number


def backward_depth() -> int:
    """How many backward passes of this thread go on, one within the other."""
    count, frame = 0, inspect.currentframe()
    while frame is not None:
        count += frame.f_code is torch.autograd.graph._engine_run_backward.__code__
        frame = frame.f_back
    return count


def is_backward_running() -> bool:
    """Whether a backward pass goes on in any thread."""
    code = torch.autograd.graph._engine_run_backward.__code__
    return any(
        any(frame.f_code is code for frame, _ in traceback.walk_stack(top))
        for top in sys._current_frames().values()
    )


def at_end_of_backward(function: Callable[[], None]) -> None:
    """Call a function when the backward pass that goes on ends."""
    torch.autograd.Variable._execution_engine.queue_callback(function)


# ---- the step ----


def is_watched(optimizer: Any) -> bool:
    """Whether PyTorch has something to call or to measure around each step."""
    return bool(
        optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or torch_optimizer._global_optimizer_pre_hooks
        or torch_optimizer._global_optimizer_post_hooks
        or profiler._is_profiler_enabled
    )


def _find_tracing() -> Callable[[], Any]:
    """What tells who compiles the frames of this thread, or None; always somebody if unknown."""
    try:
        found: Callable[[], Any] = torch._C._dynamo.eval_frame.get_eval_frame_callback
        found()
    except (AttributeError, TypeError):
        return lambda: True
    return found


_tracing = _find_tracing()


def is_traced() -> bool:
    """Whether torch.compile looks at each function that is called now."""
    return _tracing() is not None


def load_hooks(optimizer: Any) -> tuple[list[Any], list[Any]]:
    """What is called before and after loading a state dict."""
    before = list(optimizer._optimizer_load_state_dict_pre_hooks.values())
    return before, list(optimizer._optimizer_load_state_dict_post_hooks.values())


# ---- memory ----


def is_zeros_without_memory(tensor: torch.Tensor) -> bool:
    """Whether it is read as 0 and has no memory, as some gradients are."""
    return bool(tensor._is_zerotensor())


def can_count_holders() -> bool:
    """Whether this Python and this PyTorch tell how many hold a tensor or its memory."""
    if sysconfig.get_config_var("Py_GIL_DISABLED"):  # references are counted in two places
        return False
    return hasattr(torch.Tensor, "_use_count") and hasattr(torch._C, "_storage_Use_Count")


def holders(tensor: torch.Tensor, count: Callable[[Any], int]) -> tuple[int | bool, ...]:
    """What tells who can reach a tensor's memory, or the tensor without holding its Python object.

    Args:
        tensor: the tensor.
        count: counts the references to an object.
    """
    memory = tensor.untyped_storage()
    return (
        tensor._use_count(),  # outside Python
        weakref.getweakrefcount(tensor),
        count(memory),
        weakref.getweakrefcount(memory),
        torch._C._storage_Use_Count(memory._cdata),
        memory.resizable(),  # what belongs to NumPy or others is not
        memory.is_shared(),  # with other processes
    )


def _find_handle() -> int:
    """Where the C++ tensor lies in a tensor's Python object, in bytes; −1: it was not found."""
    tensor = torch.ones(3)
    size = type(tensor).__basicsize__
    words = struct.unpack(f"{size // 8}Q", ctypes.string_at(id(tensor), size // 8 * 8))
    return 8 * words.index(tensor._cdata) if tensor._cdata in words else -1


def _library() -> ctypes.CDLL:
    return ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))


def _address(name: str) -> int:
    """Where one of PyTorch's functions is."""
    return ctypes.cast(getattr(_library(), name), ctypes.c_void_p).value or 0


def _find_functions() -> tuple[int, int]:
    """The addresses of PyTorch's C functions for a storage's size and a tensor's place in it."""
    names = ("aoti_torch_get_storage_size", "aoti_torch_get_storage_offset")
    return tuple(map(_address, names))  # type: ignore[return-value]


def source() -> _core.TensorSource:
    """How the core looks into tensors, and at how much memory they have where PyTorch tells."""
    plain = _core.TensorSource(torch.Tensor)
    try:
        handle, functions = _find_handle(), _find_functions()
    except (OSError, AttributeError):
        return plain
    if handle < 0 or not all(functions):
        return plain
    found = _core.TensorSource(torch.Tensor, handle, *functions)
    whole, shrunk = torch.ones(6), torch.ones(6)
    part = whole[2:5]
    shrunk.untyped_storage().resize_(8)
    if not (found.has_memory(whole) and found.has_memory(part) and not found.has_memory(shrunk)):
        return plain
    found.memory = memory.find(handle, found)
    return found


SOURCE = source()


def _find_bump() -> tuple[int, int]:
    """Where the C++ tensor lies, and the function that counts that a tensor was written.

    The address is 0 where it was not found.
    """
    try:
        handle = _find_handle()
        bump = _address("_ZN5torch8autograd4impl12bump_versionERKN2at6TensorE")
    except (OSError, AttributeError):
        return 0, 0
    tensors = [torch.ones(3), torch.nn.Parameter(torch.ones(3))]
    counts = [tensor._version + 1 for tensor in tensors]
    if handle < 0 or not _core.Leaves(tensors, None, handle, bump).note_written(tensors):
        return 0, 0
    return (handle, bump) if counts == [tensor._version for tensor in tensors] else (0, 0)


BUMP = _find_bump()


def leaves(tensors: list[torch.Tensor]) -> _core.Leaves:
    """What tells the tensors' gradients, and autograd that they were written."""
    return _core.Leaves(tensors, torch.Tensor.grad, *BUMP)
