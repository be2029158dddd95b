"""The range test for scikit-learn's estimators that learn by ``partial_fit``."""

from __future__ import annotations

import copy
import math
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ..checks import whole
from ..extras import need
from ..rule import ADAPTIVE, MOMENTUM, PLAIN
from .callbacks import Source

MINIBATCH = 200  # rows, what scikit-learn's networks take; linear models take one row at a time
FEW = 32  # rows of a linear model for each rate

# The loss of a row as scikit-learn's SGD has it: of margins z = y·score with y = ±1, and of
# residuals with their ε.
OF_MARGIN: dict[str, Callable[[Any], Any]] = {
    "hinge": lambda z: np.maximum(1 - z, 0),
    "squared_hinge": lambda z: np.maximum(1 - z, 0) ** 2,
    "perceptron": lambda z: np.maximum(-z, 0),
    "log_loss": lambda z: np.logaddexp(0, -z),
    "modified_huber": lambda z: np.where(z >= -1, np.maximum(1 - z, 0) ** 2, -4 * z),
}
OF_RESIDUAL: dict[str, Callable[[Any, float], Any]] = {
    "squared_error": lambda r, _: r**2 / 2,
    "huber": lambda r, e: np.where(np.abs(r) <= e, r**2 / 2, e * np.abs(r) - e**2 / 2),
    "epsilon_insensitive": lambda r, e: np.maximum(np.abs(r) - e, 0),
    "squared_epsilon_insensitive": lambda r, e: np.maximum(np.abs(r) - e, 0) ** 2,
}


def source(
    estimator: Any, X: Any, y: Any, batch_size: int | None = None, *, seed: int = 0
) -> Source:
    """An estimator's training for :func:`range_test`: ``range_test(*source(estimator, X, y))``.

    What is trained is a copy: the estimator itself stays as it is, whether it is new or fitted. The
    rate is ``learning_rate_init`` of the networks, and ``eta0`` of the linear models, whose
    ``learning_rate`` must be ``"constant"`` or ``"adaptive"``, since the others' rates are not
    ``eta0``. The loss of a network has the penalty in it, that of a linear model has not.

    Args:
        estimator: an ``MLPClassifier`` or ``MLPRegressor`` with the solver ``"adam"`` or ``"sgd"``,
            an ``SGDClassifier`` or ``SGDRegressor``, new or fitted.
        X: rows of features, shape (rows, features); scaled, as the training has them: arrays,
            sparse matrices, data frames.
        y: targets, shape (rows,) or (rows, outputs).
        batch_size: rows for each rate, drawn anew each time. A network makes one step with them, a
            linear model one with each. None: the network's own, which is at most 200 where it is
            ``"auto"``; 32 for linear models.
        seed: of the draws.

    Returns:
        A training step and what sets the rate of the copy, takes snapshots and puts them back.

    Raises:
        ImportError: scikit-learn is not installed.
        TypeError, ValueError: an argument is refused, here or by scikit-learn at the first step.

    Example:
        >>> from gradstep.tuning import range_test
        >>> from gradstep.tuning.sklearn import source
        >>> from sklearn.datasets import load_digits
        >>> from sklearn.neural_network import MLPClassifier
        >>> X, y = load_digits(return_X_y=True)
        >>> network = MLPClassifier(random_state=0)
        >>> found = range_test(*source(network, X / 16, y))
        >>> hasattr(network, "coefs_"), bool(0.001 < found.suggestion < 0.1)
        (False, True)
        >>> network = network.set_params(learning_rate_init=found.suggestion)
    """
    is_network = _is_network(estimator)
    rows = _rows(X)
    if not rows:
        raise ValueError("X: got no rows, wanted some")
    if (given := _rows(y)) != rows:
        raise ValueError(f"y: got {given} rows, wanted {rows}, as X has")
    if batch_size is None:
        own: Any = estimator.batch_size if is_network else FEW
        batch_size = min(MINIBATCH if own == "auto" else own, rows)
    batch_size = whole("batch_size", batch_size, 1)
    if batch_size > rows:
        raise ValueError(f"batch_size: got {batch_size}, wanted at most {rows}, the rows of X")
    made = (_Network if is_network else _Linear)(estimator, X, y, batch_size, seed)
    return Source(made.step, made)


def _sklearn(module: str) -> Any:
    return need(f"sklearn.{module}", "gradstep.tuning.sklearn", "demo", "scikit-learn")


def _rows(array: Any) -> int:
    return int(array.shape[0]) if getattr(array, "shape", None) else len(array)


