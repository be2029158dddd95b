"""The search for a rate: what it finds, what it survives, and that processes share it."""

import contextlib
import csv
import json
import math
import multiprocessing.context
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
import wsgiref.util
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import gradstep
from gradstep.tuning import SearchResult, Tried, databases, search, sharing
from objectives import bowl, diverging, dying, raising

optuna = pytest.importorskip("optuna", reason="optuna is not installed (extra `search`)")
search_module = sys.modules["gradstep.tuning.search"]


FILE, DATABASE = "{folder}/search-{turn}.log", "sqlite:///{folder}/search-{turn}.log"


class Counting:
    """An objective that notes what it was called with."""

    def __init__(self, objective=bowl, stop=None):
        self.objective, self.stop, self.calls = objective, stop, []

    def __call__(self, lr, seed):
        self.calls.append((lr, seed))
        if len(self.calls) == self.stop:
            raise KeyboardInterrupt
        yield from self.objective(lr, seed)

    @property
    def rates(self):
        return sorted({lr for lr, _ in self.calls})


def stored(path):
    """The trials in a search's file, whichever it is."""
    with contextlib.ExitStack() as stack:
        if path.read_bytes().startswith(b"SQLite"):
            storage = stack.enter_context(databases.database(f"sqlite:///{path}"))
        else:
            storage = sharing.journal(path)
        return optuna.load_study(study_name=sharing.STUDY, storage=storage).get_trials()


# ---- what it finds ----


def test_grid():
    objective = Counting()
    result = search(objective, (1e-4, 1), trials=9, seeds=2)
    np.testing.assert_allclose(objective.rates, np.geomspace(1e-4, 1, 9), rtol=1e-5)
    assert objective.rates[0] == 1e-4
    assert objective.rates[-1] == 1
    assert len(objective.calls) == 18
    assert {seed for _, seed in objective.calls} == {0, 1}
    assert result.best == 0.01
    assert result.edge == ""
    assert [row.rate for row in result.tried] == objective.rates
    best = next(row for row in result.tried if row.rate == 0.01)
    assert best.losses == pytest.approx((0.25, 0.26))
    assert best.loss == pytest.approx(0.255)
    assert best.step == 3


def test_grid_goes_from_coarse_to_fine():
    objective = Counting()
    search(objective, (1e-4, 1), trials=16)
    indices = [round(np.log(lr / 1e-4) / np.log(1e4) * 15) for lr, _ in objective.calls]
    assert sorted(indices) == list(range(16))
    assert indices[:4] == [0, 8, 4, 12]


def test_the_mean_over_seeds_decides():
    """One lucky run does not."""
    lucky = {(0.01, 1): 0.0, (0.01, 2): 9.0}

    def objective(lr, seed):
        yield 0, lucky.get((lr, seed), 1 + abs(lr - 0.5))

    result = search(objective, (1e-3, 1), trials=4, seeds=[1, 2])
    assert result.tried[1].losses == (0.0, 9.0)
    assert result.best == 0.1
    assert result.seeds == (1, 2)


def test_the_last_loss_counts():
    def objective(lr, seed):
        yield 0, 0.0
        yield 7, 1 + abs(lr - 0.01)

    result = search(objective, (1e-4, 1), trials=3)
    assert result.best == 0.01
    assert result.tried[0].step == 7


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_one_seed_one_result(method):
    ask = partial(search, bowl, (1e-5, 1), method=method, trials=12)
    first = ask(seed=3)
    assert first == ask(seed=3)
    assert first != ask(seed=4)
    assert len({row.rate for row in first.tried}) == 12
    assert all(1e-5 <= row.rate <= 1 for row in first.tried)


def test_random_is_even_over_the_logarithm():
    objective = Counting(partial(bowl, steps=1))
    search(objective, (1e-4, 1), method="random", trials=200)
    counts, _ = np.histogram(np.log10(objective.rates), bins=4, range=(-4, 0))
    assert counts.min() > 30


def test_tpe_looks_where_it_is_low():
    """Decades from the best rate, medians of the later trials of each search."""
    away = {"random": [], "tpe": []}
    for method, found in away.items():
        for seed in range(3):
            objective = Counting(partial(bowl, steps=1))
            search(objective, (1e-5, 1), method=method, trials=25, seed=seed)
            found.append(np.median([abs(math.log10(lr / 0.01)) for lr, _ in objective.calls[10:]]))
    assert max(away["tpe"]) < min(away["random"])


# ---- runs that do not come to their end ----


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_diverged_is_pruned_not_failed(tmp_path, loss):
    closed = []

    def objective(lr, seed):
        try:
            yield 0, 1.0
            yield 3, loss if lr > 0.1 and seed == 1 else 1.0
            yield 4, abs(lr - 0.01)
        finally:
            closed.append((lr, seed))

    path = tmp_path / "search.log"
    result = search(objective, (1e-4, 1), trials=3, seeds=3, storage=path)
    assert [row.outcome for row in result.tried] == ["finished", "finished", "diverged"]
    assert result.tried[-1].step == 4  # of seed 0
    assert len(result.tried[-1].losses) == 2
    assert result.tried[-1].loss == math.inf
    assert {t.state.name for t in stored(path)} == {"COMPLETE", "PRUNED"}
    assert len(closed) == 8  # the third seed of the rate that diverged was not run


