"""`gradstep demo`: what the learning rate does to a small network on real handwritten digits.

The network has one hidden layer and is written out in NumPy below; gradstep makes its updates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import bench, machine, optimizers, plots, progress, schedules
from .extras import need
from .tables import table

Array = NDArray[np.float32]
Labels = NDArray[np.int64]
Params = dict[str, Array]
Rate = Any  # a number, a schedule or a callable of the step index

HIDDEN = 128
BATCH = 64
EPOCHS = 40
CLASSES = 10

# Per rule: a rate that is too low, one that people start with, and one that is too high.
RATES: dict[str, tuple[float, float, float]] = {
    "SGD": (1e-3, 1e-1, 1e1),
    "Adagrad": (1e-4, 1e-2, 1e1),
    "RMSprop": (1e-5, 1e-3, 1.0),
    "Adam": (1e-5, 1e-3, 1.0),
}
PER_DECADE = 2  # further rates, in the picture alone
SPEED_SIZE = 1 << 20


# ---------------------------------------------------------------------------------------- data


@dataclass(frozen=True)
class Digits:
    """Images, float32, shape (n, 64), and the digits they show, shape (n,)."""

    train_x: Array
    train_y: Labels
    held_x: Array
    held_y: Labels


def load() -> Digits:
    """The 1,797 digits that scikit-learn ships: three quarters to train on, the rest held out.

    The split is stratified and always the same, whatever the seed of a run. Pixels are scaled
    from 0 to 16 to 0 to 1 and no further: that they are never negative is what makes a rate that
    is too high as harmful here as it is elsewhere.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    learn = partial(need, purpose="the demo's data", extra="demo", package="scikit-learn")
    bundle = learn("sklearn.datasets").load_digits()
    split = learn("sklearn.model_selection").train_test_split
    train_x, held_x, train_y, held_y = split(
        bundle.data.astype(np.float32) / 16,
        bundle.target.astype(np.int64),
        test_size=0.25,
        stratify=bundle.target,
        random_state=0,
    )
    return Digits(train_x, train_y, held_x, held_y)


# ------------------------------------------------------------------------------------- network


def initial(rng: np.random.Generator, inputs: int = 64) -> Params:
    """Random weights, scaled so that every layer keeps its input's variance; biases 0."""

    def weights(rows: int, columns: int, gain: float) -> Array:
        drawn = rng.standard_normal((rows, columns), dtype=np.float32)
        drawn *= math.sqrt(gain / rows)
        return drawn

    return {
        "hidden.weight": weights(inputs, HIDDEN, 2.0),
        "hidden.bias": np.zeros(HIDDEN, np.float32),
        "output.weight": weights(HIDDEN, CLASSES, 1.0),
        "output.bias": np.zeros(CLASSES, np.float32),
    }


def forward(params: Params, x: Array) -> tuple[Array, Array]:
    """The hidden layer, shape (n, HIDDEN), and the scores of the digits, shape (n, CLASSES)."""
    hidden = np.maximum(x @ params["hidden.weight"] + params["hidden.bias"], 0)
    return hidden, hidden @ params["output.weight"] + params["output.bias"]


def log_softmax(scores: Array) -> Array:
    """Logarithms of the probabilities that the scores stand for, row by row."""
    logs: Array = scores - scores.max(axis=1, keepdims=True)
    logs -= np.log(np.exp(logs).sum(axis=1, keepdims=True))
    return logs


def cross_entropy(logs: Array, y: Labels) -> float:
    """Mean of minus the logarithms that the right answers got, in nats."""
    return float((0 - logs[np.arange(len(y)), y]).mean())


def mean_loss(params: Params, x: Array, y: Labels) -> float:
    """Mean cross-entropy, in nats."""
    return cross_entropy(log_softmax(forward(params, x)[1]), y)


def loss_and_gradients(params: Params, x: Array, y: Labels) -> tuple[float, Params]:
    """Mean cross-entropy of a batch, in nats, and its gradient for every parameter."""
    hidden, scores = forward(params, x)
    logs = log_softmax(scores)

    d_scores = np.exp(logs)
    d_scores[np.arange(len(y)), y] -= 1
    d_scores /= np.float32(len(y))
    d_hidden = d_scores @ params["output.weight"].T * (hidden > 0)

    return cross_entropy(logs, y), {
        "hidden.weight": x.T @ d_hidden,
        "hidden.bias": d_hidden.sum(axis=0),
        "output.weight": hidden.T @ d_scores,
        "output.bias": d_scores.sum(axis=0),
    }


def accuracy(params: Params, x: Array, y: Labels) -> float:
    """The part of the images whose digit gets the highest score."""
    return float((forward(params, x)[1].argmax(axis=1) == y).mean())


