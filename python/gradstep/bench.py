"""Race a step against the same update elsewhere: NumPy, torch, optax, and only moving its bytes."""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core, machine, optimizers, runtime
from .tables import table

Array = NDArray[np.float32]

OURS = "gradstep"
NUMPY = "NumPy"
MOVE = "only moving the bytes"

LR, BETA1, BETA2, ALPHA, MOMENTUM, DECAY = 1e-3, 0.9, 0.999, 0.99, 0.9, 1e-2
MOST_ARRAYS, MOST_ELEMENTS = 1_000_000, 1 << 40
CHECKED_STEPS = 3
TOLERANCE = 1e-3


# The updates as people write them in NumPy: in place, over whole arrays, t counted from 1.


def sgd(_t: int, p: Array, g: Array) -> None:
    p -= LR * g


def momentum(_t: int, p: Array, g: Array, b: Array) -> None:
    b *= MOMENTUM
    b += g
    p -= LR * b


def adagrad(_t: int, p: Array, g: Array, s: Array) -> None:
    s += g * g
    p -= LR * g / (np.sqrt(s) + 1e-10)


def rmsprop(_t: int, p: Array, g: Array, v: Array) -> None:
    v *= ALPHA
    v += (1 - ALPHA) * g * g
    p -= LR * g / (np.sqrt(v) + 1e-8)


def adam(t: int, p: Array, g: Array, m: Array, v: Array) -> None:
    m += (1 - BETA1) * (g - m)
    v *= BETA2
    v += (1 - BETA2) * g * g
    p -= LR / (1 - BETA1**t) * m / (np.sqrt(v) / math.sqrt(1 - BETA2**t) + 1e-8)


def adamw(t: int, p: Array, g: Array, m: Array, v: Array) -> None:
    p *= 1 - LR * DECAY
    adam(t, p, g, m, v)


@dataclass(frozen=True)
class Rule:
    """One update as every contestant spells it.

    `name` and `arguments` are the class and its arguments here and in torch, which share them;
    `states` counts the arrays that are read and written beside the parameter.
    """

    name: str
    arguments: Mapping[str, Any]
    plain: Callable[..., None]
    states: int
    optax: tuple[str, Mapping[str, Any]]
    fused: bool = True

    @property
    def bytes_moved(self) -> int:
        """Bytes per parameter in float32: it and its states are read and written, g is read."""
        return 4 * (2 * (1 + self.states) + 1)


_LR = {"lr": LR}
_RATE = {"learning_rate": LR}
RULES: dict[str, Rule] = {
    "SGD": Rule("SGD", _LR, sgd, 0, ("sgd", _RATE)),
    "momentum": Rule(
        "SGD", _LR | {"momentum": MOMENTUM}, momentum, 1, ("sgd", _RATE | {"momentum": MOMENTUM})
    ),
    "Adagrad": Rule(
        "Adagrad",
        _LR,
        adagrad,
        1,
        ("adagrad", _RATE | {"initial_accumulator_value": 0.0, "eps": 1e-20}),
    ),
    "RMSprop": Rule(
        "RMSprop",
        _LR,
        rmsprop,
        1,
        ("rmsprop", _RATE | {"decay": ALPHA, "eps_in_sqrt": False}),
        fused=False,  # torch has none
    ),
    "Adam": Rule("Adam", _LR, adam, 2, ("adam", _RATE)),
    "AdamW": Rule(
        "AdamW", _LR | {"weight_decay": DECAY}, adamw, 2, ("adamw", _RATE | {"weight_decay": DECAY})
    ),
}


@dataclass(frozen=True)
class Racer:
    """One contestant: `gradients` is not timed, `step` is, `params` reads the result.

    `gradients` makes what one step gets: arrays in objects that no step has seen before, as a
    backward pass leaves them, so that nobody wins by remembering the last step's; where there are
    many, also at other addresses in turns.
    """

    name: str
    gradients: Callable[[], Any]
    step: Callable[[Any], object]
    params: Callable[[], Sequence[Any]]


def _turns(grads: Sequence[Array]) -> Iterator[Sequence[Array]]:
    """The gradients again and again; of many arrays in turns a copy at other addresses.

    One array comes back from an allocator where it was; a copy of it would only take a
    part of the caches that the others need.
    """
    copies = [g.copy() for g in grads] if len(grads) > 1 else grads
    return itertools.cycle([grads, copies])


