"""What the examples share: watch a run, compare ways to set the rate, tell and draw it."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from gradstep import plots, schedules
from gradstep.tables import table
from gradstep.torch import Optimizer
from gradstep.tuning import Adapter, Diverged, Monitor, RangeTest, Verdict, range_test

try:
    from tqdm import tqdm
except ImportError:  # then there is no bar
    tqdm = None

Rate = Any  # a number or a schedule
START = 100  # updates that the monitor judges together at first


class Training:
    """One training from its beginning, all of it decided by a seed.

    Attributes:
        title: for headlines.
        unit: of the loss.
        measure: what :meth:`held_out` counts besides the loss, with its unit.
        rate: the one that people start with.
        optimizer: with ``stats``, so that a monitor can read its reports.
    """

    title: ClassVar[str]
    unit: ClassVar[str]
    measure: ClassVar[str]
    rate: ClassVar[float]
    optimizer: Optimizer

    def __init__(self, rate: Rate, seed: int = 0) -> None:
        raise NotImplementedError

    def step(self) -> float:
        """Make one step on the next minibatch; return the loss before it."""
        raise NotImplementedError

    def held_out(self) -> tuple[float, float]:
        """The loss on data that is not trained on, and the measure."""
        raise NotImplementedError


@dataclass(frozen=True)
class Run:
    """What became of a training.

    Attributes:
        losses, rates, ratios: of each update: the loss before it, its rate, and its norm over that
            of the weights.
        start: the monitor's verdict on the first 100 updates.
        marks: updates, and what the monitor said from there on.
        verdict: its last.
        held_out: loss and measure; infinite where the training diverged.
        decisions: of the adapter, in words.
    """

    losses: list[float]
    rates: list[float]
    ratios: list[float]
    start: Verdict
    marks: list[tuple[int, str]]
    verdict: Verdict
    held_out: tuple[float, float]
    decisions: list[str]

    @property
    def trained(self) -> float:
        """The median of the last 20 losses."""
        return float(np.median(self.losses[-20:]))

    @property
    def history(self) -> str:
        """The monitor's verdicts."""
        return ", ".join(f"{kind} from {step}" for step, kind in self.marks) or "inconclusive"