# ------------------------------------------------------------------------------------ training


@dataclass(frozen=True)
class Run:
    """What one training left behind.

    `losses`: over all training images, before the first epoch and after each, shape
    (epochs + 1,), infinite from where it stopped being a number. `peak`: the largest loss of a
    batch. `accuracy`: on the held-out images, in [0, 1].
    """

    rule: str
    rate: Rate
    losses: NDArray[np.float64]
    peak: float
    accuracy: float

    @property
    def verdict(self) -> str:
        return judge(self.losses, self.peak)


def judge(losses: NDArray[np.float64], peak: float) -> str:
    """Was the rate right? Judged by the run's own losses, for the epochs that it had.

    - `diverged`: the loss is not a number, or ended no lower than it began.
    - `too high`: it went uphill on the way. Either the rises from epoch to epoch add up to more
      than a tenth of the first loss, or a batch lost more than twice the first loss and the run
      did not recover to `good`'s tenth.
    - `good`: it ended below a tenth of the first loss.
    - `too low`: it went downhill steadily, but not that far.

    Args:
        losses: before training and after each epoch, shape (epochs + 1,).
        peak: the largest loss of a batch.
    """
    first, last = losses[0], losses[-1]
    if not np.isfinite(losses).all() or last >= first:
        return "diverged"
    arrived = last < first / 10
    rises = np.maximum(np.diff(losses), 0).sum()
    if rises > first / 10 or (peak > 2 * first and not arrived):
        return "too high"
    return "good" if arrived else "too low"


def train(
    data: Digits,
    rule: str,
    rate: Rate,
    *,
    seed: int = 0,
    epochs: int = EPOCHS,
    tick: Callable[[], object] = lambda: None,
) -> Run:
    """Train the network once.

    The seed alone decides the first weights and the batches, so runs of one seed differ by
    nothing but their rule and rate.

    Args:
        data: the digits.
        rule: the optimizer's class in gradstep.
        rate: its `lr`: a number, a schedule or a callable of the step index.
        seed: of the weights and the batches.
        epochs: passes over the training images, at least 1; a last batch that is not full is
            left out.
        tick: called after each epoch.
    """
    rng = np.random.default_rng(seed)
    params = initial(rng)
    optimizer = getattr(optimizers, rule)(params, lr=rate)
    losses = np.full(epochs + 1, np.inf)
    peak = 0.0
    # A rate that is too high overflows: that is a result here, not a reason to warn.
    with np.errstate(all="ignore"):
        losses[0] = mean_loss(params, data.train_x, data.train_y)
        for epoch in range(1, epochs + 1):
            order = rng.permutation(len(data.train_y))
            for start in range(0, len(order) - BATCH + 1, BATCH):
                batch = order[start : start + BATCH]
                loss, grads = loss_and_gradients(params, data.train_x[batch], data.train_y[batch])
                peak = max(peak, loss)
                if np.isfinite(loss):
                    optimizer.step(grads)
            losses[epoch] = mean_loss(params, data.train_x, data.train_y)
            tick()
        losses[~np.isfinite(losses)] = np.inf
        return Run(rule, rate, losses, peak, accuracy(params, data.held_x, data.held_y))


