"""Further kinds of trainings, half to choose constants on and half to report on.

Each kind stands in both halves, with other data or another shape. As in `rate_problems`, all is
plain NumPy with gradients written out. What is composed of several operations is written as
functions that return a value and its pullback: from the value's gradient, those of the arguments.
"""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import textwrap
import typing
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from pydoc_data import topics
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rate_problems import (
    PROBLEMS,
    Array,
    F,
    Gradients,
    Layers,
    Problem,
    Task,
    cross_entropy,
    data,
    squares,
    standardized,
)

Pullback = Callable[[Array], tuple[Array, ...]]
Codes = NDArray[np.int64]

# ---- data ----

CODES = 32  # of characters: the most common ones, and one for the rest
SEQUENCES = 1024


@functools.cache
def letters(name: str) -> Codes:
    """Python's help ("topics") or two of its modules ("source") as codes of characters."""
    if name == "topics":
        text = "".join(value for _, value in sorted(topics.topics.items())).lower()
    else:
        text = "".join(_module(module) for module in (ast, inspect))
    common = [letter for letter, _ in Counter(text).most_common(CODES - 1)]
    place = {letter: i for i, letter in enumerate(common)}
    return np.array([place.get(letter, CODES - 1) for letter in text])


def _module(module: Any) -> str:
    return Path(module.__file__).read_text("utf-8")


@functools.cache
def sequences(name: str, length: int) -> tuple[Codes, Codes]:
    """Characters, shape (SEQUENCES, length), and those that follow each of them."""
    codes = letters(name)
    at = np.linspace(0, codes.size - length - 1, SEQUENCES).astype(np.int64)
    whole = codes[at[:, None] + np.arange(length + 1)]
    return whole[:, :-1], whole[:, 1:]


@functools.cache
def source() -> tuple[Array, Codes]:
    """Three characters of two of Python's own modules each, as 0 and 1, and the next one."""
    text = "".join(_module(module) for module in (ast, inspect))
    common = [letter for letter, _ in Counter(text).most_common(47)]
    place = {letter: i for i, letter in enumerate(common)}
    codes = np.array([place.get(letter, 47) for letter in text])
    at = np.linspace(0, codes.size - 4, 6000).astype(np.int64)
    return np.eye(48, dtype=F)[codes[at[:, None] + np.arange(3)]].reshape(len(at), -1), codes[
        at + 3
    ]


BINS, TOPICS, PER_TOPIC = 512, 8, 100


def _counted(texts: list[list[str]]) -> Array:
    """How often each of some hashed words is in each text."""
    counts = np.zeros((len(texts), BINS), F)
    for row, words in zip(counts, texts, strict=True):
        np.add.at(row, [zlib.crc32(word.encode()) % BINS for word in words], 1)
    return counts


@functools.cache
def words() -> tuple[Array, Codes]:
    """The words of passages of Python's help, and which topic each is of."""
    longest = sorted(topics.topics.values(), key=len)[-TOPICS:]
    passages = [textwrap.wrap(" ".join(text.split()), 150)[:PER_TOPIC] for text in longest]
    texts = [passage.lower().split() for part in passages for passage in part]
    return _counted(texts), np.repeat(np.arange(TOPICS), [len(part) for part in passages])


@functools.cache
def pairs_of_letters() -> tuple[Array, Codes]:
    """Pairs of letters in lines of three of Python's modules, and which module each is of."""
    parts = [
        [line.strip() for line in _module(module).splitlines() if len(line.strip()) > 20][:300]
        for module in (ast, inspect, typing)
    ]
    texts = [[a + b for a, b in itertools.pairwise(line)] for p in parts for line in p]
    return _counted(texts), np.repeat(np.arange(3), [len(part) for part in parts])


def parity() -> tuple[Array, Codes]:
    x, y = data("digits")
    return x, y % 2


def halves() -> tuple[Array, Array]:
    """The upper half of a picture, and the lower."""
    x, _ = data("digits")
    return x[:, :32], x[:, 32:]


def signed_halves() -> tuple[Array, Array]:
    x, y = halves()
    return standardized(x), 2 * y - 1


def squashed_diabetes() -> tuple[Array, Array]:
    x, y = data("diabetes")
    return x, np.tanh(y)


