"""One list of rates, worked off by any number of processes: each rate once, and none is lost.

Optuna stores the trials; what it leaves open is closed here:

- Its check before it enqueues (`skip_if_exists`) is a race between processes, and takes a failed
  trial for one that exists. Here a rate may be enqueued twice, but of two trials with one rate only
  that with the lower number is run, and all processes see the same numbers.
- Its SQLite storage hands one trial to two processes (measured: 4 to 8 of 60). The journal does
  not, nor does what `databases` makes of it.
- A process that was killed leaves a trial that runs forever. Here a trial tells who runs it, and
  shows a sign of life from time to time; a trial without one fails, and its rate is enqueued again.
- A process that was killed holding the journal's lock delays the others by half a minute, and one
  killed while writing leaves half a line that nobody can read. Here the kernel releases the lock,
  and the next writer cuts half a line off.
"""

from __future__ import annotations

import math
import os
import socket
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from .. import files
from ..extras import need

STUDY = "gradstep.search"
BEAT = 15.0  # seconds between two signs of life
SILENCE = 120.0  # seconds without one after which a trial's process counts as dead
UNSIGNED = 5.0  # seconds after which it does if it took the trial, but did not say who it is
FIRST_RECORD = b'{"op_code"'


def optuna(module: str = "") -> Any:
    """Optuna, or one of its modules.

    Raises:
        ImportError: it is not installed; the message names the extra.
    """
    return need(f"optuna.{module}" if module else "optuna", "the search for a rate", "search")


# ------------------------------------------------------------------------------------ the file


class _Lock:
    """The writer's lock of a journal: on the file itself, and gone with the process."""

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, -1

    def acquire(self) -> bool:
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | files.PLAIN)
        try:
            files.lock(file)
            self._cut_half_a_line(file)
        except BaseException:
            os.close(file)
            raise
        self._file = file
        return True

    def release(self) -> None:
        file, self._file = self._file, -1
        try:
            files.unlock(file)
        finally:
            os.close(file)

    @staticmethod
    def _cut_half_a_line(file: int) -> None:
        """Drop what follows the last newline: whoever wrote it died at it."""
        end = size = os.fstat(file).st_size
        while end > 0:
            start = max(0, end - 4096)
            os.lseek(file, start, os.SEEK_SET)
            newline = os.read(file, end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end < size:
            os.ftruncate(file, end)


def journal(path: Path) -> Any:
    """Optuna's storage in the file `path`, made where missing.

    Raises:
        OSError: it cannot be read or written.
        ValueError: it holds something else.
    """
    if path.exists():
        with path.open("rb") as file:
            head = file.read(len(FIRST_RECORD))
        if not FIRST_RECORD.startswith(head):
            raise ValueError(f"storage: {path} is not the file of a search")
    elif not path.parent.is_dir():
        raise FileNotFoundError(f"storage: the folder of {path} does not exist")
    backend = optuna("storages.journal").JournalFileBackend(str(path), lock_obj=_Lock(path))
    return optuna("storages").JournalStorage(backend)


# ------------------------------------------------------------------------------- signs of life


def _host() -> str:
    """Where a process number means what it means here: containers number their own."""
    try:
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        namespace = 0
    return f"{socket.gethostname()}/{namespace}"


def _is_gone(pid: Any) -> bool:
    if sys.platform != "win32":  # to ask there is to press Ctrl-C: signs of life must do
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except OSError:  # there, and someone else's
            return False
    return False


class Running:
    """While this context lasts, a trial tells the other processes that someone runs it.

    `lost` is set when they took it for dead nevertheless: its result is no longer wanted.
    """

    def __init__(self, trial: Any) -> None:
        self.lost = False
        self._trial, self._host, self._beats = trial, _host(), 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)

    def __enter__(self) -> Running:
        self._beat()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()

    def _beat(self) -> None:
        owner = {"host": self._host, "pid": os.getpid(), "beats": self._beats}
        self._trial.set_user_attr("owner", owner)
        self._beats += 1

    def _live(self) -> None:
        exceptions = optuna("exceptions")
        while not self._done.wait(BEAT):
            try:
                self._beat()
            except exceptions.UpdateFinishedTrialError:
                self.lost = True
                return
            except exceptions.StorageInternalError:
                pass  # a server that is away may be back at the next one


