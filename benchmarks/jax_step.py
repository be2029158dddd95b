"""gradstep.jax against optax, under jit with donation, in one process.

``python benchmarks/jax_step.py [SECTION …] [--quick] [--seconds S]`` prints tables:

- step: AdamW over a number, an array in the second- and one in the third-level cache, many small
  arrays, and GPT-2's 124M; and that with a clipped norm and an average of the parameters. The same
  gradients come in each step and are kept, so ``update``, which makes its result where the
  gradients lie, copies them first.
- loop: whole iterations of a small transformer on text, the step compiled by itself and together
  with the gradient.
- memory: by how much the resident memory grows over the arrays within three steps of 124M, in
  processes of their own, and whether the arrays stay where they are.

Contestants take turns; a time is a median, a ratio the median of the ratios of each turn. What the
first call takes beyond a later one is called compiling. ``--quick`` takes smaller sizes.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from pydoc_data import topics
from statistics import median
from time import perf_counter
from typing import Any

import jax
import numpy as np
import optax
from jax import numpy as jnp

import gradstep as gs
import gradstep.jax
from workloads import GPT2_SHAPES, WORKLOADS, Shape

RATE, LIMIT, DECAY = 1e-3, 1.0, 0.999
OPTAX, APPLY, UPDATE = "optax", "apply", "update"
ROUNDS = (5, 25)  # of turns, at least and at most
SAMPLE = 0.02  # seconds of steps that are timed as one
Tree = dict[str, Any]
Step = Callable[[Any, Any, Any], tuple[Any, Any]]  # parameters, gradients, state: the new ones


# ---- what is compared ----


class Contestant:
    """A step, compiled, with parameters and a state of its own.

    Args:
        init: from parameters to a state.
        step: to compile; parameters and state are donated.
        params: to begin with.
    """

    def __init__(self, init: Callable[[Any], Any], step: Step, params: Any) -> None:
        self.params = jax.tree.map(jnp.copy, params)
        self.state = init(self.params)
        self._step = jax.jit(step, donate_argnums=(0, 2))

    def seconds(self, grads: Any, count: int) -> float:
        """Of so many steps, all of them done."""
        jax.block_until_ready((self.params, self.state))
        start = perf_counter()
        for _ in range(count):
            self.params, self.state = self._step(self.params, grads, self.state)
        jax.block_until_ready((self.params, self.state))
        return perf_counter() - start


def summed(tx: Any) -> Step:
    """optax's protocol: the change, then the sum."""

    def step(params: Any, grads: Any, state: Any) -> tuple[Any, Any]:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def averaged(step: Step) -> Step:
    """And a mean of the parameters, kept beside the state."""

    def with_mean(params: Any, grads: Any, state: Any) -> tuple[Any, Any]:
        state, mean = state
        params, state = step(params, grads, state)
        return params, (state, optax.incremental_update(params, mean, 1 - DECAY))

    return with_mean


def plain() -> dict[str, tuple[Callable[[Any], Any], Step]]:
    """AdamW: how each begins and steps."""
    ours, theirs = gradstep.jax.adamw(RATE), optax.adamw(RATE)
    return {
        OPTAX: (theirs.init, summed(theirs)),
        APPLY: (ours.init, ours.apply),
        UPDATE: (ours.init, summed(ours)),
    }


def staged() -> dict[str, tuple[Callable[[Any], Any], Step]]:
    """AdamW that clips the norm and keeps an average."""
    theirs = optax.chain(optax.clip_by_global_norm(LIMIT), optax.adamw(RATE))
    ours = gradstep.jax.adamw(RATE, clip_norm=LIMIT, average=DECAY)
    clipping = gradstep.jax.adamw(RATE, clip_norm=LIMIT)

    def beside(init: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda params: (init(params), jax.tree.map(jnp.copy, params))

    return {
        OPTAX: (beside(theirs.init), averaged(summed(theirs))),
        APPLY: (ours.init, ours.apply),
        UPDATE: (beside(clipping.init), averaged(summed(clipping))),
    }


# ---- step ----


def turns(times: Mapping[str, Callable[[], float]], seconds: float) -> dict[str, list[float]]:
    """Each contestant's times, who begins changing, for about so many seconds."""
    found: dict[str, list[float]] = {name: [] for name in times}
    names, begin = list(times), perf_counter()
    for i in range(ROUNDS[1]):
        if i >= ROUNDS[0] and perf_counter() - begin > seconds:
            break
        first = i % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(times[name]())
    return found


def ratio(found: Mapping[str, Sequence[float]], over: str, under: str) -> float:
    return median(a / b for a, b in zip(found[over], found[under], strict=True))


def show_time(seconds: float) -> str:
    for unit, length in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds / 1e-9:.0f} ns"


