"""The importers against the packages themselves, over whole ranges and random parameters."""

from __future__ import annotations

import math
import os
import warnings

import numpy as np
import pytest

import gradstep as gs
from gradstep import schedules
from gradstep.schedules import compat

STEPS = 48
CASES = [pytest.param(60, id="some"), pytest.param(1000, id="a thousand", marks=pytest.mark.slow)]


def close(ours, theirs, peak, what):
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-11 * peak, err_msg=what)


# ---- PyTorch ----


@pytest.fixture
def lr_scheduler():
    return pytest.importorskip("torch", reason="torch is in the group oracles").optim.lr_scheduler


def torch_optimizer(lr, rule="SGD"):
    import torch  # noqa: PLC0415

    params = [torch.zeros(1, requires_grad=True) for _ in range(2)]
    groups = [{"params": [params[0]], "lr": lr}, {"params": [params[1]], "lr": lr / 3}]
    options = {"momentum": 0.9} if rule == "SGD" else {}
    optimizer = getattr(torch.optim, rule)(groups, **options)
    optimizer._opt_called = True
    return optimizer


def played(optimizer, scheduler, steps=STEPS, key="lr"):
    """The values of both groups at each step."""
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(steps):
            rows.append([group[key] for group in optimizer.param_groups])
            scheduler.step()
    return np.array(rows)


def integer(rng, low, high):
    return int(rng.integers(low, high, endpoint=True))


def random_torch(name, lr_scheduler, optimizer, lr, rng):
    """A scheduler with random arguments, and the steps it may take."""
    s, n = lr_scheduler, integer(rng, 1, 20)
    gamma = float(rng.choice([0.1, 0.5, rng.uniform(0.3, 1.0)]))
    if name == "ConstantLR":
        return s.ConstantLR(optimizer, rng.uniform(0.1, 1), integer(rng, 0, 30)), STEPS
    if name == "LinearLR":
        factors = rng.uniform(0.1, 1), rng.uniform(0.1, 1)
        return s.LinearLR(optimizer, *factors, integer(rng, 0, 30)), STEPS
    if name == "StepLR":
        return s.StepLR(optimizer, n, gamma), STEPS
    if name == "MultiStepLR":
        milestones = rng.integers(0, 40, integer(rng, 0, 5)).tolist()
        return s.MultiStepLR(optimizer, milestones, gamma), STEPS
    if name == "ExponentialLR":
        return s.ExponentialLR(optimizer, gamma), STEPS
    if name == "PolynomialLR":
        return s.PolynomialLR(optimizer, integer(rng, 0, 40), rng.uniform(0.3, 3)), STEPS
    if name == "CosineAnnealingLR":
        return s.CosineAnnealingLR(optimizer, integer(rng, 2, 30), lr * rng.uniform(0, 0.3)), STEPS
    if name == "CosineAnnealingWarmRestarts":
        low = lr * rng.uniform(0, 0.3)
        return s.CosineAnnealingWarmRestarts(optimizer, n, integer(rng, 1, 3), low), STEPS
    if name == "CyclicLR":
        mode = str(rng.choice(["triangular", "triangular2", "exp_range"]))
        down = None if rng.integers(2) else integer(rng, 1, 9)
        made = s.CyclicLR(
            optimizer, lr * rng.uniform(0, 1), lr, n, down, mode, rng.uniform(0.8, 1.0)
        )
        return made, STEPS
    if name == "OneCycleLR":
        total, three = integer(rng, 4, 45), bool(rng.integers(2))
        part = rng.uniform(0.3, 0.45) if three else rng.uniform(0.26, 0.9)
        made = s.OneCycleLR(
            optimizer, lr, total, pct_start=part, three_phase=three,
            anneal_strategy=str(rng.choice(["cos", "linear"])), div_factor=rng.uniform(2, 30),
            final_div_factor=10.0 ** rng.uniform(0, 5),
        )  # fmt: skip
        return made, total
    if name == "ChainedScheduler":
        kinds = rng.choice(["ConstantLR", "LinearLR", "StepLR", "MultiStepLR", "ExponentialLR"], 3)
        return s.ChainedScheduler(
            [random_torch(str(kind), s, optimizer, lr, rng)[0] for kind in kinds]
        ), STEPS
    kinds = rng.choice(
        ["ConstantLR", "LinearLR", "StepLR", "MultiStepLR", "ExponentialLR", "PolynomialLR"], 3
    )
    parts = [random_torch(str(kind), s, optimizer, lr, rng)[0] for kind in kinds]
    for part in parts:  # 0 iterations divide by zero there
        part.total_iters = max(1, getattr(part, "total_iters", 1))
    at = sorted(rng.choice(np.arange(1, 40), 2, replace=False).tolist())
    return s.SequentialLR(optimizer, parts, at), STEPS


@pytest.mark.parametrize("cases", CASES)
@pytest.mark.parametrize(
    "name",
    [
        "ConstantLR", "LinearLR", "StepLR", "MultiStepLR", "ExponentialLR", "PolynomialLR",
        "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "CyclicLR", "OneCycleLR",
        "ChainedScheduler", "SequentialLR",
    ],
)  # fmt: skip
def test_from_torch(lr_scheduler, name, cases):
    rng = np.random.default_rng(1)
    for _ in range(cases):
        lr = 10.0 ** rng.uniform(-4, 0)
        optimizer = torch_optimizer(lr)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scheduler, steps = random_torch(name, lr_scheduler, optimizer, lr, rng)
        ours = [schedules.from_torch(scheduler, group) for group in (0, 1)]
        theirs = played(optimizer, scheduler, steps)
        for group, s in enumerate(ours):
            close(s.range(steps), theirs[:, group], lr, repr(s))
            # What it has done so far does not matter.
            assert schedules.from_torch(scheduler, group) == s


