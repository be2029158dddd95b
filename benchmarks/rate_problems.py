"""Small trainings on real data, in plain NumPy, on which the learning-rate tools are measured.

Constants are chosen on the problems whose purpose is "choose", with seeds from 1000 on; what the
tools reach is reported on the others, with seeds from 0 on. Needs scikit-learn for its bundled
data. Gradients are written out and checked against differences by `tests/test_range_test.py`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pydoc_data import topics
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

import gradstep as gs

Array = NDArray[np.float32]
F = np.float32

# Each takes parameters, a rate, and options such as stats=True.
RULES: dict[str, Callable[..., gs.Optimizer]] = {
    "SGD": gs.SGD,
    "momentum": functools.partial(gs.SGD, momentum=0.9),
    "Adam": gs.Adam,
    "AdamW": gs.AdamW,
    "RMSprop": gs.RMSprop,
    "Adagrad": gs.Adagrad,
}


# ---- data: inputs and targets, one row an example ----


def standardized(x: NDArray[Any]) -> Array:
    """Every column with mean 0 and variance 1; one of a single value is 0."""
    return ((x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-9)).astype(F)


@functools.cache
def data(name: str) -> tuple[Array, NDArray[Any]]:
    """One of scikit-learn's bundled sets: inputs, and classes or numbers.

    Columns are standardized except for the pictures, whose pixels are scaled to 0 to 1.
    """
    from sklearn import datasets  # noqa: PLC0415 - the text needs none of it

    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    if name == "digits":
        return (x / 16).astype(F), y
    if name == "diabetes":
        return standardized(x), standardized(y[:, None])
    return standardized(x), y


LETTERS = "abcdefghijklmnopqrstuvwxyz .\n"  # and one more for the rest
CONTEXT, EXAMPLES = 4, 8192


@functools.cache
def text() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Four characters of Python's own help each, and the one that follows, as codes."""
    whole = "".join(value for _, value in sorted(topics.topics.items())).lower()
    place = {letter: i for i, letter in enumerate(LETTERS)}
    codes = np.array([place.get(letter, len(LETTERS)) for letter in whole])
    at = np.linspace(0, codes.size - CONTEXT - 1, EXAMPLES).astype(np.int64)
    return codes[at[:, None] + np.arange(CONTEXT)], codes[at + CONTEXT]


# ---- models: parameters, and the loss of some examples with its gradients ----

Gradients = list[Array]


def cross_entropy(scores: Array, y: NDArray[np.int64]) -> tuple[float, Array]:
    """Mean cross-entropy in nats, and its gradient."""
    logs = scores - scores.max(axis=1, keepdims=True)
    logs -= np.log(np.exp(logs).sum(axis=1, keepdims=True))
    rows = np.arange(len(y))
    gradient = np.exp(logs)
    gradient[rows, y] -= 1
    return float(-logs[rows, y].mean()), gradient / F(len(y))


def squares(out: Array, y: Array) -> tuple[float, Array]:
    """Mean of half the squared errors, and its gradient."""
    error = out - y
    return float((error * error).mean() / 2), error / F(error.size)


SLOPES: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "relu": (lambda z: np.maximum(z, 0), lambda h: (h > 0).astype(F)),
    "tanh": (np.tanh, lambda h: 1 - h * h),
}


@dataclass(frozen=True)
class Layers:
    """Layers of weights and biases with one activation between them."""

    sizes: tuple[int, ...]
    loss: Callable[[Array, Any], tuple[float, Array]] = cross_entropy
    activation: str = "relu"

    def initial(self, rng: np.random.Generator) -> list[Array]:
        gain = 2.0 if self.activation == "relu" else 1.0
        last = len(self.sizes) - 2
        params = []
        for i, (rows, columns) in enumerate(zip(self.sizes, self.sizes[1:], strict=False)):
            scale = ((1.0 if i == last else gain) / rows) ** 0.5
            params.append((rng.standard_normal((rows, columns)) * scale).astype(F))
            params.append(np.zeros(columns, F))
        return params

    def __call__(self, params: list[Array], x: Array, y: Any) -> tuple[float, Gradients]:
        return self.with_input(params, x, y)[:2]

    def with_input(self, params: list[Array], x: Array, y: Any) -> tuple[float, Gradients, Array]:
        """Also what of the gradient reaches the layer below the first."""
        function, slope = SLOPES[self.activation]
        weights, biases, inputs = params[::2], params[1::2], [x]
        for w, b in zip(weights[:-1], biases[:-1], strict=True):
            inputs.append(function(inputs[-1] @ w + b))
        loss, d = self.loss(inputs[-1] @ weights[-1] + biases[-1], y)
        gradients: Gradients = []
        for i, (w, h) in reversed([*enumerate(zip(weights, inputs, strict=True))]):
            gradients[:0] = [h.T @ d, d.sum(axis=0)]
            d = d @ w.T
            if i:
                d *= slope(h)
        return loss, gradients, d