def random_tree(shapes: Sequence[Shape], scale: float) -> Tree:
    rng = np.random.default_rng(len(shapes))
    return {
        f"p{i:04d}": jnp.asarray(rng.standard_normal(shape, np.float32) * np.float32(scale))
        for i, shape in enumerate(shapes)
    }


def measure(
    shapes: Sequence[Shape],
    make: Callable[[], Mapping[str, tuple[Callable[[Any], Any], Step]]],
    seconds: float,
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """By contestant: seconds of a step, in turns, and of compiling."""
    params, grads = random_tree(shapes, 1.0), random_tree(shapes, 0.1)
    ready = {name: Contestant(*how, params) for name, how in make().items()}
    del params
    first, later = {}, {}
    for name, one in ready.items():
        first[name] = one.seconds(grads, 1)
        later[name] = min(one.seconds(grads, 1) for _ in range(2))
    counts = {name: max(1, min(2000, int(SAMPLE / later[name]))) for name in ready}
    found = turns(
        {
            name: functools.partial(lambda one, n: one.seconds(grads, n) / n, one, counts[name])
            for name, one in ready.items()
        },
        seconds,
    )
    return found, {name: first[name] - later[name] for name in ready}


def show_step(options: argparse.Namespace) -> None:
    """Print a row for each workload."""
    print("\n### One step, AdamW, float32\n")
    print(
        "| parameters | optax | `apply` | optax / `apply` | `update` | optax / `update` "
        "| compiling: optax | `apply` | `update` |\n|---|---|---|---|---|---|---|---|---|"
    )
    sizes: dict[str, tuple[Shape, ...]] = {
        name: tuple((size,) for size in sizes) for name, sizes in WORKLOADS.items()
    }
    *_, largest = sizes
    sizes[largest] = GPT2_SHAPES
    if options.quick:
        sizes = {
            f"{name}, a part": shapes[: 100 if len(shapes) > 1000 else None]
            if math.prod(shapes[0]) < 1 << 20
            else ((1 << 16,),) * min(len(shapes), 8)
            for name, shapes in sizes.items()
        }
        *_, largest = sizes
    runs = [(name, shapes, plain) for name, shapes in sizes.items()]
    runs.append((f"{largest}, `clip_norm` and `average`", sizes[largest], staged))
    for name, shapes, make in runs:
        found, compiling = measure(shapes, make, options.seconds)
        optax_, apply, update = (show_time(median(found[who])) for who in (OPTAX, APPLY, UPDATE))
        print(
            f"| {name} | {optax_} | {apply} | {ratio(found, OPTAX, APPLY):.2f} "
            f"| {update} | {ratio(found, OPTAX, UPDATE):.2f} | "
            + " | ".join(show_time(compiling[who]) for who in (OPTAX, APPLY, UPDATE))
            + " |",
            flush=True,
        )


# ---- loop ----

CONTEXT, BATCH = 64, 8


class Sizes:
    """Those of the transformer."""

    def __init__(self, quick: bool) -> None:
        self.width, self.layers = (64, 2) if quick else (256, 4)
        self.heads = self.width // 32

    def params(self) -> Tree:
        rng, width = np.random.default_rng(0), self.width

        def matrix(rows: int, columns: int, scale: float = 0.02) -> Any:
            return jnp.asarray(rng.standard_normal((rows, columns), np.float32) * np.float32(scale))

        def block() -> Tree:
            return {
                "norm1": jnp.ones(width, jnp.float32),
                "mix": matrix(width, 3 * width),
                "out": matrix(width, width),
                "norm2": jnp.ones(width, jnp.float32),
                "up": matrix(width, 4 * width),
                "bias": jnp.zeros(4 * width, jnp.float32),
                "down": matrix(4 * width, width),
            }

        return {
            "token": matrix(256, width),
            "place": matrix(CONTEXT, width),
            "blocks": [block() for _ in range(self.layers)],
            "norm": jnp.ones(width, jnp.float32),
            "head": matrix(width, 256),
        }

    def loss(self, params: Tree, text: Any) -> Any:
        """Cross entropy of each next byte; ``text`` is (batch, context + 1), bytes."""
        inputs, targets = text[:, :-1], text[:, 1:]
        x = params["token"][inputs] + params["place"]
        for block in params["blocks"]:
            x = x + self._attention(block, _normed(x) * block["norm1"])
            inner = jax.nn.gelu(_normed(x) * block["norm2"] @ block["up"] + block["bias"])
            x = x + inner @ block["down"]
        logits = _normed(x) * params["norm"] @ params["head"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

    def _attention(self, block: Tree, x: Any) -> Any:
        batch, length, width = x.shape
        mixed = (x @ block["mix"]).reshape(batch, length, 3, self.heads, width // self.heads)
        query, key, value = jnp.moveaxis(mixed, 2, 0)
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(width // self.heads)
        seen = jnp.tril(jnp.ones((length, length), bool))
        weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf))
        found = jnp.einsum("bhqk,bkhd->bqhd", weights, value)
        return found.reshape(batch, length, width) @ block["out"]


def _normed(x: Any) -> Any:
    return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6)


def batches() -> Iterator[Any]:
    """Pieces of the texts that Python helps with."""
    text = np.frombuffer("\n".join(topics.topics.values()).encode(), np.uint8).astype(np.int32)
    rng = np.random.default_rng(1)
    while True:
        starts = rng.integers(len(text) - CONTEXT, size=(BATCH, 1))
        yield jnp.asarray(text[starts + np.arange(CONTEXT + 1)])


class Training:
    """Iterations of a contestant, as one compiled program or as two."""

    def __init__(self, sizes: Sizes, how: tuple[Callable[[Any], Any], Step], whole: bool) -> None:
        init, step = how
        self.params = sizes.params()
        self.state = init(self.params)
        self.losses: list[float] = []
        value_and_grad = jax.value_and_grad(sizes.loss)

        def iteration(params: Any, state: Any, text: Any) -> tuple[Any, Any, Any]:
            loss, grads = value_and_grad(params, text)
            return loss, *step(params, grads, state)

        self._gradient = jax.jit(value_and_grad)
        self._step = jax.jit(step, donate_argnums=(0, 2))
        self._whole = jax.jit(iteration, donate_argnums=(0, 1)) if whole else None

    def seconds(self, text: Any) -> float:
        """Of one iteration."""
        start = perf_counter()
        if self._whole is not None:
            loss, self.params, self.state = self._whole(self.params, self.state, text)
        else:
            loss, grads = self._gradient(self.params, text)
            self.params, self.state = self._step(self.params, grads, self.state)
        jax.block_until_ready((self.params, self.state))
        taken = perf_counter() - start
        self.losses.append(float(loss))
        return taken


def show_loop(options: argparse.Namespace) -> None:
    """Print a row for each contestant, and what the gradient alone takes."""
    sizes, texts = Sizes(options.quick), batches()
    trainings = {
        (name, whole): Training(sizes, how, whole)
        for whole in (False, True)
        for name, how in plain().items()
    }
    for training in trainings.values():
        training.losses.clear()
    params = sizes.params()
    gradient = jax.jit(jax.value_and_grad(sizes.loss))
    count, leaves = sum(p.size for p in jax.tree.leaves(params)), len(jax.tree.leaves(params))
    found: dict[Any, list[float]] = {key: [] for key in (*trainings, "gradient")}
    names = list(trainings)
    for i in range(3 if options.quick else 30):
        text = next(texts)
        for key in names[i % len(names) :] + names[: i % len(names)]:
            found[key].append(trainings[key].seconds(text))
        start = perf_counter()
        jax.block_until_ready(gradient(params, text))
        found["gradient"].append(perf_counter() - start)
    found = {key: times[2:] for key, times in found.items()}  # what compiles and warms up
    print(
        f"\n### Whole iterations: a transformer of {count:,} parameters in {leaves} leaves, "
        f"{BATCH} × {CONTEXT} bytes of text; the gradient alone takes "
        f"{show_time(median(found['gradient']))}\n"
    )
    print(
        "| step | two programs | optax / ours | one program | optax / ours | loss at the end |\n"
        "|---|---|---|---|---|---|"
    )
    for name in (OPTAX, APPLY, UPDATE):
        cells = []
        for whole in (False, True):
            cells.append(show_time(median(found[name, whole])))
            cells.append(f"{ratio(found, (OPTAX, whole), (name, whole)):.3f}")
        print(f"| {name} | {' | '.join(cells)} | {trainings[name, True].losses[-1]:.4f} |")


# ---- memory ----


def resident(field: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.findall(rf"{field}:\s*(\d+) kB", status)[0]) << 10


def addresses(tree: Any) -> list[int]:
    return [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree)]


