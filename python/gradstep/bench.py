"""Race a step against the same update elsewhere: NumPy, torch, optax, and only moving its bytes."""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module, metadata
from importlib.util import find_spec
from inspect import signature
from operator import attrgetter
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core, machine, optimizers, runtime
from .rule import RULES as CATALOGUE
from .rule import Rule as CatalogueRule
from .rule import State
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


LARS_RATE = 10.0  # its coefficient is 0.001: so large that rounding a parameter does not show


def lamb(t: int, p: Array, g: Array, m: Array, v: Array) -> None:
    m += (1 - BETA1) * (g - m)
    v += (1 - BETA2) * (g * g - v)
    update = m / (1 - BETA1**t) / (np.sqrt(v / (1 - BETA2**t)) + 1e-6)
    p -= LR * np.linalg.norm(p) / np.linalg.norm(update) * update


def lars(_t: int, p: Array, g: Array, b: Array) -> None:
    b *= MOMENTUM
    b += LARS_RATE * 0.001 * np.linalg.norm(p) / np.linalg.norm(g) * g
    p -= b


@dataclass(frozen=True)
class Rule:
    """One update as every contestant spells it.

    `name` and `arguments` are the class and its arguments here and in torch, which share them.
    `plain` is the update as people write it in NumPy; without one the check is against ours in
    float64, which the tests hold against NumPy to the last bit. `optax` is a constructor's path and
    its arguments. Of a rule of two passes `gathers` names what the first reads besides the
    gradient and the states that only it changes or reads (p: the parameter), and `leaves` those of
    the former that the second does not read. `tolerance`: by how much of an update others may
    differ from ours.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    plain: Callable[..., None] | None = None
    optax: tuple[str, Mapping[str, Any]] | None = None
    gathers: tuple[str, ...] = ("p",)
    leaves: tuple[str, ...] = ()
    tolerance: float = TOLERANCE

    @property
    def value(self) -> CatalogueRule:
        """The rule as the catalogue has it."""
        return CATALOGUE[self.name]

    def kept(self) -> list[State]:
        """The states that have a number for each of the parameter's."""
        group = {**self.value.defaults, **self.arguments}
        on = [state for state in self.value.states if state.is_on(group)]
        return [state for state in on if state.shape == "same"]

    @property
    def states(self) -> int:
        """How many arrays are read and written beside the parameter."""
        return len(self.kept())

    @property
    def passes(self) -> list[tuple[list[int], list[int]]]:
        """Of each pass what it changes and what it reads; 0: parameter, 1: gradient, 2 on: states.

        What a rule of two passes has to read again counts again: the first reads the gradient and
        what the rule `gathers`, and changes the states that it gathers; the second reads those and
        changes the others, for which (or where there are none) it reads the gradient again. States
        that are fixed are read in the first alone. A direction, behind the states, is written in
        the first and read in the second: a number each, as if the first read it, too.
        """
        kept = list(enumerate(self.kept(), start=2))
        if not self.value.gathers:
            return [([0, *(i for i, _ in kept)], [1])]
        places = {"p": 0, **{state.name: i for i, state in kept}}
        gathered = [i for i, state in kept if state.gathered]
        fixed = [i for i, state in kept if state.fixed]
        others = [i for i, state in kept if not (state.gathered or state.fixed)]
        direction = [2 + len(kept)] if self.value.has_direction else []
        left = [places[name] for name in self.leaves]
        again = [1] if others or not gathered else []
        rows: list[tuple[list[int], list[int]]] = []
        if self.value.factors:  # sums by row and column
            rows.append(([], [1]))
        first = (gathered, [*(places[name] for name in self.gathers), 1, *fixed, *direction])
        read = [i for i in gathered if i not in left]
        return [*rows, first, ([0, *others], [*read, *direction, *again])]

    @property
    def bytes_moved(self) -> int:
        """Bytes per parameter in float32: what changes is read and written."""
        return 4 * sum(2 * len(changed) + len(read) for changed, read in self.passes)


