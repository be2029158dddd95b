"""A training step out of what a PyTorch training is made of: model, loss, loader, optimizer."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ..checks import real


def loop(
    model: Any,
    loss_fn: Callable[[Any, Any], Any],
    loader: Iterable[Any],
    optimizer: Any,
    *,
    clip_norm: float | None = None,
) -> Loop:
    """The training step of a PyTorch loop, for :func:`range_test`.

    Each call takes the loader's next batch, begins again with the loader where it ends, and makes
    one step. A model in evaluation mode is put into training mode first; one in training mode stays
    as it is, with submodules that are kept in evaluation mode. Batches go to the device of the
    model's parameters, if all are on one. Rates, schedules and averages are left alone.

    Args:
        model: a ``torch.nn.Module``.
        loss_fn: gets ``(model(x), y)`` for a batch that is a tuple or list of two, and ``(model,
            batch)`` for one that is a dict or another mapping. Returns a tensor of one number.
        loader: a DataLoader, or what else gives batches each time it is iterated. Its length may be
            unknown.
        optimizer: one of ``torch.optim``'s or ``gradstep.torch``'s, over the model's parameters.
        clip_norm: clip the gradients' norm to this before each step; None: do not.

    Returns:
        A function without arguments that makes a step and returns the loss from before it, as a
        float. Its ``save()`` returns what a step changes besides parameters and optimizer: buffers
        such as batch normalization's, modes, gradients of parameters that the optimizer has not,
        and the states of PyTorch's, NumPy's and Python's random generators and of the loader's own.
        ``restore(saved)`` puts that back, to the bit, and begins anew with the loader.

    Raises:
        TypeError, ValueError: an argument is refused; when called, a batch, or what ``loss_fn``
            returned.

    Example:
        >>> import torch
        >>> from gradstep.tuning import loop, range_test
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(256, 3)
        >>> data = torch.utils.data.TensorDataset(x, x.sum(1, keepdim=True) + torch.randn(256, 1))
        >>> loader = torch.utils.data.DataLoader(data, batch_size=32, shuffle=True)
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> loss_fn = torch.nn.functional.mse_loss
        >>> found = range_test(loop(model, loss_fn, loader, optimizer), optimizer)
        >>> low, high = found.interval
        >>> bool(low < 0.3 < high), optimizer.param_groups[0]["lr"]
        (True, 0.1)
    """
    _check(loss_fn=loss_fn)

    def loss_of(batch: Any) -> Any:
        batch = _to(batch, _device(model))
        if isinstance(batch, Mapping):
            return loss_fn(model, batch)
        if isinstance(batch, tuple | list) and len(batch) == 2:
            x, y = batch
            return loss_fn(model(x), y)
        size = f" of {len(batch)}" if isinstance(batch, tuple | list) else ""
        raise TypeError(
            f"loader: got a batch that is a {type(batch).__name__}{size}, wanted a tuple or list "
            "(x, y), or a dict"
        )

    clip = None
    if clip_norm is not None:
        norm = real("clip_norm", clip_norm, "a number > 0 or None")
        if not norm > 0:
            raise ValueError(f"clip_norm: got {clip_norm!r}, wanted a number > 0 or None")

        def clip() -> object:
            return _torch().nn.utils.clip_grad_norm_(model.parameters(), norm)

    return Loop(model, loss_of, loader, optimizer, clip=clip)


class Loop:
    """A step of a PyTorch training; see :func:`loop`, which makes it.

    Args:
        model, loader, optimizer: as there.
        loss_of: gets a batch and returns its loss.
        clip: called before each step, once the gradients are there.
    """

    def __init__(
        self,
        model: Any,
        loss_of: Callable[[Any], Any],
        loader: Iterable[Any],
        optimizer: Any,
        *,
        clip: Callable[[], object] | None = None,
    ) -> None:
        if not all(callable(getattr(model, name, None)) for name in ("parameters", "modules")):
            raise TypeError(f"model: got {type(model).__name__}, wanted a torch.nn.Module")
        if not all(callable(getattr(optimizer, name, None)) for name in ("zero_grad", "step")):
            raise TypeError(f"optimizer: got {type(optimizer).__name__}, wanted one of PyTorch's")
        wanted = "one that gives batches each time it is iterated, such as a DataLoader"
        if isinstance(loader, Iterator) or not hasattr(loader, "__iter__"):
            raise TypeError(f"loader: got {type(loader).__name__}, wanted {wanted}")
        if _length(loader) == 0:
            raise ValueError(
                "loader: got one without batches, wanted at least one: has the data fewer rows "
                "than a batch, with drop_last?"
            )
        self._model, self._loader, self._optimizer = model, loader, optimizer
        self._loss_of, self._clip = loss_of, clip
        self._batches: Iterator[Any] | None = None

    def __call__(self) -> float:
        """Make a step; return the loss from before it."""
        if not self._model.training:
            self._model.train()
        loss = self._loss_of(self._next())
        if not hasattr(loss, "backward") or loss.numel() != 1:
            shape = f" of shape {tuple(loss.shape)}" if hasattr(loss, "shape") else ""
            raise TypeError(
                f"loss_fn: got {type(loss).__name__}{shape} from it, wanted a tensor of one number"
            )
        self._optimizer.zero_grad()
        loss.backward()
        if self._clip is not None:
            self._clip()
        self._optimizer.step()
        return float(loss.detach())

    def _next(self) -> Any:
        none = object()
        for _ in range(2):
            if self._batches is None:
                self._batches = iter(self._loader)
            if (batch := next(self._batches, none)) is not none:
                return batch
            self._batches = None
        raise ValueError("loader: got no batch from it, wanted at least one each time")

    # ---- what a step changes besides parameters and optimizer ----

    def save(self) -> Any:
        """What a step changes besides parameters and optimizer, as copies."""
        self._batches = None
        modules = list(self._model.modules())
        buffers = [
            (module, name, buffer, None if buffer is None else buffer.detach().clone())
            for module in modules
            for name, buffer in module._buffers.items()
        ]
        held = {id(p) for group in self._optimizer.param_groups for p in group["params"]}
        grads = [
            (p, p.grad, None if p.grad is None else p.grad.detach().clone())
            for p in self._model.parameters()
            if id(p) not in held
        ]
        modes = [(module, module.training) for module in modules]
        return buffers, grads, modes, [(put, get()) for get, put in generators(self._loader)]

    def restore(self, saved: Any) -> None:
        """Put back what :meth:`save` returned, to the bit, and begin anew with the loader."""
        self._batches = None
        buffers, grads, modes, generators = saved
        for module, name, buffer, data in buffers:
            if data is not None:
                buffer.detach().copy_(data)
            module._buffers[name] = buffer
        for p, grad, data in grads:
            if data is not None:
                grad.detach().copy_(data)
            p.grad = grad
        for module, mode in modes:
            module.training = mode
        for put, state in generators:
            put(state)


def generators(loader: Any = None) -> Iterator[tuple[Callable[[], Any], Callable[[Any], object]]]:
    """How to get and put the state of each random generator: PyTorch's too, where it is loaded."""
    yield random.getstate, random.setstate
    yield np.random.get_state, np.random.set_state  # code of loaders
    if hasattr(loader, "iteration"):  # accelerate's, whose passes are shuffled by their number
        yield lambda: loader.iteration, lambda number: setattr(loader, "iteration", number)
    if (torch := sys.modules.get("torch")) is None:
        return
    yield torch.get_rng_state, torch.set_rng_state
    for device in (torch.cuda, torch.xpu):
        if device.is_initialized():
            yield device.get_rng_state_all, device.set_rng_state_all
    if torch.backends.mps.is_available():
        yield torch.mps.get_rng_state, torch.mps.set_rng_state
    sampler = getattr(loader, "sampler", None)
    inner = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
    found = (getattr(owner, "generator", None) for owner in (loader, sampler, inner))
    for generator in {id(g): g for g in found if isinstance(g, torch.Generator)}.values():
        yield generator.get_state, generator.set_state


