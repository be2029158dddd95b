"""Which instruction set runs, on how many threads, and how this copy was built."""

from __future__ import annotations

import operator
import os
from typing import Any

from . import _core


def config() -> dict[str, Any]:
    """What runs the steps.

    Returns:
        ``target`` (in use) and ``targets`` (this processor can run, from the slowest to the
        fastest), ``refused`` (a dict: the build's other targets, and why they cannot run here),
        ``threads``, ``team``, ``openmp`` (the file of the OpenMP runtime whose workers a
        step may use, ``"none"`` until one is found), ``version``, ``compiler``, ``build``.

    Example:
        >>> import gradstep as gs
        >>> gs.config()["target"] in gs.config()["targets"]
        True
    """
    return {
        "target": _core.target(),
        "targets": tuple(_core.targets()),
        "refused": _core.refused_targets(),
        "threads": _core.threads(),
        "team": _core.team(),
        "openmp": _core.openmp_runtime() or "none",
        **_core.build(),
    }


def show_config() -> None:
    """Print :func:`config`, a line for each entry."""
    for key, value in config().items():
        text = ", ".join(value) if isinstance(value, tuple) else value
        if isinstance(value, dict):
            text = "; ".join(f"{name}: {why}" for name, why in value.items()) or "none"
        print(f"{key:>9}: {text}")  # noqa: T201 - printing is what it is for


def set_target(name: str) -> None:
    """Run the kernels of the target ``name``. The results are the same bits on every target.

    The environment variable ``GRADSTEP_TARGET`` does the same at import.

    Raises:
        ValueError: this build has no such target, or this processor cannot run it.
    """
    _set_target("name", name)


def _set_target(argument: str, name: object) -> None:
    if name not in _core.targets() or not _core.set_target(str(name)):
        wanted = ", ".join(_core.targets())
        why = _core.refused_targets().get(str(name))
        raise ValueError(
            f"{argument}: got {name!r}, wanted one of {wanted}" + (f"; {why}" if why else "")
        )


def set_num_threads(n: int) -> None:
    """Let a step use up to ``n`` threads, the caller's included (1 to 256).

    The default is what the affinity mask, the cgroup's quota and ``OMP_NUM_THREADS`` allow.

    Raises:
        TypeError: ``n`` is not an integer.
        ValueError: ``n`` is out of range.
    """
    if isinstance(n, bool):
        raise TypeError("n: got bool, wanted an integer")
    try:
        count = operator.index(n)
    except TypeError:
        raise TypeError(f"n: got {type(n).__name__}, wanted an integer") from None
    if not 1 <= count <= _core.max_threads:
        raise ValueError(f"n: got {count}, wanted 1 to {_core.max_threads}")
    _core.set_threads(count)


def get_num_threads() -> int:
    """How many threads a step may use, the caller's included."""
    return _core.threads()


def set_team(name: str) -> None:
    """Choose who shares a step's work with the thread that calls it; the bits are the same.

    The environment variable ``GRADSTEP_TEAM`` does the same at import.

    Args:
        name: ``"auto"``, the default: the workers of PyTorch's OpenMP runtime where they are awake,
            else gradstep's own threads. ``"native"``: its own threads alone. ``"openmp"``: the
            workers of an OpenMP runtime that another library has loaded, awake or not; while there
            is none, nobody.

    Raises:
        ValueError: there is no such team.
    """
    _set_team("name", name)


def _set_team(argument: str, name: object) -> None:
    if not (isinstance(name, str) and name.isascii() and _core.set_team(name)):
        raise ValueError(f"{argument}: got {name!r}, wanted auto, native or openmp")
    _core.find_openmp()


def apply_environment() -> None:
    """Do what ``GRADSTEP_TARGET`` and ``GRADSTEP_TEAM`` ask for."""
    if target := os.environ.get("GRADSTEP_TARGET"):
        _set_target("GRADSTEP_TARGET", target)
    if team := os.environ.get("GRADSTEP_TEAM"):
        _set_team("GRADSTEP_TEAM", team)
