"""The tables of the step where it runs, from what `gradstep.bench_training` measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median

from gradstep import bench_training as training

Run = Mapping[str, Sequence[float]]  # by contestant: seconds of a step and of an iteration
MANY_TENSORS = "1,000 layers of 64 × 64"


def ratio(runs: Sequence[Run], over: str, under: str, column: int = 0) -> float:
    """The median over processes of one contestant's time over another's."""
    return median(run[over][column] / run[under][column] for run in runs)


def times(runs: Sequence[Run], *names: str) -> list[str]:
    """The median over processes of each contestant's step, to be read."""
    return [training.show_time(median(run[name][0] for run in runs)) for name in names]


def show(measure: Callable[[str, str], list[Run]]) -> None:
    """Print the tables; `measure(measurement, name)` gives one result per process."""
    show_networks(measure)
    show_first_steps(measure("first-steps", MANY_TENSORS))
    show_sizes(measure)


def show_networks(measure: Callable[[str, str], list[Run]]) -> None:
    """Each network: the step after its backward pass, and the whole iteration."""
    print(
        "| AdamW, float32, right after `loss.backward()` | ours | torch fused | ratio "
        "| torch default | ratio | ours with q8 states / fused | iteration: fused / ours "
        "| fused / fused |\n|---|---|---|---|---|---|---|---|---|"
    )
    for name in training.NETWORKS:
        runs = measure("training", name)
        ours, fused, default = times(runs, training.OURS, training.FUSED, training.DEFAULT)
        print(
            f"| {name} | {ours} "
            f"| {fused} | {ratio(runs, training.FUSED, training.OURS):.2f} "
            f"| {default} | {ratio(runs, training.DEFAULT, training.OURS):.1f} "
            f"| {ratio(runs, training.Q8, training.FUSED):.2f} "
            f"| {ratio(runs, training.FUSED, training.OURS, 1):.3f} "
            f"| {ratio(runs, training.FUSED, training.AGAIN, 1):.3f} |"
        )


def show_first_steps(runs: Sequence[Run]) -> None:
    """The first steps of a fresh process."""
    count = len(runs[0][training.OURS])
    print(f"\nThe first {count} steps of {MANY_TENSORS}, in a fresh process:\n")
    for who in (training.OURS, training.FUSED):
        times = (median(run[who][i] for run in runs) for i in range(count))
        print(f"- {who}: " + ", ".join(map(training.show_time, times)))


def show_sizes(measure: Callable[[str, str], list[Run]]) -> None:
    """Each size: the step after a product of matrices in NumPy."""
    print(
        "\n| AdamW, float32, right after a product in NumPy | ours | on one thread | ratio "
        "| formula in NumPy | ratio |\n|---|---|---|---|---|---|"
    )
    for name in training.SIZES:
        runs = measure("training", name)
        ours, one, formula = times(
            runs, training.ALL_THREADS, training.ONE_THREAD, training.FORMULA
        )
        print(
            f"| {name} | {ours} "
            f"| {one} | {ratio(runs, training.ONE_THREAD, training.ALL_THREADS):.2f} "
            f"| {formula} | {ratio(runs, training.FORMULA, training.ALL_THREADS):.1f} |"
        )
