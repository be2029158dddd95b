"""Large states of gradstep.torch: PyTorch's memory, the parameter's layout, large pages."""

import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
import gradstep.torch as gt  # noqa: E402

LARGE_SHAPES = {
    "just below": ((1024, 1023), None),
    "from 4 MiB on": ((1024, 1024), None),
    "odd": ((1_500_003,), None),
    "transposed": ((1000, 1300), lambda p: p.t()),
    "channels last": ((64, 32, 32, 32), lambda p: p.to(memory_format=torch.channels_last)),
}


@pytest.fixture
def dirty():
    """New memory is full of NaN; else the system's own is full of zeros."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(mode=True)
    yield
    torch.use_deterministic_algorithms(mode=before)


@pytest.mark.usefixtures("dirty")
@pytest.mark.parametrize("shape", LARGE_SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("states", [None, "q8", "bfloat16"])
def test_large_states_begin_as_small_ones_do(shape, dtype, states):
    """Zeros in PyTorch's own memory, in the parameter's layout."""
    if states and dtype == torch.float64:
        pytest.skip("float64 has states of its own")
    size, change = LARGE_SHAPES[shape]
    p = torch.ones(size, dtype=dtype)
    p = torch.nn.Parameter(change(p) if change else p)
    opt = gt.AdamW([p], states=states, average=0.9)
    p.grad = torch.zeros_like(p)
    opt.param_groups[0]["lr"] = 0.0
    opt.step()  # makes them; without gradients and a rate they stay as they are
    for name in ("exp_avg", "exp_avg_sq"):
        state = opt.state[p][name]
        assert type(state) is torch.Tensor
        assert state.untyped_storage().resizable()
        if states != "q8":
            assert state.stride() == p.stride()
            assert not state.any()
    assert torch.equal(opt.state[p]["average"], p.float() if dtype == torch.bfloat16 else p)


@pytest.mark.usefixtures("dirty")
@pytest.mark.parametrize("states", [None, "q8"])
def test_large_accumulators_begin_with_their_value(states):
    p = torch.nn.Parameter(torch.zeros(5_000_000))
    opt = gt.Adagrad([p], initial_accumulator_value=0.5, states=states)
    small = torch.nn.Parameter(torch.zeros(1024))
    other = gt.Adagrad([small], initial_accumulator_value=0.5, states=states)
    mine, theirs = opt.state[p]["sum"], other.state[small]["sum"]
    assert torch.equal(mine[: theirs.numel()], theirs)


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="the system has no large pages"
)
def test_large_states_are_in_large_pages():
    """Asked for where the system offers them; whether it gives them is its own matter."""
    p = torch.nn.Parameter(torch.zeros(20_000_000))
    opt = gt.AdamW([p])
    p.grad = torch.zeros_like(p)
    opt.step()
    address = opt.state[p]["exp_avg"].data_ptr() + (4 << 20)
    flags, inside = "", False
    for line in Path("/proc/self/smaps").read_text(encoding="ascii").splitlines():
        if match := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(match[1], 16) <= address < int(match[2], 16)
        elif inside and line.startswith("VmFlags:"):
            flags = line
    assert " hg" in flags