@dataclass(frozen=True)
class Characters:
    """Embeddings of the last characters, a hidden layer, scores of the next character."""

    embedding: int
    layers: Layers

    def initial(self, rng: np.random.Generator) -> list[Array]:
        table = rng.standard_normal((len(LETTERS) + 1, self.embedding))
        return [table.astype(F), *self.layers.initial(rng)]

    def __call__(
        self, params: list[Array], x: NDArray[np.int64], y: NDArray[np.int64]
    ) -> tuple[float, Gradients]:
        table = params[0]
        seen = table[x].reshape(len(x), -1)
        loss, gradients, d = self.layers.with_input(params[1:], seen, y)
        chosen = np.eye(len(table), dtype=F)[x.reshape(-1)]
        return loss, [chosen.T @ d.reshape(-1, self.embedding), *gradients]


# ---- tasks ----


class Model(Protocol):
    """What a task trains."""

    def initial(self, rng: np.random.Generator) -> list[Array]:
        """The first weights, float32."""

    def __call__(self, params: list[Array], x: Any, y: Any) -> tuple[float, Gradients]:
        """The mean loss of some examples, and its gradients."""


class Task:
    """One training: parameters to be stepped, and the loss on a seeded stream of minibatches.

    Attributes:
        params: float32 arrays; a training changes them in place.
    """

    def __init__(
        self, model: Model, x: NDArray[Any], y: NDArray[Any], size: int, seed: int
    ) -> None:
        self._model, self._x, self._y, self._size = model, x, y, size
        self._rng = np.random.default_rng(seed)
        self.params = model.initial(self._rng)
        self._stream = self._batches()

    def _batches(self) -> Iterator[NDArray[np.int64]]:
        while True:
            order = self._rng.permutation(len(self._x))
            for i in range(0, len(order) - self._size + 1, self._size):
                yield order[i : i + self._size]

    def batch(self) -> tuple[float, list[Array]]:
        """The mean loss of the next minibatch, and its gradients."""
        rows = next(self._stream)
        with np.errstate(all="ignore"):  # a rate that is too high is to be measured, too
            return self._model(self.params, self._x[rows], self._y[rows])

    def loss(self) -> float:
        """The mean loss of all examples."""
        with np.errstate(all="ignore"):
            return self._model(self.params, self._x, self._y)[0]


@dataclass(frozen=True)
class Problem:
    """A training to be repeated.

    Attributes:
        name: what it is called in tables.
        purpose: "report", "choose" for those that constants are chosen on, or "limit" for what a
            sweep cannot see.
        make: a task from a seed, which draws the first weights and the minibatches.
        zero: whether a loss of 0 would be perfect; without it, only differences mean something.
    """

    name: str
    purpose: str
    make: Callable[[int], Task]
    zero: bool = True


def _problem(
    name: str,
    purpose: str,
    model: Model,
    examples: Callable[[], tuple[NDArray[Any], NDArray[Any]]],
    size: int = 32,
) -> Problem:
    return Problem(name, purpose, lambda seed: Task(model, *examples(), size, seed))


def _standardized_digits() -> tuple[Array, NDArray[Any]]:
    x, y = data("digits")
    return standardized(x), y


def _wine() -> tuple[Array, NDArray[Any]]:
    """Three columns: by all of them the wines are told apart, and no rate is too high."""
    x, y = data("wine")
    return x[:, :3], y


def _pairs() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    x, y = text()
    return x[:, -1:], y


def _pictures() -> tuple[Array, Array]:
    x, _ = data("digits")
    return x, x


