"""Each case of `one_pass.py` with its rivals in one group; what is timed is also checked."""

import math
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("ml_dtypes")

import one_pass
from gradstep.bench import MOVE, OURS

SMALL = (1 << 16, 1000, 768, 1)  # also a ragged last block, and less than a block
ENTRIES = [
    pytest.param(
        case, name, size, marks=pytest.mark.slow if max(size) > 1 << 20 or compiled else ()
    )
    for case, row in one_pass.CASES.items()
    for size in (SMALL, row.size)
    for name in (OURS, *row.rivals)
    for compiled in [name in ("DeepSpeed", "torchao")]  # half a minute
]


@pytest.mark.filterwarnings("ignore")  # theirs, about themselves
@pytest.mark.parametrize(("case_name", "name", "size"), ENTRIES)
def test_one_pass(benchmark, case_name, name, size):
    if not one_pass.present(name):
        pytest.skip(f"{name} is not installed")
    benchmark.group = f"{case_name}, {sum(size):,}"
    case = one_pass.CASES[case_name]
    (racer,), expected = one_pass.prepare(case, [name], size)
    assert one_pass.check([racer], expected)[name] <= case.tolerance
    benchmark.pedantic(
        racer.step,
        setup=lambda: ((racer.gradients(),), {}),
        rounds=3 if name in one_pass.SLOW else max(5, min(200, 10**7 // sum(size))),
        warmup_rounds=1,
    )


@pytest.mark.parametrize(
    "wrong",
    [{"clip_norm": 1e6}, {"average": 0.9}, {"lr": 1.01e-3}, {"weight_decay": 0.02}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_the_check_sees_a_wrong_step(wrong):
    """Another clipping, average, rate or decay is off by more than the tolerance."""
    case = next(case for case in one_pass.CASES.values() if case.stages)
    other = replace(case, arguments={**case.arguments, **wrong})
    (racer,), expected = one_pass.prepare(other, [OURS], SMALL)
    assert one_pass.check([racer], expected)[OURS] > case.tolerance


def test_bytes_moved_are_those_of_the_arrays():
    """In place counts twice, what is only read or only written once; q8 has scales of its own."""
    assert [case.bytes_moved for case in one_pass.CASES.values()] == [
        42,
        22,
        14,
        16 + 16 / 256,
        10 + 16 / 256,
        42,
    ]


def test_aligned_is_a_copy_at_a_cache_line():
    values = np.arange(5, dtype=np.float32)
    copy = one_pass.aligned(values, one_pass.bfloat16)
    assert copy.ctypes.data % 64 == 0
    assert copy.dtype == one_pass.bfloat16
    assert not np.shares_memory(copy, values)
    assert np.array_equal(copy.astype(np.float32), values)


def test_show_prints_a_row_for_every_case_and_leaves_out_who_is_missing(capsys):
    def runs_of(name):
        rivals = list(one_pass.CASES[name].rivals)
        return [
            [(OURS, 2.0, 1e-7), (rivals[0], ours * 3.0, 1e-6), (MOVE, 1.0, 0.0)] for ours in (2, 1)
        ]

    one_pass.show(runs_of)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + len(one_pass.CASES)
    for row, (name, case) in zip(rows[1:], one_pass.CASES.items(), strict=True):
        wanted = next(iter(case.rivals.values()))
        assert row.startswith(f"| {name} | {case.bytes_moved:.4g} |")
        assert f": 2.25 (≥ {wanted:.3g})" in row
        assert row.count("≥") == 1
        assert "| 0.50 |" in row
        ns = 2.0 / math.fsum(case.size) * 1e9
        assert f"{ns:.2f} ns" in row