def grow(name: str, shapes: Sequence[Shape]) -> None:
    """Print, as JSON, the bytes of the arrays, those beyond them, and which stay in place."""
    init, step = plain()[name]
    fill = jax.jit(lambda x: {f"p{i}": jnp.full(s, x) for i, s in enumerate(shapes)})
    params, grads = fill(jnp.float32(0.5)), fill(jnp.float32(0.25))
    state = jax.jit(init)(params)
    compiled = jax.jit(step, donate_argnums=(0, 2)).lower(params, grads, state).compile()
    jax.block_until_ready((params, grads, state))
    held = sum(leaf.nbytes for leaf in jax.tree.leaves((params, grads, state)))
    large = [leaf.size > 1 for leaf in jax.tree.leaves((params, state))]
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak begins anew
    before, where = resident("VmRSS"), addresses((params, state))
    for _ in range(3):
        params, state = compiled(params, grads, state)
    jax.block_until_ready((params, state))
    pairs = zip(where, addresses((params, state)), large, strict=True)
    stay = [old == new for old, new, is_large in pairs if is_large]
    beyond = resident("VmHWM") - before
    print(json.dumps({"held": held, "beyond": beyond, "stay": sum(stay), "of": len(stay)}))


def show_memory(options: argparse.Namespace) -> None:
    """Print a row for each contestant, each in a process of its own."""
    if not Path("/proc/self/clear_refs").exists():
        print("\nmemory: this system does not tell the peak of a process")
        return
    print("\n### Memory within three steps, parameters and state donated\n")
    print(
        "| step | parameters, gradients and state | the peak beyond | arrays that stay in place |\n"
        "|---|---|---|---|"
    )
    for name in (OPTAX, APPLY, UPDATE):
        arguments = [sys.executable, __file__, "--grow", name, *["--quick"] * options.quick]
        run = subprocess.run(arguments, check=True, stdout=subprocess.PIPE, timeout=120, text=True)
        found = json.loads(run.stdout)
        print(
            f"| {name} | {found['held'] / 1e6:,.0f} MB | {found['beyond'] / 1e6:,.0f} MB "
            f"| {found['stay']} of {found['of']} |",
            flush=True,
        )


SECTIONS: Mapping[str, Callable[[argparse.Namespace], None]] = {
    "step": show_step,
    "loop": show_loop,
    "memory": show_memory,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", help=", ".join(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="smaller sizes, fewer turns")
    parser.add_argument("--seconds", type=float, default=4.0, help="of turns for each row")
    parser.add_argument("--grow", choices=(OPTAX, APPLY, UPDATE), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.quick:
        options.seconds = 0.2
    if options.grow:
        grow(options.grow, ((1 << 16,),) * 8 if options.quick else GPT2_SHAPES)
        return
    for section in options.sections:
        if section not in SECTIONS:
            parser.error(f"got {section!r}, wanted some of {', '.join(SECTIONS)}")
    print(f"jax {jax.__version__}, optax {optax.__version__}, {gs.get_num_threads()} threads")
    for section in options.sections or SECTIONS:
        SECTIONS[section](options)


if __name__ == "__main__":
    main()