def scaled_diabetes() -> tuple[Array, Array]:
    """Targets with a standard deviation of 0.1."""
    x, y = data("diabetes")
    return x, y / F(10)


def entries(name: str) -> tuple[Codes, Array]:
    """Row and column of each entry of a data set, and the entry, less its column's mean."""
    x, _ = data(name)
    x = x - x.mean(axis=0)
    return np.argwhere(np.ones(x.shape)), x.reshape(-1)


def _cancer_pictures() -> tuple[Array, Array]:
    x, _ = data("breast_cancer")
    return x, x


def _pictures() -> tuple[Array, Array]:
    x, _ = data("digits")
    return x, x


# ---- losses: of outputs and targets, with the outputs' gradient ----


def squashed(out: Array, y: Array) -> tuple[float, Array]:
    """Mean of half the squared errors of tanh."""
    h = np.tanh(out)
    loss, d = squares(h, y)
    return loss, d * (1 - h * h)


def probabilities(scores: Array) -> Array:
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    return p


def missed(scores: Array, y: Codes) -> tuple[float, Array]:
    """Minus the mean probability of what is right: from 0 down to −1."""
    p = probabilities(scores)
    rows = np.arange(len(y))
    right = p[rows, y][:, None]
    d = p * right
    d[rows, y] -= right[:, 0]
    return float(-right.mean()), d / F(len(y))


def ranking(scores: Array, y: Array) -> tuple[float, Array]:
    """Mean of ln(1 + exp(s₂ − s₁)) over all pairs whose first target is the higher."""
    above = (y > y.T).astype(F)
    below = scores.T - scores
    losses = np.logaddexp(0, below)
    d = -above / (1 + np.exp(-below)) / above.sum()
    return float((losses * above).sum() / above.sum()), (
        d.sum(axis=1, keepdims=True) - d.sum(axis=0)[:, None]
    )


# ---- operations with their pullbacks ----


def linear(x: Array, w: Array, b: Array) -> tuple[Array, Pullback]:
    def back(d: Array) -> tuple[Array, ...]:
        flat = d.reshape(-1, d.shape[-1])
        return d @ w.T, x.reshape(-1, x.shape[-1]).T @ flat, flat.sum(axis=0)

    return x @ w + b, back


def relu(x: Array) -> tuple[Array, Pullback]:
    return np.maximum(x, 0), lambda d: (d * (x > 0),)


def embed(table: Array, x: Codes) -> tuple[Array, Pullback]:
    def back(d: Array) -> tuple[Array, ...]:
        chosen = np.eye(len(table), dtype=F)[x.reshape(-1)]
        return (chosen.T @ d.reshape(-1, table.shape[1]),)

    return table[x], back


def norm(
    x: Array, gain: Array, bias: Array, axes: int | tuple[int, ...] = -1
) -> tuple[Array, Pullback]:
    """Mean 0 and variance 1 over some axes; then a gain and a bias for the last."""
    centred = x - x.mean(axes, keepdims=True)
    scale = 1 / np.sqrt((centred * centred).mean(axes, keepdims=True) + F(1e-5))
    unit = centred * scale
    others = tuple(range(x.ndim - 1))

    def back(d: Array) -> tuple[Array, ...]:
        du = d * gain
        mean, along = du.mean(axes, keepdims=True), (du * unit).mean(axes, keepdims=True)
        return scale * (du - mean - unit * along), (d * unit).sum(others), d.sum(others)

    return unit * gain + bias, back


def attention(q: Array, k: Array, v: Array) -> tuple[Array, Pullback]:
    """One head over what came before, shapes (batch, time, width)."""
    times, width = q.shape[1:]
    root = F(width**-0.5)
    later = np.triu(np.full((times, times), -1e9, F), 1)
    p = probabilities(q @ k.swapaxes(1, 2) * root + later)

    def back(d: Array) -> tuple[Array, ...]:
        dp = d @ v.swapaxes(1, 2)
        ds = p * (dp - (dp * p).sum(axis=-1, keepdims=True)) * root
        return ds @ k, ds.swapaxes(1, 2) @ q, p.swapaxes(1, 2) @ d

    return p @ v, back


