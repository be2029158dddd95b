"""What stored states do to a training, in tables: `python benchmarks/quality.py [section ...]`.

The limits are those that the project promises; a figure beyond its limit is bold and makes the exit
status 1. Needs the extra `demo`; the section `follow` needs torch, too.
"""

from __future__ import annotations

import argparse
import sys
from pydoc_data import topics

import numpy as np

from gradstep import _core, demo, storages

F = np.float32
BETAS, EPS = (0.9, 0.999), 1e-8
missed: list[str] = []


# ---- storages: the one place that knows how numbers are kept ----


def dynamic_map(signed: bool) -> np.ndarray:
    """The common dynamic map: the middles of ever more parts of each decade, seven decades.

    Source: Dettmers et al., 8-bit Optimizers via Block-wise Quantization (2022); as
    `create_dynamic_map` of bitsandbytes has it.
    """
    means = [0.0, 1.0]
    for i in range(7):
        parts = np.linspace(0.1, 1, 2 ** (i if signed else i + 1) + 1)
        middles = 10.0 ** (i - 6) * (parts[:-1] + parts[1:]) / 2
        means += [*middles, *(-middles if signed else ())]
    return np.array(sorted(means), F)


def dynamic(x: np.ndarray, role: str, length: int = 256) -> np.ndarray:
    """x in blocks of `length`, each number the nearest of the map's times the largest."""
    codes = dynamic_map(signed=role == "momentum")
    blocks = np.pad(x.reshape(-1), (0, -x.size % length)).reshape(-1, length)
    scale = np.maximum(np.abs(blocks).max(axis=1, keepdims=True), F(2.0**-126))
    nearest = np.searchsorted((codes[1:] + codes[:-1]) / 2, blocks / scale)
    return (codes[nearest] * scale).reshape(-1)[: x.size].reshape(x.shape)


def keep(
    storage: str,
    role: str,
    x: np.ndarray,
    stochastic: bool | None,
    *,
    t: int,
    key: int,
    buffer: int = 0,
) -> None:
    """Replace x by what is left of it once it has been stored; None rounds as its role does."""
    if storage == "dynamic map":
        x[...] = dynamic(x, role)
    elif storage != "float32":
        if stochastic is None:
            stochastic = role == "second_moment" or (role == "momentum" and storage == "q4")
        shape = (
            x.shape if _core.storage_block(storage) == 1 else _core.storage_bytes(storage, x.size)
        )
        data = np.zeros(shape, storages.dtype_of(storage))
        _core.encode(storage, role, x, data, stochastic, 0, t, key, buffer, 0)
        _core.decode(storage, role, data, x)


class Adam:
    """Adam's states for several tensors in one vector, kept in a storage between updates."""

    def __init__(self, storage: str, sizes: list[int], stochastic: bool | None = None) -> None:
        self.storage, self.stochastic, self.t = storage, stochastic, 0
        self.cuts = np.cumsum(sizes)[:-1]
        self.m, self.v = np.zeros(sum(sizes), F), np.zeros(sum(sizes), F)

    def update(self, g: np.ndarray) -> np.ndarray:
        """The update for the gradient g at a rate of 1; the states as stored afterwards."""
        self.t += 1
        self.m += F(1 - BETAS[0]) * (g - self.m)
        self.v *= F(BETAS[1])
        self.v += F(1 - BETAS[1]) * g * g
        c1, c2 = (1 - beta**self.t for beta in BETAS)
        u = self.m / (np.sqrt(self.v) / F(c2**0.5) + F(EPS)) / F(c1)
        for buffer, (role, x) in enumerate([("momentum", self.m), ("second_moment", self.v)], 1):
            for key, tensor in enumerate(np.split(x, self.cuts)):
                keep(self.storage, role, tensor, self.stochastic, t=self.t, key=key, buffer=buffer)
        return u


RIVALS = {
    "q8": ("q8", None),
    "q8, v to nearest": ("q8", False),
    "q4": ("q4", None),
    "dynamic map": ("dynamic map", None),
}


def rivals(sizes: list[int]) -> dict[str, Adam]:
    return {name: Adam(storage, sizes, how) for name, (storage, how) in RIVALS.items()}


# ---- tables ----


