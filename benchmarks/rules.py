"""Every rule of the catalogue against the bare loop of its bytes, torch's and optax's.

`report.py rules [--size SIZE ...] [--rules RULE ...] [--rounds N]` prints the table.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from statistics import median

from gradstep import bench
from workloads import GPT2_MATRICES, GPT2_SHAPES, Shape

SIZES = {"1M": "1M, in L3", "GPT-2": "GPT-2's 124M, in memory"}
ROUNDS = {"1M": 7, "GPT-2": 3}
SMALL = (1000, 24)  # where everyone's update is checked
OPTAX, TORCH = "optax", "torch"


NOTE = """
All take turns in one process. The bare loop makes the passes of the rule over as many bytes and
computes nothing; bytes: per parameter, of all passes. One pass reads and writes the parameter and
its states and reads the gradient. Of two, the first reads parameter and gradient and reads and
writes the states that it gathers; the second reads these, and the gradient where it has other
states to write; Adafactor's sums by row and column read the gradient in a pass before. torch: the
fastest of fused, foreach and default; optax: under jit, donated; ≠: another convention's update, by
more than 0.001 of one. Muon's products are in no bytes, ours and optax's are in float32, torch's
in bfloat16 (muon.py compares like with like); in memory it has the matrices of GPT-2's blocks
alone, 85M."""


def shapes(rule: bench.Rule, size: str) -> Sequence[Shape]:
    """The shapes of the parameters; a rule for matrices alone gets those of GPT-2's blocks."""
    if size == "1M":
        return [bench.shape_of(rule, 1 << 20)]
    return GPT2_MATRICES if rule.value.has_direction else GPT2_SHAPES


def contestants(
    rule: bench.Rule, params: Sequence[bench.Array], grads: Sequence[bench.Array]
) -> list[bench.Racer]:
    """Ours, torch's in each form that it has, and optax's."""
    racers = [bench.ours(rule, params, grads)]
    if bench.missing(TORCH, rule) is None:
        racers += [bench.torch_step(rule, params, grads, form) for form in bench.torch_forms(rule)]
    if bench.missing(OPTAX, rule) is None:
        racers.append(bench.optax_step(rule, params, grads))
    return racers


def measure(argument: str) -> dict[str, tuple[float, float]]:
    """Seconds of each contestant and of the bare loop, and how far the update is from float64.

    Args:
        argument: as JSON the rule, the size and how many rounds.

    Raises:
        AssertionError: ours or torch's is another update.
    """
    name, size, rounds = json.loads(argument)
    rule = bench.RULES[name]
    small = bench.problem([bench.shape_of(rule, n) for n in SMALL])
    off = bench.check(rule, contestants(rule, *small), *small)
    for racer, difference in off.items():
        if not difference <= rule.tolerance and not racer.startswith(OPTAX):
            raise AssertionError(f"{name}: {racer} differs from float64 by {difference:.1e}")
    problem = bench.problem(shapes(rule, size))
    elements = sum(p.size for p in problem[0])
    racers = [*contestants(rule, *problem), bench.moving(rule, elements)]
    seconds = bench.race(racers, rounds=rounds)
    return {racer: (s, off.get(racer, 0.0)) for racer, s in seconds.items()}


def row(name: str, size: str, runs: Sequence[dict[str, tuple[float, float]]]) -> list[str]:
    """The cells of a rule, of what `measure` returned in each process."""
    rule = bench.RULES[name]
    elements = sum(math.prod(shape) for shape in shapes(rule, size))

    def over_ours(racer: str) -> float:
        return median(run[racer][0] / run[bench.OURS][0] for run in runs)

    forms = [racer for racer in runs[0] if racer.startswith(TORCH)]
    fastest = min(forms, key=over_ours, default="")
    optax = next((racer for racer in runs[0] if racer.startswith(OPTAX)), "")
    other = "" if not optax or runs[0][optax][1] <= bench.TOLERANCE else " ≠"
    form = fastest.partition(" ")[2].partition(" ")[2] or "default"
    seconds = median(run[bench.OURS][0] for run in runs)
    return [
        name,
        str(rule.bytes_moved),
        str(len(rule.passes)),
        f"{seconds / elements * 1e9:.3f}",
        f"{1 / over_ours(bench.MOVE):.2f}",
        f"{over_ours(fastest):.2f}, {form}" if fastest else "—",
        f"{over_ours(optax):.2f}{other}" if optax else "—",
    ]


def show(
    in_processes: Callable[[str, str], list],
    names: Sequence[str] | None = None,
    sizes: Sequence[str] | None = None,
    rounds: int | None = None,
) -> None:
    """Print a table for each size.

    Args:
        in_processes: what the measurement of a name returned in each of several processes.
        names: the rules; None: all.
        sizes: out of `SIZES`; None: all.
        rounds: how often everyone takes a turn in a process.
    """
    for size in sizes or SIZES:
        print(f"\n### {SIZES[size]}, float32\n")
        print(
            "| rule | bytes | passes | ns per parameter | over the bare loop's | "
            "torch's fastest over ours | optax's over ours |\n|---|---|---|---|---|---|---|"
        )
        for name in names or bench.RULES:
            argument = json.dumps([name, size, rounds or ROUNDS[size]])
            print(f"| {' | '.join(row(name, size, in_processes('rule', argument)))} |", flush=True)
    print(NOTE)
