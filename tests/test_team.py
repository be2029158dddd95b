"""The teams that share a step's work: which one does, that nothing hangs, and the same bits."""

import textwrap

import numpy as np
import pytest

import gradstep as gs
from processes import run

pytest.importorskip("torch")

TEAMS = ["auto", "native", "openmp"]
N = 300_003  # elements: enough to be shared by any team

# A network's parameter whose gradient and states are where a training has them, and one thread's
# result. Products of matrices wake PyTorch's workers; in a pause they go to sleep.
PROBLEM = """
    import ctypes, os, signal, sys, threading, time, warnings
    import numpy as np
    import torch
    import gradstep as gs
    import gradstep.torch as gt
    from gradstep import _core

    warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is what is tested
    torch.set_num_threads(4)
    start = torch.sin(torch.arange({n}, dtype=torch.float32))
    matrix = torch.ones(300, 300)

    def optimizer(**options):
        p = torch.nn.Parameter(start.clone())
        return gt.AdamW([p], lr=0.1, **options), p

    def go(opt, p, steps=5, between=lambda: matrix @ matrix):
        for _ in range(steps):
            with torch.no_grad():
                p.grad = torch.cos(p)
            between()
            opt.step()
        return p.detach().numpy().tobytes()

    def alone(steps=5):
        torch.set_num_threads(1)
        found = go(*optimizer(), steps)
        torch.set_num_threads(4)
        return found

    def calls(work):
        before = _core.team_calls()
        work()
        after = _core.team_calls()
        return {team: after[team] - before[team] for team in after}
"""


def in_training(script, *, n=N, **environment):
    text = textwrap.dedent(PROBLEM).replace("{n}", str(n)) + textwrap.dedent(script)
    return run(text, **environment)


# ---- which team ----


def test_pytorch_runtime_is_found():
    """It is the one that PyTorch was linked with, though others are loaded, too."""
    pytest.importorskip("sklearn")
    out = in_training("""
        import sklearn.ensemble  # brings an OpenMP runtime of its own, and uses it
        rng = np.random.default_rng(0)
        x = rng.standard_normal((2000, 10))
        model = sklearn.ensemble.HistGradientBoostingRegressor(max_iter=5)
        model.fit(x, x[:, 0])
        assert go(*optimizer(), between=lambda: model.predict(x)) == alone()
        with open("/proc/self/maps") as maps:
            libraries = {line.split()[-1] for line in maps if "gomp" in line or "omp5" in line}
        print(len(libraries))
        print(gs.config()["openmp"])
    """)
    runtimes, found = out.split()
    assert int(runtimes) >= 2
    assert "torch" in found


def test_no_runtime_is_loaded_for_it():
    out = run("""
        import sys
        import numpy as np
        import gradstep as gs
        gs.set_team("openmp")  # while there is none, the caller works alone
        p = np.ones(1_000_000, np.float32)
        gs.AdamW(p).step(p.copy())
        with open("/proc/self/maps") as maps:
            print([line for line in maps if "gomp" in line or "omp5" in line])
        print(gs.config()["openmp"], gs._core.team_calls())
    """)
    maps, rest = out.splitlines()
    assert maps == "[]"
    assert rest == "none {'alone': 1, 'native': 0, 'openmp': 0}"


@pytest.mark.parametrize("door", ["torch", "numpy"])
def test_awake_workers_are_used(door):
    """OMP_WAIT_POLICY=active: they never sleep."""
    out = in_training(
        f"""
        torch.set_num_threads(2)
        gs.set_num_threads(2)
        if {door == "numpy"}:
            array = start.numpy().copy()
            opt = gs.AdamW(array)
            grad = array.copy()
            step = lambda: opt.step(grad)
        else:
            opt, p = optimizer()
            p.grad = torch.cos(p.detach())
            step = opt.step
        def some():
            for _ in range(10):
                matrix @ matrix
                step()
        used, end = 0, time.monotonic() + 60  # others may have the workers' processors
        while used < 20 and time.monotonic() < end:
            used += calls(some)["openmp"]
        print(used)
    """,
        OMP_WAIT_POLICY="active",
    )
    assert int(out) >= 20


def test_sleeping_workers_are_left_alone():
    """OMP_WAIT_POLICY=passive: they sleep at the end of each region."""
    out = in_training(
        """
        opt, p = optimizer()
        go(opt, p, 1)  # they are met
        counted = calls(lambda: go(opt, p, 50, lambda: time.sleep(0.002)))
        print(counted["openmp"], counted["native"] + counted["alone"])
    """,
        OMP_WAIT_POLICY="passive",
    )
    openmp, others = map(int, out.split())
    assert openmp < 5
    assert others > 45


@pytest.mark.parametrize("team", TEAMS)
def test_small_steps_are_shared_with_nobody(team):
    out = in_training(
        """
        print(calls(lambda: go(*optimizer())))
    """,
        n=1000,
        GRADSTEP_TEAM=team,
    )
    assert out.strip() == "{'alone': 5, 'native': 0, 'openmp': 0}"


def test_who_chooses_by_hand():
    out = in_training("""
        for team in ("native", "openmp"):
            gs.set_team(team)
            assert gs.config()["team"] == team
            print(calls(lambda: go(*optimizer()))[team])
    """)
    assert out.split() == ["5", "5"]


