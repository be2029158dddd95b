"""Corners of storages and stages that the tables do not turn: each once hid a defect."""

import contextlib
import copy
import pickle
import threading
import time

import ml_dtypes
import numpy as np
import pytest

import gradstep as gs
from cases import assert_same_bits

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def normal(shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


# A sum's unit is 65536 elements, counted from the start of the tensor that a shard is a piece of.
UNIT = 65536


def measured(start, n=2 * UNIT + 1000):
    p = normal(n)
    opt = gs.Adam(gs.Shard(p, key=1, start=start), stats=True)
    for seed in (1, 2):
        old, m, g = p.astype(float), opt.state["0"]["exp_avg"].astype(float), normal(n, seed=seed)
        report = opt.step(g)
    new, v, g = p.astype(float), opt.state["0"]["exp_avg_sq"], g.astype(float)
    assert report.grad_norm == pytest.approx(np.linalg.norm(g), rel=1e-12)
    assert report.update_norm == pytest.approx(np.linalg.norm(new - old), rel=1e-12)
    assert report.param_norm == pytest.approx(np.linalg.norm(new), rel=1e-12)
    cosine = g @ m / np.linalg.norm(g) / np.linalg.norm(m)
    assert report.cosine == pytest.approx(cosine, rel=1e-9)
    # the quotient itself is rounded to float32
    assert report.g2_over_v == pytest.approx(np.mean(g * g / v) * (1 - 0.999**2), rel=1e-6)
    return report


@pytest.mark.parametrize("start", [0, UNIT - 512, 3 * UNIT + 7])
@pytest.mark.usefixtures("threads")
def test_statistics_of_a_large_tensor(start):
    """Every element counts once, wherever its sums begin; one thread gets the same bits."""
    report = measured(start)
    gs.set_num_threads(1)
    gs.set_target(gs.config()["targets"][0])
    assert measured(start) == report


def test_a_skipped_step_zeroes_the_gradients_of_frozen_groups():
    """Or a NaN that was added up in one would be there when the group thaws."""
    a, b = np.ones(3), np.ones(3)
    opt = gs.SGD([{"params": a}, {"params": b, "frozen": True}], lr=1.0, nonfinite="skip")
    g = [np.array([1, np.nan, 2]), np.array([3.0, np.nan, 4])]
    assert opt.step(g, zero_grads=True).skipped
    assert not any(x.any() for x in g)


@pytest.mark.parametrize("states", ["float32", "q8"])
def test_gradients_change_their_dtype(states):
    """From one step to the next: the loop that fits is chosen anew each time."""
    p, q = normal(700, BFLOAT16), normal(700, BFLOAT16)
    one, two = gs.AdamW(p, states=states), gs.AdamW(q, states=states)
    for dtype in [BFLOAT16, np.float32, BFLOAT16, np.float64, np.float16]:
        g = np.linspace(-2, 2, 700).round(1).astype(BFLOAT16).astype(dtype)  # exact in all
        one.step(g)
        two.step(g.astype(np.float32))
        assert_same_bits(p, q)


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), np.dtype(np.float64), BFLOAT16])
def test_clip_value_comes_and_goes(dtype):
    """A clipped gradient is of the compute type, so another loop fits."""
    p, q = normal(700, dtype), normal(700, dtype)
    one, two = gs.AdamW(p), gs.AdamW(q)
    for limit in (None, 0.5, None, 0.25):
        g = normal(700, dtype, 1)
        one.stages["clip_value"] = limit
        one.step(g)
        two.step(g if limit is None else np.clip(g.astype(np.float64), -limit, limit))
        assert_same_bits(p, q)


def test_each_parameter_has_its_own_count():
    """Within a group, what t gives is resolved for each count."""
    params = [np.ones(5), np.ones(5)]
    alone = [np.ones(5), np.ones(5)]
    opt, others = gs.Adam(params, lr=0.1), [gs.Adam(p, lr=0.1) for p in alone]
    for k in range(4):
        grads = [normal(5, np.float64, k), normal(5, np.float64, k + 9) if k % 2 else None]
        opt.step(grads)
        for other, g in zip(others, grads, strict=True):
            if g is not None:
                other.step(g)
    for p, q in zip(params, alone, strict=True):
        assert_same_bits(p, q)


@pytest.mark.parametrize("where", [0, 1, 2])
def test_the_first_gradient_that_is_not_finite(where):
    params = [np.ones(3) for _ in range(3)]
    grads = [np.ones(3) for _ in range(3)]
    for g in grads[where:]:
        g[2] = np.nan
    opt = gs.SGD(params, nonfinite="raise")
    with pytest.raises(FloatingPointError, match=rf"^grads\[{where}\]: "):
        opt.step(grads)
    opt.stages["nonfinite"] = "skip"
    assert opt.step(grads).skipped


