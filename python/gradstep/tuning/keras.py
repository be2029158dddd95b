"""The range test and the monitor for Keras 3, on any of its backends."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..checks import whole
from ..extras import need
from ..rule import ADAPTIVE, MOMENTUM, PLAIN, SIGN
from .callbacks import Finding, Source, Watching
from .loop import generators

keras: Any = need("keras", "gradstep.tuning.keras", "frameworks")

LOG = logging.getLogger("keras")


def source(
    model: Any, x: Any, y: Any = None, batch_size: int = 32, *, class_weight: Any = None
) -> Source:
    """A compiled model's training for :func:`range_test`: ``range_test(*source(model, x, y))``.

    Steps are made by ``train_on_batch``, rates set by ``optimizer.learning_rate.assign``. Weights,
    the optimizer's variables, metrics and the states of random generators are put back, to the bit.
    An optimizer that has made no step yet gets its variables now instead of at its first.

    Args:
        model: a ``keras.Model``, built and compiled, whose learning rate is a number.
        x: inputs, an array of shape (rows, …), whose rows are shuffled; or, with y None, what gives
            batches (x, y) or (x, y, sample_weight) each time it is iterated, such as a PyDataset.
        y: targets, an array of shape (rows, …).
        batch_size: rows of a batch of arrays.
        class_weight: as ``fit`` takes it.

    Returns:
        A training step, and what sets the rate and takes and puts back snapshots.

    Raises:
        TypeError, ValueError: an argument is refused; when the step is made, a batch.

    Example:
        >>> import keras  # doctest: +SKIP
        >>> from gradstep.tuning import range_test
        >>> from gradstep.tuning.keras import source
        >>> found = range_test(*source(model, x, y, batch_size=64))  # doctest: +SKIP
        >>> model.optimizer.learning_rate = found.suggestion  # doctest: +SKIP
    """
    training = _Training(model, x, y, batch_size, class_weight)
    return Source(training.step, training)


class _Training:
    """A model in training, as a range test's optimizer."""

    def __init__(self, model: Any, x: Any, y: Any, batch_size: int, class_weight: Any) -> None:
        self._model, self._optimizer = model, _optimizer(model)
        self._class_weight = class_weight
        self._data, self._batch_size = (x, y), whole("batch_size", batch_size, 1)
        if y is not None and len(x) != len(y):
            raise ValueError(f"y: got {len(y)} rows, wanted {len(x)}, as x has")
        again = hasattr(x, "__iter__") or hasattr(x, "__getitem__")
        if y is None and (isinstance(x, Iterator) or hasattr(x, "shape") or not again):
            raise TypeError(
                f"x: got {type(x).__name__} without y, wanted batches (x, y) each time it is "
                "iterated, such as a PyDataset"
            )
        if hasattr(x, "__len__") and not len(x):
            raise ValueError(f"x: got no {'batches' if y is None else 'rows'}, wanted some")
        self.kind = _kind(self._optimizer)
        self._seen = 0  # batches
        self._batches = self._endless()
        if not self._optimizer.built:  # so that a snapshot has all variables
            self._optimizer.build(model.trainable_variables)

    def _endless(self) -> Iterator[Any]:
        x, y = self._data
        rng = np.random.default_rng(0)
        while True:
            seen = 0
            if y is None:
                # A PyDataset has no end of its own.
                for batch in (x[i] for i in range(len(x))) if hasattr(x, "__getitem__") else x:
                    seen += 1
                    yield batch
            else:
                order = rng.permutation(len(x))
                for begin in range(0, len(x), self._batch_size):
                    rows = order[begin : begin + self._batch_size]
                    seen += 1
                    yield x[rows], y[rows]
            if not seen:
                raise ValueError("x: got no batch from it, wanted at least one each time")

    def step(self) -> float:
        """Make one step; return the loss from before it."""
        batch = next(self._batches)
        if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
            raise TypeError(
                f"x: got a batch that is a {type(batch).__name__}, wanted (x, y) or (x, y, "
                "sample_weight)"
            )
        x, y, *weight = batch
        logs = self._model.train_on_batch(
            x, y, *weight, class_weight=self._class_weight, return_dict=True
        )
        return float(logs["loss"])

    def set_lr(self, lr: float) -> None:
        self._optimizer.learning_rate.assign(lr)

    def _variables(self) -> list[Any]:
        model = self._model
        return [*model.variables, *model.metrics_variables, *self._optimizer.variables]

    def snapshot(self) -> Any:
        variables = self._variables()
        values = [np.array(keras.ops.convert_to_numpy(v.value)) for v in variables]
        # With PyTorch, layers without a seed draw from its own generator.
        return variables, values, [(put, get()) for get, put in generators()]

    def restore(self, snapshot: Any) -> None:
        self._batches = self._endless()
        self._model.reset_metrics()  # those too that the first step has made
        variables, values, states = snapshot
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        for put, state in states:
            put(state)


