"""What is kept beside a parameter goes on unharmed: rule × front door × storage × way to resume.

One run has all of it at once: two parameters that train in turns and one that never does and is
changed by hand, a schedule under a Plateau, averages, copies, sampled statistics, a skipped step.
"""

import copy
import functools
import io
import pickle

import ml_dtypes
import numpy as np
import pytest

import gradstep as gs
from cases import BEGINS, DRIVEN, EXACT, RULES, table_row

STEPS, SKIPPED, SIZE = 7, 4, 700
STORAGES = {
    "float32": {},
    "bfloat16": {"states": "bfloat16"},
    "split": {"split": True},
    "q8": {"states": "q8"},
}
HALF = ("bfloat16", "split")  # the parameters are bfloat16


def options(rule, storage, copies):
    """All stages; a fresh driver for each optimizer."""
    lr = gs.schedules.Plateau(gs.schedules.linear(0.05, 0.0, 40), gamma=0.5, patience=0)
    if rule not in DRIVEN:
        lr = 0.05
    more = dict(BEGINS.get(rule, {}))
    more |= {"momentum": 0.9} if rule in ("SGD", "SignSGD") else {}
    more |= {} if gs.rule.RULES[rule].shows else {"average": 0.75}
    return {
        "lr": lr, "stats": "sample", "nonfinite": "skip", "copy_to": copies, "clip_norm": 2.0,
        **STORAGES[storage], **more,
    }  # fmt: skip


class Arrays:
    """The front door for NumPy."""

    ways = ("state dict", "file", "pickle", "deepcopy")

    def __init__(self, rule, storage, params):
        dtype = ml_dtypes.bfloat16 if storage in HALF else np.float32
        self.rule, self.storage = rule, storage
        self.params = [np.array(p, np.float32).astype(dtype) for p in params]
        self.copies = [np.zeros(SIZE, ml_dtypes.bfloat16) for _ in params]
        self.opt = getattr(gs, rule)(self.params, **options(rule, storage, self.copies))

    def step(self, grads):
        own = [None if g is None else g.astype(self.params[0].dtype) for g in grads]
        return self.opt.step(own)

    def plateau(self):
        return self.opt.groups[0]["lr"]

    def change(self, i):
        self.params[i] += np.asarray(0.25, self.params[i].dtype)

    def stale(self):
        """Leave copies that only loading can bring up to date."""
        for one in self.copies:
            one[:] = 7

    def numbers(self, arrays):
        return [np.array(a, np.float32) for a in arrays]

    def resume(self, way, tmp_path):
        if way in ("pickle", "deepcopy"):
            copier = copy.deepcopy if way == "deepcopy" else lambda x: pickle.loads(pickle.dumps(x))
            self.opt, self.params, self.copies = copier((self.opt, self.params, self.copies))
            return
        self.opt.save(tmp_path / "state") if way == "file" else None
        saved = self.opt.state_dict()
        self.__init__(self.rule, self.storage, self.params)
        self.stale()
        self.opt.load(tmp_path / "state") if way == "file" else self.opt.load_state_dict(saved)


class Tensors(Arrays):
    """The front door for PyTorch; tests/test_torch_life.py pickles and copies."""

    ways = ("state dict", "file")

    def __init__(self, rule, storage, params):
        import torch  # noqa: PLC0415

        import gradstep.torch as gt  # noqa: PLC0415

        self.rule, self.storage, self.torch = rule, storage, torch
        dtype = torch.bfloat16 if storage in HALF else torch.float32
        values = [torch.tensor(np.array(p, np.float32)).to(dtype) for p in self.numbers(params)]
        self.params = [torch.nn.Parameter(value) for value in values]
        self.copies = [torch.zeros(SIZE, dtype=torch.bfloat16) for _ in params]
        given = options(rule, storage, self.copies)
        self.lr = given["lr"]  # param_groups show numbers
        self.opt = getattr(gt, rule)(self.params, **given)

    def step(self, grads):
        for p, g in zip(self.params, grads, strict=True):
            p.grad = None if g is None else self.torch.tensor(g).to(p.dtype)
        self.opt.step()
        return self.opt.report

    def plateau(self):
        return self.lr

    def change(self, i):
        with self.torch.no_grad():
            self.params[i] += 0.25

    def numbers(self, arrays):
        return [a.detach().float().numpy().copy() if hasattr(a, "detach") else a for a in arrays]

    def resume(self, way, _):
        saved = self.opt.state_dict()
        if way == "file":
            file = io.BytesIO()
            self.torch.save(saved, file)
            file.seek(0)
            saved = self.torch.load(file, weights_only=True)
        self.__init__(self.rule, self.storage, self.params)
        self.stale()
        self.opt.load_state_dict(saved)


