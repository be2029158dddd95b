"""Each rule at each size, rivals in the same group; what is timed is also checked."""

import json

import numpy as np
import pytest

import report
import rules
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
    rule, size = bench.RULES[rule_name], WORKLOADS[workload]
    if racer_name in bench.RIVALS and (reason := bench.missing(racer_name, rule)):
        pytest.skip(reason)
    if racer_name == "numpy" and rule.plain is None:
        pytest.skip("people do not write it in NumPy")
    if racer_name == "optax" and rule_name != "AdamW" and len(size) > 100:
        pytest.skip("XLA takes up to minutes to compile an update of so many arrays: one is enough")
    benchmark.group = f"{rule_name}, {workload}"
    params, grads = bench.problem([bench.shape_of(rule, n) for n in size])
    racer = RACERS[racer_name](rule, params, grads)
    (difference,) = bench.check(rule, [racer], params, grads).values()
    if racer_name == "optax" and rule.plain is None and difference > bench.TOLERANCE:
        pytest.skip("another convention's update")
    assert difference <= rule.tolerance
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
    monkeypatch.setattr(bench, "LARS_RATE", 9.9)
    with pytest.raises(AssertionError, match="LARS: differs from float64"):
        report.measure_two_passes("small")


@pytest.mark.parametrize("name", bench.RULES)
def test_a_row_of_the_table_of_rules(monkeypatch, name):
    """`report.py rules` checks everybody who has the rule, and takes torch's fastest form."""
    rule = bench.RULES[name]
    monkeypatch.setattr(rules, "shapes", lambda rule, _: [bench.shape_of(rule, 600)])
    times = {bench.OURS: 2.0, bench.MOVE: 1.0}
    monkeypatch.setattr(
        bench,
        "race",
        lambda racers, **_: {r.name: times.get(r.name, 3.0 + len(r.name) / 100) for r in racers},
    )
    run = rules.measure(json.dumps([name, "1M", 1]))
    assert run[bench.OURS][1] <= bench.TOLERANCE
    cells = rules.row(name, "1M", [run, run])
    assert cells[:5] == [
        name, str(rule.bytes_moved), str(len(rule.passes)), f"{2 / 600 * 1e9:.3f}", "2.00"
    ]  # fmt: skip
    for rival, cell in zip((rules.TORCH, rules.OPTAX), cells[5:], strict=True):
        assert (cell == "—") == bool(bench.missing(rival, rule))
    if cells[5] != "—":  # the shortest title has none of the options
        assert cells[5].endswith(", default")


def test_the_table_of_rules_checks_ours(monkeypatch):
    monkeypatch.setattr(bench, "LR", 2e-3)  # of the formula in NumPy alone
    with pytest.raises(AssertionError, match="AdamW: gradstep differs from float64"):
        rules.measure(json.dumps(["AdamW", "1M", 1]))