def convolution(x: Array, w: Array, b: Array) -> tuple[Array, Pullback]:
    """3 × 3, padded with 0: x of shape (batch, height, width, in), w (9 · in, out)."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1:3]
    shifts = [(i, j) for i in range(3) for j in range(3)]
    patches = [padded[:, i : i + height, j : j + width] for i, j in shifts]
    out, straight = linear(np.concatenate(patches, axis=-1), w, b)

    def back(d: Array) -> tuple[Array, ...]:
        dx, dw, db = straight(d)
        whole = np.zeros_like(padded)
        for (i, j), part in zip(shifts, np.split(dx, 9, axis=-1), strict=True):
            whole[:, i : i + height, j : j + width] += part
        return whole[:, 1:-1, 1:-1], dw, db

    return out, back


def pool(x: Array) -> tuple[Array, Pullback]:
    """Means of 2 × 2 pixels."""
    n, height, width, channels = x.shape
    out = x.reshape(n, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))
    return out, lambda d: (d.repeat(2, axis=1).repeat(2, axis=2) / 4,)


# ---- models ----


def _weights(rng: np.random.Generator, rows: int, columns: int, gain: float = 1.0) -> list[Array]:
    w = (rng.standard_normal((rows, columns)) * (gain / rows) ** 0.5).astype(F)
    return [w, np.zeros(columns, F)]


def _gains(width: int) -> list[Array]:
    return [np.ones(width, F), np.zeros(width, F)]


@dataclass(frozen=True)
class Transformer:
    """One block over characters: attention, two dense layers, a norm before each and at the end."""

    width: int
    times: int

    def initial(self, rng: np.random.Generator) -> list[Array]:
        w = self.width
        table, places = ((rng.standard_normal((n, w)) * 0.3).astype(F) for n in (CODES, self.times))
        attends = [*_gains(w), *_weights(rng, w, 3 * w), *_weights(rng, w, w, 0.5)]
        dense = [*_gains(w), *_weights(rng, w, 2 * w, 2.0), *_weights(rng, 2 * w, w, 0.5)]
        return [table, places, *attends, *dense, *_gains(w), *_weights(rng, w, CODES, 0.1)]

    def __call__(self, params: list[Array], x: Codes, y: Codes) -> tuple[float, Gradients]:
        table, places, g1, b1, wq, bq, wo, bo, g2, b2, w1, c1, w2, c2, g3, b3, wh, bh = params
        seen, to_table = embed(table, x)
        h0 = seen + places
        n1, back1 = norm(h0, g1, b1)
        qkv, to_qkv = linear(n1, wq, bq)
        mixed, to_mixed = attention(*np.split(qkv, 3, axis=-1))
        out, to_out = linear(mixed, wo, bo)
        h1 = h0 + out
        n2, back2 = norm(h1, g2, b2)
        z, to_z = linear(n2, w1, c1)
        r, to_r = relu(z)
        dense, to_dense = linear(r, w2, c2)
        n3, back3 = norm(h1 + dense, g3, b3)
        scores, to_scores = linear(n3, wh, bh)
        loss, d = cross_entropy(scores.reshape(-1, CODES), y.reshape(-1))

        d, *head = to_scores(d.reshape(scores.shape))
        d, *norm3 = back3(d)
        inner, *second = to_dense(d)
        inner, *first = to_z(*to_r(inner))
        inner, *norm2 = back2(inner)
        d = d + inner
        inner, *mix = to_out(d)
        inner, *asks = to_qkv(np.concatenate(to_mixed(inner), axis=-1))
        inner, *norm1 = back1(inner)
        d = d + inner
        gradients = [*norm1, *asks, *mix, *norm2, *first, *second, *norm3, *head]
        return loss, [*to_table(d), d.sum(axis=0), *gradients]


@dataclass(frozen=True)
class Convolutions:
    """Convolutions with batch norm on 8 × 8 pixels, halved after each; then a dense layer.

    The loss of all examples, too, has the mean and the variance of what it is of.
    """

    channels: tuple[int, ...]
    classes: int

    def initial(self, rng: np.random.Generator) -> list[Array]:
        params, size = [], 8
        for into, out in zip((1, *self.channels), self.channels, strict=False):
            params += [*_weights(rng, 9 * into, out, 2.0), *_gains(out)]
            size //= 2
        return [*params, *_weights(rng, size * size * self.channels[-1], self.classes)]

    def __call__(self, params: list[Array], x: Array, y: Codes) -> tuple[float, Gradients]:
        h, backs = x.reshape(-1, 8, 8, 1), []
        for i in range(0, len(params) - 2, 4):
            w, b, gain, bias = params[i : i + 4]
            z, to_z = convolution(h, w, b)
            n, to_n = norm(z, gain, bias, (0, 1, 2))
            r, to_r = relu(n)
            h, to_h = pool(r)
            backs.append((to_z, to_n, to_r, to_h))
        flat, to_flat = linear(h.reshape(len(h), -1), *params[-2:])
        loss, d = cross_entropy(flat, y)
        d, *gradients = to_flat(d)
        d = d.reshape(h.shape)
        for to_z, to_n, to_r, to_h in reversed(backs):
            d, *norms = to_n(*to_r(*to_h(d)))
            d, *weights = to_z(d)
            gradients = [*weights, *norms, *gradients]
        return loss, gradients


@dataclass(frozen=True)
class Recurrent:
    """A tanh network over characters that foretells each next one."""

    width: int

    def initial(self, rng: np.random.Generator) -> list[Array]:
        table = (rng.standard_normal((CODES, self.width)) * 0.5).astype(F)
        return [table, *_weights(rng, self.width, self.width), *_weights(rng, self.width, CODES)]

    def __call__(self, params: list[Array], x: Codes, y: Codes) -> tuple[float, Gradients]:
        table, w, b, head, bias = params
        seen, to_table = embed(table, x)
        states = [np.zeros_like(seen[:, 0])]
        for t in range(x.shape[1]):
            states.append(np.tanh(seen[:, t] + states[-1] @ w + b))
        h = np.stack(states[1:], axis=1)
        scores, to_scores = linear(h, head, bias)
        loss, d = cross_entropy(scores.reshape(-1, CODES), y.reshape(-1))
        dh, *last = to_scores(d.reshape(scores.shape))
        before = np.stack(states[:-1], axis=1)
        slopes = 1 - h * h
        dz, carried = np.empty_like(dh), np.zeros_like(dh[:, 0])
        for t in reversed(range(x.shape[1])):
            dz[:, t] = (dh[:, t] + carried) * slopes[:, t]
            carried = dz[:, t] @ w.T
        flat = dz.reshape(-1, self.width)
        dw = before.reshape(flat.shape).T @ flat
        return loss, [*to_table(dz), dw, flat.sum(axis=0), *last]


@dataclass(frozen=True)
class Factors:
    """A matrix as a product of two thin ones; entries are the examples, the loss is of a row."""

    rows: int
    columns: int
    rank: int

    def initial(self, rng: np.random.Generator) -> list[Array]:
        scale = 0.5 / self.rank**0.25
        return [
            (rng.standard_normal((n, self.rank)) * scale).astype(F)
            for n in (self.rows, self.columns)
        ]

    def __call__(self, params: list[Array], x: Codes, y: Array) -> tuple[float, Gradients]:
        left, right = params
        i, j = x.T
        loss, d = squares((left[i] * right[j]).sum(axis=1), y)
        loss, d = loss * self.columns, d * F(self.columns)
        gradients = [np.zeros_like(left), np.zeros_like(right)]
        np.add.at(gradients[0], i, d[:, None] * right[j])
        np.add.at(gradients[1], j, d[:, None] * left[i])
        return loss, gradients


@dataclass(frozen=True)
class Likelihood:
    """Minus the mean log-likelihood of targets, normal with a variance learnt for each of them.

    Less a constant; it falls below 0 as the variances do.
    """

    layers: Layers

    def initial(self, rng: np.random.Generator) -> list[Array]:
        return [np.zeros(self.layers.sizes[-1], F), *self.layers.initial(rng)]

    def __call__(self, params: list[Array], x: Array, y: Array) -> tuple[float, Gradients]:
        logs = params[0]
        to_logs: list[Array] = []

        def loss(out: Array, y: Array) -> tuple[float, Array]:
            error, precision = out - y, np.exp(-logs)
            parts = error * error * precision
            to_logs.append((1 - parts).sum(axis=0) / F(2 * y.size))
            return float((parts + logs).mean() / 2), error * precision / F(y.size)

        value, gradients = replace(self.layers, loss=loss)(params[1:], x, y)
        return value, [*to_logs, *gradients]


BLOCK = 32


@dataclass(frozen=True)
class Contrast:
    """Which right half of 32 belongs to a left one, by the cosine of two networks' outputs."""

    layers: Layers
    temperature: float

    def initial(self, rng: np.random.Generator) -> list[Array]:
        return [*self.layers.initial(rng), *self.layers.initial(rng)]

    def __call__(self, params: list[Array], x: Array, _: Any) -> tuple[float, Gradients]:
        block, half = min(BLOCK, len(x)), len(params) // 2
        count = len(x) // block
        sides = x[: count * block].reshape(-1, 8, 2, 4)
        outs: list[Array] = []

        def keep(out: Array, _: Any) -> tuple[float, Array]:
            outs.append(out)
            return 0.0, out

        sides_of = [(params[:half], sides[:, :, 0]), (params[half:], sides[:, :, 1])]
        for own, side in sides_of:
            replace(self.layers, loss=keep)(own, side.reshape(-1, 32), None)
        sizes = [np.sqrt((out * out).sum(axis=1, keepdims=True) + F(1e-12)) for out in outs]
        units = [out / size for out, size in zip(outs, sizes, strict=True)]
        left, right = (unit.reshape(count, block, -1) for unit in units)
        scores = left @ right.swapaxes(1, 2) / F(self.temperature)
        value, d = cross_entropy(scores.reshape(-1, block), np.tile(np.arange(block), count))
        d = d.reshape(scores.shape) / F(self.temperature)
        gradients: Gradients = []
        for (own, side), unit, size, pulled in zip(
            sides_of, units, sizes, (d @ right, d.swapaxes(1, 2) @ left), strict=True
        ):
            g = pulled.reshape(unit.shape)
            to_out = (g - unit * (g * unit).sum(axis=1, keepdims=True)) / size
            pull = replace(self.layers, loss=lambda *_, d=to_out: (0.0, d))
            gradients += pull(own, side.reshape(-1, 32), None)[1]
        return value, gradients