@pytest.mark.parametrize("method", ["grid", "tpe"])
def test_nan_at_once(method):
    """All rates may diverge, and TPE goes on."""

    def objective(lr, seed):
        yield 0, math.nan

    with pytest.warns(UserWarning, match="no rate came to its end"):
        result = search(objective, (1e-4, 1), method=method, trials=8)
    assert {row.outcome for row in result.tried} == {"diverged"}
    assert len(result.tried) == 8
    assert result.best is None
    assert result.edge == ""
    assert "diverged at step 0" in str(result)


@pytest.mark.parametrize("how", [math.exp, np.exp], ids=["math", "numpy"])
@pytest.mark.parametrize("at_once", [False, True])
def test_overflow_is_divergence(how, at_once):
    """In Python it is an exception; in NumPy a warning, which would be an error here."""

    def objective(lr, seed):
        if not at_once:
            yield 0, 1.0
        yield 1, how(1e9) if lr == 1 else abs(lr - 0.01)

    result = search(objective, (1e-4, 1), trials=3)
    assert [row.outcome for row in result.tried] == ["finished", "finished", "diverged"]


def test_floating_point_error_is_divergence():
    def objective(lr, seed):
        with np.errstate(over="raise"):
            yield 0, np.float32(1e30 if lr == 1 else abs(lr - 0.01)) * np.float32(1e30)

    assert search(objective, (1e-4, 1), trials=3).tried[-1].outcome == "diverged"


def test_prune():
    objective = partial(bowl, steps=64)
    result = search(objective, (1e-5, 1), trials=16, seeds=2, prune=True)
    pruned = [row for row in result.tried if row.outcome == "pruned"]
    assert len(pruned) >= 3
    assert all(15 <= row.step < 63 for row in pruned)  # not in the first quarter
    assert all(len(row.losses) == 1 for row in pruned)
    everything = search(objective, (1e-5, 1), trials=16, seeds=2)
    assert result.best == everything.best
    assert {row.outcome for row in everything.tried} == {"finished"}


def test_prune_with_a_pruner():
    result = search(
        bowl, (1e-4, 1), trials=5, prune=optuna.pruners.ThresholdPruner(upper=4), storage=None
    )
    assert [row.outcome for row in result.tried] == ["pruned", *["finished"] * 3, "pruned"]
    assert result.tried[0].step == 0


# ---- objectives that are none ----


class Alike:
    def __init__(self, error):
        self.error = error

    def __float__(self):
        raise self.error


@pytest.mark.parametrize(
    ("yielded", "kind", "text"),
    [
        ([], ValueError, "yielded nothing"),
        ([3.0], TypeError, "yielded 3.0, wanted (step, loss)"),
        ([(0, 1.0, 2)], TypeError, "wanted (step, loss)"),
        ([(0, None)], TypeError, "the loss None, wanted one number"),
        ([(0, "1.0")], TypeError, "the loss '1.0'"),
        ([(0, np.ones(2))], TypeError, "wanted one number, as loss.item() gives"),
        ([(0, Alike(RuntimeError("a tensor of 2 elements")))], TypeError, "wanted one number"),
        ([(0.5, 1.0)], TypeError, "the step 0.5, wanted a whole number"),
        ([(-1, 1.0)], ValueError, "the step -1, wanted 0 or more"),
        ([(1, 1.0), (1, 1.0)], ValueError, "step 1 after 1"),
    ],
)
def test_what_it_yields(tmp_path, yielded, kind, text):
    def objective(lr, seed):
        yield from yielded

    path = tmp_path / "search.log"
    with pytest.raises(kind, match=re.escape("objective: at lr=0.01, seed=5")) as caught:
        search(objective, (0.01, 1), trials=2, seeds=[5], storage=path)
    assert text in str(caught.value)
    assert [t.state.name for t in stored(path)] == ["FAIL", "WAITING"]


@pytest.mark.parametrize("returned", [None, 0.5])
def test_what_it_returns(returned):
    def objective(lr, seed):
        return returned

    with pytest.raises(TypeError, match=f"returned {returned}, wanted it to yield"):
        search(objective, trials=2)


def test_numbers_of_other_types():
    """A loss may be anything that stands for one number, a tensor included."""
    torch = pytest.importorskip("torch")

    def objective(lr, seed):
        kinds = [np.float32, torch.tensor, lambda x: torch.tensor([x], requires_grad=True), Tenth]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # float() of a tensor with a gradient
            for step, kind in enumerate(kinds):
                yield np.int32(step), kind(abs(lr - 0.01))

    class Tenth(float):
        pass

    assert search(objective, (1e-4, 1), trials=3).best == 0.01


@pytest.mark.parametrize("objective", [3, len, list])
def test_what_it_takes(objective):
    with pytest.raises(TypeError, match=r"objective: got .* a function of a rate and a seed"):
        search(objective, trials=2)


