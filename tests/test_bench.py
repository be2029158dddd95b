"""`gradstep bench`: that the race is honest, and what it tells."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from gradstep import bench
from gradstep.rule import RULES

QUICK = {"rounds": 1, "settle": 0.0, "measure": 0.001}


@pytest.mark.parametrize("name", bench.RULES)
@pytest.mark.parametrize("size", [(1,), (4097,), (1000,) * 7])
def test_numpy_and_ours_agree(name: str, size: tuple[int, ...]) -> None:
    rule = bench.RULES[name]
    results, notes = bench.compete(rule, size, rivals=(), **QUICK)
    spelled = [bench.NUMPY] if rule.plain else []
    assert [r.name for r in results] == [bench.OURS, *spelled, bench.MOVE]
    assert notes == []
    assert all(r.difference < 1e-3 and r.seconds > 0 for r in results)


@pytest.mark.parametrize("rival", bench.RIVALS)
def test_rivals_agree(rival: str) -> None:
    if not bench.present(rival):
        pytest.skip(f"{rival} is not installed")
    code = f"""
from gradstep import bench
for name, rule in bench.RULES.items():
    if bench.missing({rival!r}, rule):
        continue
    results, notes = bench.compete(rule, (1000, 24), rivals=({rival!r},), **{QUICK})
    # optax has other conventions for some rules, which it may race with in the table alone
    differs = rule.plain is None and {rival!r} == "optax" and "its result differs" in str(notes)
    assert not notes or differs, (name, notes)
    print(name, *(result.name for result in results))
"""
    # in a process of its own: rivals leave threads behind, and hooks that object to a fork
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    raced = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    spelled = {name for name, rule in bench.RULES.items() if rule.plain}
    assert spelled - {"LAMB", "LARS"} <= set(raced)
    assert all(rival in raced[name] for name in spelled & set(raced))


def test_every_rule_of_the_catalogue_races() -> None:
    assert {rule.name for rule in bench.RULES.values()} == set(RULES)
    for rule in bench.RULES.values():
        states = [i for changed, _ in rule.passes for i in changed if i > 1]
        fixed = [i for i, state in enumerate(rule.kept(), start=2) if state.fixed]
        assert sorted(states + fixed) == list(range(2, 2 + rule.states))  # each changes once
        assert 0 in rule.passes[-1][0]


def test_two_passes_read_again_what_they_have_to() -> None:
    """LAMB: p, g, m, v and then p, m, v; LARS: p, g and then p, g, b."""
    assert bench.RULES["LAMB"].bytes_moved == (2 + 4) * 4 + (3 + 1) * 4
    assert bench.RULES["LARS"].bytes_moved == 2 * 4 + (3 + 2) * 4


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("StableAdamW", 1 + 4, 2 + 2),  # g, m, v; p, m, v
        ("Adafactor", 1 + 2, 2 + 1),  # g for its rows, p, g; p, g
        ("Muon", 3, 4 + 2),  # g, b, direction; p, b, g, direction
        ("Prodigy", 3 + 6, 2 + 2),  # p, g, p0, m, v, s; p, m, v
        ("DAdaptAdamW", 1 + 6, 2 + 2),  # g, m, v, s; p, m, v
        ("DoG", 3, 2 + 1),  # p, g, p0; p, g
        ("DoWG", 3, 2 + 1),
        ("PolyakSGD", 1, 2 + 1),  # g; p, g
    ],
)
def test_each_pass_moves_what_its_equations_name(name: str, first: int, second: int) -> None:
    assert bench.RULES[name].bytes_moved == 4 * (first + second)
    bench.moving(bench.RULES[name], 10).step(None)


def test_rules_for_matrices_get_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = bench.RULES["AdamW"]
    assert bench.shape_of(rule, 1 << 20) == (1 << 20,)
    monkeypatch.setattr(rule.value, "has_direction", True)
    shapes = [bench.shape_of(rule, n) for n in (1 << 20, 24, 7)]
    assert shapes == [(1024, 1024), (4, 6), (1, 7)]


def test_moving_takes_float32_of_one_size() -> None:
    a, b = np.ones(10, np.float32), np.ones(10, np.float32)
    bench._core.move([a], [b, b])
    assert (a == 3).all()
    bench._core.move([], [b])
    assert (b == 1).all()
    for changed, read in [([a], []), ([a[:5]], [b]), ([a], [b.astype(float)]), ([a] * 9, [b])]:
        with pytest.raises(ValueError, match="move: wanted"):
            bench._core.move(changed, read)


def test_a_wrong_result_is_not_timed() -> None:
    rule = bench.RULES["Adam"]
    wrong = replace(rule, arguments=dict(rule.arguments) | {"lr": 2e-3})
    results, notes = bench.compete(wrong, (100,), rivals=(), **QUICK)
    assert [r.name for r in results] == [bench.NUMPY, bench.MOVE]
    assert len(notes) == 1
    assert notes[0].startswith("gradstep: not timed, its result differs by")
    assert "nan" in bench.render(wrong, (100,), results)  # there is nothing to compare with


def test_a_nan_is_not_close() -> None:
    ones = np.ones(3, np.float32)
    racer = bench.Racer("x", lambda: None, lambda _: None, lambda: [ones, np.nan * ones])
    assert np.isnan(bench.difference(racer, [ones, ones], [0 * ones, 0 * ones]))


def test_a_missing_rival_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "present", lambda _: False)
    said: list[str] = []
    bench.run(["SGD"], [(10,)], rounds=1, say=said.append)
    assert "torch: not installed" in said
    assert "optax: not installed" in said


def test_the_race_takes_medians_and_does_not_time_gradients() -> None:
    def racer(name: str, seconds: float) -> bench.Racer:
        return bench.Racer(name, lambda: time.sleep(0.01), lambda _: time.sleep(seconds), list)

    times = bench.race([racer("slow", 0.004), racer("fast", 0.0)], rounds=5, settle=0, measure=0)
    assert times["slow"] >= 0.004
    assert times["fast"] < times["slow"]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("7", (7,)),
        ("64Ki", (65536,)),
        ("16Mi", (1 << 24,)),
        ("3x5", (5, 5, 5)),
        ("2x1Ki", (1024, 1024)),
    ],
)
def test_sizes(text: str, size: tuple[int, ...]) -> None:
    assert bench.parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "x", "0", "-3", "5x", "0x5", "5x0", "16M", "1.5", "1e6", "2x3x4"]
)
def test_bad_sizes(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the command line writes the message
        bench.parse_size(text)


def test_bytes_and_shares_are_computed_right() -> None:
    rule = bench.RULES["AdamW"]
    assert rule.bytes_moved == 28
    assert bench.RULES["SGD"].bytes_moved == 12
    results = [
        bench.Result(bench.OURS, 2e-6, 0.0),
        bench.Result("other", 4e-6, 1e-6),
        bench.Result(bench.MOVE, 1e-6, 0.0),
    ]
    cells = bench.render(rule, (1000,), results).splitlines()[3].split()
    assert cells == ["other", "4.000", "7.0", "25%", "2.00", "1e-06"]
