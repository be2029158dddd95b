"""What version 0.1 saved still loads, and goes on to the same bits.

The files in data/ were written by that version: three updates of AdamW under a cosine of 10, with a
first moment in q8, averages and clipping, over the gradients below.
"""

from pathlib import Path

import numpy as np
import pytest

import gradstep as gs
from cases import assert_same_bits

DATA = Path(__file__).parent / "data"
OPTIONS = {"states": {"exp_avg": "q8"}, "average": 0.9, "clip_norm": 1.0}


def gradients(k):
    grads = [np.full(3, 0.5 + k), np.linspace(-1, 1, 4) * (k + 1)]
    return [g.astype(np.float32) for g in grads]


def alone(steps):
    """The same run from its start, by this version."""
    w = [np.ones(3, np.float32), np.zeros(4, np.float32)]
    opt = gs.AdamW(w, lr=gs.schedules.cosine(0.1, total=10), **OPTIONS)
    for k in range(steps):
        report = opt.step(gradients(k))
    return w, opt, report


def test_arrays():
    with np.load(DATA / "version_0_1.npz") as saved:
        w = [saved[name] for name in saved.files]
    opt = gs.AdamW(w, lr=0.5, **OPTIONS)
    opt.load(DATA / "version_0_1.safetensors")
    for k in range(3, 5):
        report = opt.step(gradients(k))
    wanted, other, known = alone(5)
    assert report == known
    assert report.t == 5
    for got, its in zip(w, wanted, strict=True):
        assert_same_bits(got, its)
    for mine, its in zip(opt.average, other.average, strict=True):
        assert_same_bits(np.asarray(mine), np.asarray(its))


@pytest.mark.parametrize("schedule", [True, False])
def test_tensors(schedule):
    torch = pytest.importorskip("torch")
    gt = pytest.importorskip("gradstep.torch")
    saved = torch.load(DATA / "version_0_1.pt", weights_only=True)
    params = [torch.nn.Parameter(p.clone()) for p in saved["params"]]
    lr = gs.schedules.cosine(0.1, total=10) if schedule else 0.5
    opt = gt.AdamW(params, lr=lr, **OPTIONS)
    opt.load_state_dict(saved["optimizer"])
    for k in range(3, 5):
        for p, g in zip(params, gradients(k), strict=True):
            p.grad = torch.from_numpy(g)
        opt.step()
    assert opt.report.t == 5
    if schedule:
        wanted, _, known = alone(5)
        assert opt.report == known
        for p, its in zip(params, wanted, strict=True):
            assert_same_bits(p.detach().numpy(), its)
    else:  # the rate that was shown stays
        assert opt.report.lr == gs.schedules.cosine(0.1, total=10)(2)
