"""Is this build slower than another? `python benchmarks/compare.py BASE NEW [TABLE ...]`.

BASE and NEW are folders that hold the package: `python/` of a checkout whose core is built, or what
`pip install --no-deps --target FOLDER` made of a wheel. Each row of the tables `step`, `one-pass`,
`pytorch` and `training` is timed in three processes that take turns: one of BASE, one of NEW, and a
second one of BASE, which shows how far a build is from itself. A row counts as slower where its
median ratio is above 1.02 by more than that distance. Each pair has new processes, since it matters
where memory happens to lie.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path
from statistics import median

ROUNDS = 3
ALLOWED = 0.02


def trainee(row: str):
    """The contestant of a row of the table `training`: a network or a size, and who steps."""
    from gradstep import bench_training  # noqa: PLC0415

    name, who = row.split(": ")
    networks = name in bench_training.NETWORKS
    found = bench_training.of_network(name) if networks else bench_training.of_size(name)
    return next(one for one in found if one.name == who)


def racer_of(table: str, row: str):
    """The contestant of a row, made by the package that this process imports."""
    from gradstep import bench  # noqa: PLC0415 - the package is chosen by the process

    if table == "step":
        from workloads import WORKLOADS  # noqa: PLC0415

        params, grads = bench.problem(WORKLOADS[row])
        return bench.ours(bench.RULES["AdamW"], params, grads)
    if table == "one-pass":
        import one_pass  # noqa: PLC0415

        return one_pass.prepare(one_pass.CASES[row], [bench.OURS])[0][0]
    import adapter  # noqa: PLC0415
    import gradstep.torch  # noqa: PLC0415

    return adapter.racer("ours", gradstep.torch.AdamW, adapter.CASES[row][0])


def rows(table: str) -> list[str]:
    """The rows of a table."""
    if table == "step":
        from workloads import WORKLOADS  # noqa: PLC0415

        return list(WORKLOADS)
    if table == "one-pass":
        import one_pass  # noqa: PLC0415

        return list(one_pass.CASES)
    if table == "training":
        from gradstep import bench_training as training  # noqa: PLC0415

        networks = [
            f"{name}: {who}" for name in training.NETWORKS for who in (training.OURS, training.Q8)
        ]
        return networks + [f"{name}: {training.ALL_THREADS}" for name in training.SIZES]
    import adapter  # noqa: PLC0415

    return list(adapter.CASES)


TABLES = ("step", "one-pass", "pytorch", "training")


def timed(table: str, row: str) -> Callable[[], float]:
    """What times a batch of a row's steps, in seconds each."""
    from gradstep import bench, bench_training  # noqa: PLC0415

    if table == "training":
        stepping = trainee(row)

        def seconds() -> float:
            stepping.steps.clear()
            bench_training.race([stepping], rounds=1)
            return median(stepping.steps)

        return seconds
    racer = racer_of(table, row)
    for _ in range(bench.CHECKED_STEPS):
        racer.step(racer.gradients())
    return lambda: bench.race([racer], rounds=1)[racer.name]


def work(table: str, row: str) -> None:
    """A process that times a batch of steps whenever it is told to."""
    seconds = timed(table, row)
    print("ready", flush=True)
    for _ in sys.stdin:
        print(seconds(), flush=True)


class Worker:
    """One process, of one commit."""

    def __init__(self, package: str, table: str, row: str) -> None:
        here = Path(__file__).parent
        self.process = subprocess.Popen(
            [sys.executable, __file__, package, package, "--work", table, row],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([package, str(here)])},
        )
        assert self._line() == "ready", f"{package}: {table}: {row}: did not start"

    def _line(self) -> str:
        return self.process.stdout.readline().strip()

    def seconds(self) -> float:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self._line())

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def pairs(base: str, new: str, table: str, row: str, count: int) -> Iterator[tuple[float, float]]:
    """NEW's time over BASE's, and BASE's over its own, of new processes each."""
    orders = list(permutations(range(3)))
    for i in range(count):
        workers = [Worker(package, table, row) for package in (base, new, base)]
        times: list[list[float]] = [[], [], []]
        for k in range(ROUNDS):
            for which in orders[(i + k) % len(orders)]:
                times[which].append(workers[which].seconds())
        for worker in workers:
            worker.end()
        first, ours, second = map(median, times)
        yield ours / first, second / first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("base")
    parser.add_argument("new")
    parser.add_argument("tables", nargs="*", default=TABLES)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(*arguments.work)
        return
    sys.path.insert(0, arguments.new)
    slower = []
    print("| table | row | NEW over BASE | BASE over itself | slower |\n|---|---|---|---|---|")
    for table in arguments.tables:
        for row in rows(table):
            found = list(pairs(arguments.base, arguments.new, table, row, arguments.pairs))
            ratio, itself = (median(column) for column in zip(*found, strict=True))
            is_slower = ratio - 1 > ALLOWED + abs(itself - 1)
            slower += [f"{table}: {row}"] * is_slower
            mark = "yes" if is_slower else ""
            print(f"| {table} | {row} | {ratio:.3f} | {itself:.3f} | {mark} |", flush=True)
    print(f"\nMedians of {arguments.pairs} pairs. Slower: {', '.join(slower) or 'none'}")


if __name__ == "__main__":
    main()