def ours(rule: Rule, params: Sequence[Array], grads: Sequence[Array]) -> Racer:
    """gradstep itself, on copies of `params`."""
    own = [p.copy() for p in params]
    step = getattr(optimizers, rule.name)(own, **rule.arguments).step
    turns = _turns(grads)
    return Racer(OURS, lambda: [g[:] for g in next(turns)], step, lambda: own)


def plain_numpy(rule: Rule, params: Sequence[Array], grads: Sequence[Array]) -> Racer:
    """The update in NumPy, array by array, on copies of `params`."""
    own = [p.copy() for p in params]
    states = [[np.zeros_like(p) for _ in range(rule.states)] for p in own]
    count = iter(range(1, 1 << 62))

    def step(gradients: Sequence[Array]) -> None:
        t = next(count)
        for p, g, state in zip(own, gradients, states, strict=True):
            rule.plain(t, p, g, *state)

    turns = _turns(grads)
    return Racer(NUMPY, lambda: [g[:] for g in next(turns)], step, lambda: own)


def moving(rule: Rule, elements: int) -> Racer:
    """A bare loop that reads and writes the bytes of a step and computes nothing.

    It has all `elements` in one array each, whatever the contestants have: what it measures is
    the machine.
    """
    # ones: pages of zeros that were never written all lie in one place
    changed = [[np.ones(elements, np.float32) for _ in range(1 + rule.states)]]
    read = [np.ones(elements, np.float32)]
    return Racer(MOVE, lambda: read, lambda g: _core.move(changed, g), list)


def torch_step(rule: Rule, params: Sequence[Array], grads: Sequence[Array]) -> Racer:
    """torch's optimizer, fused where it has that, on copies of `params`."""
    torch = import_module("torch")
    torch.set_num_threads(runtime.get_num_threads())
    own = [torch.from_numpy(p.copy()).requires_grad_() for p in params]
    turns = _turns(grads)
    fused = {"fused": True} if rule.fused else {}
    step = getattr(torch.optim, rule.name)(own, **rule.arguments, **fused).step

    def gradients() -> None:
        for p, g in zip(own, next(turns), strict=True):
            p.grad = torch.from_numpy(g)

    name = f"torch {torch.__version__}{' fused' * rule.fused}"
    return Racer(name, gradients, lambda _: step(), lambda: [p.detach().numpy() for p in own])


def optax_step(rule: Rule, params: Sequence[Array], grads: Sequence[Array]) -> Racer:
    """optax's update, compiled by jax with parameters and state donated, on copies of `params`."""
    # jax sizes its pool once, when it starts, and by this variable alone
    os.environ.setdefault("NPROC", str(runtime.get_num_threads()))
    jax, optax = import_module("jax"), import_module("optax")
    name, arguments = rule.optax
    transform = getattr(optax, name)(**arguments)
    own = [jax.numpy.array(p, copy=True) for p in params]
    given = [jax.numpy.array(g, copy=True) for g in grads]
    state = transform.init(own)

    def update(own: Any, state: Any, given: Any) -> Any:
        updates, state = transform.update(given, state, own)
        return optax.apply_updates(own, updates), state

    compiled = jax.jit(update, donate_argnums=(0, 1))

    def step(given: Any) -> None:
        nonlocal own, state
        own, state = jax.block_until_ready(compiled(own, state, given))

    title = f"optax {metadata.version('optax')} jit"
    return Racer(title, lambda: list(given), step, lambda: [np.asarray(p) for p in own])


RIVALS = {"torch": torch_step, "optax": optax_step}


def present(name: str) -> bool:
    """Is this package installed?"""
    try:
        return find_spec(name) is not None
    except ValueError:  # it was blocked
        return False


def _timed(racer: Racer) -> float:
    """Seconds of one step, gradients not counted."""
    gradients = racer.gradients()
    start = time.perf_counter()
    racer.step(gradients)
    return time.perf_counter() - start