class Watch:
    """What one process saw of the trials that others run.

    Judged by this process's own clock: machines need not agree on the time.
    """

    def __init__(self) -> None:
        self._host = _host()
        self._seen: dict[int, tuple[int, float]] = {}  # number to beats, and when first seen

    def dead(self, trial: Any) -> bool:
        """Whether nobody runs this running trial any more."""
        owner = trial.user_attrs.get("owner") or {}
        pid = owner.get("pid")
        if owner.get("host") == self._host and pid != os.getpid() and _is_gone(pid):
            return True
        beats, now = owner.get("beats", -1), time.monotonic()
        known, since = self._seen.get(trial.number, (None, now))
        if known != beats:
            self._seen[trial.number] = (beats, now)
            return False
        # Without its first sign of life it has not begun, and will not: `Running` raises then.
        return now - since > (SILENCE if owner else UNSIGNED)


# --------------------------------------------------------------------------------------- trials


def same(a: float, b: float) -> bool:
    """One rate, written on machines whose powers differ in the last place."""
    return math.isclose(a, b, rel_tol=1e-9)


def live(trials: Iterable[Any]) -> list[Any]:
    """All but the failed: they were given up, taken from a dead process, or one too many."""
    return [trial for trial in trials if trial.state.name != "FAIL"]


def close(study: Any, trial: Any, state: str, loss: float | None = None) -> bool:
    """End a trial; False where another process did so before, and ours does not count."""
    try:
        number = trial if isinstance(trial, int) else trial.number
        study.tell(number, loss, state=getattr(optuna("trial").TrialState, state))
    except (ValueError, optuna("exceptions").UpdateFinishedTrialError):
        return False
    return True


def claim(
    study: Any, rates: Sequence[float], attributes: dict[str, Any], total: int, watch: Watch
) -> Any:
    """The next trial to run, for this process alone; None once there is nothing left to run.

    Waits while others run the last ones: should they die, theirs are to be taken up.

    Args:
        study: Optuna's.
        rates: what is to be tried, in this order.
        attributes: what each trial is to tell beside its rate.
        total: the least number of trials; where `rates` are fewer, the sampler of the
            study chooses the others.
        watch: what this process saw so far.
    """
    pause = 0.01
    while True:
        trials = live(study.get_trials(deepcopy=False))
        for trial in trials:
            if trial.state.name == "RUNNING" and watch.dead(trial):
                close(study, trial, "FAIL")
        trials = live(study.get_trials(deepcopy=False))
        there = [trial.user_attrs["lr"] for trial in trials if "lr" in trial.user_attrs]
        missing = [rate for rate in rates if not any(same(rate, other) for other in there)]
        for rate in missing:
            study.enqueue_trial({"lr": rate}, user_attrs={"lr": rate, **attributes})
        states = {trial.state.name for trial in trials}
        if missing or "WAITING" in states or len(trials) < total:
            trial = study.ask()
            if _stands(study, trial, total):
                return trial
            close(study, trial, "FAIL")
        elif "RUNNING" in states:
            time.sleep(pause)
            pause = min(2 * pause, 1.0)
        else:
            return None


def below(study: Any, trial: Any) -> list[Any]:
    """The live trials with lower numbers: of them all processes have the same view."""
    return [t for t in live(study.get_trials(deepcopy=False)) if t.number < trial.number]


def _stands(study: Any, trial: Any, total: int) -> bool:
    """Whether a trial of ours is neither a repeat nor one too many."""
    rate, lower = trial.user_attrs.get("lr"), below(study, trial)
    if rate is None:  # the sampler is to choose
        return len(lower) < total
    return not any(same(rate, t.user_attrs["lr"]) for t in lower if "lr" in t.user_attrs)