@pytest.mark.parametrize("name", ["turbo", "", "über", None, 1])
def test_an_unknown_team_is_refused(name):
    before = gs.config()["team"]
    with pytest.raises(ValueError, match=r"^name: got .*, wanted auto, native or openmp$"):
        gs.set_team(name)
    assert gs.config()["team"] == before


# ---- the same bits, and nothing hangs ----

SITUATIONS = {
    "hot": "assert go(*optimizer()) == alone()",
    "after a pause": """
        assert go(*optimizer(), between=lambda: time.sleep(0.02)) == alone()
    """,
    "threads change": """
        opt, p = optimizer()
        for count in (1, 3, 2, 4, 1):
            torch.set_num_threads(count)
            go(opt, p, 1)
        assert p.detach().numpy().tobytes() == alone()
    """,
    "both doors by turns": """
        ours = start.numpy().copy()
        there, (opt, p) = gs.AdamW(ours, lr=0.1), optimizer()
        for _ in range(5):
            go(opt, p, 1)
            there.step(torch.cos(torch.from_numpy(ours)).numpy())
        assert p.detach().numpy().tobytes() == ours.tobytes() == alone()
    """,
    "several threads": """
        wanted, found = alone(), []
        workers = [
            threading.Thread(target=lambda: found.append(go(*optimizer()))) for _ in range(4)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert found == [wanted] * 4
    """,
    "threads that end": """
        wanted, found = alone(), []
        for _ in range(20):
            worker = threading.Thread(target=lambda: found.append(go(*optimizer())))
            worker.start()
            worker.join()
        assert found == [wanted] * 20
    """,
    "nested": """
        # A step within a region of the runtime, in its first thread.
        wanted, found = alone(), []
        library = ctypes.CDLL(gs.config()["openmp"])
        Region = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
        def within(_):
            if library.omp_get_thread_num() == 0:
                found.append(go(*optimizer(), between=lambda: None))
        library.GOMP_parallel(Region(within), None, 2, 0)
        assert found == [wanted]
    """,
    "fork": """
        opt, p = optimizer()
        go(opt, p, 3)
        read, write = os.pipe()
        grad = torch.cos(p.detach())
        p.grad = grad
        child = os.fork()
        if child == 0:
            signal.alarm(60)  # a child that hangs dies
            torch.set_num_threads(4)
            opt.step()
            gs.AdamW(start.numpy().copy()).step(start.numpy())
            with os.fdopen(write, "wb") as pipe:
                pipe.write(p.detach().numpy().tobytes())
            os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            theirs = pipe.read()
        assert os.waitpid(child, 0)[1] == 0
        opt.step()
        assert p.detach().numpy().tobytes() == theirs
    """,
    "a forked child forks": """
        opt, p = optimizer()
        go(opt, p, 2)
        p.grad = torch.cos(p.detach())
        for depth in range(3):
            child = os.fork()
            if child:
                status = os.waitpid(child, 0)[1]
                if depth:
                    os._exit(int(status != 0))
                assert status == 0
                break
            signal.alarm(60)
            opt.step()
        else:
            os._exit(0)
    """,
    "interrupts": """
        opt, p = optimizer()
        def interrupt(*_):
            raise KeyboardInterrupt
        signal.signal(signal.SIGALRM, interrupt)
        p.grad = start
        opt.step()
        for i in range(40):
            try:
                signal.setitimer(signal.ITIMER_REAL, 5e-4 * (i + 1))
                while True:
                    matrix @ matrix
                    p.grad = start
                    opt.step()
            except KeyboardInterrupt:
                pass
        done = int(opt.state[p]["step"])
        for threads in (4, 1):
            torch.set_num_threads(threads)
            other, q = optimizer()
            for _ in range(done):
                q.grad = start
                other.step()
            assert torch.equal(p, q)
    """,
    "denormals": """
        def tiny():
            small = torch.full((1_000_000,), 1e-40)
            return (small * 1).numpy().tobytes()
        before = tiny()
        torch.set_flush_denormal(True)
        found = go(*optimizer(), between=lambda: None)
        assert found == alone()
        torch.set_flush_denormal(False)
        assert tiny() == before  # the workers have their own mode again
    """,
    "two passes, clipped": """
        def lamb():
            p = torch.nn.Parameter(start.clone())
            return gt.LAMB([p], lr=0.1, clip_norm=1.0), p
        found = go(*lamb())
        torch.set_num_threads(1)
        assert found == go(*lamb())
    """,
}


@pytest.mark.parametrize("team", TEAMS)
@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_same_bits_and_nothing_hangs(situation, team):
    in_training(SITUATIONS[situation], GRADSTEP_TEAM=team)


@pytest.mark.parametrize("team", TEAMS)
def test_every_size_with_every_team(team):
    """From what one thread does alone to what all share, beside each other."""
    sizes = [1, 511, 4_096, 12_000, 60_000, 200_001]
    rng = np.random.default_rng(0)
    grads = [rng.standard_normal(n).astype(np.float32) for n in sizes]
    results = []
    before = gs.config()["team"]
    try:
        gs.set_team(team)
        for threads in (1, 2, 4):
            gs.set_num_threads(threads)
            params = [np.ones(n, np.float32) for n in sizes]
            opt = gs.AdamW(params, lr=0.1)
            for _ in range(3):
                opt.step(grads)
            results.append([p.tobytes() for p in params])
    finally:
        gs.set_team(before)
    assert results[0] == results[1] == results[2]