def follow(
    training: Training,
    steps: int,
    *,
    adapt: float | None = None,
    log: Path | None = None,
    bar: str = "",
) -> Run:
    """Train while the monitor looks on; stop where the loss is no number.

    Args:
        training: what to train, from its beginning.
        steps: updates to make.
        adapt: the rate that the adapter starts from, and lowers; None: the rate is left alone.
        log: a file for `gradstep watch`.
        bar: the name of a progress bar with the verdict in it; none where that is empty.
    """
    optimizer = training.optimizer
    watch: Monitor | Adapter = Monitor()
    if adapt is not None:
        watch = Adapter(optimizer, lr=adapt, patience=max(20, steps // 10))
    losses, rates, ratios, marks = [], [], [], []
    start, held_out = watch.verdict, (math.inf, math.inf)
    shown = (
        tqdm(total=steps, desc=bar, disable=None, leave=False) if tqdm and bar else nullcontext()
    )
    with shown as progress, log.open("w") if log else nullcontext() as file:
        for step in range(1, steps + 1):
            loss = training.step()
            report = optimizer.report
            losses.append(loss)
            rates.append(report.lr)
            ratios.append(report.update_norm / report.param_norm)
            if file:
                known = json.loads(report.to_json())
                known["loss"] = loss if math.isfinite(loss) else None
                file.write(json.dumps(known) + "\n")
            try:
                verdict = watch(report, loss)
            except Diverged:
                break
            if step <= START:
                start = watch.verdict
            new = watch.verdict.kind
            if new != "inconclusive" and (not marks or marks[-1][1] != new):
                marks.append((step, new))
            if progress is not None:
                progress.set_postfix_str(verdict.line, refresh=False)
                progress.update()
            if not math.isfinite(loss):
                break
        else:
            held_out = training.held_out()
    decisions = [
        f"update {one.step}: {one.action}, rate × {one.after:.2g} from here ({one.reason})"
        for one in (watch.decisions if isinstance(watch, Adapter) else [])
    ]
    return Run(losses, rates, ratios, start, marks, watch.verdict, held_out, decisions)


def ways(rate: float, steps: int) -> dict[str, Rate]:
    """Four schedules that begin at a rate or rise to it, none above it; cyclical: four cycles."""
    return {
        "fixed": schedules.constant(rate),
        "step": schedules.step(rate, step_size=-(-steps // 3), gamma=1 / 3),
        "exponential": schedules.exponential(rate, decay_rate=0.1, decay_steps=steps),
        "cyclical": schedules.cyclic(rate / 10, rate, step_size=max(1, steps // 8)),
    }


def compare(kind: type[Training], rate: float, steps: int, seeds: int) -> dict[str, list[Run]]:
    """Every way to set the rate, each with the same seeds: first weights and minibatches."""
    runs = {
        name: [follow(kind(given, seed), steps, bar=f"{name}, {rate:.2g}") for seed in range(seeds)]
        for name, given in ways(rate, steps).items()
    }
    runs["adaptive"] = [
        follow(kind(rate, seed), steps, adapt=rate, bar=f"adaptive, {rate:.2g}")
        for seed in range(seeds)
    ]
    return runs


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation, over seeds."""
    lost = sum(not math.isfinite(value) for value in values)
    if lost:
        return f"diverged in {lost} of {len(values)}"
    deviation = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{deviation}"


def comparison(kind: type[Training], runs: Mapping[float, Mapping[str, Sequence[Run]]]) -> str:
    """The ways side by side, each against the fixed rate that it begins with, seed by seed."""
    rows = []
    for rate, named in runs.items():
        for name, several in named.items():
            pairs = zip(several, named["fixed"], strict=True)
            lower = sum(mine.held_out[0] < theirs.held_out[0] for mine, theirs in pairs)
            rows.append(
                (
                    f"{rate:.2g}" if name == "fixed" else "",
                    name,
                    spread([run.trained for run in several]),
                    spread([run.held_out[0] for run in several]),
                    spread([run.held_out[1] for run in several]),
                    "" if name == "fixed" else f"{lower} of {len(several)}",
                )
            )
    header = ("from", "rate", "training loss", "held-out loss", kind.measure, "lower than fixed")
    return table(rows, header, right="><>>>>")


def draw(
    out: Path,
    title: str,
    run: Run,
    near: Mapping[str, Run],
    runs: Mapping[float, Mapping[str, Sequence[Run]]],
) -> list[Path]:
    """The pictures, but for the range test's."""
    made = [
        plots.run(run.losses, run.rates, run.ratios, out / "run.png", title=title, marks=run.marks),
        plots.runs(
            {name: (one.losses, one.start.kind) for name, one in near.items()},
            out / "rates.png", title=f"{title}: verdicts after {START} updates",
        ),
    ]  # fmt: skip
    for rate, named in runs.items():
        first = {name: several[0] for name, several in named.items()}
        headline = f"{title}: from {rate:.2g}, first seed"
        made += [
            plots.runs(
                {name: (one.losses, f"{one.held_out[0]:.3f} held out")
                 for name, one in first.items()},
                out / f"ways-from-{rate:.2g}.png", title=headline, smooth=20,
            ),
            plots.schedules(
                {name: np.array(one.rates) / rate for name, one in first.items()},
                out / f"schedules-from-{rate:.2g}.png", title=headline, unit=f"{rate:.2g}",
            ),
        ]  # fmt: skip
    return made


@dataclass(frozen=True)
class Outcome:
    """All that an example found: see :func:`main`."""

    found: RangeTest
    run: Run
    near: dict[str, Run]
    runs: dict[float, dict[str, list[Run]]]
    pictures: list[Path]


def main(
    kind: type[Training], plan: str, steps: int, arguments: Sequence[str] | None = None
) -> Outcome:
    """Range test, a run with the monitor, its diagnosis, the comparison, and the pictures.

    Args:
        kind: the training.
        plan: which of :func:`ways` the run is to have.
        steps: updates of a run, where the command line does not say.
        arguments: the command line.
    """
    parser = argparse.ArgumentParser(description=kind.__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="runs a row (default: %(default)s)")
    parser.add_argument(
        "--steps", type=int, default=steps, help="updates of a run (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, help="folder for pictures and log (default: none)")
    given = parser.parse_args(arguments)
    if given.seeds < 1 or given.steps < START:
        parser.error(f"wanted at least 1 seed and {START} steps, so that there is a verdict")
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
    steps, rate = given.steps, kind.rate
    # Products this small gain nothing from a second thread, and are the same on any machine.
    torch.set_num_threads(1)

    print(f"{kind.title}\n\nRange test, {START} updates that are undone:")
    training = kind(rate)
    found = range_test(training.step, training.optimizer)
    print(f"  {found}")

    print(f"\nA run of {steps} updates, Adam at {rate:g}, {plan}:")
    log = given.out / "run.jsonl" if given.out else None
    run = follow(kind(ways(rate, steps)[plan]), steps, log=log, bar=plan)
    loss, measured = run.held_out
    print(f"  loss {run.losses[0]:.3f} before, {run.trained:.3f} at the end, {loss:.3f} held out")
    print(f"  {kind.measure}: {measured:.3f}")
    print(f"  the monitor after {START} updates: {run.start}")
    print(f"  what it said from when on: {run.history}")
    print(f"  at the end: {run.verdict}")

    print("\nDiagnosis of rates around it:")
    near = {f"{r:g}": follow(kind(r), steps, bar=f"{r:g}") for r in (rate / 10, rate, rate * 10)}
    rows = [
        (name, one.start.line, one.history, spread([one.held_out[0]])) for name, one in near.items()
    ]
    print(table(rows, ("rate", f"after {START} updates", "all of them", "held-out loss"), ">"))

    print(
        f"\nFive ways from the rate that people start with, and from the range test's. Losses in "
        f"{kind.unit};\nmean ± standard deviation, seeds: {given.seeds}"
    )
    begins = [rate] if found.suggestion is None else [rate, found.suggestion]
    runs = {begin: compare(kind, begin, steps, given.seeds) for begin in begins}
    print(comparison(kind, runs))
    decisions = [
        f"from {begin:.2g}, seed {seed}, {decision}"
        for begin, named in runs.items()
        for seed, one in enumerate(named["adaptive"])
        for decision in one.decisions
    ]
    print("What the adapter did:", *(decisions or ["nothing"]), sep="\n  ")

    pictures = []
    if given.out:
        pictures = [found.plot(given.out / "range-test.png")]
        pictures += draw(given.out, kind.title, run, near, runs)
        print("\nPictures:", *pictures)
        print(f"The same diagnosis from the log: gradstep watch {log}")
    return Outcome(found, run, near, runs, pictures)
