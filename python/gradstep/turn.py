"""One at a time: who may work with an optimizer, and what the others are told."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from threading import get_ident
from typing import Any, Protocol, TypeVar, cast

M = TypeVar("M", bound=Callable[..., Any])


class Turn:
    """What one thread at a time has of an optimizer. A copy, also by pickling, is free.

    Who deletes the only item of `free` has the turn, and gives it back by appending one. That is
    atomic, cheaper than a lock, and no signal is handled between it and the `try`. So it stands
    written out where it is needed and no method or context manager in Python does it: a call can
    be interrupted where it begins or ends, and the turn would never be given back.

        try:
            del self._turn.free[0]
        except IndexError:
            raise self._turn.taken("step") from None
        try:
            ...
        finally:
            self._turn.free.append(None)

    Attributes:
        free: holds one item while nobody has the turn.
        averaged: the thread that has it for `averaged()`, else 0: for the message alone. Who sets
            it does so within the `try`, and back before giving the turn back.
    """

    __slots__ = ("_process", "averaged", "free")

    def __init__(self) -> None:
        self.free: list[None] = [None]
        self.averaged = 0
        self._process = os.getpid()

    def taken(self, what: str) -> RuntimeError:
        """What is raised where `what` was asked for and somebody else has the turn."""
        # Whoever forked within averaged() is there in the child, too; other threads are not.
        is_child = self._process != os.getpid()
        if self.averaged and not (is_child and self.averaged != get_ident()):
            return RuntimeError(
                f"{what}: asked for within averaged(), where the parameters hold the averages; "
                "wanted it before or after"
            )
        if is_child:
            return RuntimeError(
                f"{what}: this optimizer is at work in another thread, or was when this process "
                "was forked: then no thread ends that work here, and parameters and states may be "
                "half stepped; wanted the parameters loaded again, a new optimizer over them, and "
                "load_state_dict() of it with what was saved before"
            )
        return RuntimeError(f"{what}: this optimizer is at work in another thread")

    def __reduce__(self) -> tuple[type[Turn], tuple[()]]:
        return Turn, ()


class _Owner(Protocol):
    _turn: Turn


def alone(what: str) -> Callable[[M], M]:
    """A method that has its object's `_turn`, and raises at once where another thread has it."""

    def decorate(method: M) -> M:
        @functools.wraps(method)
        def alone(self: _Owner, *args: Any, **kwargs: Any) -> Any:
            try:
                del self._turn.free[0]
            except IndexError:
                raise self._turn.taken(what) from None
            try:
                return method(self, *args, **kwargs)
            finally:
                self._turn.free.append(None)

        return cast("M", alone)

    return decorate