def test_an_objective_that_raises(tmp_path):
    """It ends the search, names the rate, and keeps what was finished."""
    path = tmp_path / "search.log"
    with pytest.raises(RuntimeError, match=r"at lr=0\.1, seed=0 it raised KeyErr") as info:
        search(raising, (0.001, 0.1), trials=2, storage=path)
    assert isinstance(info.value.__cause__, KeyError)
    objective = Counting()
    result = search(objective, (0.001, 0.1), trials=3, storage=path)
    assert objective.rates == [0.01, 0.1]
    assert result.tried[0].losses == (2.0,)


def test_an_objective_that_raises_at_once():
    def objective(lr, seed):
        raise OSError("no data")

    with pytest.raises(RuntimeError, match="it raised OSError: no data"):
        search(objective, trials=2)


# ---- arguments ----


@pytest.mark.parametrize(
    ("changed", "kind", "text"),
    [
        ({"lr": (1, 1e-5)}, ValueError, "the lower rate first"),
        ({"lr": (0, 1)}, ValueError, "lr: got (0, 1), wanted (low, high) with 0 < low < high"),
        ({"lr": (0.1, 0.1)}, ValueError, "lr: got"),
        ({"lr": (0.1, math.inf)}, ValueError, "lr: got"),
        ({"lr": (math.nan, 1)}, ValueError, "lr: got"),
        ({"lr": 0.1}, TypeError, "lr: got 0.1"),
        ({"lr": (1, 2, 3)}, TypeError, "lr: got (1, 2, 3)"),
        ({"lr": ("low", 1)}, TypeError, "lr: got"),
        ({"method": "bayes"}, ValueError, "method: got 'bayes', wanted one of grid, random, tpe"),
        ({"trials": 1}, ValueError, "trials: got 1, wanted at least 2"),
        ({"trials": 0, "method": "random"}, ValueError, "trials: got 0, wanted at least 1"),
        ({"trials": 5, "method": "tpe"}, ValueError, "trials: got 5, wanted at least 6"),
        ({"trials": 2.5}, TypeError, "trials: got 2.5, wanted a whole number"),
        ({"trials": True}, TypeError, "trials: got True"),
        ({"seeds": 0}, ValueError, "seeds: got 0"),
        ({"seeds": []}, ValueError, "seeds: got []"),
        ({"seeds": [1, 1]}, ValueError, "seeds: got [1, 1]"),
        ({"seeds": [0.5]}, TypeError, "seeds: got 0.5"),
        ({"workers": 0}, ValueError, "workers: got 0, wanted at least 1"),
        ({"workers": "all"}, TypeError, "workers: got 'all'"),
        ({"seed": -1}, ValueError, "seed: got -1"),
        ({"seed": None}, TypeError, "seed: got None"),
        ({"prune": "median"}, TypeError, "prune: got 'median'"),
        ({"storage": 3}, TypeError, "storage: got 3, wanted a path, a URL or a storage of Optuna"),
        ({"storage": "no/such/folder/x.log"}, FileNotFoundError, "storage: the folder of"),
    ],
)
def test_bad_arguments(changed, kind, text):
    objective = Counting()
    with pytest.raises(kind, match=re.escape(text)):
        search(objective, **{"trials": 2, **changed})
    assert not objective.calls


def test_storages_of_optuna(tmp_path):
    """What it has may be handed in, but not where trials are given out twice."""
    storage = optuna.storages.InMemoryStorage()
    objective = Counting()
    result = search(objective, (1e-4, 1), trials=3, storage=storage)
    assert search(objective, (1e-4, 1), trials=3, storage=storage) == result
    assert len(objective.calls) == 3
    with pytest.raises(TypeError, match=r"storage: got .*, wanted a path or a URL, for 2"):
        search(bowl, trials=3, storage=storage, workers=2)
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/x.db")
    with pytest.raises(ValueError, match="SQLite, which gives one trial to two processes, wanted"):
        search(bowl, trials=3, storage=storage)
    storage.remove_session()
    storage.engine.dispose()


# ---- databases ----


@pytest.mark.parametrize(
    ("url", "kind", "message"),
    [
        ("sqlite://", ValueError, "storage: got 'sqlite://', a database in memory, wanted one in"),
        ("sqlite:///:memory:", ValueError, "a database in memory, wanted one in a file"),
        ("http://me:secret@host/x", ValueError, "storage: got 'http://me:***@host/x', wanted a p"),
        ("sqlite:////no/such/folder/x.db", OSError, "which cannot be read or written: unable to"),
        ("postgresql://me:secret@host:port/x", ValueError, "'postgresql://me:***@host:port/x'"),
        ("mysql+pymysql://me:sec@ret@h/x", ImportError, "'mysql+pymysql://me:***@h/x', whose dr"),
        ("nothing://", ValueError, "wanted a path, or the URL of a database such as sqlite:///s"),
        (
            "mysql+pymysql://me:secret@h/x?password=secret",
            ImportError,
            "//me:***@h/x?password=***'",
        ),
    ],
)
def test_urls_that_are_refused(url, kind, message, monkeypatch):
    """In words, without what is secret, and before anything is run."""
    monkeypatch.setitem(sys.modules, "pymysql", None)
    objective = Counting()
    with pytest.raises(kind, match=re.escape(message)) as caught:
        search(objective, storage=url)
    assert not objective.calls
    shown = "".join(traceback.format_exception(caught.value))
    assert "secret" not in shown
    assert "sec@ret" not in shown


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("sqlite:///a:b@c.db", "sqlite:///a:b@c.db"),
        ("postgresql://me@host/x", "postgresql://me@host/x"),
        ("postgresql://me:a:b/c@d@host/x", "postgresql://me:***@host/x"),
        ("mysql://host/x?user=me&password=s3&y=1", "mysql://host/x?user=me&password=***&y=1"),
    ],
)
def test_urls_are_shown_without_their_password(url, wanted):
    assert databases.shown(url) == wanted
    assert "s3" not in repr(search_module._plan((1, 2), "grid", 2, 1, wanted, False, 0))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_database(tmp_path, workers):
    """What is there counts, and the file is closed afterwards."""
    url = f"sqlite:///{tmp_path}/{{x}} y.db"
    first = search(bowl, (1e-4, 1), trials=5, storage=url, workers=workers)
    objective = Counting()
    assert search(objective, (1e-4, 1), trials=5, storage=url) == first
    assert not objective.calls
    assert len(search(objective, (1e-4, 1), trials=9, storage=url).tried) == 9
    assert len(objective.calls) == 4
    assert first == search(bowl, (1e-4, 1), trials=5, storage=tmp_path / "x.log")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.log", "{x} y.db"]


