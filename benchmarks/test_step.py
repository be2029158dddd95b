"""Each rule at each size, rivals in the same group; what is timed is also checked."""

import numpy as np
import pytest

import report
from gradstep import bench
from workloads import WORKLOADS

RACERS = {"gradstep": bench.ours, "numpy": bench.plain_numpy, **bench.RIVALS}


@pytest.mark.parametrize("racer_name", RACERS)
@pytest.mark.parametrize("rule_name", bench.RULES)
@pytest.mark.parametrize(
    "workload",
    [
        pytest.param(name, marks=pytest.mark.slow if sum(size) > 10**8 else ())
        for name, size in WORKLOADS.items()
    ],
)
def test_step(benchmark, workload, rule_name, racer_name):
    if racer_name in bench.RIVALS:
        pytest.importorskip(racer_name)
    benchmark.group = f"{rule_name}, {workload}"
    rule, size = bench.RULES[rule_name], WORKLOADS[workload]
    params, grads = bench.problem(size)
    racer = RACERS[racer_name](rule, params, grads)
    expected = bench.exact(rule, params, grads)
    for _ in range(bench.CHECKED_STEPS):
        racer.step(racer.gradients())
    assert bench.difference(racer, expected, params) <= bench.TOLERANCE
    benchmark.pedantic(
        racer.step,
        setup=lambda: ((racer.gradients(),), {}),
        rounds=max(5, min(200, 10**7 // sum(size))),
        warmup_rounds=3,
    )


@pytest.mark.parametrize("workload", ["65,536 (L2)", "1,048,576 (L3)", "2,000 × 1,000"])
def test_only_moving_the_bytes(benchmark, workload):
    """The bare loop, in AdamW's group: what the memory allows."""
    benchmark.group = f"AdamW, {workload}"
    racer = bench.moving(bench.RULES["AdamW"], sum(WORKLOADS[workload]))
    (gradient,) = racer.gradients()
    benchmark.pedantic(racer.step, args=([gradient],), rounds=50, warmup_rounds=3)
    assert np.all(gradient == 1)


def test_rules_of_two_passes(monkeypatch):
    """`report.py two-passes` checks everybody against float64 before it times them."""
    monkeypatch.setitem(report.TWO_PASSES_SIZES, "small", (3000, 1, 70))
    monkeypatch.setattr(bench, "race", lambda racers, **_: {racer.name: 1.0 for racer in racers})
    peers = {"optax LAMB", "optax LARS"} if bench.present("optax") else set()
    assert set(report.measure_two_passes("small")) == {"AdamW", "LAMB", "LARS"} | peers
    monkeypatch.setattr(report, "LARS_RATE", 9.9)
    with pytest.raises(AssertionError, match="LARS: differs from float64"):
        report.measure_two_passes("small")