_LR = {"lr": LR}
_RATE = {"learning_rate": LR}
RULES: dict[str, Rule] = {
    "SGD": Rule("SGD", _LR, sgd, ("sgd", _RATE)),
    "momentum": Rule(
        "SGD", _LR | {"momentum": MOMENTUM}, momentum, ("sgd", _RATE | {"momentum": MOMENTUM})
    ),
    "Adagrad": Rule(
        "Adagrad",
        _LR,
        adagrad,
        ("adagrad", _RATE | {"initial_accumulator_value": 0.0, "eps": 1e-20}),
    ),
    "RMSprop": Rule(
        "RMSprop", _LR, rmsprop, ("rmsprop", _RATE | {"decay": ALPHA, "eps_in_sqrt": False})
    ),
    "Adam": Rule("Adam", _LR, adam, ("adam", _RATE)),
    "AdamW": Rule(
        "AdamW", _LR | {"weight_decay": DECAY}, adamw, ("adamw", _RATE | {"weight_decay": DECAY})
    ),
    "LARS": Rule(
        "LARS",
        {"lr": LARS_RATE, "momentum": MOMENTUM},
        lars,
        ("lars", {"learning_rate": LARS_RATE, "momentum": MOMENTUM}),
    ),
    "LAMB": Rule("LAMB", _LR, lamb, ("lamb", _RATE)),
    "ScheduleFreeAdamW": Rule(
        "ScheduleFreeAdamW", _LR, optax=("contrib.schedule_free_adamw", _RATE)
    ),
    "Lion": Rule("Lion", _LR, optax=("lion", _RATE)),
    "Adadelta": Rule("Adadelta", optax=("adadelta", {"learning_rate": 1.0, "eps": 1e-6})),
    "Adamax": Rule("Adamax", _LR, optax=("adamax", _RATE)),
    "NAdam": Rule("NAdam", _LR, optax=("nadam", _RATE)),
    "RAdam": Rule("RAdam", _LR, optax=("radam", _RATE)),
    "Rprop": Rule("Rprop", _LR, optax=("rprop", _RATE)),
    "Adafactor": Rule("Adafactor", {"lr": 1e-2}, optax=("adafactor", {"learning_rate": 1e-2})),
    "Muon": Rule(
        "Muon",
        {"lr": 1e-2},
        optax=("contrib.muon", {"learning_rate": 1e-2}),
        gathers=("momentum_buffer",),
        tolerance=0.05,  # torch multiplies in bfloat16
    ),
    "Adan": Rule("Adan", _LR, optax=("adan", _RATE)),
    "AdEMAMix": Rule("AdEMAMix", _LR, optax=("contrib.ademamix", _RATE)),
    "ADOPT": Rule("ADOPT", _LR, optax=("contrib.adopt", _RATE)),
    "SignSGD": Rule("SignSGD", _LR, optax=("sign_sgd", _RATE)),
    "StableAdamW": Rule("StableAdamW", _LR, gathers=()),
    "ScheduleFreeSGD": Rule("ScheduleFreeSGD", _LR, optax=("contrib.schedule_free_sgd", _RATE)),
    "Prodigy": Rule("Prodigy", optax=("contrib.prodigy", {}), leaves=("s",)),
    "DAdaptAdamW": Rule(
        "DAdaptAdamW", optax=("contrib.dadapt_adamw", {}), gathers=(), leaves=("grad_sum",)
    ),
    # It begins so far that rounding a parameter does not show.
    "DoG": Rule(
        "DoG",
        {"reps_rel": 1e-2},
        optax=("contrib.dog", {"learning_rate": 1.0, "init_step": ("heuristic", 1e-2)}),
    ),
    "DoWG": Rule("DoWG", optax=("contrib.dowg", {})),
    "PolyakSGD": Rule("PolyakSGD", optax=("polyak_sgd", {}), gathers=()),
}
# A rule that is not spelled out races by its defaults.
RULES |= {name: Rule(name) for name in CATALOGUE if name not in RULES}


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


