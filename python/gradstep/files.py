"""What systems do differently with files: locks that end with their process, what a disk keeps."""

from __future__ import annotations

import errno
import os
import sys
import time
from io import FileIO
from pathlib import Path

# Of a file that is opened: bytes as they are, and not for child processes.
PLAIN: int = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
# What a file system says that has no such thing.
UNSUPPORTED = {errno.EINVAL, errno.ENOTSUP, errno.ENOTTY}

if sys.platform == "win32":
    import msvcrt

    # A lock keeps others from reading there, so it lies beyond what a file holds.
    _PLACE = 0x7FFF_FFF0
    _PAUSE = 0.01  # seconds from one look to the next
    _REPLACING = 1.0  # seconds that somebody else may have a file open that is to be replaced
    _LEFT = 60.0  # seconds after which nobody is about to rename what nobody has open

    def _change(fd: int, how: int) -> None:
        before = os.lseek(fd, 0, os.SEEK_CUR)
        os.lseek(fd, _PLACE, os.SEEK_SET)
        try:
            msvcrt.locking(fd, how, 1)
        finally:
            os.lseek(fd, before, os.SEEK_SET)

    def lock(fd: int) -> None:
        """Wait for the only lock of a file; it ends with this process at the latest.

        Raises:
            OSError: the file system has no locks.
        """
        while True:
            try:
                return _change(fd, msvcrt.LK_NBLCK)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EDEADLK):
                    raise
            time.sleep(_PAUSE)

    def unlock(fd: int) -> None:
        """Give back what :func:`lock` got."""
        _change(fd, msvcrt.LK_UNLCK)

    def delete_unused(path: Path) -> None:
        """Delete a file whose writer is no more.

        Raises:
            OSError: somebody has it open.
        """
        if time.time() - path.stat().st_mtime > _LEFT:
            path.unlink()

    def replace(file: FileIO, path: Path, target: Path) -> None:
        """Have an open file take the place of another; here it must be closed first."""
        file.close()
        end = time.monotonic() + _REPLACING
        while True:
            try:
                path.replace(target)
                return
            except PermissionError:  # a reader, or what looks for viruses
                if time.monotonic() > end:
                    raise
            time.sleep(_PAUSE)

    def set_mode(fd: int, mode: int) -> None:
        """Who may read and write an open file: here that is not in a mode."""

    def sync(fd: int) -> None:
        """Have the disk itself keep what was written."""
        os.fsync(fd)

    def sync_folder(folder: Path) -> None:
        """Have the disk keep the names in a folder: here it does without being asked."""

else:
    import fcntl

    def lock(fd: int) -> None:
        """Wait for the only lock of a file; it ends with this process at the latest.

        Raises:
            OSError: the file system has no locks.
        """
        fcntl.flock(fd, fcntl.LOCK_EX)

    def unlock(fd: int) -> None:
        """Give back what :func:`lock` got.

        Closing is not enough: a process forked meanwhile (a data loader's) holds it, too.
        """
        fcntl.flock(fd, fcntl.LOCK_UN)

    def delete_unused(path: Path) -> None:
        """Delete a file whose writer is no more.

        Raises:
            OSError: somebody holds its lock.
        """
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | PLAIN)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        finally:
            os.close(fd)

    def replace(file: FileIO, path: Path, target: Path) -> None:  # noqa: ARG001 - stays open
        """Have an open file take the place of another, while its lock is held."""
        path.replace(target)

    def set_mode(fd: int, mode: int) -> None:
        """Who may read and write an open file."""
        os.fchmod(fd, mode)

    def sync(fd: int) -> None:
        """Have the disk itself keep what was written."""
        full = getattr(fcntl, "F_FULLFSYNC", None)  # macOS, where fsync stops at the drive's cache
        if full is not None:
            try:
                fcntl.fcntl(fd, full)
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise
            else:
                return
        os.fsync(fd)

    def sync_folder(folder: Path) -> None:
        """Have the disk keep the names in a folder."""
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | PLAIN)
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
        finally:
            os.close(fd)
