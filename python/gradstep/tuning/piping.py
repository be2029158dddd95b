"""Pipes: what comes out of one is kept in a file, to be read while it comes, and again."""

from __future__ import annotations

import os
import stat
import tempfile
import threading
from pathlib import Path
from types import TracebackType

from .finding import Refused

MOST = 1 << 30  # bytes that are kept
STANDARD_INPUT = {"-", "/dev/stdin"}


def is_pipe(path: Path) -> bool:
    """Whether a log comes through a pipe, as ``-`` does.

    Raises:
        Refused: it is a device, a terminal among them.
    """
    try:
        mode = (os.fstat(0) if str(path) in STANDARD_INPUT else path.stat()).st_mode
    except OSError:
        return False
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        raise Refused(f"{path}: got a device, wanted a file, a folder, or a pipe with a log in it")
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or str(path) == "-"


class Pipe:
    """A pipe that is read to its end, so that whoever writes into it never waits or is stopped.

    Attributes:
        file: what came out of it, as far as it was kept.
        is_cut: whether more came than is kept.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ended = threading.Event()
        self._error: OSError | None = None
        self.is_cut = False

    def __enter__(self) -> Pipe:
        self._folder = tempfile.TemporaryDirectory(
            prefix="gradstep-",
            ignore_cleanup_errors=True,  # Windows deletes no file that the thread still has open
        )
        self.file = Path(self._folder.name) / "log"
        self.file.touch()
        threading.Thread(target=self._keep, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._folder.cleanup()

    def _keep(self) -> None:
        try:
            source = 0 if str(self._path) in STANDARD_INPUT else self._path
            with open(source, "rb", buffering=0, closefd=source != 0) as pipe:
                self._copy(pipe.fileno())
        except OSError as error:
            self._error = error
        finally:
            self._ended.set()

    def _copy(self, pipe: int) -> None:
        with self.file.open("ab", buffering=0) as file:
            while data := os.read(pipe, 1 << 16):
                if self._error is None and not self.is_cut:
                    self.is_cut = file.tell() + len(data) > MOST
                    try:
                        file.write(data if not self.is_cut else b"")
                    except OSError as error:  # no space is left
                        self._error = error

    def has_ended(self) -> bool:
        """Whether all of it was read."""
        return self._ended.is_set()

    def drain(self) -> None:
        """Wait for its end, whatever became of what came out of it."""
        self._ended.wait()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait, at most until its end; whether it has ended.

        Raises:
            OSError: it cannot be read, or what came out of it cannot be kept.
        """
        ended = self._ended.wait(seconds)
        if self._error is not None:
            raise self._error
        return ended

    def wait_for_all(self) -> None:
        """Wait for its end.

        Raises:
            OSError: as of :meth:`wait`.
            Refused: more came than is kept.
        """
        self.wait()
        if self.is_cut:
            raise Refused(
                f"{self._path}: got more than {MOST:,} bytes, wanted so long a log as a file"
            )
