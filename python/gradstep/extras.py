"""Optional packages, missed by what brings them, and submodules: imported where they are used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any


def need(module: str, purpose: str, extra: str = "", package: str = "") -> Any:
    """Import an optional `module`, or say what brings it.

    Args:
        module: dotted name of what to import.
        purpose: what it is needed for, to complete "… is needed for …".
        extra: the extra of gradstep that installs it, where one does; otherwise `package` is named.
        package: the name people install, where it is not the module's first part.

    Raises:
        ImportError: it is not installed; the message names package, purpose and what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = package or module.partition(".")[0]
        wanted = f'"gradstep[{extra}]"' if extra else package
        raise ImportError(f"{package} is needed for {purpose}: pip install {wanted}") from error


def on_first_use(
    package: str, submodules: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], ModuleType], Callable[[], list[str]]]:
    """A package's ``__getattr__`` and ``__dir__``: submodules are imported when they are asked for.

    A submodule that lacks a package raises its ImportError, to ``hasattr`` as well: that is no
    attribute that does not exist. ``dir`` leaves it out, so that what looks at all attributes
    meets none that raises.

    Args:
        package: its name.
        submodules: name to the packages that it needs; what begins with a dot is looked for in it.
    """

    def get(name: str) -> ModuleType:
        if name in submodules:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def names() -> list[str]:
        module = sys.modules[package]
        there = {
            name
            for name, needed in submodules.items()
            if all(_is_there(one, [f"{path}/{name}" for path in module.__path__]) for one in needed)
        }
        return sorted({*vars(module), *there})

    return get, names


def _is_there(module: str, within: Sequence[str]) -> bool:
    """Whether it can be imported, as far as that is known without doing so."""
    if module.startswith("."):
        return PathFinder.find_spec(module[1:], within) is not None
    if module in sys.modules:
        return bool(sys.modules[module])  # None keeps it from being imported
    return PathFinder.find_spec(module) is not None