def test_a_file_that_is_no_database_is_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("notes\n" * 1000)
    with pytest.raises(OSError, match=r"notes\.txt', which cannot be read or written: file is not"):
        search(bowl, trials=2, storage=f"sqlite:///{path}")
    assert path.read_text() == "notes\n" * 1000


def test_diverged_and_pruned_in_a_database(tmp_path):
    """Losses that are no numbers come back as they were."""
    url = f"sqlite:///{tmp_path}/x.db"
    ask = partial(search, diverging, (1e-4, 10), trials=12, seeds=2, prune=True)
    assert str(ask(storage=url)) == str(ask()) == str(ask(storage=url))


@pytest.mark.parametrize("storage", [FILE, DATABASE])
def test_what_a_search_wrote_is_read_by_the_dashboard(tmp_path, storage):
    """And left as it is."""
    dashboard = pytest.importorskip("optuna_dashboard")
    storage = storage.format(folder=tmp_path, turn=0)
    result = search(diverging, (1e-3, 10), trials=5, seeds=2, storage=storage)
    (path,) = tmp_path.iterdir()
    before = path.read_bytes()
    with contextlib.ExitStack() as stack:
        if storage.startswith("sqlite"):
            opened = stack.enter_context(databases.database(storage))
        else:
            opened = sharing.journal(path)
        app = dashboard.wsgi(opened)

        def ask(address):
            asked = {}
            wsgiref.util.setup_testing_defaults(asked)
            asked |= {"PATH_INFO": address, "QUERY_STRING": "after=0"}
            answered = []
            body = b"".join(app(asked, lambda status, *_: answered.append(status)))
            assert answered == ["200 OK"]
            return json.loads(body)

        (study,) = ask("/api/studies")["study_summaries"]
        assert study["study_name"] == sharing.STUDY
        trials = ask(f"/api/studies/{study['study_id']}")["trials"]
    told = {float(trial["params"][0]["param_external_value"]): trial for trial in trials}
    for row in result.tried:
        state = "Complete" if row.outcome == "finished" else "Pruned"
        assert told[row.rate]["state"] == state
        if state == "Complete":
            assert told[row.rate]["values"] == [row.loss]
    assert len(told) == len(result.tried) == 5
    assert path.read_bytes() == before