def _turns(grads: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """The gradients again and again; of many arrays in turns a copy at other addresses.

    One array comes back from an allocator where it was; a copy of it would only take a
    part of the caches that the others need.
    """
    copies = [g.copy() for g in grads] if len(grads) > 1 else grads
    return itertools.cycle([grads, copies])


LOSS = 1.0  # of every gradient, for rules that take it


def ours(rule: Rule, params: Sequence[Any], grads: Sequence[Any]) -> Racer:
    """gradstep itself, on copies of `params`."""
    own = [p.copy() for p in params]
    optimizer = getattr(optimizers, rule.name)(own, **rule.arguments)
    step = partial(optimizer.step, loss=LOSS) if rule.value.takes_loss else optimizer.step
    turns = _turns(grads)
    return Racer(OURS, lambda: [g[:] for g in next(turns)], step, lambda: own)


def plain_numpy(rule: Rule, params: Sequence[Array], grads: Sequence[Array]) -> Racer:
    """The update in NumPy, array by array, on copies of `params`."""
    own, plain = [p.copy() for p in params], rule.plain
    assert plain is not None, f"{rule.name} is not spelled out"
    states = [[np.zeros_like(p) for _ in range(rule.states)] for p in own]
    count = iter(range(1, 1 << 62))

    def step(gradients: Sequence[Array]) -> None:
        t = next(count)
        for p, g, state in zip(own, gradients, states, strict=True):
            plain(t, p, g, *state)

    turns = _turns(grads)
    return Racer(NUMPY, lambda: [g[:] for g in next(turns)], step, lambda: own)


def moving(rule: Rule, elements: int) -> Racer:
    """A bare loop for each pass of a step that reads and writes its bytes and computes nothing.

    It has all `elements` in one array each, whatever the contestants have: what it measures is
    the machine.
    """
    # ones: pages of zeros that were never written all lie in one place
    count = 2 + rule.states + rule.value.has_direction
    arrays = [np.ones(elements, np.float32) for _ in range(count)]
    passes = [[[arrays[i] for i in part] for part in one] for one in rule.passes]

    def step(_: object) -> None:
        for changed, read in passes:
            _core.move(changed, read)

    return Racer(MOVE, lambda: arrays[1:2], step, list)


FUSED = "fused"


def torch_forms(rule: Rule) -> list[str]:
    """In which forms torch has a rule, the fused one first and "" the one without an option."""
    made = getattr(import_module("torch").optim, rule.name, None)
    if made is None:
        return []
    known = signature(made).parameters
    forms = [form for form in (FUSED, "foreach") if form in known]
    return [*forms, ""]


def torch_step(
    rule: Rule, params: Sequence[Array], grads: Sequence[Array], form: str | None = None
) -> Racer:
    """torch's optimizer, on copies of `params`: in one of `torch_forms`, or fused where it is."""
    torch = import_module("torch")
    torch.set_num_threads(runtime.get_num_threads())
    own = [torch.from_numpy(p.copy()).requires_grad_() for p in params]
    turns = _turns(grads)
    if form is None:
        form = FUSED if FUSED in torch_forms(rule) else ""
    option = {form: True} if form else {}
    step = getattr(torch.optim, rule.name)(own, **rule.arguments, **option).step

    def gradients() -> None:
        for p, g in zip(own, next(turns), strict=True):
            p.grad = torch.from_numpy(g)

    name = f"torch {torch.__version__} {form}".strip()
    return Racer(name, gradients, lambda _: step(), lambda: [p.detach().numpy() for p in own])


def optax_step(rule: Rule, params: Sequence[Array], grads: Sequence[Array]) -> Racer:
    """optax's update, compiled by jax with parameters and state donated, on copies of `params`."""
    # jax sizes its pool once, when it starts, and by this variable alone
    os.environ.setdefault("NPROC", str(runtime.get_num_threads()))
    jax, optax = import_module("jax"), import_module("optax")
    assert rule.optax is not None, f"optax has no {rule.name}"
    path, arguments = rule.optax
    if path.startswith("contrib."):
        import_module("optax.contrib")
    transform = attrgetter(path)(optax)(**arguments)
    own = [jax.numpy.array(p, copy=True) for p in params]
    given = [jax.numpy.array(g, copy=True) for g in grads]
    state = transform.init(own)
    more = {"value": LOSS} if rule.value.takes_loss else {}

    def update(own: Any, state: Any, given: Any) -> Any:
        updates, state = transform.update(given, state, own, **more)
        return optax.apply_updates(own, updates), state

    # Some states are one array twice, or the parameters themselves: nothing can be donated twice.
    own, state = jax.tree.map(lambda x: jax.numpy.array(x, copy=True), (own, state))
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


def missing(rival: str, rule: Rule) -> str | None:
    """Why a rival does not race, or None."""
    if not present(rival):
        return f"{rival}: not installed"
    has = torch_forms(rule) if rival == "torch" else rule.optax
    return None if has else f"{rival}: has no {rule.name}"


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
    """The parameters after `CHECKED_STEPS` updates in float64: in NumPy, or else ours."""
    own = [p.astype(np.float64) for p in params]
    if rule.plain is None:
        racer = ours(rule, own, [g.astype(np.float64) for g in grads])
        for _ in range(CHECKED_STEPS):
            racer.step(racer.gradients())
        return list(racer.params())
    for wide, g in zip(own, grads, strict=True):
        gradient = g.astype(np.float64)
        states = [np.zeros_like(wide) for _ in range(rule.states)]
        for t in range(1, CHECKED_STEPS + 1):
            rule.plain(t, wide, gradient, *states)
    return own


def difference(racer: Racer, expected: Sequence[Any], before: Sequence[Array]) -> float:
    """The largest difference between a racer's parameters and `expected`, the updates' being 1."""
    pairs = zip(racer.params(), expected, strict=True)
    wrong = np.max([np.max(np.abs(np.asarray(p) - e)) for p, e in pairs])
    moved = np.max([np.max(np.abs(e - b)) for e, b in zip(expected, before, strict=True)])
    return float(wrong / moved)  # a NaN anywhere makes it one, which is not close


def shape_of(rule: Rule, elements: int) -> tuple[int, ...]:
    """The shape of a parameter: a matrix, as square as it gets, for rules that look at rows."""
    if not (rule.value.has_direction or rule.value.factors):
        return (elements,)
    rows = next(n for n in range(math.isqrt(elements), 0, -1) if elements % n == 0)
    return rows, elements // rows


def problem(
    size: Sequence[int | tuple[int, ...]], seed: int = 0
) -> tuple[list[Array], list[Array]]:
    """Random parameters and gradients, float32, one array of each for every entry of `size`.

    Args:
        size: elements of each, or its shape.
        seed: of the numbers.
    """
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
    lacking = {name: missing(name, rule) for name in rivals}
    check_memory(rule, size, sum(reason is None for reason in lacking.values()))
    params, grads = problem([shape_of(rule, n) for n in size])
    racers = [ours(rule, params, grads)]
    if rule.plain is not None:
        racers.append(plain_numpy(rule, params, grads))
    notes = [reason for reason in lacking.values() if reason is not None]
    racers += [RIVALS[name](rule, params, grads) for name, why in lacking.items() if why is None]

    differences = check(rule, racers, params, grads)
    agreed = [racer for racer in racers if differences[racer.name] <= rule.tolerance]
    notes += [
        f"{racer.name}: not timed, its result differs by {differences[racer.name]:.1e} of an update"
        for racer in racers
        if racer not in agreed
    ]
    seconds = race([*agreed, moving(rule, sum(size))], **timing)
    return [Result(name, s, differences.get(name, 0.0)) for name, s in seconds.items()], notes


def check(
    rule: Rule, racers: Sequence[Racer], params: Sequence[Array], grads: Sequence[Array]
) -> dict[str, float]:
    """Have everyone make `CHECKED_STEPS` and tell by how much they are off, see `difference`."""
    for _ in range(CHECKED_STEPS):
        for racer in racers:
            racer.step(racer.gradients())
    expected = exact(rule, params, grads)
    return {racer.name: difference(racer, expected, params) for racer in racers}


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
