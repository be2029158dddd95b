"""A thread of ours, which works beside the backward pass."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import torch

_TINY = 5e-324  # the smallest number


def _flushes() -> bool:
    """Whether this thread takes the smallest numbers for 0, as torch.set_flush_denormal has it."""
    return _TINY * 1.0 == 0.0


class Worker:
    """Does one task after the other; once one has failed, none until that was told.

    Computes as the thread that made the task would.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "gradstep-offload")
        self._tasks: list[Future[None]] = []
        self._failed = False
        self._process = os.getpid()

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
        future = self._thread.submit(self._do, _flushes(), task, args)
        self._tasks.append(future)
        return future

    def _do(self, flushes: bool, task: Callable[..., None], args: Any) -> None:
        if self._failed:
            return
        if _flushes() != flushes:
            torch.set_flush_denormal(flushes)
        try:
            task(*args)
        except BaseException:
            self._failed = True
            raise

    def drain(self) -> None:
        """Wait until nothing is left to do."""
        wait(self._tasks)

    def finish(self) -> None:
        """Wait until all is done; raise what went wrong first."""
        self.drain()
        tasks, self._tasks = self._tasks, []
        self._failed = False
        for task in tasks:
            task.result()

    def forget(self) -> None:
        """Wait until nothing is left to do, whatever went wrong."""
        self.drain()
        self._tasks, self._failed = [], False
