"""The PyTorch optimizers in 2 and 3 real processes: shards, copies and checkpoints between them.

The checks are in torch_worker.py; a world's processes are started once and make all of them.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import gradstep as gs

torch = pytest.importorskip("torch")
if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("PyTorch was built without gloo", allow_module_level=True)

from torch_worker import CHECKS  # noqa: E402

WORKER = Path(__file__).with_name("torch_worker.py")
LIMIT = 300  # seconds, for all processes of a world
NAMES = [
    pytest.param(world, name, marks=[pytest.mark.slow] if world > 3 else [])
    for world in (2, 3, 1, 4)
    for name, (_, worlds) in CHECKS.items()
    if world in worlds
]


class Worlds:
    """Starts the processes of a world when one of their results is first asked for."""

    def __init__(self, folder):
        self.folder = folder
        self.ended = {}

    def run(self, world):
        """Once, whichever of pytest's own workers needs it first."""
        if world in self.ended:
            return
        codes = self.folder / f"{world}.ended"
        with (self.folder / f"{world}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not codes.exists():
                codes.write_text(json.dumps(self.started(world)))
        self.ended[world] = json.loads(codes.read_text())

    def started(self, world):
        """How each process ended."""
        if world in (1, 3):
            self.run(2)  # whose checkpoints they load
        source = str(Path(gs.__file__).parent.parent)
        env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")])),
            "OMP_NUM_THREADS": "1",
        }
        if sys.platform == "linux":
            env["GLOO_SOCKET_IFNAME"] = "lo"  # no name of this machine need be known
        logs = [self.folder / f"{world}.{rank}.log" for rank in range(world)]
        processes = []
        for rank, log in enumerate(logs):
            with log.open("w") as output:
                arguments = [sys.executable, WORKER, str(rank), str(world), self.folder]
                processes.append(
                    subprocess.Popen(arguments, env=env, stdout=output, stderr=subprocess.STDOUT)
                )
        deadline = time.monotonic() + LIMIT
        try:
            for process in processes:
                process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass  # told by each check that has no result
        finally:
            for process in processes:
                process.kill()
                process.wait()
        return [process.returncode for process in processes]

    def errors(self, world, name):
        """What each process has to tell of a check that did not pass in it."""
        self.run(world)
        errors = []
        for rank, code in enumerate(self.ended[world]):
            results = self.folder / f"{world}.{rank}.json"
            told = json.loads(results.read_text()) if results.exists() else {}
            log = (self.folder / f"{world}.{rank}.log").read_text()[-3000:]
            if name not in told and (failed := [n for n, error in told.items() if error]):
                errors.append(f"rank {rank} did not get to it: {failed[0]} failed")
            elif name not in told:
                errors.append(f"rank {rank} did not get to it and ended with {code}\n{log}")
            elif told[name] is not None:
                errors.append(f"rank {rank}: {told[name]}")
        return errors


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "worlds"
    folder.mkdir(exist_ok=True)
    return Worlds(folder)


@pytest.mark.parametrize(("world", "name"), NAMES)
def test_processes(worlds, world, name):
    errors = worlds.errors(world, name)
    assert not errors, "\n".join(errors)