@pytest.mark.parametrize("rule", ["SGD", "Adam"])
@pytest.mark.parametrize("name", ["CyclicLR", "OneCycleLR"])
def test_momentum_from_torch(lr_scheduler, name, rule):
    rng = np.random.default_rng(2)
    for _ in range(50):
        optimizer = torch_optimizer(0.1, rule)
        scheduler, steps = random_torch(name, lr_scheduler, optimizer, 0.1, rng)
        s = schedules.from_torch(scheduler, hyperparameter="momentum")
        theirs = played(optimizer, scheduler, steps, "momentum" if rule == "SGD" else "betas")
        close(s.range(steps), theirs[:, 0] if rule == "SGD" else theirs[:, 0, 0], 1, repr(s))


def test_functions_from_torch(lr_scheduler):
    functions = [lambda t: 0.95**t, lambda t: 1 / (1 + t)]
    for kind in (lr_scheduler.LambdaLR, lr_scheduler.MultiplicativeLR):
        optimizer = torch_optimizer(0.3)
        scheduler = kind(optimizer, functions)
        ours = [schedules.from_torch(scheduler, i, total=STEPS).range(STEPS) for i in (0, 1)]
        close(np.transpose(ours), played(optimizer, scheduler), 0.3, kind.__name__)
        with pytest.raises(ValueError, match="total: got None for a"):
            schedules.from_torch(scheduler)
    optimizer = torch_optimizer(0.3)
    scheduler = lr_scheduler.CyclicLR(optimizer, 0.1, 0.3, 5, scale_fn=lambda c: 1 / c)
    s = schedules.from_torch(scheduler, total=STEPS)
    close(s.range(STEPS), played(optimizer, scheduler)[:, 0], 0.3, "scale_fn")


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
def test_plateau_from_torch(lr_scheduler, mode, threshold_mode):
    rng = np.random.default_rng(3)
    for _ in range(100):
        optimizer = torch_optimizer(0.1)
        scheduler = lr_scheduler.ReduceLROnPlateau(
            optimizer, mode, rng.uniform(0.1, 0.9), integer(rng, 0, 3), rng.uniform(0, 0.1),
            threshold_mode, integer(rng, 0, 3), min_lr=float(rng.choice([0, 1e-3])),
        )  # fmt: skip
        s = schedules.from_torch(scheduler, 1)
        for t, metric in enumerate(rng.uniform(0.5, 2, 40)):
            scheduler.step(metric)
            s.observe(metric)
            assert s(t) == pytest.approx(optimizer.param_groups[1]["lr"], rel=1e-12)
            if t == 20:
                s = schedules.Plateau.from_dict(s.to_dict())
        assert s.state_dict()["bad"] == scheduler.num_bad_epochs


def test_what_from_torch_refuses(lr_scheduler):
    optimizer = torch_optimizer(0.1)
    step = lr_scheduler.StepLR(optimizer, 3)
    with pytest.raises(TypeError, match=r"scheduler: got builtins\.int, wanted one of PyTorch's"):
        schedules.from_torch(3)
    with pytest.raises(TypeError, match="scheduler: got LRScheduler, wanted one of"):
        schedules.from_torch(lr_scheduler.LRScheduler.__new__(lr_scheduler.LRScheduler))
    with pytest.raises(ValueError, match="group: got 2, which the scheduler does not have"):
        schedules.from_torch(step, 2)
    with pytest.raises(ValueError, match="hyperparameter: got 'momentum', wanted 'lr'"):
        schedules.from_torch(step, hyperparameter="momentum")
    with pytest.raises(ValueError, match="total: got 3 for a StepLR, wanted None"):
        schedules.from_torch(step, total=3)
    chained = lr_scheduler.ChainedScheduler([step, lr_scheduler.CosineAnnealingLR(optimizer, 9)])
    with pytest.raises(ValueError, match="got a ChainedScheduler with CosineAnnealingLR"):
        schedules.from_torch(chained)


def test_tables_of_torch(lr_scheduler):
    """Rows of PyTorch's own tests (test/optim/test_lrscheduler.py)."""
    s = lr_scheduler
    for make, wanted in [
        (lambda o: s.StepLR(o, 3, 0.1), [0.05] * 3 + [0.005] * 3 + [0.0005] * 3 + [0.00005] * 3),
        (
            lambda o: s.MultiStepLR(o, [2, 5, 9], 0.1),
            [0.05] * 2 + [0.005] * 3 + [0.0005] * 4 + [0.00005] * 3,
        ),
        (lambda o: s.ConstantLR(o, 1 / 2, 5), [0.025] * 5 + [0.05] * 5),
        (lambda o: s.LinearLR(o, 1 / 2, total_iters=5),
         [0.025, 0.03, 0.035, 0.04, 0.045, 0.05, 0.05]),
        (lambda o: s.ExponentialLR(o, 0.9), [0.05 * 0.9**x for x in range(10)]),
        (
            lambda o: s.PolynomialLR(o, 5, 0.9),
            [0.05 * (1 - x / 5) ** 0.9 for x in range(5)] + [0] * 3,
        ),
        (
            lambda o: s.CosineAnnealingLR(o, 10, 1e-10),
            [1e-10 + (0.05 - 1e-10) * (1 + math.cos(math.pi * x / 10)) / 2 for x in range(21)],
        ),
        (
            lambda o: s.SequentialLR(o, [s.ConstantLR(o, 0.1, 2), s.ExponentialLR(o, 0.9)], [2]),
            [0.005, 0.005, 0.05, 0.045, 0.0405],
        ),
    ]:  # fmt: skip
        optimizer = torch_optimizer(0.05)
        made = schedules.from_torch(make(optimizer))
        close(made.range(len(wanted)), wanted, 0.05, repr(made))


def half(t):
    return 0.5 if t else 1.0


