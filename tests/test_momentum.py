"""A momentum that starts at 0, passes through it, or is turned on later: PyTorch's numbers."""

import copy
import pickle

import numpy as np
import pytest

import gradstep as gs
from cases import assert_same_bits, normal

RULES = [
    name
    for name, rule in gs.rule.RULES.items()
    if any(state.option == "momentum" for state in rule.states)
]
# momentum by step
PATHS = {
    "later": [0.0, 0.0, 0.5, 0.9],
    "from 0 and back": [0.9, 0.0, 0.0, 0.9],
    "through 1": [0.5, 1.0, 1.5, 1.0],
    "never": [0.0, 0.0, 0.0, 0.0],
}


def built(rule, w, momentum, **options):
    return getattr(gs, rule)(w, lr=0.1, momentum=momentum, **options)


def run(opt, w, grads, path):
    for g, momentum in zip(grads, path, strict=True):
        opt.groups[0]["momentum"] = momentum
        opt.step(g)
    return w


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("how", ["saved", "pickled", "copied", "file"])
def test_a_run_goes_on_from_any_step(rule, path, how, tmp_path):
    """Saved and loaded at each step, into an optimizer built at any of the momenta."""
    rng = np.random.default_rng(0)
    grads = [normal(rng, 40, np.float32) for _ in range(4)]
    wanted = np.ones(40, np.float32)
    run(built(rule, wanted, PATHS[path][0]), wanted, grads, PATHS[path])
    for cut in range(1, 4):
        for start in (0.0, 0.9) if how in ("saved", "file") else (None,):
            w = np.ones(40, np.float32)
            opt = built(rule, w, PATHS[path][0])
            run(opt, w, grads[:cut], PATHS[path][:cut])
            if how == "pickled":
                opt = pickle.loads(pickle.dumps(opt))
                w = opt.groups[0].params
            elif how == "copied":
                opt = copy.deepcopy(opt)
                w = opt.groups[0].params
            else:
                opt.save(tmp_path / "state") if how == "file" else None
                saved = opt.state_dict()
                opt = built(rule, w, start)
                opt.load(tmp_path / "state") if how == "file" else opt.load_state_dict(saved)
            run(opt, w, grads[cut:], PATHS[path][cut:])
            assert_same_bits(w, wanted, f"cut {cut}, built at {start}")


@pytest.mark.parametrize("rule", RULES)
def test_a_state_that_does_not_fit_leaves_no_buffer(rule):
    """The buffer that a refused state dict would have called for is not there afterwards."""
    opt, other = (built(rule, np.ones(3), momentum) for momentum in (0.0, 0.9))
    other.step(np.ones(3))
    saved = other.state_dict()
    saved["groups"][0]["lr"] = -1.0
    before = opt.state_dict()
    with pytest.raises(ValueError, match="lr: got -1"):
        opt.load_state_dict(saved)
    assert opt.state_dict()["state"]["0"].keys() == before["state"]["0"].keys()
    assert repr(opt) == repr(built(rule, np.ones(3), 0.0))