@dataclass(frozen=True)
class Offset:
    """A model whose loss has a constant added."""

    model: Layers
    constant: float

    def initial(self, rng: np.random.Generator) -> list[Array]:
        return self.model.initial(rng)

    def __call__(self, params: list[Array], x: Array, y: Any) -> tuple[float, Gradients]:
        loss, gradients = self.model(params, x, y)
        return loss + self.constant, gradients


# ---- tasks of other kinds ----


class Bandit(Task):
    """One class is drawn for each example and rewarded by 1 if right: all that a step knows.

    A minibatch's loss is minus its mean reward, that of all examples minus the expected one.
    """

    BASELINE = 0.9  # how much of the old baseline stays

    def __init__(
        self, sizes: tuple[int, ...], x: NDArray[Any], y: NDArray[Any], size: int, seed: int
    ) -> None:
        super().__init__(Layers(sizes, missed), x, y, size, seed)
        self._baseline = 0.0

    def batch(self) -> tuple[float, list[Array]]:
        rows = next(self._stream)
        with np.errstate(all="ignore"):
            drawing = replace(self._model, loss=self._drawn)
            return drawing(self.params, self._x[rows], self._y[rows])

    def _drawn(self, scores: Array, y: Codes) -> tuple[float, Array]:
        p = probabilities(scores)
        drawn = (p.cumsum(axis=1) > self._rng.random((len(y), 1))).argmax(axis=1)
        reward = (drawn == y).astype(F)
        gain = (reward - F(self._baseline))[:, None]
        d = p * gain
        d[np.arange(len(y)), drawn] -= gain[:, 0]
        mean = float(reward.mean())
        self._baseline = self.BASELINE * self._baseline + (1 - self.BASELINE) * mean
        return -mean if np.isfinite(p).all() else np.nan, d / F(len(y))