def test_a_waiting_trial_is_given_out_once(tmp_path):
    """However many threads ask at the same time."""
    with databases.database(f"sqlite:///{tmp_path}/x.db") as storage:
        study = optuna.create_study(storage=storage, study_name=sharing.STUDY)
        for i in range(30):
            study.enqueue_trial({"lr": i})
        waiting, taken = [trial._trial_id for trial in study.get_trials()], []
        together = threading.Barrier(4)

        def take():
            together.wait()
            running = optuna.trial.TrialState.RUNNING
            for one in waiting:
                if storage.set_trial_state_values(one, running):
                    taken.append(one)
            storage.remove_session()

        threads = [threading.Thread(target=take) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(taken) == waiting


def test_tables_that_others_make_at_the_same_time(tmp_path, monkeypatch):
    """Another attempt finds them."""
    connected, failures = databases._connected, []
    errors = pytest.importorskip("sqlalchemy.exc")

    def racing(url):
        if len(failures) < 3:
            failures.append(errors.OperationalError("CREATE", {}, Exception("already exists")))
            raise failures[-1]
        return connected(url)

    monkeypatch.setattr(databases, "_connected", racing)
    assert len(search(bowl, trials=3, storage=f"sqlite:///{tmp_path}/x.db").tried) == 3
    assert len(failures) == 3


def test_without_optuna(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r'pip install "gradstep\[search\]"'):
        search(bowl, trials=2)


# ---- going on ----


@pytest.mark.parametrize("method", ["grid", "random", "tpe"])
def test_interrupted_and_continued(tmp_path, method):
    """As if it had not been interrupted; nothing that was finished runs again."""
    ask = partial(search, lr=(1e-5, 1), method=method, trials=12, seeds=2)
    whole = ask(bowl)
    path = tmp_path / "search.log"
    first = Counting(stop=16)  # the second seed of the eighth rate
    with pytest.raises(KeyboardInterrupt):
        ask(first, storage=path)
    assert Counter(t.state.name for t in stored(path))["COMPLETE"] == 7
    second = Counting()
    assert ask(second, storage=path) == whole
    assert len(second.calls) == 10
    third = Counting()
    assert ask(third, storage=str(path)) == whole
    assert not third.calls


@pytest.mark.parametrize(
    ("method", "more", "new"), [("grid", 17, 8), ("random", 14, 5), ("tpe", 14, 5)]
)
def test_topping_up(tmp_path, method, more, new):
    path = tmp_path / "search.log"
    ask = partial(search, lr=(1e-4, 1), method=method, storage=path)
    before = ask(bowl, trials=9)
    objective = Counting()
    after = ask(objective, trials=more)
    assert len(objective.calls) == new
    assert len(after.tried) == more
    assert set(before.tried) < set(after.tried)


def test_tpe_continues_a_grid_of_another_range(tmp_path):
    path = tmp_path / "search.log"
    grid = search(bowl, (1e-4, 1), trials=6, storage=path)
    both = search(bowl, (1e-3, 0.1), method="tpe", trials=14, storage=path)
    assert set(grid.tried) < set(both.tried)
    assert all(1e-3 <= row.rate <= 0.1 for row in set(both.tried) - set(grid.tried))


def test_other_seeds_want_another_storage(tmp_path):
    path = tmp_path / "search.log"
    search(bowl, (1e-4, 1), trials=3, seeds=2, storage=path)
    with pytest.raises(ValueError, match=r"seeds: the storage holds runs with seeds \(0, 1\)"):
        search(bowl, (1e-4, 1), trials=3, seeds=3, storage=path)


def test_half_a_line(tmp_path):
    """A process died while it wrote."""
    path = tmp_path / "search.log"
    first = search(bowl, (1e-4, 1), trials=3, storage=path)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code":8,"worker_id":"' + b"x" * 9000)
    assert search(bowl, (1e-4, 1), trials=3, storage=path) == first
    after = search(bowl, (1e-4, 1), trials=5, storage=path)
    assert len(after.tried) == 5
    assert path.read_bytes().startswith(whole + b'{"op_code"')


@pytest.mark.parametrize("content", [b"my notes", b"rate,loss\n1,2\n", b"\n"])
def test_another_file_is_left_alone(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"storage: .*notes\.txt is not the file of a search"):
        search(bowl, trials=2, storage=path)
    assert path.read_bytes() == content


def test_an_empty_file(tmp_path):
    path = tmp_path / "search.log"
    path.touch()
    assert len(search(bowl, (1e-4, 1), trials=3, storage=path).tried) == 3


def test_the_lock_does_not_outlive_its_release(tmp_path):
    """Not even in a process that was forked meanwhile, which has its own descriptor of the file."""
    fcntl = pytest.importorskip("fcntl")
    path = tmp_path / "search.log"
    lock = sharing._Lock(path)
    lock.acquire()
    forked = os.dup(lock._file)
    with path.open("ab") as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock.release()
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(forked)


# ---- signs of life ----


def claimed(path, host, monkeypatch):
    """A trial that a process on `host` runs, and the study as another process sees it."""
    study = optuna.create_study(storage=sharing.journal(path), study_name=sharing.STUDY)
    study.enqueue_trial({"lr": 0.5}, user_attrs={"lr": 0.5})
    trial = study.ask()
    with monkeypatch.context() as patch:
        patch.setattr(sharing, "_host", lambda: host)
        running = sharing.Running(trial)
    return trial, running, optuna.load_study(study_name=study.study_name, storage=study._storage)


def test_signs_of_life(tmp_path, monkeypatch):
    """A trial on another machine is taken up when they end; its late result does not count."""
    monkeypatch.setattr(sharing, "BEAT", 0.05)
    monkeypatch.setattr(sharing, "SILENCE", 1.5)
    trial, running, study = claimed(tmp_path / "search.log", "elsewhere", monkeypatch)
    watch = sharing.Watch()

    def dead():
        return watch.dead(study.get_trials(deepcopy=False)[0])

    with running:
        end = time.monotonic() + 2
        while time.monotonic() < end:
            assert not dead()
            time.sleep(0.02)
    assert not dead()
    begin = time.monotonic()
    other = sharing.claim(study, [0.5], {}, 0, watch)  # waits
    assert time.monotonic() - begin > 0.5
    assert other.number == 1
    assert other.user_attrs["lr"] == 0.5
    assert not sharing.close(study, trial, "COMPLETE", 1.0)
    assert [t.state.name for t in study.get_trials()] == ["FAIL", "RUNNING"]


def test_a_run_that_was_taken_over_ends(tmp_path, monkeypatch):
    """It is told at its next sign of life, and the search goes on with the next rate."""
    monkeypatch.setattr(sharing, "BEAT", 0.02)
    path = tmp_path / "search.log"
    lost = []

    def objective(lr, seed):
        if not lost:
            study = optuna.load_study(study_name=sharing.STUDY, storage=sharing.journal(path))
            (mine,) = (t for t in study.get_trials() if t.state.name == "RUNNING")
            assert sharing.close(study, mine, "FAIL")  # as another process would
            for step in range(3000):
                lost.append(step)
                yield step, 1.0
                time.sleep(0.01)
        yield 3000, abs(lr - 0.01)

    result = search(objective, (1e-4, 1), trials=3, storage=path)
    assert len(lost) < 3000
    assert [row.losses for row in result.tried] == [(0.0099,), (0.0,), (0.99,)]
    assert Counter(t.state.name for t in stored(path)) == {"FAIL": 1, "COMPLETE": 3}


@pytest.mark.parametrize("prune", [False, True])
def test_a_result_that_comes_too_late(tmp_path, prune):
    """Taken over just before its end: what the other process finds counts."""
    path = tmp_path / "search.log"
    late = []

    def objective(lr, seed):
        if not late:
            late.append(lr)
            study = optuna.load_study(study_name=sharing.STUDY, storage=sharing.journal(path))
            (mine,) = (t for t in study.get_trials() if t.state.name == "RUNNING")
            sharing.close(study, mine, "FAIL")
            yield 0, -100.0
        else:
            yield 0, abs(lr - 0.01)

    result = search(objective, (1e-4, 1), trials=3, storage=path, prune=prune)
    assert min(min(row.losses) for row in result.tried) == 0
    assert result.best == 0.01


def test_a_dead_process_is_seen_at_once(tmp_path, monkeypatch):
    _, running, study = claimed(tmp_path / "search.log", sharing._host(), monkeypatch)
    with running:
        assert not sharing.Watch().dead(study.get_trials()[0])
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    owner = {"host": sharing._host(), "pid": process.pid, "beats": 0}
    study._storage.set_trial_user_attr(0, "owner", owner)
    assert sharing.Watch().dead(study.get_trials()[0])


def test_a_process_that_died_before_it_began(tmp_path, monkeypatch):
    """It took a rate and could not say who it was: that is waited for, but not long."""
    monkeypatch.setattr(sharing, "UNSIGNED", 0.5)
    path = tmp_path / "search.log"
    _, running, _ = claimed(path, sharing._host(), monkeypatch)
    rates = []

    def objective(lr, seed):
        rates.append(lr)
        yield 0, abs(lr - 0.5)

    begin = time.monotonic()
    result = search(objective, (0.05, 5), trials=3, storage=path)
    assert 0.5 < time.monotonic() - begin < sharing.SILENCE / 2
    assert sorted(rates) == [0.05, 0.5, 5]
    assert [row.rate for row in result.tried] == [0.05, 0.5, 5]
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError), running:
        pytest.fail("it was only slow, and runs what another process has run")


