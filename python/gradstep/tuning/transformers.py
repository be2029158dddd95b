"""The range test and the monitor for the Trainer of Hugging Face's transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..extras import need
from .callbacks import Finding, Source, Watching
from .loop import check_use, loop, use_rate

transformers: Any = need("transformers", "gradstep.tuning.transformers", "frameworks")

LOG = transformers.utils.logging.get_logger("transformers.gradstep")


class RangeTestCallback(Finding, transformers.TrainerCallback):  # type: ignore[misc]
    """Runs a range test when a training begins.

    Its steps are made with the Trainer's batches, each for itself also where gradients are
    accumulated, and clipped to its ``max_grad_norm``. Afterwards everything is as it was, to the
    bit, but for the rate where `use` says so. The suggestion is written to transformers' log and,
    as ``rate_suggestion``, ``rate_low`` and ``rate_high``, to ``trainer.state.log_history``.

    Args:
        loss_fn: gets model and batch and returns the loss. None: the ``loss`` of the model's
            output, which it has where batches have labels. To be given where the Trainer has a loss
            of its own.
        use: whether the training then begins with the suggestion, its schedule in proportion.
        options: ``low``, ``high``, ``points`` and ``sweeps`` of :func:`range_test`.

    Attributes:
        found: the :class:`RangeTest`.

    Raises:
        TypeError, ValueError: an argument is refused; or, when the training begins, a Trainer with
            several processes, float16, or, with `use`, a schedule that is not in proportion to its
            first rate.

    Example:
        >>> from gradstep.tuning.transformers import MonitorCallback, RangeTestCallback
        >>> callbacks = [RangeTestCallback(use=True), MonitorCallback()]
        >>> transformers.Trainer(model, args, callbacks=callbacks).train()  # doctest: +SKIP
    """

    def __init__(
        self,
        loss_fn: Callable[[Any, Any], Any] | None = None,
        *,
        use: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(use=use, **options)
        if loss_fn is not None and not callable(loss_fn):
            raise TypeError(f"loss_fn: got {type(loss_fn).__name__}, wanted a function or None")
        self._loss_fn = _loss_of if loss_fn is None else loss_fn

    def on_train_begin(self, args: Any, state: Any, _control: Any, **kwargs: Any) -> None:
        model, loader = kwargs["model"], kwargs["train_dataloader"]
        if args.world_size > 1 or args.fp16:
            got = "float16" if args.fp16 else f"{args.world_size} processes"
            raise ValueError(f"args: got {got}, wanted one process, in float32 or bfloat16")
        optimizer = _own(kwargs["optimizer"])
        if self.use:
            check_use(optimizer, [kwargs["lr_scheduler"]])
        clip = args.max_grad_norm or None
        step = loop(model, self._loss_fn, loader, optimizer, clip_norm=clip)
        try:
            logs = self.find(Source(step, optimizer), LOG)
        finally:
            if hasattr(loader, "end"):  # accelerate's: no pass over it is under way any more
                loader.end()
        if logs:
            state.log_history.append({**logs, "step": state.global_step})
            if self.use:
                use_rate(optimizer, [kwargs["lr_scheduler"]], logs["rate_suggestion"])


def _loss_of(model: Any, batch: Any) -> Any:
    output = model(**batch)
    loss = _loss(output)
    if loss is None:
        raise TypeError(
            f"loss_fn: got none, and a {type(output).__name__} without a loss from the model, "
            "wanted labels in the batches, or a loss_fn"
        )
    return loss


def _loss(output: Any) -> Any:
    return output.get("loss") if hasattr(output, "get") else None


def _own(optimizer: Any) -> Any:
    """The optimizer that accelerate wraps."""
    return getattr(optimizer, "optimizer", optimizer)


class MonitorCallback(Watching, transformers.TrainerCallback):  # type: ignore[misc]
    """Judges the rate of a training.

    With an optimizer of ``gradstep.torch`` with ``stats`` by its reports, else by loss and rate.
    Each time the verdict is of another kind it is written to transformers' log, as a warning where
    it advises another rate. What the Trainer logs has ``rate_verdict``, and the numbers that it
    rests on, such as ``rate_factor``, in ``trainer.state.log_history`` and for callbacks that come
    after this one.

    Attributes:
        verdict: the last :class:`Verdict`.
        told: those that were written.

    Raises:
        TypeError: after the first step, where the model's output has no loss.
    """

    def on_train_begin(self, _args: Any, _state: Any, _control: Any, **kwargs: Any) -> None:
        self.begin(_own(kwargs["optimizer"]))
        self._losses: list[Any] = []
        self._are_parts = False
        self._hook = kwargs["model"].register_forward_hook(self._take, with_kwargs=True)

    def _take(self, model: Any, _: Any, kwargs: Any, output: Any) -> None:
        loss = _loss(output)
        if model.training and loss is not None:
            self._losses.append(loss.detach())
            # Then the losses of accumulated batches are parts of a mean.
            self._are_parts = kwargs.get("num_items_in_batch") is not None

    def on_optimizer_step(self, _args: Any, state: Any, _control: Any, **kwargs: Any) -> None:
        if not self._losses:
            raise TypeError("model: got outputs without a loss, wanted one, as with labels")
        loss = sum(map(float, self._losses)) / (1 if self._are_parts else len(self._losses))
        self._losses.clear()
        rate = _own(kwargs["optimizer"]).param_groups[0]["lr"]
        self.see(state.global_step + 1, loss, rate, LOG)

    def on_log(self, _args: Any, state: Any, _control: Any, logs: Any, **_: Any) -> None:
        if self.verdict is not None and "loss" in logs:
            said = {"rate_verdict": self.verdict.kind, **self.numbers()}
            logs.update(said)
            state.log_history[-1].update(said)

    def on_train_end(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
        self._hook.remove()