# A sequence of PyTorch's schedulers, from the module and an optimizer: its first child goes on from
# the rate that the group has by then, the later ones from their formula.
SEQUENCES = {
    "one cycle last": lambda s, o: s.SequentialLR(
        o, [s.LinearLR(o, 0.1, 1.0, 5), s.OneCycleLR(o, 0.3, 60)], [5]
    ),
    "one cycle in the middle": lambda s, o: s.SequentialLR(
        o, [s.LinearLR(o, 0.1, 1.0, 5), s.OneCycleLR(o, 0.3, 20), s.StepLR(o, 4)], [5, 22]
    ),
    "one cycle first": lambda s, o: s.SequentialLR(
        o, [s.OneCycleLR(o, 0.3, 20), s.ExponentialLR(o, 0.9)], [18]
    ),
    "two one cycles": lambda s, o: s.SequentialLR(
        o, [s.OneCycleLR(o, 0.3, 20), s.OneCycleLR(o, 0.1, 40, three_phase=True)], [15]
    ),
    "one cycle built first": lambda s, o: s.SequentialLR(
        o, [*reversed([s.OneCycleLR(o, 0.3, 60), s.LinearLR(o, 0.1, 1.0, 5)])], [5]
    ),
    "cyclic last": lambda s, o: s.SequentialLR(
        o, [s.ConstantLR(o, 0.25, 100), s.CyclicLR(o, 0.01, 0.2, 3)], [5]
    ),
    "cyclic first": lambda s, o: s.SequentialLR(
        o, [s.CyclicLR(o, 0.01, 0.2, 3, 5, "exp_range", 0.99), s.ConstantLR(o, 0.25, 9)], [11]
    ),
    "restarts": lambda s, o: s.SequentialLR(
        o, [s.LinearLR(o), s.CosineAnnealingWarmRestarts(o, 4, 2)], [7]
    ),
    "cosine": lambda s, o: s.SequentialLR(
        o, [s.LinearLR(o), s.CosineAnnealingLR(o, 6, 1e-3), s.ExponentialLR(o, 0.9)], [7, 33]
    ),
    "constant of no length later": lambda s, o: s.SequentialLR(
        o, [s.LinearLR(o), s.ConstantLR(o, 0.5, 0)], [3]
    ),
    "constant of no length first": lambda s, o: s.SequentialLR(
        o, [s.ConstantLR(o, 0.5, 0), s.LinearLR(o)], [3]
    ),
    "functions": lambda s, o: s.SequentialLR(
        o, [s.MultiplicativeLR(o, half), s.LambdaLR(o, lambda t: 1 / (1 + t))], [6]
    ),
    "a chain first": lambda s, o: s.SequentialLR(
        o, [s.ChainedScheduler([s.ConstantLR(o, 0.5, 9), s.StepLR(o, 2)]), s.LinearLR(o)], [5]
    ),
    "a chain first, before a one cycle": lambda s, o: s.SequentialLR(
        o, [s.ChainedScheduler([s.LinearLR(o), s.StepLR(o, 2)]), s.OneCycleLR(o, 0.3, 60)], [5]
    ),
    "milestone 0": lambda s, o: s.SequentialLR(
        o, [s.ConstantLR(o, 0.5, 9), s.StepLR(o, 2), s.OneCycleLR(o, 0.3, 60)], [0, 9]
    ),
    "milestone twice": lambda s, o: s.SequentialLR(
        o, [s.LinearLR(o), s.StepLR(o, 2), s.OneCycleLR(o, 0.3, 60)], [4, 4]
    ),
    "nested": lambda s, o: s.SequentialLR(
        o,
        [s.SequentialLR(o, [s.ConstantLR(o, 0.5, 99), s.StepLR(o, 2)], [3]), s.LinearLR(o)],
        [8],
    ),
    "nested, before a one cycle": lambda s, o: s.SequentialLR(
        o,
        [s.SequentialLR(o, [s.LinearLR(o), s.StepLR(o, 3)], [4]), s.OneCycleLR(o, 0.3, 60)],
        [12],
    ),
    "nested twice": lambda s, o: s.SequentialLR(
        o,
        [
            s.SequentialLR(
                o,
                [
                    s.SequentialLR(o, [s.ConstantLR(o, 0.5, 99), s.StepLR(o, 2)], [3]),
                    s.LinearLR(o),
                ],
                [6],
            ),
            s.ExponentialLR(o, 0.9),
        ],
        [15],
    ),
    **{
        f"{name} first, before a one cycle": lambda s, o, name=name, options=options: (
            s.SequentialLR(o, [getattr(s, name)(o, *options), s.OneCycleLR(o, 0.3, 60)], [21])
        )
        for name, options in {
            "ConstantLR": (0.5, 4), "LinearLR": (0.2, 0.8, 9), "StepLR": (4, 0.3),
            "MultiStepLR": ([0, 3, 7], 0.4), "ExponentialLR": (0.9,), "PolynomialLR": (9, 2.0),
            "CosineAnnealingLR": (4, 1e-3), "CosineAnnealingWarmRestarts": (5, 2, 1e-3),
            "CyclicLR": (0.01, 0.2, 3),
        }.items()
    },
}  # fmt: skip