# ---- several processes ----

SCRIPT = """
import json, os, random, sys, time
from pathlib import Path
from gradstep.tuning import search

folder, name, rounds, trials, method, pause, storage = sys.argv[1:]

def note(**what):
    with (Path(folder) / f"notes-{name}").open("a") as file:
        file.write(json.dumps(what) + "\\n")

def objective(lr, seed):
    note(round=turn, lr=lr, begun=True)
    for step in range(3):
        time.sleep(random.random() * float(pause))
        yield step, abs(lr - 0.01)
    note(round=turn, lr=lr, begun=False)

for turn in range(int(rounds)):
    (Path(folder) / f"ready-{turn}-{name}").touch()
    while len(list(Path(folder).glob(f"ready-{turn}-*"))) < 2:  # begin together
        time.sleep(0.0002)
    result = search(objective, (1e-4, 1), method=method, trials=int(trials),
                    storage=storage.format(folder=folder, turn=turn))
    note(round=turn, result=result.to_dict())
"""


@pytest.fixture
def start():
    """Starts processes, which end with the test."""
    started = []

    def start(folder, name, rounds, trials, method, pause, storage=FILE):
        env = {**os.environ, "PYTHONPATH": str(Path(gradstep.__file__).parent.parent)}
        arguments = map(str, [folder, name, rounds, trials, method, pause, storage])
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments], env=env)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait(10)


def notes(folder, name):
    path = folder / f"notes-{name}"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize(
    ("storage", "method", "rounds", "trials"),
    [
        (FILE, "grid", 6, 24),
        (FILE, "random", 3, 24),
        (FILE, "tpe", 2, 12),
        (DATABASE, "grid", 3, 24),
        (DATABASE, "tpe", 1, 12),
    ],
)
def test_two_processes_share_the_rates(start, tmp_path, storage, method, rounds, trials):
    """Each rate is run once, and both return all of them."""
    pause = 0.002 if storage == FILE else 0.1  # SQLite lets others wait a tenth of a second
    both = [start(tmp_path, name, rounds, trials, method, pause, storage) for name in "ab"]
    assert [process.wait(300) for process in both] == [0, 0]
    noted = {name: notes(tmp_path, name) for name in "ab"}
    for turn in range(rounds):
        begun = {
            name: [note["lr"] for note in told if note["round"] == turn and note.get("begun")]
            for name, told in noted.items()
        }
        counts = Counter(begun["a"] + begun["b"])
        assert set(counts.values()) == {1}
        assert len(counts) == trials
        results = [
            note["result"]
            for told in noted.values()
            for note in told
            if note["round"] == turn and "result" in note
        ]
        assert len(results) == 2
        assert results[0] == results[1]
        assert [row["rate"] for row in results[0]["tried"]] == sorted(counts)
        trials_stored = stored(tmp_path / f"search-{turn}.log")
        assert Counter(t.state.name for t in trials_stored)["COMPLETE"] == trials
        if method == "grid":
            np.testing.assert_allclose(sorted(counts), np.geomspace(1e-4, 1, trials), rtol=1e-5)
    for told in noted.values():
        assert any(note.get("begun") for note in told)


