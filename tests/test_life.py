"""The life of an optimizer over arrays: rules per group, what is loaded or interrupted, its end."""

import re
import signal
import subprocess
import sys

import numpy as np
import pytest

import gradstep as gs
from cases import OPTIONS, RULES, assert_same_bits, table_row
from gradstep.rule import RULES as KNOWN
from processes import environment, finished, run

GATHERING = [rule for rule in RULES if KNOWN[rule].gathers]


def arrays(n, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(1500 + i).astype(np.float32) for i in range(n)]


# ---- a rule per group ----


@pytest.mark.parametrize(
    ("rule", "other"),
    [
        table_row(rule, other, every_day=(i + j) % 8 == 0)
        for i, rule in enumerate(RULES)
        for j, other in enumerate(RULES)
    ],
)
def test_a_rule_per_group(rule, other, tmp_path):
    """Each group as its rule alone, also when the file of both is loaded."""
    if rule == other and KNOWN[rule].common:
        pytest.skip("its groups are stepped together, see tests/test_ratefree.py")
    options = OPTIONS[other][-1]
    together, apart = arrays(2), arrays(2)

    def build(params):
        groups = [{"params": params[:1]}, {"params": params[1:], "rule": other, **options}]
        return getattr(gs, rule)(groups)

    opt = build(together)
    alone = [getattr(gs, rule)(apart[:1]), getattr(gs, other)(apart[1:], **options)]
    for k in range(4):
        gradients = arrays(2, seed=k + 1)
        opt.step([gradients[:1], gradients[1:]])
        for one, gradient in zip(alone, gradients, strict=True):
            one.step([gradient])
        if k == 1:
            opt.save(tmp_path / "opt")
            opt = build(together)
            opt.load(tmp_path / "opt")
    for p, q in zip(together, apart, strict=True):
        assert p.tobytes() == q.tobytes()


@pytest.mark.parametrize(
    ("rule", "group", "error", "message"),
    [
        ("AdamW", {"rule": "LAMB", "momentum": 0.5}, TypeError, "groups[0] momentum: got a hyper"),
        ("SGD", {"rule": "Adam", "nesterov": True}, TypeError, "groups[0] nesterov: got a hyper"),
        ("SGD", {"rule": "Nothing"}, ValueError, "rule: got 'Nothing', wanted one of SGD, "),
        ("Adam", {"rule": "SGD", "nesterov": True}, ValueError, "nesterov"),
    ],
)
def test_a_rule_per_group_is_refused(rule, group, error, message):
    with pytest.raises(error, match=re.escape(message)):
        getattr(gs, rule)([{"params": [np.ones(3)], **group}])


# ---- rules that look at whole tensors ----


@pytest.mark.parametrize("rule", [*GATHERING, "AdamW cautious"])
@pytest.mark.parametrize(
    ("cuts", "message"),
    [
        ([(0, 512), (1024, 2000)], "wanted 512: "),
        ([(512, 1024), (1024, 2000)], "wanted 0: "),
        ([(0, 1024), (512, 2000)], "wanted 1024: "),
    ],
)
def test_shards_with_gaps_are_refused(rule, cuts, message):
    p = np.ones(2000, np.float32)
    made, *switches = rule.split()
    parts = [gs.Shard(p[a:b], key=3, start=a) for a, b in cuts]
    with pytest.raises(ValueError, match=f"{message}{rule} looks at whole tensors"):
        getattr(gs, made)(parts, **dict.fromkeys(switches, True))


@pytest.mark.parametrize("rule", GATHERING)
def test_shards_that_partly_have_no_gradient_are_refused(rule):
    p = np.ones(2000, np.float32)
    opt = getattr(gs, rule)([gs.Shard(p[a : a + 1000], key=3, start=a) for a in (0, 1000)])
    with pytest.raises(ValueError, match="whole tensors"):
        opt.step([np.ones(1000, np.float32), None])
    assert (p == 1).all()
    assert opt.t == 0


# ---- norms beyond the square root of the largest number ----


@pytest.mark.parametrize("size", [3, 5000])
def test_a_norm_whose_square_overflows(size):
    g = np.full(size, 1e300)
    wanted = 1e300 * np.sqrt(size)
    np.testing.assert_allclose(gs.global_norm([g]), wanted, rtol=1e-12)
    p = np.zeros(size)
    opt = gs.SGD(p, lr=1.0, clip_norm=1.0, nonfinite="skip")
    report = opt.step(g)
    assert not report.skipped
    np.testing.assert_allclose(report.grad_norm, wanted, rtol=1e-12)
    np.testing.assert_allclose(p, -1 / np.sqrt(size), rtol=1e-6)


# ---- all or nothing ----


class Hit(BaseException):
    pass


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="a system without timers")
@pytest.mark.parametrize("rule", ["Adam", "LAMB", "ScheduleFreeAdamW"])
def test_an_interrupted_load_is_whole_or_nothing(rule):
    params = [np.ones(20_000, np.float32) for _ in range(40)]
    gradients = [np.ones_like(p) for p in params]
    opt = getattr(gs, rule)(params)
    saved = []
    for _ in range(2):
        opt.step(gradients)
        saved.append(opt.state_dict())

    within = [False]

    def hit(*_):
        if within[0]:  # once per load: the timer does not repeat
            raise Hit

    old = signal.signal(signal.SIGALRM, hit)
    try:
        for i in range(60):
            opt.load_state_dict(saved[1])
            try:
                within[0] = True
                signal.setitimer(signal.ITIMER_REAL, 1e-4 + 2e-4 * i)
                opt.load_state_dict(saved[0])
                within[0] = False
            except Hit:
                within[0] = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            wanted = saved[int(opt.t) - 1]["state"]
            for name, entry in opt.state.items():
                assert all(np.all(entry[key] == array) for key, array in wanted[name].items())
    finally:
        signal.signal(signal.SIGALRM, old)