@pytest.mark.parametrize("storage", ["bfloat16", "float16"])
@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("bits", [0x7F800001, 0x7FFFFFFF, 0xFF800001, 0xFFFFFFFF, 0x7FBFFFFF])
def test_every_nan_stays_one(bits, stochastic, storage):
    """Rounding must not carry a NaN's fraction into the exponent, to infinity or zero."""
    x = np.full(700, bits, np.uint32).view(np.float32)
    out = np.zeros(700, BFLOAT16 if storage == "bfloat16" else np.float16)
    gs._core.encode(storage, "param", x, out, stochastic, 1, 2, 3, 0, 0)
    assert np.isnan(out.astype(np.float32)).all()


def test_a_refused_group_leaves_names_and_structure():
    """An optimizer without groups stays one."""
    opt = gs.SGD(np.ones(2), lr=0.5, average=0.5)
    with pytest.raises(TypeError, match=r"lr"):
        opt.add_group({"params": np.ones(2), "lr": "fast"})
    assert isinstance(opt.average, np.ndarray)
    with pytest.raises(TypeError, match=r"^grads: got"):
        opt.step([1.0, 2.0])


def test_a_refused_group_loses_no_change():
    """What was assigned before it takes effect, though it was compiled for the refused one."""
    p = np.ones(2)
    opt = gs.SGD(p, lr=0.5, clip_value=1e-46)
    opt.groups[0]["lr"] = 0.0
    with pytest.raises(ValueError, match=r"^clip_value: .*float32"):
        opt.add_group({"params": np.ones(2, np.float32)})
    opt.stages["clip_value"] = None
    assert opt.step(np.ones(2)).lr == 0.0
    assert (p == 1).all()


def test_unpickled_from_memory_that_is_locked():
    """Buffers that came beside the pickle may be read-only."""
    buffers = []
    data = pickle.dumps(gs.SGD(np.ones(2)), protocol=5, buffer_callback=buffers.append)
    with pytest.raises(ValueError, match=r"^params: got a read-only array"):
        pickle.loads(data, buffers=[bytes(buffer) for buffer in buffers])


def test_one_gradient_for_two_beside_none():
    params, g = [np.ones(2) for _ in range(3)], np.ones(2)
    with pytest.raises(ValueError, match=r"^grads\[2\]: got memory that overlaps grads\[0\]"):
        gs.SGD(params).step([g, None, g], zero_grads=True)


def test_rounding_of_params_in_some_group():
    """A group that is not rounded may join one that is."""
    opt = gs.SGD(np.ones(2, BFLOAT16), rounding={"params": "stochastic"})
    opt.add_group({"params": np.ones(2, np.float32)})
    assert len(opt.groups) == 2


def test_clip_norm_is_a_double():
    """It never meets a float32 but as a factor of at most 1."""
    report = gs.SGD(np.ones(2, np.float32), clip_norm=1e300).step(np.ones(2, np.float32))
    assert report.grad_norm == 2**0.5


def test_grad_norm_is_what_clipping_used():
    """With statistics, too, whose sums begin elsewhere in a shard."""
    g = normal(9001)
    for kw in ({"clip_norm": 1.0}, {"nonfinite": "skip"}):
        norms = set()
        for stats in (False, True):
            shard = gs.Shard(np.ones(9001, np.float32), key=0, start=261)
            norms.add(gs.SGD(shard, stats=stats, **kw).step(g, loss_scale=3.0).grad_norm)
        assert len(norms) == 1


def test_load_tells_true_from_one():
    opt = gs.SGD(np.ones(2, BFLOAT16), split=True)
    saved = opt.state_dict()
    saved["storages"]["split"] = 1
    with pytest.raises(ValueError, match=r"^state_dict\['storages'\]\['split'\]: got 1, wanted T"):
        opt.load_state_dict(saved)


# ---- snapshots, interrupts, scales and copies ----


def stepping(opt, g, stop):
    while not stop.is_set():
        with contextlib.suppress(RuntimeError):  # the other thread has it
            opt.step(g)
        time.sleep(0.002)


@pytest.mark.parametrize("take", ["state_dict", "deepcopy"])
def test_a_snapshot_is_of_one_step(take):
    """While another thread steps: Adagrad's sum of ones is the number of updates."""
    p, g = np.zeros(1 << 22, np.float32), np.ones(1 << 22, np.float32)
    opt, stop = gs.Adagrad(p, lr=0.0), threading.Event()
    thread = threading.Thread(target=stepping, args=(opt, g, stop))
    thread.start()
    torn, taken = 0, 0
    try:
        while taken < 30:
            try:
                saved = opt.state_dict() if take == "state_dict" else copy.deepcopy(opt)
            except RuntimeError:
                time.sleep(0.0005)
                continue
            taken += 1
            entry = (saved["state"] if take == "state_dict" else saved.state)["0"]
            torn += not (entry["sum"] == entry["step"]).all()
    finally:
        stop.set()
        thread.join()
    assert torn == 0


def test_g2_over_v_by_each_parameters_count():
    """v is corrected by its own parameter's count, not by the largest of the group."""
    a, b, g = np.ones(8), np.ones(8), np.full(8, 0.5)
    opt = gs.Adam([a, b], stats=True)
    for _ in range(100):
        opt.step([g, None])
    assert opt.step([None, g]).g2_over_v == pytest.approx(1)  # b's first update
    assert opt.step([g, g]).g2_over_v == pytest.approx(1)


