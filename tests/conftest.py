"""What every test may use: each target, thread counts, and the settings put back afterwards."""

import pytest

import gradstep as gs


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


@pytest.fixture(params=[1, 2, 3, 4])
def threads(request):
    """One to four threads that share every call, however small."""
    gs.set_num_threads(request.param)
    gs._core.set_eager(True)
    return request.param