@pytest.mark.parametrize(("after", "storage"), [(1, FILE), (4, FILE), (2, DATABASE)])
def test_one_process_is_killed(start, tmp_path, after, storage):
    """The other one takes up what it was at; nothing is missing, no result is there twice."""
    killed, other = (start(tmp_path, name, 1, 16, "grid", 0.06, storage) for name in "ab")
    end = time.monotonic() + 100
    while sum(1 for note in notes(tmp_path, "a") if note.get("begun")) < after:
        assert time.monotonic() < end
        time.sleep(0.005)
    time.sleep(0.03)  # within a run
    killed.send_signal(signal.SIGKILL)
    killed.wait(10)
    assert other.wait(100) == 0
    noted = notes(tmp_path, "a") + notes(tmp_path, "b")
    begun = Counter(note["lr"] for note in noted if note.get("begun"))
    assert len(begun) == 16
    assert sum(begun.values()) <= 17  # one rate was begun twice
    result = notes(tmp_path, "b")[-1]["result"]
    assert [row["rate"] for row in result["tried"]] == sorted(begun)
    assert {row["outcome"] for row in result["tried"]} == {"finished"}
    finished = [t.params["lr"] for t in stored(tmp_path / "search-0.log") if t.value is not None]
    assert sorted(finished) == sorted(begun)


def test_all_are_killed_and_the_search_continued(start, tmp_path):
    both = [start(tmp_path, name, 1, 8, "grid", 0.2) for name in "ab"]
    end = time.monotonic() + 100
    while not (len(notes(tmp_path, "a")) >= 3 and len(notes(tmp_path, "b")) >= 3):
        assert time.monotonic() < end
        time.sleep(0.005)
    for process in both:
        process.kill()
        process.wait(10)
    objective = Counting()
    result = search(objective, (1e-4, 1), trials=8, storage=tmp_path / "search-0.log")
    noted = notes(tmp_path, "a") + notes(tmp_path, "b")
    ended = {note["lr"] for note in noted if note.get("begun") is False}
    assert len(result.tried) == 8
    assert set(objective.rates) >= {row.rate for row in result.tried} - ended
    assert len(objective.calls) <= 8 - len(ended) + 2  # ended, but killed before it was stored


# ---- workers ----


def test_workers():
    several = search(diverging, (1e-4, 1), trials=5, seeds=2, workers=2)
    assert several == search(diverging, (1e-4, 1), trials=5, seeds=2)
    assert [row.outcome for row in several.tried] == ["finished"] * 4 + ["diverged"]


def test_workers_pass_errors_on(tmp_path):
    path = tmp_path / "search.log"
    with pytest.raises(RuntimeError, match=r"objective: at lr=0\.1, seed=0 it raised Key") as info:
        search(raising, (0.001, 0.1), trials=2, workers=2, storage=path)
    assert "in raising" in str(info.value.__cause__)  # the worker's traceback
    assert len(search(bowl, (0.001, 0.1), trials=3, storage=path).tried) == 3


def test_workers_that_die(tmp_path):
    path = tmp_path / "search.log"
    with pytest.raises(RuntimeError, match="workers: a process ended with exit code 3"):
        search(dying, (0.001, 0.1), trials=2, workers=2, storage=path)
    start = time.monotonic()
    assert len(search(bowl, (0.001, 0.1), trials=3, storage=path).tried) == 3
    assert time.monotonic() - start < sharing.SILENCE / 2


def test_workers_that_end_while_they_are_looked_at(tmp_path, monkeypatch):
    """The end of each is seen late: at the second time that its code is asked for."""
    kind = multiprocessing.context.SpawnProcess
    told, asked, wait = kind.exitcode.fget, set(), search_module.wait

    def late(process):
        code = told(process)
        return code if code is None or process.pid in asked else asked.add(process.pid)

    def for_all(ends, timeout):
        assert timeout
        for end in ends:
            wait([end])

    monkeypatch.setattr(kind, "exitcode", property(late))
    monkeypatch.setattr(search_module, "wait", for_all)
    with pytest.raises(RuntimeError, match="workers: a process ended with exit code 3"):
        search(dying, (0.001, 0.1), trials=2, workers=2, storage=tmp_path / "dying.log")
    asked.clear()
    with pytest.raises(RuntimeError, match=r"objective: at lr=0\.1, seed=0 it raised Key"):
        search(raising, (0.001, 0.1), trials=2, workers=2, storage=tmp_path / "raising.log")