def _is_network(estimator: Any) -> bool:
    """Whether it is one of scikit-learn's networks; else it is one of the linear models.

    Raises:
        TypeError, ValueError: it is neither, or one whose rate cannot be tried.
    """
    linear, network = _sklearn("linear_model"), _sklearn("neural_network")
    name = type(estimator).__name__
    if isinstance(estimator, (network.MLPClassifier, network.MLPRegressor)):
        if estimator.solver not in ("adam", "sgd"):
            raise ValueError(
                f"estimator: got {name} with solver={estimator.solver!r}, wanted 'adam' or 'sgd'"
            )
        return True
    if not isinstance(estimator, (linear.SGDClassifier, linear.SGDRegressor)):
        raise TypeError(
            f"estimator: got {name}, wanted an MLPClassifier, MLPRegressor, SGDClassifier or "
            "SGDRegressor; of a pipeline its last step, with X as the others leave it"
        )
    if estimator.learning_rate not in ("constant", "adaptive"):
        raise ValueError(
            f"estimator: got {name} with learning_rate={estimator.learning_rate!r}, whose rates "
            "are not eta0, wanted learning_rate='constant' or 'adaptive'"
        )
    if estimator.average:
        raise ValueError(
            f"estimator: got {name} with average={estimator.average!r}, whose losses hide what a "
            "rate does, wanted average=False"
        )
    if estimator.loss not in {**OF_MARGIN, **OF_RESIDUAL}:
        raise ValueError(f"estimator: got {name} with loss={estimator.loss!r}, which is not known")
    return False


class _Training:
    """A copy of an estimator that is trained, as a range test's optimizer."""

    kind = PLAIN

    def __init__(self, estimator: Any, X: Any, y: Any, batch_size: int, seed: int) -> None:
        self._draw = _sklearn("utils").resample
        self.estimator = copy.deepcopy(estimator)
        self.estimator.early_stopping = False  # which partial_fit refuses
        if estimator.random_state is None:  # else it would draw from NumPy's own generator
            self.estimator.random_state = seed
        self._data, self._batch_size = (X, y), batch_size
        self._rng = np.random.RandomState(seed)
        self._known: dict[str, Any] = {}
        if _sklearn("base").is_classifier(estimator):
            fitted = hasattr(estimator, "classes_")
            self._known["classes"] = estimator.classes_ if fitted else np.unique(y)

    def step(self) -> float:
        """Learn from some rows; return their loss from before it.

        Raises:
            FloatingPointError: a weight is not finite any more.
        """
        X, y = self._draw(
            *self._data, replace=False, n_samples=self._batch_size, random_state=self._rng
        )
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.filterwarnings("error", message="Training interrupted by user")
            try:
                before = self._loss(X, y)
                self.estimator.partial_fit(X, y, **self._known)
            except UserWarning as warning:  # all that it makes of Ctrl-C
                if "interrupted" not in str(warning):
                    raise
                raise KeyboardInterrupt from None
            except ValueError as error:
                if not re.search("overflow|non-finite", str(error)):
                    raise
                raise FloatingPointError(str(error)) from None
        return self.estimator.loss_ if before is None else before

    def _loss(self, X: Any, y: Any) -> float | None:
        """The loss before a step; None where the estimator itself will tell."""
        raise NotImplementedError

    def set_lr(self, lr: float) -> None:
        raise NotImplementedError

    def snapshot(self) -> Any:
        return copy.deepcopy((vars(self.estimator), self._rng))

    def restore(self, snapshot: Any) -> None:
        kept, self._rng = copy.deepcopy(snapshot)
        vars(self.estimator).clear()
        vars(self.estimator).update(kept)


class _Network(_Training):
    """A network; its loss is the mean over the minibatches of the last call, from before each."""

    def __init__(self, estimator: Any, X: Any, y: Any, batch_size: int, seed: int) -> None:
        super().__init__(estimator, X, y, batch_size, seed)
        self.estimator.batch_size = batch_size  # one minibatch each
        if estimator.solver == "adam":
            self.kind = ADAPTIVE
        elif estimator.momentum:
            self.kind = MOMENTUM

    def set_lr(self, lr: float) -> None:
        self.estimator.learning_rate_init = lr
        if (optimizer := getattr(self.estimator, "_optimizer", None)) is not None:
            optimizer.learning_rate_init = optimizer.learning_rate = lr

    def _loss(self, X: Any, y: Any) -> None:  # noqa: ARG002
        return None


class _Linear(_Training):
    """A linear model: the mean over the rows, for classes the sum over one against the rest."""

    def set_lr(self, lr: float) -> None:
        self.estimator.eta0 = lr

    def _loss(self, X: Any, y: Any) -> float:
        model = self.estimator
        y = np.asarray(y)
        classes = self._known.get("classes")
        if classes is not None:
            y = np.where(y[:, None] == classes, 1.0, -1.0)
            y = y[:, 1] if len(classes) == 2 else y
        told = model.predict if classes is None else model.decision_function
        scores = told(X) if hasattr(model, "coef_") else np.zeros(y.shape)
        if model.loss in OF_MARGIN:
            losses = OF_MARGIN[model.loss](y * scores)
        else:
            losses = OF_RESIDUAL[model.loss](y - scores, model.epsilon)
        return math.fsum(np.ravel(losses)) / len(y)
