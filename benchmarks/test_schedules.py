"""Schedules: each shape against its NumPy formula, and what a value costs.

`pytest benchmarks/test_schedules.py`; rivals are in one group. `report.py schedules` prints ratios.
"""

import numpy as np
import pytest

import gradstep as gs
from gradstep import schedules
from schedule_rivals import shapes

N = 10**6
SHAPES = shapes(N)


@pytest.mark.parametrize("rival", ["gradstep, range", "gradstep, array", "numpy"])
@pytest.mark.parametrize("name", SHAPES)
def test_many_steps(benchmark, name, rival):
    s, formula = SHAPES[name]
    t, out = np.arange(N), np.zeros(N)
    benchmark.group = f"{name}, {N:,} steps"
    if rival == "numpy":
        result = benchmark(formula, t)
    elif rival == "gradstep, array":
        result = benchmark(s, t, out=out)
    else:
        result = benchmark(s.range, 0, N, out=out)
    np.testing.assert_allclose(result, formula(t), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", SHAPES)
def test_one_step(benchmark, name):
    benchmark.group = "one step"
    assert isinstance(benchmark(SHAPES[name].schedule, 500), float)


@pytest.mark.parametrize("rates", ["fixed", "scheduled"])
def test_a_hundred_groups(benchmark, rates):
    kinds = [SHAPES[name].schedule for name in ("warmup", "wsd, 1-sqrt", "one_cycle", "noam")]
    groups = [
        {"params": [np.zeros(1)], "lr": kinds[i % 4] if rates == "scheduled" else 0.1}
        for i in range(100)
    ]
    opt, gradients = gs.SGD(groups, lr=0.1), [[np.ones(1)]] * 100
    benchmark.group = "a step of 100 groups"
    assert benchmark(opt.step, gradients).t > 0


def test_the_shapes_are_all_there():
    shown = {s.schedule.to_dict()["schedule"] for s in SHAPES.values()}
    made = {name for name in schedules.__all__ if name in schedules.base.MAKERS}
    assert made - shown == {"join"}
