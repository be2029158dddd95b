"""Windows and macOS from the Python side: what they lack is hidden, what they do is imitated."""

import os
import subprocess
import sys
import textwrap

import pytest

# What neither has, and what Windows lacks besides.
LACKING = ["sched_getaffinity", "sched_setaffinity"]
ON_WINDOWS = ["fork", "forkpty", "register_at_fork", "fchmod", "pread", "pwrite", "O_CLOEXEC",
              "O_NOFOLLOW", "O_NONBLOCK", "O_DIRECTORY", "getuid", "geteuid", "uname"]  # fmt: skip

HEAD = """
import ctypes, errno, importlib, os, pkgutil, sys, types, warnings
from pathlib import Path

import multiprocessing.connection, subprocess, select, signal  # as they are here
import numpy as np
for name in ("torch", "jax", "optax", "keras", "lightning", "transformers", "sklearn", "optuna",
             "matplotlib.figure", "tqdm", "sqlalchemy"):
    try:
        importlib.import_module(name)
    except ImportError:
        pass

def hide(names):
    for name in names:
        if hasattr(os, name):
            delattr(os, name)

def no_proc(real):
    def call(self, *args, **kwargs):
        if str(self).startswith(("/proc", "/sys")):
            raise FileNotFoundError(errno.ENOENT, "not here", str(self))
        return real(self, *args, **kwargs)
    return call

warnings.filterwarnings("error", category=EncodingWarning, module="gradstep")
"""

WINDOWS = """
import fcntl

msvcrt = types.ModuleType("msvcrt")
msvcrt.LK_NBLCK, msvcrt.LK_UNLCK = 2, 0

def locking(fd, how, count):
    assert os.lseek(fd, 0, os.SEEK_CUR) > 1 << 30  # out of the way of who reads
    try:
        fcntl.flock(fd, fcntl.LOCK_UN if how == 0 else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise PermissionError(errno.EACCES, "Permission denied")

msvcrt.locking = locking

def is_open(path):
    for fd in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{fd}") == os.path.realpath(path):
                return True
        except FileNotFoundError:
            pass

def closed(call):
    def checked(path, *args, **kwargs):
        if is_open(path) or (args and is_open(args[0])):
            raise PermissionError(errno.EACCES, "another process has it open", str(path))
        return call(path, *args, **kwargs)
    return checked

def kill(pid, number):
    raise AssertionError("Ctrl-C for everyone")

def memory(status):
    status._obj.free = 123 << 20
    return 1

kernel = types.SimpleNamespace(GlobalMemoryStatusEx=memory)
ctypes.windll = types.SimpleNamespace(kernel32=kernel)
os.replace, os.unlink, os.kill = closed(os.replace), closed(os.unlink), kill
Path.replace = lambda self, target: os.replace(str(self), str(target))
Path.unlink = lambda self, missing_ok=False: os.unlink(str(self))
sys.modules |= {"msvcrt": msvcrt, "fcntl": None, "resource": None}
hide(lacking)
del select.poll
sys.platform = "win32"
"""

MACOS = """
class Library:
    def __init__(self, name):
        if name is not None:
            raise OSError("no such library: they end with .dylib")

    def sysctlbyname(self, name, text, size, new, length):
        assert name == b"machdep.cpu.brand_string"
        text.value = b"Apple M9"
        return 0

ctypes.CDLL = Library
hide(lacking)
sys.platform = "darwin"
"""

USE = """
import gradstep as gs
Path.read_text = no_proc(Path.read_text)
for module in pkgutil.walk_packages(gs.__path__, "gradstep."):
    if module.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(module.name)
    except ImportError as error:  # without an optional package, or the calls of JAX
        assert "fcntl" not in str(error), error
        print(module.name, error, file=sys.stderr)

from gradstep import checkpoint, files, machine
from gradstep.tuning import following, search, watching

# ---- a checkpoint, again and again ----
folder = Path(sys.argv[1])
w = np.ones(1000, np.float32)
optimizer = gs.AdamW(w)
optimizer.step(w.copy())
path = folder / "state.safetensors"
stale, young = (folder / f".gradstep-{c * 16}.tmp" for c in "ab")
for i in range(3):
    checkpoint.save(path, {"i": i, "w": w, "state": optimizer.state_dict()})
    assert checkpoint.load(path)["i"] == i
    stale.touch(), young.touch()
    os.utime(stale, (1e9, 1e9))
checkpoint.save(path, {})
assert not stale.exists()
assert sorted(folder.iterdir()) in ([path], [young, path]), list(folder.iterdir())
with open(path, "rb") as reader:  # somebody reads it
    if sys.platform == "win32":
        files._REPLACING = 0.1
        try:
            checkpoint.save(path, {"lost": 1})
        except PermissionError as error:
            assert str(path) in str(error)
            assert checkpoint.load(path) == {}
        else:
            raise AssertionError

# ---- what the machine says ----
assert machine.processors() == os.cpu_count()
if sys.platform == "win32":
    assert machine.free_memory() == 123 << 20
else:
    assert machine.free_memory() is None
    assert machine.cpu_name() == "Apple M9"
assert machine.describe()["CPU"]

# ---- a log ----
log = folder / "run.jsonl"
log.write_text("".join(f'{{"step": {k}, "loss": {9 / k}}}\\n' for k in range(1, 50)),
               encoding="utf-8")
assert watching.workers_for(log) == 1
(judged,) = next(following.follow(log, {}))
assert len(judged.log.steps) == 49
if sys.platform == "win32":
    assert PermissionError in following.BEING_REPLACED

# ---- the command, where the reader has another alphabet ----
from gradstep import cli
assert cli.main(["watch", str(log)]) == 0
assert cli.main(["info"]) == 0

# ---- a search ----
try:
    import optuna
except ImportError:
    pass
else:
    def bowl(rate, seed):
        for step in range(3):
            yield step, (np.log10(rate) + 2) ** 2
    for _ in range(2):  # and one that goes on
        found = search(bowl, (1e-4, 1.0), trials=5, storage=folder / "search.log")
    assert found.best == 1e-2 and len(found.tried) == 5
    from gradstep.tuning import sharing
    assert not sharing._is_gone(os.getpid())
print("done")
"""


@pytest.mark.parametrize(
    ("system", "imitated", "lacking"),
    [("Windows", WINDOWS, LACKING + ON_WINDOWS), ("macOS", MACOS, LACKING)],
)
@pytest.mark.skipif(sys.platform != "linux", reason="imitates the others on Linux")
def test_on(system, imitated, lacking, tmp_path):
    """All modules import, checkpoints and searches keep their files, commands print."""
    script = tmp_path / f"{system}.py"
    text = "\n".join([HEAD, f"lacking = {lacking}", imitated, USE])
    script.write_text(textwrap.dedent(text), encoding="utf-8")
    folder = tmp_path / "folder"
    folder.mkdir()
    ran = subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", script, folder],
        capture_output=True,
        encoding="cp1252",
        env=os.environ | {"PYTHONIOENCODING": "cp1252"},
        check=False,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.endswith("done\n")