_ENTRIES = [
    # softmax regression; a hidden layer; the last four characters
    _problem("logistic", "report", Layers((64, 10)), _standardized_digits),
    _problem("digits", "report", Layers((64, 64, 10)), lambda: data("digits")),
    _problem(
        "text",
        "report",
        Characters(8, Layers((CONTEXT * 8, 64, len(LETTERS) + 1), activation="tanh")),
        text,
    ),
    # Where the first curvature is far from the later: a rate that diverges at first is best later.
    _problem("logistic, raw pixels", "limit", Layers((64, 10)), lambda: data("digits")),
    # softmax and linear regressions
    _problem("wine", "choose", Layers((3, 3)), _wine, 16),
    _problem("iris", "choose", Layers((4, 3)), lambda: data("iris"), 16),
    _problem("cancer line", "choose", Layers((30, 2)), lambda: data("breast_cancer")),
    _problem("diabetes line", "choose", Layers((10, 1), squares), lambda: data("diabetes")),
    # hidden layers
    _problem("wine layers", "choose", Layers((13, 32, 3)), lambda: data("wine"), 16),
    _problem(
        "cancer", "choose", Layers((30, 32, 2), activation="tanh"), lambda: data("breast_cancer")
    ),
    _problem("deep cancer", "choose", Layers((30, 32, 32, 32, 2)), lambda: data("breast_cancer")),
    _problem("diabetes", "choose", Layers((10, 32, 1), squares), lambda: data("diabetes")),
    # autoencoders; the last character alone
    _problem("pictures", "choose", Layers((64, 24, 64), squares), _pictures),
    _problem(
        "deep pictures",
        "choose",
        Layers((64, 32, 16, 32, 64), squares, "tanh"),
        _pictures,
    ),
    _problem("pairs", "choose", Characters(8, Layers((8, len(LETTERS) + 1))), _pairs),
]
PROBLEMS = {problem.name: problem for problem in _ENTRIES}

UPDATES = 200  # of the trainings that tell which rate is best
PER_DECADE = 8
RATES = {  # the grids: a decade and more beyond every problem's best rate on either side
    "SGD": (-3, 2),
    "momentum": (-4, 1),
    "Adam": (-5, 0),
    "AdamW": (-5, 0),
    "RMSprop": (-5, 0),
    "Adagrad": (-4, 1),
}


def grid(rule: str) -> NDArray[np.float64]:
    """The rates that are tried of a rule, float64, from low to high, evenly in the logarithm."""
    low, high = RATES[rule]
    return np.logspace(low, high, (high - low) * PER_DECADE + 1)


def final_loss(
    problem: Problem, rule: str, rate: float, seed: int, updates: int = UPDATES
) -> float:
    """The loss of all examples after some updates at one rate; infinite where it is no number."""
    task = problem.make(seed)
    optimizer = RULES[rule](task.params, rate)
    for _ in range(updates):
        loss, gradients = task.batch()
        if not np.isfinite(loss):
            return np.inf
        optimizer.step(gradients)
    loss = task.loss()
    return loss if np.isfinite(loss) else np.inf


def losses(
    problem: Problem, rule: str, rate: float, seed: int, updates: int = UPDATES
) -> NDArray[np.float64]:
    """The loss of each minibatch and the norm of its gradients, before the update by them.

    Returns:
        float64, shape (updates, 2); NaN after the first loss that is not finite.
    """
    task = problem.make(seed)
    optimizer = RULES[rule](task.params, rate)
    found = np.full((updates, 2), np.nan)
    for row in found:
        loss, gradients = task.batch()
        row[:] = loss, math.sqrt(sum(float(np.vdot(g, g)) for g in gradients))
        if not np.isfinite(loss):
            break
        optimizer.step(gradients)
    return found


def curve(problem: Problem, rule: str, seeds: range, updates: int = UPDATES) -> NDArray[np.float64]:
    """The mean :func:`final_loss` over seeds at each rate of :func:`grid`."""
    return np.array(
        [
            np.mean([final_loss(problem, rule, rate, seed, updates) for seed in seeds])
            for rate in grid(rule).tolist()
        ]
    )


def best_rate(
    problem: Problem, rule: str, seeds: range | None = None, updates: int = UPDATES
) -> float:
    """The rate of :func:`grid` with the lowest mean :func:`final_loss`.

    Args:
        problem: what is trained.
        rule: a name of :data:`RULES`.
        seeds: of the trainings; five by default, from 0 on, or from 1000 on for problems that
            constants are chosen on.
        updates: how many.
    """
    if seeds is None:
        first = 1000 if problem.purpose == "choose" else 0
        seeds = range(first, first + 5)
    return float(grid(rule)[curve(problem, rule, seeds, updates).argmin()])
