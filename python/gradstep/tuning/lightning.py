"""The range test and the monitor for PyTorch Lightning, by either of its names."""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
import logging
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from ..extras import need
from .callbacks import Finding, Source, Watching
from .loop import Loop, check_use, use_rate

NAMES = "lightning.pytorch", "pytorch_lightning"


def _package() -> Any:
    """The one that is in use already, else the one that is installed."""
    for name in NAMES:
        if name in sys.modules:
            return sys.modules[name]
    try:
        return importlib.import_module(NAMES[1])
    except ImportError:
        return need(NAMES[0], "gradstep.tuning.lightning", "frameworks")


lightning: Any = _package()


def _log(trainer: Any) -> logging.Logger:
    """The logger of the package that a trainer is from."""
    module = type(trainer).__module__
    return logging.getLogger(NAMES[0] if module.startswith(NAMES[0]) else NAMES[1])


class RangeTestCallback(Finding, lightning.Callback):  # type: ignore[misc]
    """Runs a range test when a training begins.

    Its steps are the module's ``training_step`` on the trainer's batches, each for itself also
    where gradients are accumulated, and clipped as the trainer clips; other callbacks and loggers
    do not see them. Afterwards everything is as it was, to the bit, metrics of torchmetrics
    included, but for the rate where `use` says so; other attributes that ``training_step`` changes
    are not put back. The suggestion is written to Lightning's log and, as ``rate_suggestion``,
    ``rate_low`` and ``rate_high``, to the trainer's loggers.

    Args:
        use: whether the training then begins with the suggestion, its schedules in proportion.
        options: ``low``, ``high``, ``points`` and ``sweeps`` of :func:`range_test`.

    Attributes:
        found: the :class:`RangeTest`.

    Raises:
        TypeError, ValueError: an argument is refused; or, when the training begins, a trainer with
            several processes, optimizers or loaders, manual optimization, float16, or, with `use`,
            a schedule that is not in proportion to its first rate.

    Example:
        >>> from gradstep.tuning.lightning import MonitorCallback, RangeTestCallback
        >>> callbacks = [RangeTestCallback(use=True), MonitorCallback()]
        >>> trainer = lightning.Trainer(callbacks=callbacks)  # doctest: +SKIP
        >>> trainer.fit(module, loader)  # doctest: +SKIP
    """

    def __init__(self, *, use: bool = False, **options: Any) -> None:
        super().__init__(use=use, **options)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        _check(trainer, pl_module)
        optimizer = trainer.optimizers[0]
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        if self.use:
            check_use(optimizer, schedulers)
        step = _Steps(trainer, pl_module, optimizer)
        with _unseen(trainer, pl_module):
            logs = self.find(Source(step, optimizer), _log(trainer))
        if not logs:
            return
        for logger in trainer.loggers:
            logger.log_metrics(logs, step=trainer.global_step)
        if self.use:
            use_rate(optimizer, schedulers, logs["rate_suggestion"])


def _check(trainer: Any, module: Any) -> None:
    """Refuse what a range test cannot do as the training does it."""
    loaders = trainer.train_dataloader
    arguments = inspect.signature(module.training_step).parameters
    for holds, got, wanted in (
        (not module.automatic_optimization, "manual optimization", "the automatic"),
        (trainer.world_size > 1, f"{trainer.world_size} processes", "one"),
        (len(trainer.optimizers) != 1, f"{len(trainer.optimizers)} optimizers", "one"),
        (isinstance(loaders, list | tuple | dict), "several training loaders", "one"),
        (trainer.precision == "16-mixed", "precision 16-mixed", "float32 or bfloat16"),
        ("dataloader_iter" in arguments, "a training_step over dataloader_iter", "batches"),
    ):
        if holds:
            raise ValueError(f"trainer: got {got}, wanted {wanted} for a range test")


@contextlib.contextmanager
def _unseen(trainer: Any, module: Any) -> Iterator[None]:
    """While this context lasts, nothing of a training is logged."""
    dummy = importlib.import_module(f"{_log(trainer).name}.loggers.logger").DummyLogger
    loggers = trainer.loggers
    trainer.loggers = [dummy() for _ in loggers]
    module.log = lambda *_, **__: None  # log_dict calls it, too
    try:
        yield
    finally:
        del module.log
        trainer.loggers = loggers


class _Steps(Loop):
    """The training steps of a module; saves its metrics besides."""

    def __init__(self, trainer: Any, module: Any, optimizer: Any) -> None:
        self._trainer, self._module = trainer, module
        count = 2 if len(inspect.signature(module.training_step).parameters) > 1 else 1

        def loss_of(batch: Any) -> Any:
            batch = trainer.precision_plugin.convert_input(batch)
            batch = module._on_before_batch_transfer(batch, dataloader_idx=0)
            batch = trainer.strategy.batch_to_device(batch, dataloader_idx=0)
            output = trainer.strategy.training_step(*(batch, 0)[:count])
            loss = output["loss"] if isinstance(output, Mapping) else output
            if loss is None:
                raise TypeError("training_step: got None from it, wanted the loss")
            return loss

        def clip() -> None:
            module.configure_gradient_clipping(
                optimizer,
                gradient_clip_val=trainer.gradient_clip_val,
                gradient_clip_algorithm=trainer.gradient_clip_algorithm,
            )

        super().__init__(module, loss_of, trainer.train_dataloader, optimizer, clip=clip)

    def save(self) -> Any:
        metrics = [m for m in self._module.modules() if hasattr(m, "_update_count")]
        names = "_update_count", "_computed", "_forward_cache"
        kept = [
            (
                metric,
                copy.deepcopy(
                    {name: getattr(metric, name) for name in (*names, *metric._defaults)}
                ),
            )
            for metric in metrics
        ]
        return super().save(), kept

    def restore(self, saved: Any) -> None:
        saved, kept = saved
        super().restore(saved)
        for metric, values in kept:
            for name, value in copy.deepcopy(values).items():
                setattr(metric, name, value)


class MonitorCallback(Watching, lightning.Callback):  # type: ignore[misc]
    """Judges the rate of a training.

    With an optimizer of ``gradstep.torch`` with ``stats`` by its reports, else by loss and rate.
    Each time the verdict is of another kind it is written to Lightning's log, as a warning where it
    advises another rate. The numbers that it rests on, such as ``rate_factor``, go to the trainer's
    loggers as the module's own ``log`` would send them.

    Attributes:
        verdict: the last :class:`Verdict`.
        told: those that were written.

    Raises:
        ValueError: when the training begins, one with several optimizers.
    """

    def on_train_start(self, trainer: Any, _module: Any) -> None:
        if len(trainer.optimizers) != 1:
            raise ValueError(f"trainer: got {len(trainer.optimizers)} optimizers, wanted one")
        self.begin(trainer.optimizers[0])
        self._step, self._loss, self._rate = trainer.global_step, 0.0, None

    def on_before_optimizer_step(self, _trainer: Any, _module: Any, optimizer: Any) -> None:
        self._rate = optimizer.param_groups[0]["lr"]  # before a schedule goes on

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, _batch: Any, _batch_idx: int
    ) -> None:
        loss = outputs["loss"] if isinstance(outputs, Mapping) else outputs
        self._loss += float(loss)  # of accumulated batches each is a part of their mean
        if trainer.global_step > self._step:
            self._step = trainer.global_step
            self.see(self._step, self._loss, self._rate, _log(trainer))
            self._loss = 0.0
            module.log_dict(self.numbers())
