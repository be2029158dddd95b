"""Rules without a rate to choose beside a searched rate: `python benchmarks/ratefree.py`.

Three trainings: that of docs/choosing-a-rate.md and the two examples, 5 seeds each. Every rule has
its defaults; Adam and SGD have the rate of a grid that ends lowest with seeds of its own. A run
that ends above nine tenths of the loss that it began with, or at no number, counts as failed. Needs
PyTorch and the extra `demo`; all three take some 4 minutes on two cores.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import gradstep as gs
from gradstep.tables import table
from rate_problems import PROBLEMS

SEEDS = range(5)
RATES = [10 ** (k / 4) for k in range(-12, 3)]
# The rule, how it is made but for the parameters, and whether its rate is searched.
RULES: dict[str, tuple[str, dict[str, Any], bool]] = {
    "SGD, searched": ("SGD", {}, True),
    "Adam, searched": ("Adam", {}, True),
    "Adam, default": ("Adam", {}, False),
    "ScheduleFreeSGD": ("ScheduleFreeSGD", {}, False),
    "ScheduleFreeAdamW": ("ScheduleFreeAdamW", {}, False),
    "Prodigy": ("Prodigy", {}, False),
    "DAdaptAdamW": ("DAdaptAdamW", {}, False),
    "DoG": ("DoG", {}, False),
    "DoWG": ("DoWG", {}, False),
    "PolyakSGD": ("PolyakSGD", {}, False),
}


def digits(rule: str, options: dict[str, Any], seed: int, updates: int) -> tuple[float, float]:
    """The page's network on handwritten digits: the loss of all of them before and after."""
    task = PROBLEMS["digits"].make(seed)
    opt = getattr(gs, rule)(task.params, **options)
    before = task.loss()
    for _ in range(updates):
        loss, gradients = task.batch()
        if not np.isfinite(loss):
            return before, np.inf
        opt.step(gradients, loss=loss if opt.rule.takes_loss else None)
    if not opt.rule.shows:
        return before, task.loss()
    with opt.averaged():
        return before, task.loss()


def example(name: str) -> Callable[[str, dict[str, Any], int, int], tuple[float, float]]:
    """One of examples/: the loss of the first batch, and the held-out loss after."""

    def run(rule: str, options: dict[str, Any], seed: int, updates: int) -> tuple[float, float]:
        sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
        import digits_cnn  # noqa: PLC0415 - PyTorch is not needed for the page's own
        import gradstep.torch as gt  # noqa: PLC0415
        import topics_lstm  # noqa: PLC0415

        kind = {"digits_cnn": digits_cnn.Digits, "topics_lstm": topics_lstm.Topics}[name]
        training = kind(kind.rate, seed)
        opt = getattr(gt, rule)(training.model.parameters(), **options)
        taken: list[float] = []
        plain_step, training.optimizer = opt.step, opt
        if opt.rule.takes_loss:  # a training of the examples steps before it returns the loss
            opt.step = lambda: None
        for _ in range(updates):
            taken.append(training.step())
            if not np.isfinite(taken[-1]):
                return taken[0], np.inf
            if opt.rule.takes_loss:
                plain_step(loss=taken[-1])
        if not opt.rule.shows:
            return taken[0], training.held_out()[0]
        with opt.averaged():
            return taken[0], training.held_out()[0]

    return run


# How a training is run, its updates, and the seeds and rates of its search.
TRAININGS = {
    "digits": (digits, 400, range(1000, 1003), RATES),
    "digits_cnn": (example("digits_cnn"), 420, range(1000, 1001), RATES[4:9]),
    "topics_lstm": (example("topics_lstm"), 100, range(1000, 1001), RATES[4:9]),
}


def row(training: str, name: str) -> tuple[str, str, str, str]:
    """What became of one rule."""
    run, updates, seeds, rates = TRAININGS[training]
    rule, options, searched = RULES[name]
    shown = ""
    if searched:
        ends = [
            np.mean([run(rule, {"lr": lr}, seed, updates)[1] for seed in seeds]) for lr in rates
        ]
        best = rates[int(np.argmin(np.nan_to_num(ends, nan=np.inf)))]
        options, shown = {"lr": best}, f"{best:.2g}"
    ends, failed = [], 0
    for seed in SEEDS:
        before, after = run(rule, options, seed, updates)
        failed += not after < 0.9 * before
        ends.append(after)
    finite = [end for end in ends if np.isfinite(end)]
    mean = f"{np.mean(finite):.3f} ± {np.std(finite, ddof=1):.3f}" if len(finite) > 1 else "none"
    span = f"{min(finite):.3f} to {max(finite):.3f}" if finite else ""
    return name + (f" {shown}" if shown else ""), mean, span, f"{failed} of {len(ends)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("training", nargs="*", help=", ".join(TRAININGS))
    parser.add_argument("--rule", action="append", help="a row alone; several times for several")
    given = parser.parse_args()
    for training in given.training or TRAININGS:
        names = given.rule or [
            name for name in RULES if training == "digits" or name != "SGD, searched"
        ]
        print(f"\n{training}, {TRAININGS[training][1]} updates", flush=True)
        rows = []
        for name in names:
            rows.append(row(training, name))
            print(*rows[-1], file=sys.stderr, flush=True)
        print(table(rows, ("rule", "loss", "lowest to highest", "failed")), flush=True)


if __name__ == "__main__":
    main()
