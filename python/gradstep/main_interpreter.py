"""Whether this is the main interpreter of the process: NumPy works in no other."""

from __future__ import annotations

from typing import Any


def _interpreters() -> Any:
    """Python's module that tells interpreters apart, by its name in this version; None: none."""
    try:
        import _interpreters as found  # noqa: PLC0415
    except ImportError:
        try:
            import _xxsubinterpreters as found  # noqa: PLC0415
        except ImportError:
            return None
    return found


def check() -> None:
    """Raise ImportError in a sub-interpreter."""
    found = _interpreters()
    if found is not None and found.get_current() != found.get_main():
        raise ImportError(
            "gradstep: got a sub-interpreter, wanted the main interpreter of the process, or a "
            "process of its own: NumPy works in no other"
        )