def _optimizer(model: Any) -> Any:
    """A model's optimizer, if its rate can be set.

    Raises:
        TypeError, ValueError: it cannot.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"model: got {type(model).__name__}, wanted a keras.Model")
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        raise ValueError("model: got one that is not compiled, wanted model.compile(…) before")
    if not model.built:
        raise ValueError("model: got one that is not built, wanted model.build(shape) before")
    inner = getattr(optimizer, "inner_optimizer", optimizer)  # of one that scales the loss
    if not hasattr(inner._learning_rate, "assign"):
        kind = type(inner._learning_rate).__name__
        raise ValueError(
            f"model: got an optimizer whose learning_rate is a {kind}, wanted a number, which can "
            "be set: find the rate first, then make the schedule"
        )
    return optimizer


def _kind(optimizer: Any) -> str:
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if hasattr(optimizer, "epsilon"):
        return ADAPTIVE
    if type(optimizer).__name__ == "Lion":
        return SIGN
    return MOMENTUM if getattr(optimizer, "momentum", 0) else PLAIN


class RangeTestCallback(Finding, keras.callbacks.Callback):  # type: ignore[misc]
    """Runs a range test when a training begins.

    The suggestion is written to the logger ``keras``; the training goes on as if nothing had been,
    but for its rate where `use` says so.

    Args:
        x, y, batch_size: what to make the steps with, see :func:`source`: mostly what ``fit`` gets,
            which a callback cannot see.
        use: whether the training then begins with the suggestion.
        options: ``low``, ``high``, ``points`` and ``sweeps`` of :func:`range_test`.

    Attributes:
        found: the :class:`RangeTest`.

    Raises:
        TypeError, ValueError: an argument is refused, here or when the training begins.

    Example:
        >>> from gradstep.tuning.keras import MonitorCallback, RangeTestCallback
        >>> find = RangeTestCallback(x, y, use=True)  # doctest: +SKIP
        >>> model.fit(x, y, callbacks=[find, MonitorCallback()])  # doctest: +SKIP
    """

    def __init__(
        self, x: Any, y: Any = None, batch_size: int = 32, *, use: bool = False, **options: Any
    ) -> None:
        super().__init__(use=use, **options)
        self._data = x, y, whole("batch_size", batch_size, 1)

    def on_train_begin(self, logs: Any = None) -> None:  # noqa: ARG002
        self.find(source(self.model, *self._data), LOG)
        if self.use and self.found is not None and self.found.suggestion is not None:
            self.model.optimizer.learning_rate.assign(self.found.suggestion)


class MonitorCallback(Watching, keras.callbacks.Callback):  # type: ignore[misc]
    """Judges the rate of a training by its losses.

    Each time the verdict is of another kind it is written to the logger ``keras``, as a warning
    where it advises another rate. The factor that is advised is ``rate_factor`` in the logs of each
    epoch, so in the history of ``fit`` and on the progress bar.

    Attributes:
        verdict: the last :class:`Verdict`.
        told: those that were written.
    """

    def on_train_begin(self, logs: Any = None) -> None:  # noqa: ARG002
        self.begin(self.model.optimizer)
        self._step = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        self._total, self._count = 0.0, 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # Logs have the mean over the epoch so far; a last batch with fewer rows counts for less.
        total, count = float(logs["loss"]) * (batch + 1), batch + 1
        loss = (total - self._total) / (count - self._count)
        self._step += count - self._count
        self._total, self._count = total, count
        optimizer = self.model.optimizer
        rate = getattr(optimizer, "inner_optimizer", optimizer)._learning_rate
        known = hasattr(rate, "assign")  # a schedule's would have to be computed
        self.see(self._step, loss, keras.ops.convert_to_numpy(rate.value) if known else None, LOG)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        if logs is not None and self.verdict is not None:
            logs["rate_factor"] = self.verdict.factor
