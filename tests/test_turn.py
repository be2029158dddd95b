"""One thread at a time, and what the others are told: in threads, in forked children, in copies."""

import copy
import os
import pickle
import sysconfig
import textwrap
import threading

import numpy as np
import pytest

import gradstep as gs
from gradstep.turn import Turn, alone
from processes import run

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
DOORS = ["gradstep", "gradstep.torch"]


@pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python cannot do without its lock"
)
def test_importing_does_not_bring_the_global_lock_back():
    """In a process of its own: in this one, other packages may have."""
    script = "import sys, gradstep; print(sys._is_gil_enabled())"
    assert run(script, PYTHON_GIL=None) == "False\n"


class Owner:
    def __init__(self):
        self._turn = Turn()

    @alone("work")
    def work(self, call=lambda: None):
        return call()


def test_whoever_is_within_keeps_others_out():
    owner = Owner()
    with pytest.raises(RuntimeError, match=r"^work: this optimizer is at work in another thread$"):
        owner.work(owner.work)
    assert owner.work(lambda: 3) == 3


def test_an_exception_gives_it_back():
    owner = Owner()
    with pytest.raises(ZeroDivisionError):
        owner.work(lambda: 1 / 0)
    owner.work()


def test_of_many_threads_one_has_it():
    owner, within, refused = Owner(), [], []
    many = threading.Barrier(8)

    def look():
        within.append(1)
        assert len(within) == 1
        within.pop()

    def work():
        many.wait(20)
        for _ in range(2000):
            try:
                owner.work(look)
            except RuntimeError:
                refused.append(1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    owner.work()


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda turn: pickle.loads(pickle.dumps(turn))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_a_copy_is_free(copied):
    owner = Owner()
    other = owner.work(lambda: copied(owner._turn))
    assert other is not owner._turn
    assert len(other.free) == len(owner._turn.free) == 1


def test_interrupts_give_it_back(interrupted):
    owner = Owner()

    def work():
        while True:
            owner.work()

    for i in range(300):
        interrupted(1e-4 + 1e-6 * i, work)
        assert owner._turn.free == [None]


FORKED = """
    import copy, os, pickle, signal, sys, threading, traceback, warnings
    import numpy as np
    import gradstep as gs
    warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is what is tested

    entered, leave, held = threading.Event(), threading.Event(), [False]

    def rate(k):
        if held[0]:
            entered.set()
            assert leave.wait(20)
        return 0.5

    if "{door}" == "gradstep":
        def made(lr):
            p = np.ones(3)
            opt = gs.SGD(p, lr=lr, average=0.5)
            return p, opt, lambda: opt.step(np.ones(3))
        group = {"params": np.ones(1)}
    else:
        import torch, gradstep.torch
        def made(lr):
            p = torch.nn.Parameter(torch.ones(3))
            opt = gradstep.torch.SGD([p], lr=lr, average=0.5)
            p.grad = torch.ones(3)
            return p, opt, opt.step
        group = {"params": [torch.nn.Parameter(torch.ones(1))]}

    p, opt, step = made(rate)
    step()
    saved = opt.state_dict()
    p_saved = copy.deepcopy(p)

    def averaged():
        with opt.averaged():
            pass

    def within():
        with opt.averaged():
            entered.set()
            assert leave.wait(20)

    calls = {
        "step": step,
        "averaged": averaged,
        "state_dict": opt.state_dict,
        "load_state_dict": lambda: opt.load_state_dict(saved),
        "pickling": lambda: pickle.dumps(opt),
        "deepcopy": lambda: copy.deepcopy(opt),
        "save": lambda: opt.save("never"),
        "add_group": lambda: opt.add_group(group),
    }

    def told(names):
        for name in names:
            try:
                calls[name]()
                print(name, "went on")
            except (RuntimeError, TypeError) as error:
                print(error)

    def in_child(call):
        sys.stdout.flush()
        if pid := os.fork():
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            return
        signal.alarm(60)
        try:
            call()
            sys.stdout.flush()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
"""
ASKED = {
    "gradstep": [
        "step", "averaged", "state_dict", "load_state_dict", "pickling", "deepcopy", "save",
        "add_group",
    ],
    "gradstep.torch": ["step", "averaged", "state_dict", "load_state_dict", "pickling"],
}  # fmt: skip


def forked(door, script):
    if door == "gradstep.torch":
        pytest.importorskip("torch")
    text = textwrap.dedent(FORKED).replace("{door}", door) + textwrap.dedent(script)
    return run(text.replace("{asked}", repr(ASKED[door]))).splitlines()


@forks
@pytest.mark.parametrize("held", ["step", "averaged"])
@pytest.mark.parametrize("door", DOORS)
def test_forked_while_another_thread_worked(door, held):
    """The child is told that what it has may be half stepped, for whatever it asks."""
    lines = forked(
        door,
        """
        held[0] = True
        worker = threading.Thread(target={held})
        worker.start()
        assert entered.wait(20)
        in_child(lambda: in_child(lambda: told({asked})))
        in_child(lambda: told({asked}))
        leave.set()
        worker.join()
        told({asked}[:3])
        """.replace("{held}", {"step": "step", "averaged": "within"}[held]),
    )
    asked = ASKED[door]
    for line, what in zip(lines, 2 * asked, strict=False):
        assert line.startswith(
            f"{what}: this optimizer is at work in another thread, or was when this process was "
            "forked: then no thread ends that work here, and parameters and states may be half "
            "stepped; wanted the parameters loaded again, a new optimizer over them, and "
        )
    assert lines[2 * len(asked) :] == [f"{what} went on" for what in asked[:3]]


@forks
@pytest.mark.parametrize("door", DOORS)
def test_going_on_in_a_forked_child_as_told(door):
    lines = forked(
        door,
        """
        held[0] = True
        worker = threading.Thread(target=step)
        worker.start()
        assert entered.wait(20)

        def go_on():
            global opt
            held[0] = False
            q, opt, step = made(rate)
            if "{door}" == "gradstep":
                q[...] = p_saved
            else:
                q.data.copy_(p_saved)
            opt.load_state_dict(saved)
            step()
            print(q.tolist(), int(opt.state_dict()["state"].popitem()[1]["step"]))

        in_child(go_on)
        leave.set()
        worker.join()
        print(p.tolist())
        """.replace("{door}", door),
    )
    assert lines == ["[0.0, 0.0, 0.0] 2", "[0.0, 0.0, 0.0]"]


@forks
@pytest.mark.parametrize("door", DOORS)
def test_forked_while_nobody_worked(door):
    lines = forked(door, "in_child(lambda: told({asked}))\ntold({asked})")
    asked = [what for what in ASKED[door] if what != "save"]  # a function cannot be saved
    assert {f"{what} went on" for what in asked} <= set(lines)
    assert not any("forked" in line for line in lines)


@forks
def test_forked_by_the_thread_that_works():
    """The child's own call gives the turn back at its end, as ever."""
    lines = forked(
        "gradstep",
        """
        def child():
            told(["step"])          # within averaged(), and no word of a fork
            context.__exit__(None, None, None)
            told(["step"])

        context = opt.averaged()
        context.__enter__()
        in_child(child)
        told(["step"])
        context.__exit__(None, None, None)
        told(["step"])
        """,
    )
    asked_within = (
        "step: asked for within averaged(), where the parameters hold the averages; "
        "wanted it before or after"
    )
    assert lines == [asked_within, "step went on"] * 2


def test_within_averaged_each_thread_is_told_so():
    p = np.ones(3)
    opt = gs.SGD(p, lr=0.5, average=0.5)
    seen = []

    def step():
        try:
            opt.step(np.ones(3))
        except RuntimeError as error:
            seen.append(str(error))

    with opt.averaged():
        step()
        thread = threading.Thread(target=step)
        thread.start()
        thread.join()
    step()
    assert len(seen) == 2
    assert all(text.startswith("step: asked for within averaged()") for text in seen)


# ---- every pair of public methods ----


class Gate:
    """Drives a rate, and stops whoever asks for anything of it until it is opened."""

    def __init__(self):
        self.entered, self.opened, self.armed = threading.Event(), threading.Event(), False

    def wait(self):
        if self.armed:
            self.armed = False  # the others go through
            self.entered.set()
            assert self.opened.wait(20)

    def __call__(self, _):
        self.wait()
        return 0.5

    def __deepcopy__(self, memo):
        self.wait()
        return self

    def __reduce__(self):
        return Gate, ()

    def state_dict(self):
        self.wait()
        return {}

    def load_state_dict(self, _):
        self.wait()


def arrays_door(gate):
    p = np.ones(3)
    opt = gs.SGD(p, lr=gate, average=0.5, allocate=allocating(gate))
    return p, opt, lambda: opt.step(np.ones(3)), lambda: {"params": np.ones(1)}


def allocating(gate):
    def allocate(name, shape, dtype):
        gate.wait()
        return np.zeros(shape, dtype)

    return allocate


def tensors_door(gate):
    torch = pytest.importorskip("torch")
    gt = pytest.importorskip("gradstep.torch")
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    opt = gt.SGD([p], lr=gate, average=0.5)
    return p, opt, opt.step, lambda: {"params": [torch.nn.Parameter(torch.ones(1))], "lr": gate}


OPEN = {"gradstep": arrays_door, "gradstep.torch": tensors_door}
ADD = {"gradstep": "add_group", "gradstep.torch": "add_param_group"}


def methods(door, p, opt, step, group, saved, path):
    def averaged():
        with opt.averaged():
            pass

    found = {
        "step": step,
        "averaged": averaged,
        "state_dict": opt.state_dict,
        "load_state_dict": lambda: opt.load_state_dict(saved),
        "deepcopy": lambda: copy.deepcopy(opt),
        "pickling": lambda: pickle.dumps(opt),
        ADD[door]: lambda: getattr(opt, ADD[door])(group()),
    }
    if door == "gradstep":
        found["save"] = lambda: opt.save(path)
    return found


# What stops at the gate while it has the turn; the others have nothing of the caller's to ask.
STOPS = {
    "gradstep": ["step", "state_dict", "deepcopy", "add_group", "averaged"],
    "gradstep.torch": ["step", "state_dict", "load_state_dict", "averaged", "add_param_group"],
}


@pytest.mark.parametrize(("door", "first"), [(d, m) for d in STOPS for m in STOPS[d]])
def test_every_pair_of_methods(door, first, tmp_path):
    """While one is at work each other is refused by name; afterwards nothing is lost or torn."""
    gate = Gate()
    p, opt, step, group = OPEN[door](gate)
    step()
    saved = opt.state_dict()
    others = methods(door, p, opt, step, group, saved, tmp_path / "state")

    def within_averaged():
        with opt.averaged():
            gate.wait()

    gate.armed = True
    worker = threading.Thread(target=within_averaged if first == "averaged" else others[first])
    worker.start()
    assert gate.entered.wait(20)
    for name, call in others.items():
        said = "pickling" if (door, name) == ("gradstep.torch", "deepcopy") else name
        with pytest.raises(RuntimeError, match=rf"^{said}: (this optimizer is at work|asked for)"):
            call()
    gate.opened.set()
    worker.join(20)
    steps = 1 if first == "load_state_dict" else 2 if first == "step" else 1
    got = p.tolist() if door == "gradstep" else p.detach().tolist()
    assert got == [1 - 0.5 * steps] * 3
    kept = opt.state_dict()["state"]
    counts = [float(entry["step"]) for entry in kept.values()]
    assert max(counts) == steps


@pytest.mark.parametrize("door", OPEN)
def test_the_state_is_read_while_a_group_is_added(door):
    """Never a part of one and a part of the other."""
    _, opt, _, group = OPEN[door](Gate())
    stop, failed = threading.Event(), []

    def read():
        while not stop.is_set():
            try:
                [dict(entry) for entry in list(opt.state.values())]
            except Exception as error:
                failed.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    for _ in range(100):
        getattr(opt, ADD[door])(group())
    stop.set()
    thread.join()
    assert not failed