def test_workers_want_what_can_be_sent():
    with pytest.raises(TypeError, match=r"objective: got .*, wanted a function at the top level"):
        search(lambda lr, seed: [(seed, lr)], trials=2, workers=2)


def test_workers_end_with_their_parent(tmp_path):
    """Also if it is killed."""
    (tmp_path / "endless.py").write_text(
        "import os, time\n"
        "def objective(lr, seed):\n"
        "    for step in range(10**6):\n"
        "        open(f'pid-{os.getpid()}', 'a').close()\n"
        "        time.sleep(0.02)\n"
        "        yield step, lr\n"
        "if __name__ == '__main__':\n"
        "    from gradstep.tuning import search\n"
        "    import endless\n"
        "    search(endless.objective, trials=4, workers=2)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(gradstep.__file__).parent.parent)}
    with subprocess.Popen([sys.executable, "endless.py"], cwd=tmp_path, env=env) as parent:
        end = time.monotonic() + 100
        while len(found := list(tmp_path.glob("pid-*"))) < 2:
            assert time.monotonic() < end
            time.sleep(0.02)
        parent.kill()
    while any(map(alive, found)):
        assert time.monotonic() < end
        time.sleep(0.02)


def alive(path):
    """Whether a process is there and no zombie."""
    pid = path.name.removeprefix("pid-")
    told = subprocess.run(
        ["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True, check=False
    ).stdout.strip()
    return bool(told) and not told.startswith("Z")


# ---- telling ----


def test_edges():
    with pytest.warns(UserWarning, match="0.001, is the lowest that was tried.* now 0.001") as told:
        low = search(partial(bowl, best=1e-5), (1e-3, 1), trials=4)
    assert low.edge == "low"
    assert told[0].filename == __file__
    with pytest.warns(UserWarning, match="1, is the highest that was tried.* move lr's high end"):
        high = search(partial(bowl, best=10), (1e-3, 1), trials=4)
    assert high.edge == "high"
    with pytest.warns(UserWarning, match="is the highest that was tried"):
        search(partial(bowl, best=10), (1e-3, 1), method="tpe", trials=20)
    # what diverged beyond the best one is no edge
    assert search(partial(bowl, best=0.1), (1e-3, 1), trials=4).edge == ""


@pytest.fixture
def result():
    rows = [
        Tried(1e-4, "finished", (2.0, 3.0), 99),
        Tried(1e-2, "finished", (0.25, 0.5), 99),
        Tried(0.1, "pruned", (4.0,), 31),
        Tried(1.0, "diverged", (5.0, math.inf), 7),
    ]
    return SearchResult(tuple(rows), (0, 7), (1e-4, 1.0), "grid")


def test_table(result):
    assert str(result).splitlines() == [
        "  rate  mean loss of 2  lowest  highest",
        "──────  ──────────────  ──────  ───────  ──────────────────",
        "0.0001             2.5       2        3",
        "  0.01           0.375    0.25      0.5  best",
        "   0.1               -       -        -  pruned at step 31",
        "     1               -       -        -  diverged at step 7",
    ]
    one = SearchResult((Tried(0.5, "finished", (2.0,), 9),), (0,), (0.1, 1.0), "random")
    assert str(one).splitlines()[-1] == " 0.5     2  best"


def test_to_dict(result):
    plain = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert plain["best"] == 0.01
    assert plain["edge"] == ""
    assert plain["seeds"] == [0, 7]
    assert plain["tried"][0]["losses"] == [2, 3]
    assert plain["tried"][3] == {
        "rate": 1, "outcome": "diverged", "step": 7, "loss": None, "losses": [5, None]
    }  # fmt: skip


def test_to_csv(result, tmp_path):
    path = result.to_csv(tmp_path / "search.csv")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["rate", "outcome", "step", "loss", "loss_of_seed_0", "loss_of_seed_7"]
    assert [float(row["rate"]) for row in rows] == [1e-4, 1e-2, 0.1, 1]
    assert float(rows[1]["loss"]) == 0.375
    assert rows[2]["loss_of_seed_7"] == ""
    assert float(rows[3]["loss_of_seed_7"]) == math.inf


def test_plot(result, tmp_path):
    pytest.importorskip("matplotlib")
    assert result.plot(tmp_path / "search.svg").read_text().count("<path") > 20
    nothing = SearchResult((), (0,), (1e-4, 1.0), "grid")
    with pytest.raises(ValueError, match="rates: got none"):
        nothing.plot(tmp_path / "nothing.png")
    failed = SearchResult(result.tried[2:], (0,), (1e-4, 1.0), "grid")
    assert failed.plot(tmp_path / "failed.png").exists()


def test_optuna_is_quiet(capfd):
    """And as loud as it was, afterwards."""
    before = optuna.logging.get_verbosity()
    search(diverging, (1e-4, 1), trials=3)
    assert optuna.logging.get_verbosity() == before
    assert capfd.readouterr() == ("", "")


def test_progress(monkeypatch, capsys):
    """On a terminal, unless it is not wanted."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    search(bowl, (1e-4, 1), trials=3, progress=False)
    assert capsys.readouterr().err == ""
    search(bowl, (1e-4, 1), trials=3)
    shown = capsys.readouterr().err
    assert "3/3" in shown
    assert "best 0.01" in shown