class Halved(Task):
    """Gradients pass through float16, scaled, as they do in mixed precision."""

    SCALE = 1024

    def batch(self) -> tuple[float, list[Array]]:
        loss, gradients = super().batch()
        with np.errstate(all="ignore"):
            scaled = [(g * F(self.SCALE)).astype(np.float16) for g in gradients]
        return loss, [g.astype(F) / F(self.SCALE) for g in scaled]


# ---- problems ----


def _problem(
    name: str,
    purpose: str,
    model: Any,
    examples: Callable[[], tuple[NDArray[Any], NDArray[Any]]],
    size: int = 32,
    task: Callable[..., Task] = Task,
    **options: Any,
) -> Problem:
    return Problem(name, purpose, lambda seed: task(model, *examples(), size, seed), **options)


def _both(
    kind: str,
    choose: tuple[Any, Callable[[], tuple[Any, Any]], int],
    report: tuple[Any, Callable[[], tuple[Any, Any]], int],
    **options: Any,
) -> list[Problem]:
    """A kind of training in both halves."""
    return [
        _problem(f"small {kind}", "choose", *choose, **options),
        _problem(kind, "report", *report, **options),
    ]


_KINDS = [
    *_both(
        "tanh regression",
        (Layers((10, 1), squashed), squashed_diabetes, 32),
        (Layers((32, 32), squashed), signed_halves, 32),
    ),
    *_both(
        "transformer",
        (Transformer(12, 8), lambda: sequences("source", 8), 8),
        (Transformer(24, 12), lambda: sequences("topics", 12), 16),
    ),
    *_both(
        "batch norm",
        (Convolutions((4,), 2), parity, 16),
        (Convolutions((6, 12), 10), lambda: data("digits"), 32),
    ),
    *_both(
        "factors",
        (Factors(569, 30, 3), lambda: entries("breast_cancer"), 512),
        (Factors(1797, 64, 8), lambda: entries("digits"), 1024),
    ),
    *_both(
        "deep autoencoder",
        (Layers((30, 16, 8, 4, 8, 16, 30), squares), _cancer_pictures, 32),
        (Layers((64, 48, 32, 12, 32, 48, 64), squares, "tanh"), _pictures, 32),
    ),
    *_both(
        "bandit",
        ((13, 16, 3), lambda: data("wine"), 32),
        ((64, 32, 10), lambda: data("digits"), 64),
        task=Bandit,
        zero=False,
    ),
    *_both(
        "sparse words",
        (Layers((BINS, 3)), pairs_of_letters, 32),
        (Layers((BINS, TOPICS)), words, 32),
    ),
    *_both(
        "offset",
        (Offset(Layers((13, 16, 3)), 100.0), lambda: data("wine"), 16),
        (Offset(Layers((64, 32, 10), activation="tanh"), 1000.0), lambda: data("digits"), 32),
        zero=False,
    ),
    _problem(
        "small negative",
        "choose",
        Likelihood(Layers((10, 16, 1), activation="tanh")),
        scaled_diabetes,
        zero=False,
    ),
    _problem(
        "negative",
        "report",
        Likelihood(Layers((32, 32, 32), activation="tanh")),
        halves,
        zero=False,
    ),
    *_both(
        "float16 gradients",
        (Layers((30, 16, 2)), lambda: data("breast_cancer"), 32),
        (Layers((64, 32, 32, 10)), lambda: data("digits"), 32),
        task=Halved,
    ),
    _problem("small ranking", "choose", Layers((10, 16, 1), ranking), lambda: data("diabetes")),
    _problem("contrast", "report", Contrast(Layers((32, 32, 16)), 0.2), lambda: data("digits")),
    *_both(
        "recurrent",
        (Recurrent(16), lambda: sequences("source", 6), 8),
        (Recurrent(32), lambda: sequences("topics", 10), 16),
    ),
]

_MORE_TO_CHOOSE = [
    # characters with and without a hidden layer; odd or even; the lower half from the upper
    _problem("source", "choose", Layers((144, 64, 48)), source, 64),
    _problem("source linear", "choose", Layers((144, 48)), source),
    _problem("parity", "choose", Layers((64, 32, 2), activation="tanh"), parity, 64),
    _problem("halves", "choose", Layers((32, 48, 32), squares, "tanh"), halves),
]
EVERY = PROBLEMS | {problem.name: problem for problem in [*_KINDS, *_MORE_TO_CHOOSE]}


def named(*purposes: str) -> list[Problem]:
    """All problems of these purposes."""
    return [problem for problem in EVERY.values() if problem.purpose in purposes]