@pytest.mark.parametrize("scale", [1e-320, 1e-39, 1e50])
def test_a_loss_scale_that_float32_cannot_divide_by(scale):
    """Its inverse would be infinite, and 0 times it a NaN; or nothing would be left."""
    p = np.ones(2, np.float32)
    with pytest.raises(ValueError, match=r"^loss_scale: got "):
        gs.SGD(p, lr=0.1).step(np.array([0, 1], np.float32), loss_scale=scale)
    assert (p == 1).all()


def test_a_float64_gradient_beyond_float32_is_not_finite():
    """Where the step computes in float32 it becomes an infinity."""
    p = np.ones(2, np.float32)
    report = gs.AdamW(p, nonfinite="skip").step(np.array([1e39, 1]))
    assert report.skipped
    assert (p == 1).all()


@pytest.mark.filterwarnings("ignore:Setting the dtype")  # still possible in NumPy 2.5
@pytest.mark.parametrize("change", ["dtype", "resize"])
def test_a_copy_that_changed_is_named(change):
    p, to = np.ones(4, BFLOAT16), np.zeros(4, BFLOAT16)
    opt = gs.SGD(p, lr=0.1, copy_to=to)
    if change == "dtype":
        to.dtype = np.float16
    else:
        to.resize(8, refcheck=False)
    with pytest.raises(ValueError, match=r"^copy_to: got "):
        opt.step(np.ones(4, np.float32))


def test_load_refuses_other_rounding():
    """Or it would not continue bit for bit, and nobody would know."""
    p = normal(10, BFLOAT16)
    saved = gs.AdamW(p, rounding="stochastic").state_dict()
    with pytest.raises(ValueError, match=r"^state_dict\['storages'\]"):
        gs.AdamW(p, rounding="nearest").load_state_dict(saved)


def test_an_interrupt_on_the_way_into_averaged(interrupted):
    """Ctrl-C while the averages are swapped in or out: the parameters are what they were."""
    n = 1 << 23
    p = np.zeros(n, np.float32)
    opt = gs.SGD(p, lr=1.0, average=0.5)
    opt.step(np.full(n, -1, np.float32))  # parameters 1, averages ½

    def look():
        with opt.averaged():
            pass

    for delay in np.linspace(2e-4, 1.2e-2, 40):
        interrupted(delay, look)
        assert (p == 1).all()
        assert (opt.average == 0.5).all()


@pytest.mark.parametrize("call", ["step", "state_dict", "averaged", "deepcopy"])
def test_an_interrupt_leaves_the_optimizer_free(interrupted, call):
    """Wherever Ctrl-C falls in many short calls, none of them is at work afterwards."""
    g = np.ones(1)
    opt = gs.SGD(np.ones(1), average=0.5)

    def look():
        with opt.averaged():
            pass

    once = {
        "step": lambda: opt.step(g),
        "state_dict": opt.state_dict,
        "averaged": look,
        "deepcopy": lambda: copy.deepcopy(opt),
    }[call]

    def calls():
        end = time.monotonic() + 1
        while time.monotonic() < end:
            once()

    for delay in np.linspace(1e-4, 1e-3, 300):
        interrupted(delay, calls)
        opt.step(g)


# ---- what would go unnoticed ----


def test_attributes_that_nothing_reads_are_refused():
    opt = gs.Adam(np.ones(3))
    with pytest.raises(AttributeError, match=r"^lr: got 3, wanted it at groups\[0\]\['lr'\]"):
        opt.lr = 3
    with pytest.raises(AttributeError, match=r"^clip_norm: got 1, wanted it at stages"):
        opt.clip_norm = 1
    opt.note = "mine"


@pytest.mark.parametrize("name", ["learning_rate", "weight_decy", "beta1", "state"])
def test_an_unknown_argument_is_named(name):
    with pytest.raises(TypeError, match=f"^Adam: got the unknown argument '{name}', wanted .* lr,"):
        gs.Adam(np.ones(3), **{name: 1})


@pytest.mark.parametrize("function", [gs.schedules.cosine, lambda: 1.0])
@pytest.mark.parametrize("argument", ["lr", "clip_norm"])
def test_a_function_that_takes_no_step_is_refused_at_once(function, argument):
    with pytest.raises(TypeError, match=f"^{argument}: got <function .* step alone"):
        gs.Adam(np.ones(3), **{argument: function})


def test_a_plateau_that_is_yours_stays_the_one_in_use(tmp_path):
    def build():
        plateau = gs.schedules.Plateau(0.1, gamma=0.5, patience=0)
        params = [{"params": [np.ones(2)], "lr": plateau} for _ in range(2)]
        return plateau, gs.SGD(params)

    plateau, opt = build()
    plateau.observe(1.0)
    plateau.observe(2.0)
    opt.save(tmp_path / "a")
    plateau, opt = build()
    opt.load(tmp_path / "a")
    assert opt.groups[0]["lr"] is opt.groups[1]["lr"] is plateau
    assert plateau.multiplier == 0.5
    plateau.observe(3.0)
    assert opt.step([[np.ones(2)], [np.ones(2)]]).lr == (0.025, 0.025)