def _batch(racer: Racer, seconds: float, least: int) -> Iterator[float]:
    """The times of steps until `seconds` are over, `least` of them in any case."""
    end = time.perf_counter() + seconds
    done = 0
    while done < least or time.perf_counter() < end:
        yield _timed(racer)
        done += 1


def race(
    racers: Sequence[Racer], *, rounds: int = 5, settle: float = 0.02, measure: float = 0.1
) -> dict[str, float]:
    """Median seconds per step of each of `racers`, in rounds that take turns.

    Everyone runs a batch before the next one comes: idle workers of a team spin for some
    milliseconds and would take a core from whoever follows. So each batch first runs `settle`
    seconds untimed, which also brings its own arrays back into the caches, then `measure`
    seconds (and three steps at the least) that count.

    Returns:
        The racer's name to its median over all counted steps.
    """
    times: dict[str, list[float]] = {racer.name: [] for racer in racers}
    for _ in range(rounds):
        for racer in racers:
            for _ in _batch(racer, settle, 1):
                pass
            times[racer.name] += _batch(racer, measure, 3)
    return {name: median(values) for name, values in times.items()}


def exact(rule: Rule, params: Sequence[Array], grads: Sequence[Array]) -> list[Any]:
    """The parameters after `CHECKED_STEPS` updates in NumPy and float64."""
    own = []
    for p, g in zip(params, grads, strict=True):
        wide, gradient = p.astype(np.float64), g.astype(np.float64)
        states = [np.zeros_like(wide) for _ in range(rule.states)]
        for t in range(1, CHECKED_STEPS + 1):
            rule.plain(t, wide, gradient, *states)
        own.append(wide)
    return own


def difference(racer: Racer, expected: Sequence[Any], before: Sequence[Array]) -> float:
    """The largest difference between a racer's parameters and `expected`, the updates' being 1."""
    pairs = zip(racer.params(), expected, strict=True)
    wrong = np.max([np.max(np.abs(np.asarray(p) - e)) for p, e in pairs])
    moved = np.max([np.max(np.abs(e - b)) for e, b in zip(expected, before, strict=True)])
    return float(wrong / moved)  # a NaN anywhere makes it one, which is not close


def problem(size: Sequence[int], seed: int = 0) -> tuple[list[Array], list[Array]]:
    """Random parameters and gradients, float32, one array of each for every entry of `size`."""
    rng = np.random.default_rng(seed)
    params, grads = ([rng.standard_normal(n, dtype=np.float32) for n in size] for _ in range(2))
    # Parameters so small that rounding them is nothing beside an update, and gradients so large
    # that it does not show where an ε is added.
    for p, g in zip(params, grads, strict=True):
        np.divide(p, 100, out=p)
        np.add(g, np.copysign(0.01, g), out=g)
    return params, grads


def parse_size(text: str) -> tuple[int, ...]:
    """Elements of each array from `N` or `COUNTxN`, where N may end in `Ki` or `Mi`.

    Raises:
        ValueError: it is none of these, or a number in it is below 1.
    """
    count, _, each = text.rpartition("x")
    number, factor = each, 1
    for suffix, value in (("Ki", 1 << 10), ("Mi", 1 << 20)):
        if each.endswith(suffix):
            number, factor = each.removesuffix(suffix), value
    arrays, elements = int(count or 1), int(number) * factor
    if not (1 <= arrays <= MOST_ARRAYS and 1 <= elements <= MOST_ELEMENTS):
        raise ValueError(
            f"size: got {text!r}, wanted N or COUNTxN, at least 1 each and at most "
            f"{MOST_ARRAYS:,} arrays of {MOST_ELEMENTS:,}"
        )
    return (elements,) * arrays


def check_memory(rule: Rule, size: Sequence[int], rivals: int = 0) -> None:
    """Raise MemoryError where a race needs more memory than the machine has left.

    Args:
        rule: the update.
        size: elements of each array.
        rivals: how many race besides ours and NumPy's.
    """
    # Each has parameters, states and perhaps a copy of the gradients; NumPy's needs room for what
    # it computes on the way. What moves bytes has as much, and float64's twice as much.
    each = 3 + rule.states
    needed = 4 * sum(size) * (2 + (rivals + 3) * each + 2 * each + 2)
    free = machine.free_memory()
    if free is not None and needed > free:
        raise MemoryError(
            f"size: got {sum(size):,} parameters, whose race takes about {needed / 2**30:,.1f} GiB "
            f"where {free / 2**30:,.1f} GiB are left, wanted fewer"
        )


