"""What every test may use: each target, thread counts, and the settings put back afterwards."""

import contextlib
import gc
import os
import signal
from pathlib import Path

import pytest

import gradstep as gs
from judged import told, written  # noqa: F401 - fixtures


def pytest_collection_modifyitems(items):
    """The house's order comes first: what a new rule or storage lacks is said once, and early."""
    items.sort(key=lambda item: item.path.name != "test_structure.py")


SKIPPED = os.environ.get("GRADSTEP_SKIPPED")


def pytest_runtest_logreport(report):
    """Writes down what was skipped, where asked: .ci/run runs it again where the oracles are."""
    if report.skipped and SKIPPED and "PYTEST_XDIST_WORKER" not in os.environ:
        with Path(SKIPPED).open("a", encoding="utf-8") as file:
            file.write(f"{report.nodeid}\n")


pytest_collectreport = pytest_runtest_logreport  # whole modules


@pytest.fixture(autouse=True)
def _settings_restored():
    target, threads = gs.config()["target"], gs.get_num_threads()
    yield
    gs.set_target(target)
    gs.set_num_threads(threads)
    gs._core.set_eager(False)


@pytest.fixture(params=gs.config()["targets"])
def target(request):
    """Each target this processor can run, in use."""
    gs.set_target(request.param)
    return request.param


LATER = pytest.mark.slow


@pytest.fixture(
    params=[1, pytest.param(2, marks=LATER), 3, pytest.param(4, marks=LATER)],
    ids=lambda count: f"threads{count}",
)
def threads(request):
    """One to four threads that share every call, however small; every day one and three."""
    gs.set_num_threads(request.param)
    gs._core.set_eager(True)
    return request.param


@pytest.fixture
def float64_by_default():
    """PyTorch keeps NAdam's and ASGD's numbers of a tensor in its default dtype."""
    torch = pytest.importorskip("torch", reason="torch is in the group oracles")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def interrupted():
    """A function of a delay in seconds and a callable: calls it, with Ctrl-C after the delay.

    Without cyclic collections meanwhile: what a signal raises inside a collector's callback,
    such as Hypothesis's, is swallowed there.
    """
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    collecting = gc.isenabled()
    gc.disable()

    def interrupted(delay, call):
        with contextlib.suppress(KeyboardInterrupt):
            try:
                signal.setitimer(signal.ITIMER_REAL, delay)
                call()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)

    yield interrupted
    signal.signal(signal.SIGALRM, before)
    if collecting:
        gc.enable()