DOORS = {"arrays": Arrays, "tensors": Tensors}


def run(door, cut=None, way="no", tmp_path=None):
    """What each step says and leaves behind."""
    rng = np.random.default_rng(3)
    seen = []
    for k in range(STEPS):
        if k == cut:
            door.resume(way, tmp_path)
            # Copies are equal to the parameters at once, those of frozen ones, too.
            copies = [np.array(c) for c in door.numbers(door.copies)]
            for one, param in zip(copies, door.numbers(door.params), strict=True):
                np.testing.assert_array_equal(one, param.astype(ml_dtypes.bfloat16))
        grad = rng.standard_normal(SIZE, np.float32)
        if k == SKIPPED:
            grad[17] = np.inf
        report = door.step([grad, None, None] if k % 2 == 0 else [None, grad, None])
        seen.append({
            "report": {key: value for key, value in report.to_dict().items() if key != "groups"},
            "params": door.numbers(door.params), "copies": door.numbers(door.copies),
        })  # fmt: skip
        with door.opt.averaged():
            seen[-1]["averages"] = door.numbers(door.params)
        if k in (1, 2) and door.rule in DRIVEN:
            door.plateau().observe(float(k))  # from the second on half of the rate
        if k == 2:
            door.change(2)
            door.opt.fill_copies()  # no step writes the copy of a parameter without a gradient
    return seen


def built(door, rule, storage):
    if door == "tensors":
        pytest.importorskip("torch")
    start = np.random.default_rng(1).standard_normal((3, SIZE), np.float32)
    return DOORS[door](rule, storage, list(start.astype(ml_dtypes.bfloat16).astype(np.float32)))


@functools.lru_cache(maxsize=2)
def whole(door, rule, storage):
    return run(built(door, rule, storage))


def table(by_way=False):
    """Every rule with every storage, by each way to resume; every day each with half of them."""
    return [
        table_row(door, rule, storage, *way, every_day=(i + j) % 2 == 0)
        for door in DOORS
        for i, rule in enumerate(RULES)
        for j, storage in enumerate(STORAGES)
        if not (rule in EXACT and storage == "q8")
        for way in ([(way,) for way in DOORS[door].ways] if by_way else [()])
    ]


@pytest.mark.parametrize(("door", "rule", "storage"), table())
def test_a_whole_run_is_right(door, rule, storage):
    seen = whole(door, rule, storage)
    schedule, before = gs.schedules.linear(0.05, 0.0, 40), None
    done, average = 0, None
    for k, now in enumerate(seen):
        report = now["report"]
        assert report["skipped"] == (k == SKIPPED)
        # the clock: each step that is not skipped, whichever parameter has a gradient
        rate = schedule(done) * (0.5 if k > 2 else 1.0)
        assert report["lr"] == (rate if rule in DRIVEN else 0.05)
        done += not report["skipped"]
        assert report["t"] == done
        for one, param in zip(now["copies"], now["params"], strict=True):
            if k != 3:  # only the next step that writes the copy sees a change by hand, or a load
                np.testing.assert_array_equal(one[:-1], param.astype(ml_dtypes.bfloat16)[:-1])
        if before is not None and report["skipped"]:
            for what in ("params", "averages"):
                for a, b in zip(now[what], before[what], strict=True):
                    np.testing.assert_array_equal(a, b)
        if not gs.rule.RULES[rule].shows:
            frozen = now["params"][2].astype(np.float64)
            if average is None:
                average = frozen
            elif not report["skipped"]:
                average = 0.75 * average + 0.25 * frozen
            np.testing.assert_allclose(now["averages"][2], average, rtol=1e-2, atol=1e-2)
        before = now
    assert not np.array_equal(seen[-1]["params"][0], seen[0]["params"][0])


@pytest.mark.parametrize(("door", "rule", "storage", "way"), table(by_way=True))
def test_it_goes_on_after_any_step(door, rule, storage, way, tmp_path):
    wanted = whole(door, rule, storage)
    for cut in (1, 3, 5):
        got = run(built(door, rule, storage), cut, way, tmp_path)
        for k, (a, b) in enumerate(zip(got, wanted, strict=True)):
            assert a["report"] == b["report"], f"cut {cut}, step {k}"
            for what in ("params", "averages", "copies"):
                for x, y in zip(a[what], b[what], strict=True):
                    np.testing.assert_array_equal(x, y, err_msg=f"{what}, cut {cut}, step {k}")