DEFAULT_SIZES = tuple(map(parse_size, ("64Ki", "1Mi", "16Mi", "2000x1000")))


@dataclass(frozen=True)
class Result:
    """One row of a race: seconds per step, and `difference` from the parameters in float64."""

    name: str
    seconds: float
    difference: float


def compete(
    rule: Rule, size: Sequence[int], *, rivals: Iterable[str] = tuple(RIVALS), **timing: Any
) -> tuple[list[Result], list[str]]:
    """Check that all contestants compute the same update, then time those that do.

    Args:
        rule: the update.
        size: elements of each parameter array.
        rivals: which of `RIVALS` take part where they are installed.
        timing: `rounds`, `settle` and `measure` of `race`.

    Returns:
        The results, ours first and the mere moving of bytes last, and notes on who is missing.

    Raises:
        MemoryError: the machine has less memory left than the race takes.
    """
    check_memory(rule, size, sum(map(present, rivals)))
    params, grads = problem(size)
    racers = [ours(rule, params, grads), plain_numpy(rule, params, grads)]
    notes = [f"{name}: not installed" for name in rivals if not present(name)]
    racers += [RIVALS[name](rule, params, grads) for name in rivals if present(name)]

    for _ in range(CHECKED_STEPS):
        for racer in racers:
            racer.step(racer.gradients())
    expected = exact(rule, params, grads)
    differences = {racer.name: difference(racer, expected, params) for racer in racers}
    del expected
    agreed = [racer for racer in racers if differences[racer.name] <= TOLERANCE]
    notes += [
        f"{racer.name}: not timed, its result differs by {differences[racer.name]:.1e} of an update"
        for racer in racers
        if racer not in agreed
    ]
    seconds = race([*agreed, moving(rule, sum(size))], **timing)
    return [Result(name, s, differences.get(name, 0.0)) for name, s in seconds.items()], notes


def render(rule: Rule, size: Sequence[int], results: Sequence[Result]) -> str:
    """The results of one race as a table."""
    elements = sum(size)
    seconds = {r.name: r.seconds for r in results}
    floor, base = (seconds.get(name, math.nan) for name in (MOVE, OURS))
    rows = [
        (
            r.name,
            f"{r.seconds / elements * 1e9:.3f}",
            f"{rule.bytes_moved * elements / r.seconds / 1e9:.1f}",
            f"{floor / r.seconds:.0%}",
            "" if r.name == MOVE else f"{r.seconds / base:.2f}",
            "" if r.name == MOVE else f"{r.difference:.0e}",
        )
        for r in results
    ]
    header = ("", "ns/parameter", "GB/s", "of bandwidth", "time / ours", "difference")
    return table(rows, header, right="<>>>>>")


def run(
    rules: Sequence[str] = ("AdamW",),
    sizes: Sequence[Sequence[int]] = DEFAULT_SIZES,
    *,
    rounds: int = 5,
    say: Callable[[str], object] = print,
) -> None:
    """Race each of `rules` at each of `sizes` and tell the results with `say`, table by table.

    Args:
        rules: names out of `RULES`.
        sizes: elements of each parameter array, one sequence a race.
        rounds: how often everyone takes a turn.
        say: gets each piece of text.
    """
    for name in rules:
        rule = RULES[name]
        for size in sizes:
            results, notes = compete(rule, size, rounds=rounds)
            arrays = f"{len(size):,} arrays of {size[0]:,}" if len(size) > 1 else f"{size[0]:,}"
            say(f"\n{name}, float32, {arrays} parameters, {rule.bytes_moved} bytes moved for each")
            say(render(rule, size, results))
            for note in notes:
                say(note)
    say(
        f"\n{machine.one_line()}\n"
        "Medians of steps, in rounds that take turns in one process; all have the same threads.\n"
        "of bandwidth: the time of a bare loop that only reads and writes as much, over theirs.\n"
        f"difference: from float64 after {CHECKED_STEPS} steps, in parts of the largest "
        "update."
    )