def _torch() -> Any:
    import torch  # noqa: PLC0415 - who has no PyTorch has no model either

    return torch


def _check(**functions: Any) -> None:
    for name, value in functions.items():
        if not callable(value):
            raise TypeError(f"{name}: got {type(value).__name__}, wanted a function")


def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except (TypeError, NotImplementedError):  # a loader of unknown length has __len__ all the same
        return None


def _device(model: Any) -> Any:
    """The one that holds all parameters; None where there are several."""
    devices = {p.device for p in model.parameters()}
    return devices.pop() if len(devices) == 1 else None


def _to(batch: Any, device: Any) -> Any:
    """The same batch with its tensors on a device."""
    if device is None:
        return batch
    if isinstance(batch, Mapping):
        return {key: _to(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        moved = [_to(value, device) for value in batch]
        return type(batch)(*moved) if hasattr(batch, "_fields") else type(batch)(moved)
    return batch.to(device) if isinstance(batch, _torch().Tensor) else batch


# ---- the rate that was found ----

# Whose rates are all in proportion to the one they begin with.
PROPORTIONAL = {
    "LambdaLR", "MultiplicativeLR", "StepLR", "MultiStepLR", "ConstantLR", "LinearLR",
    "ExponentialLR", "PolynomialLR",
}  # fmt: skip


def check_use(optimizer: Any, schedulers: Iterable[Any]) -> None:
    """Whether :func:`use_rate` can set a rate.

    Raises:
        ValueError: a schedule does not follow the rate that it began with.
    """
    for scheduler in schedulers:
        name = type(scheduler).__name__
        cosine = name == "CosineAnnealingLR" and scheduler.eta_min == 0
        if name not in PROPORTIONAL and not cosine:
            raise ValueError(
                f"use: got True with the schedule {name}, whose rates are not all in proportion to "
                "the optimizer's, wanted False: look at found, and make the schedule with it"
            )
    if any(callable(group["lr"]) for group in optimizer.param_groups):
        raise ValueError("use: got True with an optimizer whose lr is a schedule, wanted False")


def use_rate(optimizer: Any, schedulers: Iterable[Any], rate: float) -> None:
    """Have all groups begin with a rate, and their schedules lead on from it."""
    for i, group in enumerate(optimizer.param_groups):
        begin = group.get("initial_lr", group["lr"])
        part = float(group["lr"]) / float(begin) if begin else 1.0  # as of a warmup
        new = rate * part
        if hasattr(group["lr"], "fill_"):  # a tensor, which compiled steps hold on to
            group["lr"].fill_(new)
        else:
            group["lr"] = new
        if "initial_lr" in group:
            group["initial_lr"] = rate
        for scheduler in schedulers:
            scheduler.base_lrs[i] = rate
            scheduler._last_lr = [each["lr"] for each in optimizer.param_groups]