@pytest.mark.parametrize("way", ["dict", "file"])
@pytest.mark.parametrize(
    ("rule", "key"), [("Rprop", "lr"), ("Adagrad", "initial_accumulator_value")]
)
def test_what_states_started_from_is_loaded_with_them(rule, key, way, tmp_path):
    w, twin, g = np.ones(5), np.ones(5), np.linspace(-1, 1, 5)
    opt, other = getattr(gs, rule)(w, **{key: 0.01}), getattr(gs, rule)(twin, **{key: 0.1})
    for _ in range(2):
        opt.step(g)
    twin[:] = w
    if way == "file":
        opt.save(tmp_path / "opt.safetensors")
        other.load(tmp_path / "opt.safetensors")
    else:
        other.load_state_dict(opt.state_dict())
    assert other.groups[0][key] == 0.01
    opt.step(g)
    other.step(g)
    assert_same_bits(twin, w)
    other.groups[0][key] = 0.1
    with pytest.raises(ValueError, match=f"{key}: got 0.1, but the states started from 0.01"):
        other.step(g)


@pytest.mark.parametrize(
    ("rule", "key"), [("Rprop", "lr"), ("Adagrad", "initial_accumulator_value")]
)
def test_what_states_started_from_stays_where_loading_fails(rule, key):
    opt, other = (getattr(gs, rule)(np.ones(5), **{key: start}) for start in (0.01, 0.1))
    saved = opt.state_dict()
    saved["stages"]["clip_norm"] = -1  # found only as the last of all
    with pytest.raises(ValueError, match="clip_norm: got -1"):
        other.load_state_dict(saved)
    assert other.step(np.ones(5)).t == 1
    other.groups[0][key] = 0.01
    with pytest.raises(ValueError, match=f"{key}: got 0.01, but the states started from 0.1"):
        other.step(np.ones(5))


@pytest.mark.parametrize("rule", RULES)
def test_what_a_sample_keeps_is_saved(rule, tmp_path):
    p = np.linspace(-1, 1, 3000)
    opt = getattr(gs, rule)(p, stats="sample")
    reports = []
    for k in range(4):
        if k == 2:
            opt.save(tmp_path / "opt")
            before = p.copy()
        reports.append(opt.step(np.sin(np.arange(3000.0) + k)).to_dict())
    again = getattr(gs, rule)(before, stats="sample")
    again.load(tmp_path / "opt")
    for k in range(2, 4):
        assert again.step(np.sin(np.arange(3000.0) + k)).to_dict() == reports[k]


# ---- the end of a process, and where it is imported ----

DOORS = {
    "arrays": """
        import numpy as np, gradstep as gs
        p = np.ones(2_000_000, np.float32)
        g, opt = np.ones_like(p), gs.SGD(p)
        step = lambda: opt.step(g)
    """,
    "torch": """
        import torch, gradstep.torch as gt
        p = torch.ones(2_000_000, requires_grad=True)
        opt = gt.SGD([p], lr=0.1)
        p.grad = torch.ones_like(p)
        step = opt.step
    """,
}


@pytest.mark.parametrize("door", DOORS)
def test_a_daemon_thread_is_in_a_step_when_the_process_ends(door):
    if door == "torch":
        pytest.importorskip("torch")
    end = """
        import threading, time
        def loop():
            while True:
                step()
        threading.Thread(target=loop, daemon=True).start()
        time.sleep(0.2)
        print("end")
    """
    for _ in range(3):
        assert run(DOORS[door] + end) == "end\n"


def test_a_sub_interpreter_is_refused():
    """NumPy would wait there for ever, or crash."""
    script = """
        try:
            import _interpreters as interpreters
        except ImportError:
            import _xxsubinterpreters as interpreters
        made = interpreters.create()
        try:
            said = interpreters.run_string(made, "import gradstep")
        except Exception as error:
            said = error
        print(said)
    """
    result = finished(script, options=())
    if "No module named" in result.stderr:
        pytest.skip("this Python has no module for other interpreters")
    assert "gradstep: got a sub-interpreter, wanted the main interpreter" in result.stdout


COMMAND = "import sys; from gradstep_command import main; sys.exit(main())"


@pytest.mark.parametrize("variable", ["GRADSTEP_TARGET", "GRADSTEP_TEAM"])
@pytest.mark.parametrize("value", ["turbo", "über", "\udcff"])
def test_the_command_says_in_words_what_is_wrong_with_the_environment(variable, value):
    result = subprocess.run(
        [sys.executable, "-c", COMMAND, "info"],
        env=environment(**{variable: value}),
        capture_output=True,
        timeout=100,
        check=False,
    )
    said = result.stderr.decode(errors="replace")
    assert result.returncode == 1
    assert said.startswith(f"gradstep: {variable}: got ")
    assert "Traceback" not in said


@pytest.mark.parametrize("count", ["1e3", "x", "-1", "99999999999999999999", ""])
def test_what_openmp_would_not_read_is_ignored(count):
    script = "import gradstep; print(gradstep.get_num_threads())"
    assert run(script, OMP_NUM_THREADS=count) == run(script, OMP_NUM_THREADS=None)