def scheduled_rates(rate: float, steps: int) -> dict[str, Rate]:
    """A fixed rate, and three that go from three times as much to a third of it.

    Args:
        rate: the fixed one.
        steps: updates of the whole run.
    """
    high, low = 3 * rate, rate / 3
    return {
        "fixed": schedules.constant(rate),
        "step": schedules.step(high, step_size=-(-steps // 3), gamma=1 / 3),
        "exponential": schedules.exponential(high, decay_rate=low / high, decay_steps=steps),
        "cyclical": schedules.cyclic(low, high, step_size=-(-steps // 8)),
    }


def one_blas_thread() -> AbstractContextManager[Any]:
    """Products of matrices as small as the demo's on one thread, while this context lasts.

    A second thread gains nothing on them, and makes them ten times slower where its processor
    is busy with something else.

    Raises:
        ImportError: threadpoolctl, which scikit-learn brings along, is not installed.
    """
    control = need("threadpoolctl", "the demo's training", "demo")
    limits: AbstractContextManager[Any] = control.threadpool_limits(1, user_api="blas")
    return limits


def further_rates(rates: Sequence[float], per_decade: int) -> list[float]:
    """Rates from a tenth of the lowest to ten times the highest of `rates`, without these."""
    low, high = math.log10(min(rates)) - 1, math.log10(max(rates)) + 1
    grid = np.logspace(low, high, round((high - low) * per_decade) + 1)
    return [float(rate) for rate in grid if not np.isclose(rate, rates, rtol=0.1).any()]


# ------------------------------------------------------------------------------------- telling


def rate_table(runs: Sequence[Run]) -> str:
    """The runs with fixed rates as a table."""
    rows = [
        (run.rule, f"{run.rate:g}", number(run.losses[-1]), percent(run.accuracy), run.verdict)
        for run in runs
    ]
    header = ("rule", "rate", "final loss", "held-out", "verdict")
    return table(spaced(rows), header, right="<>>>")


def schedule_table(runs: Mapping[str, Mapping[str, Run]]) -> str:
    """The runs with schedules as a table, each against its rule's fixed rate."""
    rows = []
    for rule, named in runs.items():
        fixed = named["fixed"]
        for name, run in named.items():
            against = "" if run is fixed else compare(run, fixed)
            cells = (number(run.losses[-1]), percent(run.accuracy), run.verdict, against)
            rows.append((rule, name, *cells))
    header = ("rule", "schedule", "final loss", "held-out", "verdict", "loss against fixed")
    return table(spaced(rows), header, right="<<>>")


def compare(run: Run, fixed: Run) -> str:
    """The final loss of a run against that of the fixed rate."""
    mine, theirs = float(run.losses[-1]), float(fixed.losses[-1])
    if not (math.isfinite(mine) and math.isfinite(theirs) and theirs > 0):
        return "-"
    ratio = mine / theirs
    word = "lower" if ratio < 0.8 else "higher" if ratio > 1.25 else "about the same"
    return f"{word} (× {ratio:.2g})"


def speed_table(speeds: Mapping[tuple[str, int], Sequence[bench.Result]]) -> str:
    """The time of a step beside NumPy's as a table."""
    rows = []
    for (rule, elements), results in speeds.items():
        seconds = {result.name: result.seconds for result in results}
        mine, theirs = seconds[bench.OURS], seconds[bench.NUMPY]
        times = (f"{mine * 1e6:,.1f} µs", f"{theirs * 1e6:,.1f} µs", f"{theirs / mine:.1f} ×")
        rows.append((rule, f"{elements:,}", *times))
    header = ("rule", "parameters", "gradstep", "NumPy", "faster by")
    return table(rows, header, right="<>>>>")


def spaced(rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Rows whose first cell is left empty where it repeats the one above."""
    firsts = [row[0] for row in rows]
    return [
        ("" if above == row[0] else row[0], *row[1:])
        for above, row in zip(["", *firsts], rows, strict=False)
    ]


def margin(runs: Sequence[Run], images: int) -> float:
    """Two standard errors of the best run's accuracy on so many images, in percentage points."""
    best = max(run.accuracy for run in runs)
    return 200 * math.sqrt(best * (1 - best) / images)


def number(loss: float) -> str:
    return f"{loss:.4f}" if loss < 1e3 else f"{loss:.1e}" if np.isfinite(loss) else "not finite"


def percent(part: float) -> str:
    return f"{100 * part:.1f}%"


# --------------------------------------------------------------------------------- the whole


@dataclass(frozen=True)
class Outcome:
    """All that the demo found: see `run`."""

    rates: list[Run]
    sweep: list[Run]
    schedules: dict[str, dict[str, Run]]
    speeds: dict[tuple[str, int], list[bench.Result]]
    pictures: list[Path]


Runs = dict[str, list[Run]]  # by rule
Scheduled = dict[str, dict[str, Run]]  # by rule, and by schedule


def train_all(
    data: Digits,
    rules: Sequence[str],
    per_decade: int,
    steps: int,
    seed: int,
    epochs: int,
    bars: Callable[..., Any],
    quiet: bool,
) -> tuple[Runs, Runs, Scheduled]:
    """Train with the three rates of every rule, with further ones, and with its schedules.

    Args:
        data: the digits.
        rules: which of the rules in `RATES`.
        per_decade: how many further rates per decade.
        steps: updates of a run.
        seed: of weights and batches.
        epochs: passes over the training images.
        bars: makes the progress bar.
        quiet: whether there is to be none.
    """
    plans = {rule: scheduled_rates(RATES[rule][1], steps) for rule in rules}
    further = {rule: further_rates(RATES[rule], per_decade) if per_decade else [] for rule in rules}
    count = sum(len(RATES[rule]) + len(further[rule]) + len(plans[rule]) - 1 for rule in rules)
    with bars(total=count * epochs, unit="epoch", quiet=quiet) as bar, one_blas_thread():

        def trained(rule: str, rate: Rate) -> Run:
            bar.set_description(rule)
            return train(data, rule, rate, seed=seed, epochs=epochs, tick=bar.update)

        rates = {rule: [trained(rule, rate) for rate in RATES[rule]] for rule in rules}
        swept = {rule: [trained(rule, rate) for rate in further[rule]] for rule in rules}
        # the fixed schedule is the sensible rate, which has run already
        scheduled = {
            rule: {
                name: rates[rule][1] if name == "fixed" else trained(rule, rate)
                for name, rate in plans[rule].items()
            }
            for rule in rules
        }
    return rates, swept, scheduled


def draw(
    out: Path, rates: Runs, swept: Runs, scheduled: Scheduled, epochs: int, per_epoch: int
) -> list[Path]:
    """Draw the four pictures of the runs into a folder, and return their paths."""
    first = float(next(iter(rates.values()))[0].losses[0])
    everything = {rule: [*runs, *swept[rule]] for rule, runs in rates.items()}
    steps = np.arange(epochs * per_epoch)
    return [
        plots.losses(
            {rule: {f"rate {r.rate:g}: {r.verdict}": r.losses for r in runs}
             for rule, runs in rates.items()},
            out / "loss-by-rate.png", title="Too low, sensible, too high", first=first,
        ),
        plots.losses(
            {rule: {name: r.losses for name, r in runs.items()}
             for rule, runs in scheduled.items()},
            out / "loss-by-schedule.png", title="Fixed and scheduled rates", first=first,
        ),
        plots.schedules(
            {name: rate(steps) for name, rate in scheduled_rates(1.0, len(steps)).items()},
            out / "schedules.png", title="Schedules", per_epoch=per_epoch,
            unit="the rule's fixed rate",
        ),
        plots.by_rate(
            {rule: ([r.rate for r in runs], [r.accuracy for r in runs], [r.verdict for r in runs])
             for rule, runs in everything.items()},
            out / "accuracy-by-rate.png", title=f"Accuracy by rate (epochs: {epochs})",
            chance=1 / CLASSES,
        ),
    ]  # fmt: skip


def measure(
    rules: Sequence[str], seed: int, speed_size: int
) -> dict[tuple[str, int], list[bench.Result]]:
    """The time of a step beside NumPy's, of the network and of one large array."""
    network = [p.size for p in initial(np.random.default_rng(seed)).values()]
    return {
        (rule, sum(size)): bench.compete(
            bench.RULES[rule], size, rivals=(), rounds=3, settle=0.01, measure=0.04
        )[0]
        for size in (network, [speed_size])
        for rule in rules
    }


def run(
    out: Path,
    *,
    seed: int = 0,
    epochs: int = EPOCHS,
    rules: Sequence[str] = tuple(RATES),
    per_decade: int = PER_DECADE,
    speed_size: int = SPEED_SIZE,
    say: Callable[[str], object] = print,
    quiet: bool = False,
) -> Outcome:
    """Train with every rule, rate and schedule; tell the results and draw them.

    Args:
        out: the folder for the pictures, made where missing.
        seed: of weights and batches.
        epochs: passes over the training images of each run, at least 1.
        rules: which of the rules in `RATES`.
        per_decade: how many further rates per decade the picture of accuracy by rate gets.
        speed_size: parameters of the larger of the two speed measurements.
        say: gets each piece of text.
        quiet: no progress bar; there is none anyway where stderr is no terminal.

    Raises:
        ImportError: a package of the extra `demo` is missing.
        OSError: `out` cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    bars = progress.bars("the demo's progress bar", "demo")
    need("matplotlib", "plots", "demo")  # before training, not after it
    data = load()
    per_epoch = len(data.train_y) // BATCH
    say(
        f"{len(data.train_y):,} handwritten digits to train on, {len(data.held_y)} held out. "
        f"Epochs: {epochs}, each of {per_epoch} updates\nwith batches of {BATCH}. Seed: {seed}."
    )

    steps = epochs * per_epoch
    rates, swept, scheduled = train_all(data, rules, per_decade, steps, seed, epochs, bars, quiet)
    told = [run for runs in rates.values() for run in runs]
    say("\n" + rate_table(told))
    say("\n" + schedule_table(scheduled))
    say(
        f"\nHeld-out accuracy is known to about ± {margin(told, len(data.held_y)):.1f} points "
        f"({len(data.held_y)} images).\n"
        "Verdicts come from the training losses alone: `good` ends below a tenth of the\n"
        "first loss, `too low` falls steadily but not that far, `too high` goes uphill on\n"
        "the way, `diverged` ends no lower than it began."
    )

    pictures = draw(out, rates, swept, scheduled, epochs, per_epoch)
    say("\nPictures: " + ", ".join(map(str, pictures)))

    speeds = measure(rules, seed, speed_size)
    say("\nA step, and the same update in NumPy, measured just now (medians):\n")
    say(speed_table(speeds))
    say(f"\n{machine.one_line()}")
    return Outcome(told, [r for runs in swept.values() for r in runs], scheduled, speeds, pictures)
