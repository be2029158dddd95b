"""A thread of ours, which works beside the backward pass."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import get_ident
from typing import Any

import torch

_TINY = 5e-324  # the smallest number


def _flushes() -> bool:
    """Whether this thread takes the smallest numbers for 0, as torch.set_flush_denormal has it."""
    return _TINY * 1.0 == 0.0


class Worker:
    """Does one task after the other; once one has failed, none until that was told.

    Computes as the thread that began the task would: with its number of threads and its way with
    the smallest numbers.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._thread = ThreadPoolExecutor(1, "gradstep-offload")
        self._own = self._thread.submit(
            get_ident
        ).result()  # and it has started: no signal loses it
        self._error: BaseException | None = None
        self._is_busy = False

    def begin(self, task: Callable[..., None], *args: Any) -> Future[None]:
        """Have something done.

        Raises:
            RuntimeError: this process was forked, and the thread is in the other one.
        """
        if os.getpid() != self._process:
            raise RuntimeError(
                "offload: got a process that was forked, which has no thread to step, wanted a new "
                "offload() in it"
            )
        self._is_busy = True  # first: what a signal keeps from being noted is waited for, too
        return self._thread.submit(self._do, _flushes(), torch.get_num_threads(), task, args)

    def _do(self, flushes: bool, threads: int, task: Callable[..., None], args: Any) -> None:
        if self._error is not None:
            return
        if _flushes() != flushes:
            torch.set_flush_denormal(flushes)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        try:
            task(*args)
        except BaseException as error:
            self._error = error

    def drain(self) -> None:
        """Wait until nothing is left to do."""
        if self._is_busy and os.getpid() == self._process and get_ident() != self._own:
            self._thread.submit(get_ident).result()
            self._is_busy = False

    def finish(self) -> None:
        """Wait until all is done; raise what went wrong first."""
        self.drain()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def forget(self) -> None:
        """Wait until nothing is left to do, whatever went wrong."""
        self.drain()
        self._error = None