@pytest.mark.parametrize("make", SEQUENCES.values(), ids=SEQUENCES)
@pytest.mark.parametrize("done", [0, 1, 4, 6, 17, 30], ids="after {}".format)
def test_sequences_of_torch(lr_scheduler, make, done):
    """PyTorch's values at every step, wherever the sequence stands when it is read."""
    optimizer = torch_optimizer(0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = make(lr_scheduler, optimizer)
        total = 48 if any(type(c).__name__ in ("LambdaLR", "MultiplicativeLR")
                          for c in scheduler._schedulers) else None  # fmt: skip
        before = played(optimizer, scheduler, done)
        ours = [schedules.from_torch(scheduler, group, total=total) for group in (0, 1)]
    theirs = played(optimizer, scheduler, STEPS - done)
    for group, s in enumerate(ours):
        wanted = [row[group] for row in (*before, *theirs)]
        close(s.range(STEPS), wanted, 0.3, repr(s))


def resumed(kind, optimizer, *options):
    """At step 11, with a rate that the optimizer has not kept."""
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return kind(optimizer, *options, last_epoch=10)


REFUSED_OF_TORCH = {
    "a sequence later": (
        lambda s, o: s.SequentialLR(
            o, [s.LinearLR(o), s.SequentialLR(o, [s.LinearLR(o), s.StepLR(o, 2)], [3])], [4]
        ),
        "got a SequentialLR after another in a SequentialLR, where PyTorch raises Not",
    ),
    "a chain later": (
        lambda s, o: s.SequentialLR(
            o, [s.LinearLR(o), s.ChainedScheduler([s.LinearLR(o), s.StepLR(o, 2)])], [4]
        ),
        "got a ChainedScheduler after another in a SequentialLR, where PyTorch raises Not",
    ),
    "a product later": (
        lambda s, o: s.SequentialLR(o, [s.LinearLR(o), s.MultiplicativeLR(o, half)], [4]),
        "got a MultiplicativeLR after another",
    ),
    "a function without a total": (
        lambda s, o: s.SequentialLR(o, [s.LinearLR(o), s.LambdaLR(o, half)], [4]),
        "total: got None for a LambdaLR, wanted an integer",
    ),
    "a line of no length later": (
        lambda s, o: s.SequentialLR(o, [s.StepLR(o, 2), s.LinearLR(o, total_iters=0)], [4]),
        "got a LinearLR of 0 steps after another in a SequentialLR, where PyTorch divides by zero",
    ),
    "a polynomial of no length later": (
        lambda s, o: s.SequentialLR(o, [s.StepLR(o, 2), s.PolynomialLR(o, 0)], [4]),
        "got a PolynomialLR of 0 steps after another in a SequentialLR, where PyTorch divides by",
    ),
    "one child in two places": (
        lambda s, o: s.SequentialLR(o, [*[s.LinearLR(o)] * 2, s.StepLR(o, 2)], [3, 6]),
        "got a SequentialLR at step 0 whose LinearLR is at step -1, wanted it at 0",
    ),
    "a sequence with a last_epoch": (
        lambda s, o: s.SequentialLR(o, [s.StepLR(o, 2), s.StepLR(o, 3)], [5], last_epoch=3),
        "got a SequentialLR at step 4 whose StepLR is at step 0, wanted it at 4",
    ),
    "a chain first whose child takes a step too many": (
        lambda s, o: s.SequentialLR(
            o, [s.ChainedScheduler([s.StepLR(o, 2), s.ExponentialLR(o, 0.9)]), s.LinearLR(o)], [5]
        ),
        "got a SequentialLR whose rate at step 0 is 0.09, where its formula gives 0.1",
    ),
    "StepLR, resumed": (
        lambda s, o: resumed(s.StepLR, o, 3),
        "got a StepLR whose rate at step 11 is 0.1, where its formula gives 0.0001",
    ),
    "CosineAnnealingLR, resumed": (
        lambda s, o: resumed(s.CosineAnnealingLR, o, 20),
        "got a CosineAnnealingLR whose rate at step 11 is 0.1, where its formula gives 0.042",
    ),
    "LinearLR, resumed": (
        lambda s, o: resumed(s.LinearLR, o, 0.25, 1.0, 20),
        "got a LinearLR whose rate at step 11 is 0.1, where",
    ),
    "a cycle between steps": (
        lambda s, o: s.CyclicLR(o, 0.01, 0.1, step_size_up=2.5),
        "got a CyclicLR with step_size_up=2.5, wanted a whole number of steps",
    ),
    "a cycle between steps on its way down": (
        lambda s, o: s.CyclicLR(o, 0.01, 0.1, 2, 2.5),
        "got a CyclicLR with step_size_down=2.5, wanted a whole number of steps",
    ),
}


@pytest.mark.parametrize(("make", "message"), REFUSED_OF_TORCH.values(), ids=REFUSED_OF_TORCH)
def test_what_no_schedule_of_ours_can_give_is_refused(lr_scheduler, make, message):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = make(lr_scheduler, torch_optimizer(0.1))
    with pytest.raises(ValueError, match=message):
        schedules.from_torch(scheduler)


def test_a_resumed_scheduler_is_read_where_the_optimizer_has_its_rate(lr_scheduler):
    for kind, options in (("StepLR", (3,)), ("LambdaLR", (half,)), ("CyclicLR", (0.01, 0.1, 4))):
        first = torch_optimizer(0.1)
        wanted = getattr(lr_scheduler, kind)(first, *options)
        played(first, wanted, 11)
        second = torch_optimizer(0.1)
        second.load_state_dict(first.state_dict())
        resumed = getattr(lr_scheduler, kind)(second, *options, last_epoch=10)
        total = 9 if kind == "LambdaLR" else None
        assert schedules.from_torch(resumed, total=total) == schedules.from_torch(
            wanted, total=total
        )


# ---- optax ----


@pytest.fixture
def optax():
    jax = pytest.importorskip("jax", reason="optax is in the group oracles")
    found = pytest.importorskip("optax", reason="optax is in the group oracles")
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield found
    jax.config.update("jax_enable_x64", before)


def random_optax(name, rng):
    a, b = (10.0 ** rng.uniform(-4, 0, 2)).tolist()
    n, begin, w = integer(rng, 1, 40), integer(rng, 0, 9), integer(rng, 1, 12)
    steps = sorted({integer(rng, 1, 40) for _ in range(3)})
    scales = {step: rng.uniform(0, 2) for step in steps}
    rate = {
        "transition_steps": n,
        "decay_rate": rng.uniform(0.5, 1.5),
        "transition_begin": begin,
        "staircase": bool(rng.integers(2)),
        "end_value": [None, b][rng.integers(2)],
    }
    restart = {"init_value": b, "peak_value": a, "warmup_steps": w, "decay_steps": w + n}
    return {
        "constant_schedule": lambda: (a,),
        "polynomial_schedule": lambda: (a, b, rng.uniform(0.5, 3), n - 1, begin),
        "linear_schedule": lambda: (a, b, n, begin),
        "piecewise_constant_schedule": lambda: (a, scales),
        "piecewise_interpolate_schedule": lambda: (
            str(rng.choice(["linear", "cosine"])), a, scales,
        ),
        "exponential_decay": lambda: {"init_value": a, **rate},
        "cosine_decay_schedule": lambda: (a, n, rng.uniform(0, 0.5), rng.choice([1.0, 0.7, 2.0])),
        "linear_onecycle_schedule": lambda: (n + 9, a, rng.uniform(0.15, 0.5), 0.8, 20.0, 1e3),
        "cosine_onecycle_schedule": lambda: (n + 9, a, rng.uniform(0.15, 0.8), 20.0, 1e3),
        "warmup_constant_schedule": lambda: (b, a, n),
        "warmup_cosine_decay_schedule": lambda: (b, a, w, w + n, a * 0.1, 1.0),
        "warmup_exponential_decay_schedule": lambda: {
            "init_value": b, "peak_value": a, "warmup_steps": w, **rate,
        },
        "sgdr_schedule": lambda: ([restart, {**restart, "decay_steps": w + 3}, restart],),
    }[name]()  # fmt: skip


@pytest.mark.parametrize("cases", CASES)
@pytest.mark.parametrize(
    "name",
    [
        "constant_schedule", "polynomial_schedule", "linear_schedule",
        "piecewise_constant_schedule", "piecewise_interpolate_schedule", "exponential_decay",
        "cosine_decay_schedule", "linear_onecycle_schedule", "cosine_onecycle_schedule",
        "warmup_constant_schedule", "warmup_cosine_decay_schedule",
        "warmup_exponential_decay_schedule", "sgdr_schedule",
    ],
)  # fmt: skip
def test_optax(optax, name, cases):
    import jax  # noqa: PLC0415

    rng = np.random.default_rng(4)
    t = np.arange(STEPS)
    for _ in range(cases // 4):  # each traces and compiles anew
        given = random_optax(name, rng)
        args, options = ((), given) if isinstance(given, dict) else (given, {})
        ours = getattr(compat.optax, name)(*args, **options)
        theirs = jax.vmap(getattr(optax, name)(*args, **options))(t)
        close(ours(t), np.broadcast_to(np.asarray(theirs), t.shape), 1, repr(ours))


def test_optax_join():
    parts = [schedules.constant(1.0), schedules.linear(1.0, 0.0, 4)]
    assert compat.optax.join_schedules(parts, [3]) == schedules.join(parts, at=[3])


# ---- Keras ----


@pytest.fixture(scope="module")
def keras_schedules():
    os.environ.setdefault("KERAS_BACKEND", "numpy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras = pytest.importorskip("keras", reason="keras is in the group oracles")
        return keras.optimizers.schedules


def random_keras(name, rng):
    a, b = (10.0 ** rng.uniform(-4, 0, 2)).tolist()
    n = integer(rng, 1, 30)
    boundaries = sorted({integer(rng, 0, 40) for _ in range(4)})
    warm = {"warmup_target": b, "warmup_steps": integer(rng, 1, 12)}
    stairs = {"staircase": bool(rng.integers(2))}
    return {
        "ExponentialDecay": lambda: ((a, n, rng.uniform(0.1, 1.2)), stairs),
        "PiecewiseConstantDecay": lambda: (
            (boundaries, rng.uniform(0, 1, len(boundaries) + 1).tolist()), {},
        ),
        "PolynomialDecay": lambda: (
            (a, n, b, rng.uniform(0.5, 3)), {"cycle": bool(rng.integers(2))},
        ),
        "InverseTimeDecay": lambda: ((a, n, rng.uniform(0, 3)), stairs),
        "CosineDecay": lambda: ((a, n, rng.uniform(0, 0.5)), warm if rng.integers(2) else {}),
        "CosineDecayRestarts": lambda: (
            (a, n, float(rng.choice([1.0, 2.0, 3.0, 1.5, 1.1])), rng.uniform(0.3, 1),
             rng.uniform(0, 0.3)), {},
        ),
    }[name]()  # fmt: skip


@pytest.mark.parametrize("cases", CASES)
@pytest.mark.parametrize(
    "name",
    [
        "ExponentialDecay", "PiecewiseConstantDecay", "PolynomialDecay", "InverseTimeDecay",
        "CosineDecay", "CosineDecayRestarts",
    ],
)  # fmt: skip
def test_keras(keras_schedules, name, cases):
    rng = np.random.default_rng(5)
    t = np.arange(1, STEPS, 2) if name == "PolynomialDecay" else np.arange(STEPS)
    for _ in range(min(cases // 2, 120)):  # its backend is asked step by step
        args, options = random_keras(name, rng)
        ours = getattr(compat.keras, name)(*args, **options)
        oracle = getattr(keras_schedules, name)(*args, **options)
        theirs = np.array([float(oracle(int(k))) for k in t])
        mine = ours(t)
        if name == "CosineDecayRestarts":  # its logarithm rounds to the cycle before
            first, grow, begins = args[1], args[2], [0.0]
            while begins[-1] < STEPS:
                begins.append(begins[-1] + first)
                first *= grow
            right = [min(abs(k - b) for b in begins) > 1e-3 for k in t]
            mine, theirs = mine[right], theirs[right]
        # Keras computes in single precision.
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=2e-6, err_msg=repr(ours))


def test_tables_of_keras():
    """Rows of Keras' own tests (learning_rate_schedule_test.py)."""
    keras = compat.keras
    s = keras.PiecewiseConstantDecay([100, 110, 120], [1.0, 0.1, 0.01, 0.001])
    assert [s(t) for t in (100, 105, 110, 120, 999)] == [1.0, 0.1, 0.1, 0.01, 0.001]
    s = keras.PolynomialDecay(0.05, 10, 0.0, cycle=True)
    assert s(0) == 0.05
    assert s(10) == 0
    s = keras.PolynomialDecay(1.0, 10, 0.1, cycle=True)
    assert s(15) == pytest.approx((1 - 0.1) * 0.25 + 0.1, rel=1e-15)
    s = keras.CosineDecay(0.0, 10, warmup_target=10, warmup_steps=1500)
    assert s(750) == 5.0
    for t in range(0, 1500, 250):
        assert keras.CosineDecay(1.0, 1000)(min(t, 1000)) == pytest.approx(
            0.5 * (1 + math.cos(math.pi * min(t, 1000) / 1000)), abs=1e-15
        )


def test_a_power_of_0_leaves_the_value_as_it_is():
    """As Keras and optax have it: 0⁰ is 1, at the end, too."""
    for s in (
        compat.keras.PolynomialDecay(0.5, 4, 0.1, power=0),
        compat.keras.PolynomialDecay(0.5, 4, 0.1, power=0, cycle=True),
        compat.optax.polynomial_schedule(0.5, 0.1, 0, 4),
    ):
        assert s.range(9).tolist() == [0.5] * 9


# ---- Hugging Face ----


def random_hugging_face(name, rng):
    w, n = integer(rng, 0, 12), integer(rng, 14, 40)
    cycles = float(rng.choice([0.5, 1.0, 1.5, rng.uniform(0.3, 3)]))
    ramp = ["linear", "cosine", "1-sqrt"]
    return {
        "get_constant_schedule": dict,
        "get_constant_schedule_with_warmup": lambda: {"num_warmup_steps": w},
        "get_linear_schedule_with_warmup": lambda: _lengths(w, n),
        "get_cosine_schedule_with_warmup": lambda: _lengths(w, n) | {"num_cycles": cycles},
        "get_cosine_with_hard_restarts_schedule_with_warmup": lambda: (
            _lengths(w, n) | {"num_cycles": integer(rng, 1, 5)}
        ),
        "get_polynomial_decay_schedule_with_warmup": lambda: (
            _lengths(w, n) | {"lr_end": 1e-7, "power": rng.uniform(0.5, 3)}
        ),
        "get_inverse_sqrt_schedule": lambda: {
            "num_warmup_steps": w, "timescale": [None, n][rng.integers(2)],
        },
        "get_cosine_with_min_lr_schedule_with_warmup": lambda: (
            _lengths(w, n) | {"num_cycles": cycles, "min_lr_rate": rng.uniform(0, 0.5)}
        ),
        "get_cosine_with_min_lr_schedule_with_warmup_lr_rate": lambda: (
            _lengths(w, n) | {
                "num_cycles": cycles, "min_lr": 1e-5,
                "warmup_lr_rate": [None, rng.uniform(0, 0.5)][rng.integers(2)],
            }
        ),
        "get_wsd_schedule": lambda: {
            "num_warmup_steps": w, "num_decay_steps": integer(rng, 0, 12),
            "num_stable_steps": integer(rng, 0, 12), "warmup_type": str(rng.choice(ramp)),
            "decay_type": str(rng.choice(ramp)), "min_lr_ratio": rng.uniform(0, 0.5),
            "num_cycles": cycles,
        },
    }[name]()  # fmt: skip


def _lengths(w, n):
    return {"num_warmup_steps": w, "num_training_steps": n}


@pytest.mark.parametrize("cases", CASES)
@pytest.mark.parametrize(
    "name", [name for name in dir(compat.huggingface) if name.startswith("get_")]
)
def test_hugging_face(name, cases):
    torch = pytest.importorskip("torch", reason="torch is in the group oracles")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimization = pytest.importorskip(
            "transformers.optimization", reason="transformers is not installed",
            exc_type=ImportError,
        )  # fmt: skip
    rng = np.random.default_rng(6)
    for _ in range(cases):
        lr, options = 10.0 ** rng.uniform(-4, 0), random_hugging_face(name, rng)
        ours = getattr(compat.huggingface, name)(lr, **options)
        optimizer = torch.optim.SGD([torch.zeros(1)], lr)
        factor = getattr(optimization, name)(optimizer, **options).lr_lambdas[0]
        theirs = lr * np.array([factor(t) for t in range(STEPS)])
        mine = ours.range(STEPS)
        if "hard_restarts" in name:  # its own remainder misses a restart now and then
            w, n, cycles = (options[key] for key in ("num_warmup_steps", "num_training_steps",
                                                     "num_cycles"))  # fmt: skip
            right = [t < w or (cycles * (t - w)) % (n - w) != 0 for t in range(STEPS)]
            mine, theirs = mine[right], theirs[right]
        close(mine, theirs, lr, repr(ours))


# Warm-up and run: none, below none, shorter, as long, longer.
EDGES = [(w, n) for w in (-3, 0, 1, 5, 10, 12) for n in (-1, 0, 1, 5, 10)]
CYCLES = [0, 0.5, 1, 1.5, 2, 3]


def edges_of_hugging_face():
    """Constructor and options, each at every edge."""
    for w in sorted({w for w, _ in EDGES}):
        yield "get_constant_schedule_with_warmup", {"num_warmup_steps": w}
        if w >= 0:  # below 0 theirs begins with a square root of what is below 0
            yield "get_inverse_sqrt_schedule", {"num_warmup_steps": w}
        for scale in (0, 1, 7):
            yield "get_inverse_sqrt_schedule", {"num_warmup_steps": w, "timescale": scale}
    for w, n in EDGES:
        lengths = _lengths(w, n)
        yield "get_linear_schedule_with_warmup", lengths
        for power in (0, 0.5, 1, 2.5):
            yield "get_polynomial_decay_schedule_with_warmup", {**lengths, "power": power}
        for cycles in CYCLES:
            more = {**lengths, "num_cycles": cycles}
            yield "get_cosine_with_hard_restarts_schedule_with_warmup", more
            yield "get_cosine_schedule_with_warmup", more
            yield "get_cosine_schedule_with_warmup", {**more, "num_cycles": -cycles}
            for least in (-0.25, 0.0, 0.25):
                yield "get_cosine_with_min_lr_schedule_with_warmup", {**more, "min_lr_rate": least}
                yield "get_cosine_with_min_lr_schedule_with_warmup_lr_rate", {
                    **more, "min_lr_rate": least,
                }  # fmt: skip
            yield "get_cosine_with_min_lr_schedule_with_warmup_lr_rate", {
                **more, "min_lr": 1e-3, "warmup_lr_rate": 0.25,
            }  # fmt: skip
        for decay in (-2, 0, 1, 4, 15):
            for ramp in ("linear", "cosine", "1-sqrt"):
                for cycles, least in ((0, 0.0), (0.5, 0.25), (1.5, -0.25)):
                    yield "get_wsd_schedule", {
                        **lengths, "num_decay_steps": decay, "warmup_type": ramp,
                        "decay_type": ramp, "min_lr_ratio": least, "num_cycles": cycles,
                    }  # fmt: skip
        for stable in (-2, 0, 3):
            yield "get_wsd_schedule", {
                "num_warmup_steps": w, "num_decay_steps": n, "num_stable_steps": stable,
            }  # fmt: skip


def or_error(call):
    try:
        return call()
    except (ValueError, ZeroDivisionError):
        return None


def test_edges_of_hugging_face():
    """Their values at every step, and a refusal at the steps at which theirs raises."""
    torch = pytest.importorskip("torch", reason="torch is in the group oracles")
    optimization = pytest.importorskip(
        "transformers.optimization", reason="transformers is not installed", exc_type=ImportError
    )
    lr, steps = 0.1, 26
    for name, options in edges_of_hugging_face():
        optimizer = torch.optim.SGD([torch.zeros(1)], lr)
        made = or_error(lambda: getattr(optimization, name)(optimizer, **options))  # noqa: B023
        ours = or_error(lambda: getattr(compat.huggingface, name)(lr, **options))  # noqa: B023
        assert (made is None) == (ours is None), (name, options)
        if made is None:
            continue
        factor, what = made.lr_lambdas[0], f"{name} {options}: {ours!r}"
        theirs = [or_error(lambda: lr * factor(t)) for t in range(steps)]  # noqa: B023
        mine = [or_error(lambda: ours(t)) for t in range(steps)]  # noqa: B023
        if "hard_restarts" in name:  # its own remainder misses a restart now and then
            w, n = options["num_warmup_steps"], options["num_training_steps"]
            for t in range(max(w, 0) + 1, min(n, steps)):
                if options["num_cycles"] * (t - w) % (n - w) == 0:
                    mine[t] = theirs[t] = 0.0
        assert [v is None for v in mine] == [v is None for v in theirs], what
        close([v or 0.0 for v in mine], [v or 0.0 for v in theirs], lr, what)


# What transformers 5.24 gives at a rate of 1, from t = 0.
PINNED_OF_HUGGING_FACE = [
    ("linear_schedule_with_warmup", (4, 3), {}, [0, 0.25, 0.5, 0.75, 0, 0]),
    ("linear_schedule_with_warmup", (4, 4), {}, [0, 0.25, 0.5, 0.75, 0, 0]),
    ("linear_schedule_with_warmup", (0, 0), {}, [0, 0, 0]),
    ("linear_schedule_with_warmup", (2, 0), {}, [0, 0.5, 0, 0]),
    ("linear_schedule_with_warmup", (2.0, 4.0), {}, [0, 0.5, 1, 0.5, 0]),
    ("linear_schedule_with_warmup", (-2, 2), {}, [0.5, 0.25, 0, 0]),
    ("cosine_schedule_with_warmup", (4, 2), {}, [0, 0.25, 0.5, 0.75, 1, 0, 1, 0]),
    ("cosine_schedule_with_warmup", (0, 0), {}, [1, 0, 1, 0]),
    ("cosine_schedule_with_warmup", (1, 5), {"num_cycles": 0}, [0, 1, 1, 1, 1, 1, 1]),
    ("cosine_with_hard_restarts_schedule_with_warmup", (4, 2), {}, [0, 0.25, 0.5, 0.75, 1, 0, 0]),
    ("cosine_with_hard_restarts_schedule_with_warmup", (0, 0), {}, [1, 0, 0]),
    (
        "cosine_with_hard_restarts_schedule_with_warmup", (1, 4), {"num_cycles": 0},
        [0, 1, 1, 1, 0, 0],
    ),
    (
        "cosine_with_hard_restarts_schedule_with_warmup", (0, 6), {"num_cycles": 1.5},
        [1, 0.853553390593, 0.5, 0.146446609407, 1, 0.853553390593, 0, 0],
    ),
    ("polynomial_decay_schedule_with_warmup", (4, 3), {}, [0, 0.25, 0.5, 0.75, 1e-7, 1e-7]),
    ("polynomial_decay_schedule_with_warmup", (4, 4), {}, [0, 0.25, 0.5, 0.75, None, 1e-7]),
    ("polynomial_decay_schedule_with_warmup", (0, 0), {}, None),
    ("polynomial_decay_schedule_with_warmup", (2, 4), {"power": 0}, [0, 0.5, 1, 1, 1, 1e-7]),
    ("polynomial_decay_schedule_with_warmup", (1, 4), {"lr_end": 1.0}, None),
    ("polynomial_decay_schedule_with_warmup", (1, 4), {"lr_end": 2.0}, None),
    ("inverse_sqrt_schedule", (2,), {"timescale": 0}, [0, 0.5, None, None]),
    ("inverse_sqrt_schedule", (0,), {"timescale": 0}, None),
    ("inverse_sqrt_schedule", (0,), {"timescale": 1}, [1, 2**-0.5, 3**-0.5, 0.5]),
    # 3 of warm-up and 4 of decay in a run of 5: the decay begins at 1.
    ("wsd_schedule", (3, 4, 5), {"decay_type": "linear"}, [0, 1 / 3, 2 / 3, 0.5, 0.25, 0, 0]),
    ("wsd_schedule", (3, 1, 2), {}, [0, 1 / 3, 2 / 3, 0, 0]),
    ("wsd_schedule", (2, 0, 4), {"min_lr_ratio": 0.5}, [0.5, 0.75, 1, 1, 0.5, 0.5]),
    ("wsd_schedule", (0, 0, 0), {"min_lr_ratio": 0.5}, [0.5, 0.5]),
    ("wsd_schedule", (1, 3, 5), {"num_cycles": 0}, [0, 1, 1, 1, 1, 0, 0]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "lengths", "options", "wanted"), PINNED_OF_HUGGING_FACE)
def test_pinned_edges_of_hugging_face(name, lengths, options, wanted):
    make = getattr(compat.huggingface, f"get_{name}")
    if wanted is None:
        with pytest.raises(ValueError, match=r"(num_training_steps|lr_end|timescale): got "):
            make(1.0, *lengths, **options)
        return
    s = make(1.0, *lengths, **options)
    for t, value in enumerate(wanted):
        if value is None:
            with pytest.raises(ValueError, match="t: got "):
                s(t)
        else:
            assert s(t) == pytest.approx(value, abs=1e-12), (t, s)
    assert eval(repr(s), {"schedules": schedules}) == s
    assert gs.Schedule.from_json(s.to_json()) == s


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda hf: hf.get_linear_schedule_with_warmup(1.0, 0.5, 10), TypeError,
            r"num_warmup_steps: got 0.5 \(float\), wanted a whole number of updates",
        ),
        (
            lambda hf: hf.get_cosine_schedule_with_warmup(1.0, 1, None), TypeError,
            r"num_training_steps: got None \(NoneType\), wanted a whole number",
        ),
        (
            lambda hf: hf.get_wsd_schedule(1.0, 1, 2, num_stable_steps="3"), TypeError,
            r"num_stable_steps: got '3' \(str\), wanted a whole number",
        ),
        (
            lambda hf: hf.get_linear_schedule_with_warmup(1.0, 0, 2**53), ValueError,
            r"num_training_steps: got 9007199254740992, wanted less than 2\*\*52",
        ),
        (
            lambda hf: hf.get_cosine_schedule_with_warmup(1.0, 1, 9, "1"), TypeError,
            "num_cycles: got '1', wanted a number",
        ),
        (
            lambda hf: hf.get_cosine_with_hard_restarts_schedule_with_warmup(1.0, 1, 9, -1),
            ValueError, "num_cycles: got -1, wanted 0 to 65536",
        ),
    ],
)  # fmt: skip
def test_what_lengths_of_hugging_face_may_not_be(make, error, message):
    with pytest.raises(error, match=message):
        make(compat.huggingface)


def test_the_end_rate_of_hugging_face_does_not_depend_on_other_groups():
    """The original divides it by the optimizer's default rate, also for groups with another."""
    for lr in (0.1, 0.001):
        s = compat.huggingface.get_polynomial_decay_schedule_with_warmup(lr, 2, 10, lr_end=1e-4)
        assert s(10) == s(1000) == 1e-4


# ---- what imported schedules are ----


def test_imported_schedules_are_values():
    for s in (
        compat.keras.CosineDecayRestarts(0.1, 7, 1.5, 0.9, 0.1),
        compat.huggingface.get_wsd_schedule(0.1, 3, 4, num_stable_steps=5, decay_type="1-sqrt"),
        compat.optax.cosine_onecycle_schedule(100, 0.1),
    ):
        assert eval(repr(s), {"schedules": schedules}) == s
        assert gs.Schedule.from_json(s.to_json()) == s


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: compat.optax.cosine_decay_schedule(0.1, 0), "decay_steps: got 0"),
        (lambda: compat.optax.linear_onecycle_schedule(0, 0.1), "transition_steps: got 0"),
        (lambda: compat.optax.piecewise_constant_schedule(1, {3: -1}), "scales.3.: got -1"),
        (lambda: compat.optax.warmup_cosine_decay_schedule(0, 1, 9, 9), "decay_steps: got 9"),
        (lambda: compat.keras.PiecewiseConstantDecay([1], [1]), "values: got 1, wanted 2"),
        (lambda: compat.keras.CosineDecayRestarts(0.1, 9, 0.5), "t_mul: got 0.5"),
        (lambda: compat.keras.CosineDecayRestarts(0.1, 0), "first_decay_steps: got 0, wanted an"),
        (lambda: compat.keras.CosineDecay(0.1, 0), "decay_steps: got 0, wanted an integer > 0"),
        (lambda: compat.keras.PolynomialDecay(0.1, 0), "decay_steps: got 0, wanted an int"),
        (lambda: compat.keras.PolynomialDecay(0.1, -3), "decay_steps: got -3, wanted an integer"),
        (
            lambda: compat.huggingface.get_cosine_with_min_lr_schedule_with_warmup(0.1, 1, 9),
            "min_lr: got None and min_lr_rate=None",
        ),
        (lambda: compat.huggingface.get_wsd_schedule(0.1, 1, 1), "num_training_steps: got None"),
        (
            lambda: compat.huggingface.get_wsd_schedule(
                0.1, 1, 1, num_stable_steps=1, decay_type="exp"
            ),
            "decay_type: got 'exp'",
        ),
    ],
)
def test_what_constructors_refuse(make, error):
    with pytest.raises(ValueError, match=error):
        make()