def print_table(title: str, header: str, rows: list[list[str]]) -> None:
    columns = header.split(" | ")
    print(f"\n**{title}**\n\n| {header} |\n|{'---|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    sys.stdout.flush()


def limited(figure: float, limit: float | None, text: str = "{:.3f}") -> str:
    """The figure with its limit."""
    cell = text.format(figure)
    if limit is None:
        return cell
    if not figure <= limit:
        missed.append(cell)
        cell = f"**{cell}**"
    return f"{cell} (≤ {limit:g})"


def spread(x: np.ndarray) -> str:
    return f"{100 * x.mean():.2f} ± {100 * x.std(ddof=1):.2f} %"


# ---- follow: the same gradients as float32, over a real training ----

WIDTH, HEADS, LAYERS, CONTEXT, BATCH, UPDATES, RATE = 128, 4, 3, 64, 16, 800, 1e-3


def weights(rng: np.random.Generator, vocabulary: int) -> dict[str, np.ndarray]:
    """The first weights of a small transformer: 627,200 of them for the 103 characters of pydoc."""

    def normal(rows: int, columns: int, gain: float = 1.0) -> np.ndarray:
        return (rng.standard_normal((rows, columns)) * gain / rows**0.5).astype(F)

    w = {"token": normal(vocabulary, WIDTH, 0.2), "place": normal(CONTEXT, WIDTH, 0.2)}
    for i in range(LAYERS):
        w[f"{i} norm"] = np.ones(WIDTH, F)
        w[f"{i} attend"] = normal(WIDTH, 3 * WIDTH)
        w[f"{i} out"] = normal(WIDTH, WIDTH, 0.4)
        w[f"{i} second norm"] = np.ones(WIDTH, F)
        w[f"{i} up"], w[f"{i} up bias"] = normal(WIDTH, 4 * WIDTH), np.zeros(4 * WIDTH, F)
        w[f"{i} down"], w[f"{i} down bias"] = normal(4 * WIDTH, WIDTH, 0.4), np.zeros(WIDTH, F)
    return {**w, "norm": np.ones(WIDTH, F), "head": normal(WIDTH, vocabulary)}


def loss(w, x, y):
    """Mean cross-entropy of the next characters y after x, both shape (batch, context)."""
    from torch.nn import functional as nn  # noqa: PLC0415  torch is for this section alone

    h = w["token"][x] + w["place"]
    for i in range(LAYERS):
        qkv = nn.layer_norm(h, (WIDTH,), w[f"{i} norm"]) @ w[f"{i} attend"]
        heads = qkv.view(*x.shape, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        seen = nn.scaled_dot_product_attention(*heads, is_causal=True)
        h = h + seen.transpose(1, 2).reshape(h.shape) @ w[f"{i} out"]
        up = nn.layer_norm(h, (WIDTH,), w[f"{i} second norm"]) @ w[f"{i} up"] + w[f"{i} up bias"]
        h = h + nn.gelu(up) @ w[f"{i} down"] + w[f"{i} down bias"]
    scores = nn.layer_norm(h, (WIDTH,), w["norm"]) @ w["head"]
    return nn.cross_entropy(scores.flatten(0, 1), y.flatten())


def follow() -> None:
    """AdamW trains a character model; the others follow its gradients and are compared."""
    import torch  # noqa: PLC0415

    text = "".join(topics.topics.values())
    letters, codes = np.unique(np.array(list(text)), return_inverse=True)
    rng = np.random.default_rng(0)
    first = weights(rng, letters.size)
    sizes = [a.size for a in first.values()]
    flat = np.concatenate([a.reshape(-1) for a in first.values()])
    parts = np.split(flat, np.cumsum(sizes)[:-1])
    w = {
        name: torch.from_numpy(part.reshape(first[name].shape)).requires_grad_()
        for name, part in zip(first, parts, strict=True)
    }
    exact = Adam("float32", sizes)
    others = rivals(sizes)
    error, largest = {}, dict.fromkeys(others, 0.0)
    for k in range(UPDATES):
        print(k, end="\r", file=sys.stderr, flush=True)
        at = rng.integers(0, codes.size - CONTEXT - 1, BATCH)
        rows = torch.from_numpy(codes[at[:, None] + np.arange(CONTEXT + 1)])
        gradients = torch.autograd.grad(loss(w, rows[:, :-1], rows[:, 1:]), list(w.values()))
        g = np.concatenate([a.numpy().reshape(-1) for a in gradients])
        u = exact.update(g)
        for name, other in others.items():
            got = other.update(g)
            error[name] = float(np.linalg.norm(got - u) / np.linalg.norm(u))
            largest[name] = max(largest[name], float(np.abs(got).max() / np.abs(u).max()))
        flat *= F(1 - RATE * 0.01)
        flat -= F(RATE) * u
    rows = [
        [
            name,
            limited(error[name], 0.07 if name == "q8" else None),
            limited(largest[name], 3 if name == "q8" else None, "{:.2f}"),
        ]
        for name in others
    ]
    print_table(
        f"A character model of {flat.size:,} parameters, {UPDATES} updates of AdamW",
        "states | error of the last update, ‖û − u‖/‖u‖ | largest update over float32's, any step",
        rows,
    )


# ---- blocks: gradients that spread lognormally ----

LIMITS = {0.5: 0.08, 1: 0.13, 2: 0.35, 3: 0.65}


def blocks(n: int = 2**14, updates: int = 800) -> None:
    """Normal gradients whose scales spread lognormally over the elements of a block."""
    rows = {name: [name] for name in RIVALS}
    for sigma, limit in LIMITS.items():
        rng = np.random.default_rng(0)
        scale = (1e-3 * np.exp(sigma * rng.standard_normal(n))).astype(F)
        exact, others = Adam("float32", [n]), rivals([n])
        for _ in range(updates):
            g = scale * rng.standard_normal(n, dtype=F)
            u = exact.update(g)
            updated = {name: other.update(g) for name, other in others.items()}
        for name, got in updated.items():
            error = float(np.linalg.norm(got - u) / np.linalg.norm(u))
            rows[name].append(limited(error, limit if name == "q8" else None, "{:.3g}"))
    print_table(
        f"Error of update {updates} where gradients spread lognormally",
        "states | " + " | ".join(f"σ = {sigma:g}" for sigma in LIMITS),
        list(rows.values()),
    )


# ---- digits: trainings from the start ----


def train(data: demo.Digits, seed: int, storage: str) -> tuple[float, float]:
    """Accuracy on the held-out digits and the final loss, Adam at 0.001."""
    rng = np.random.default_rng(seed)
    params = demo.initial(rng)
    adam = Adam(storage, [a.size for a in params.values()])
    for x, y in batches(rng, data):
        step(params, adam, demo.loss_and_gradients(params, x, y)[1], 1e-3)
    return (
        demo.accuracy(params, data.held_x, data.held_y),
        demo.mean_loss(params, data.train_x, data.train_y),
    )


def batches(rng: np.random.Generator, data: demo.Digits):
    """Those of the demo."""
    for _ in range(demo.EPOCHS):
        order = rng.permutation(len(data.train_y))
        for at in range(0, len(order) - demo.BATCH + 1, demo.BATCH):
            batch = order[at : at + demo.BATCH]
            yield data.train_x[batch], data.train_y[batch]


def step(params: demo.Params, adam: Adam, gradients: demo.Params, rate: float) -> None:
    u = adam.update(np.concatenate([gradients[name].reshape(-1) for name in params]))
    for name, part in zip(params, np.split(u, adam.cuts), strict=True):
        params[name] -= F(rate) * part.reshape(params[name].shape)


def digits(seeds: int = 10) -> None:
    """q8 within the seeds' noise of float32, q4 within a point."""
    data = demo.load()
    found = {
        name: np.array([train(data, seed, name) for seed in range(seeds)])
        for name in ("float32", "q8", "q4", "dynamic map")
    }
    exact = found["float32"][:, 0]
    noise = 2 * exact.std(ddof=1) * (2 / seeds) ** 0.5  # two standard errors of the difference
    rows = []
    for name, runs in found.items():
        short = exact.mean() - runs[:, 0].mean()
        limit = {"q8": noise, "q4": 0.01}.get(name)
        cell = limited(100 * short, limit and round(100 * limit, 2), "{:+.2f} points")
        rows.append([name, spread(runs[:, 0]), cell, f"{runs[:, 1].mean():.4f}"])
    print_table(
        f"The demo's digits, Adam, {seeds} seeds",
        "states | held-out accuracy, mean ± deviation | short of float32 | final loss",
        rows,
    )


# ---- stall: bfloat16 parameters ----


def stall(rate: float = 1e-4) -> None:
    """At a low rate, updates are less than half a gap of bfloat16: nearest drops them."""
    data = demo.load()
    rows = []
    losses = {}
    for rounding in ("float32", "stochastic", "nearest"):
        rng = np.random.default_rng(0)
        params = demo.initial(rng)
        first = demo.mean_loss(params, data.train_x, data.train_y)
        adam = Adam("float32", [a.size for a in params.values()])
        for x, y in batches(rng, data):
            step(params, adam, demo.loss_and_gradients(params, x, y)[1], rate)
            if rounding != "float32":
                for key, p in enumerate(params.values()):
                    keep("bfloat16", "param", p, rounding == "stochastic", t=adam.t, key=key)
        losses[rounding] = demo.mean_loss(params, data.train_x, data.train_y)
        limit = 1.1 * losses["float32"] if rounding == "stochastic" else None
        held = demo.accuracy(params, data.held_x, data.held_y)
        cell = limited(losses[rounding], limit and round(limit, 3))
        rows.append([rounding, f"{first:.3f}", cell, f"{100 * held:.1f} %"])
    print_table(
        f"bfloat16 parameters of the digits' network, Adam at {rate:g}",
        "parameters | loss before | after | held-out",
        rows,
    )


SECTIONS = {"follow": follow, "blocks": blocks, "digits": digits, "stall": stall}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", help=", ".join(SECTIONS))
    for section in parser.parse_args().sections or SECTIONS:
        if section not in SECTIONS:
            parser.error(f"sections: got {section!r}, wanted {', '.join(SECTIONS)}")
        with demo.one_blas_thread():
            SECTIONS[section]()
    if missed:
        sys.exit(f"beyond their limits: {', '.join(missed)}")


if __name__ == "__main__":
    main()
