"""The demo: its network, its verdicts, its pictures, and that it learns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gradstep import bench, demo, plots


@pytest.fixture(scope="module")
def data() -> Iterator[demo.Digits]:
    with demo.one_blas_thread():
        yield demo.load()


def test_the_split_is_fixed_and_stratified(data: demo.Digits) -> None:
    again = demo.load()
    np.testing.assert_array_equal(data.held_x, again.held_x)
    assert len(data.train_y) + len(data.held_y) == 1797
    parts = np.bincount(data.held_y) / np.bincount(np.concatenate([data.train_y, data.held_y]))
    assert np.abs(parts - 0.25).max() < 0.01
    assert data.train_x.dtype == np.float32
    assert data.train_x.min() == 0
    assert data.train_x.max() == 1


def test_gradients_match_differences(data: demo.Digits) -> None:
    rng = np.random.default_rng(0)
    params = {name: p.astype(np.float64) for name, p in demo.initial(rng).items()}
    x, y = data.train_x[:32].astype(np.float64), data.train_y[:32]
    _, grads = demo.loss_and_gradients(params, x, y)
    for name, p in params.items():
        direction = rng.standard_normal(p.shape)
        losses = []
        for sign in (1, -1):
            moved = params | {name: p + sign * 1e-6 * direction}
            losses.append(demo.mean_loss(moved, x, y))
        measured = (losses[0] - losses[1]) / 2e-6
        assert measured == pytest.approx(float((grads[name] * direction).sum()), rel=1e-5)


@pytest.mark.parametrize(
    ("losses", "peak", "verdict"),
    [
        ([2.0, 1.0, 0.1], 2.1, "good"),
        ([2.0, 1.0, 0.1], 99.0, "good"),  # it recovered
        ([2.0, 1.0, 0.1, 0.15], 2.1, "good"),  # so small a rise is noise
        ([2.0, 1.8, 1.6], 2.1, "too low"),
        ([2.0, 1.8, 0.2], 2.1, "too low"),  # a tenth is not below a tenth
        ([2.0, 1.8, 1.6], 99.0, "too high"),  # a batch was thrown uphill
        ([2.0, 1.0, 1.5, 1.4], 2.1, "too high"),
        ([2.0, 0.1, 0.5, 0.1], 2.1, "too high"),  # it arrived, but in jumps
        ([2.0, 1.0, 2.0], 2.1, "diverged"),
        ([2.0, 1.0, np.inf], 2.1, "diverged"),
        ([2.0, np.nan, 0.1], 2.1, "diverged"),
    ],
)
def test_verdicts(losses: list[float], peak: float, verdict: str) -> None:
    assert demo.judge(np.array(losses), peak) == verdict


@pytest.mark.parametrize("rule", demo.RATES)
def test_rates_are_what_the_demo_says(data: demo.Digits, rule: str) -> None:
    low, good, high = (demo.train(data, rule, rate) for rate in demo.RATES[rule])
    assert low.verdict == "too low"
    assert good.verdict == "good"
    assert high.verdict in ("too high", "diverged")
    assert min(good.accuracy - low.accuracy, good.accuracy - high.accuracy) > 0.05
    # the same weights and batches for all
    assert low.losses[0] == good.losses[0] == high.losses[0]


@pytest.mark.parametrize("seed", range(5))
def test_adam_reaches_96_percent(data: demo.Digits, seed: int) -> None:
    assert demo.train(data, "Adam", demo.RATES["Adam"][1], seed=seed).accuracy >= 0.96


@pytest.mark.slow
def test_adam_reaches_96_percent_with_many_seeds(data: demo.Digits) -> None:
    rate = demo.RATES["Adam"][1]
    worst = min(demo.train(data, "Adam", rate, seed=seed).accuracy for seed in range(100, 150))
    assert worst >= 0.96


@pytest.mark.parametrize("rule", demo.RATES)
def test_a_run_that_overflows_is_quiet_and_diverged(data: demo.Digits, rule: str) -> None:
    run = demo.train(data, rule, 1e30, epochs=2)
    assert run.verdict == "diverged"
    assert run.losses[-1] == np.inf
    assert demo.number(run.losses[-1]) == "not finite"
    assert 0 <= run.accuracy < 0.5
    assert demo.compare(run, run) == "-"


def test_scheduled_rates_lie_around_the_fixed_one() -> None:
    steps = np.arange(840)
    rates = {name: rate(steps) for name, rate in demo.scheduled_rates(0.1, 840).items()}
    assert (rates.pop("fixed") == 0.1).all()
    assert list(rates) == ["step", "exponential", "cyclical"]
    for values in rates.values():
        assert values.max() == pytest.approx(0.3)
        assert values.min() == pytest.approx(0.1 / 3, rel=0.01)


def test_further_rates_leave_out_the_three() -> None:
    rates = demo.further_rates((1e-2, 1e-1, 1.0), 2)
    assert rates == pytest.approx([10**e for e in (-3, -2.5, -1.5, -0.5, 0.5, 1)])


def test_the_whole_demo_in_small(tmp_path: Path) -> None:
    said: list[str] = []
    found = demo.run(
        tmp_path / "new" / "folder", epochs=3, rules=("SGD", "Adam"), per_decade=1,
        speed_size=2000, say=said.append, quiet=True,
    )  # fmt: skip
    text = "\n".join(said)
    assert len(found.rates) == 6
    for run in found.rates:
        assert run.verdict in text
        assert demo.percent(run.accuracy) in text
    for word in ("fixed", "step", "exponential", "cyclical", "faster by", "2,000"):
        assert word in text
    assert {rule for rule, _ in found.speeds} == {"SGD", "Adam"}
    assert all(result.seconds > 0 for results in found.speeds.values() for result in results)
    assert {path.name for path in found.pictures} == {
        "loss-by-rate.png", "loss-by-schedule.png", "schedules.png", "accuracy-by-rate.png",
    }  # fmt: skip
    for path in found.pictures:
        assert not_trivial(path)


def not_trivial(path: Path) -> bool:
    """Is there ink on the picture, and more than one shade of it?"""
    from matplotlib.image import imread  # noqa: PLC0415 - only where pictures are looked at

    grey = imread(path)[..., :3].mean(axis=2)
    ink = grey < 0.9
    return bool(min(grey.shape) > 400 and 0.005 < ink.mean() < 0.5 and grey[ink].std() > 0.05)


def test_lines_differ_without_colour() -> None:
    for what in ("linestyle", "marker"):
        assert len({style[what] for style in plots.STYLES}) == len(plots.STYLES)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_losses_that_end_in_infinity_are_drawn(tmp_path: Path, suffix: str) -> None:
    runs = {"a": [2.0, 1.0, 0.0], "b": [2.0, 9.0, np.inf], "c": [np.inf] * 3, "d": [2.0, np.nan, 1]}
    path = plots.losses({"SGD": runs}, tmp_path / f"x.{suffix}", title="t", first=2.0)
    assert path.stat().st_size > 1000


def test_speed_table_divides_the_right_way() -> None:
    results = [bench.Result(bench.OURS, 1e-6, 0.0), bench.Result(bench.NUMPY, 4e-6, 0.0)]
    row = demo.speed_table({("Adam", 1000): results}).splitlines()[-1]
    assert row.split("  ")[-1].strip() == "4.0 ×"