def test_tables_of_optax():
    """Rows of optax's own tests (schedules/_schedule_test.py)."""
    optax = compat.optax
    s = optax.polynomial_schedule(10.0, 20.0, 1, 10)
    assert s.range(15).tolist() == [10.0 + t for t in range(10)] + [20.0] * 5
    s = optax.polynomial_schedule(30.0, 10.0, 1, 10, 5)
    assert s.range(17).tolist() == [30.0] * 5 + [30.0 - 2 * t for t in range(10)] + [10.0] * 2
    s = optax.polynomial_schedule(25.0, 10.0, 2, 10)
    for t in range(15):
        left = 1 - min(t, 10) / 10
        assert s(t) == pytest.approx(10 + 15 * left**2, rel=1e-15)
    assert optax.polynomial_schedule(1.0, 0.0, 1, 0).range(3).tolist() == [1.0] * 3
    s = optax.piecewise_constant_schedule(0.1, {3: 2.0, 6: 0.5, 9: 0.1})
    close(s.range(11), [0.1] * 3 + [0.2] * 3 + [0.1] * 3 + [0.01] * 2, 0.1, "piecewise")
    s = optax.exponential_decay(1.0, 1, 0.9, end_value=0.5)
    assert s.range(10).tolist() == pytest.approx([max(0.5, 0.9**t) for t in range(10)])
    s = optax.cosine_decay_schedule(0.1, 100, 0.1)
    for t in (0, 33, 66, 100, 150):
        left = 0.5 * (1 + math.cos(math.pi * min(t, 100) / 100))
        assert s(t) == pytest.approx(0.1 * (0.9 * left + 0.1), rel=1e-12)
    s = optax.linear_onecycle_schedule(10, 1000, 0.1, 0.8, 200, 10)
    close(
        s.range(12),
        [5, 1000, 1000 - 995 / 7, 1000 - 995 * 2 / 7, 1000 - 995 * 3 / 7, 1000 - 995 * 4 / 7,
         1000 - 995 * 5 / 7, 1000 - 995 * 6 / 7, 5, 2.75, 0.5, 0.5], 1000, "one cycle",
    )  # fmt: skip
