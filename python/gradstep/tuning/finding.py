"""The range test of a training that stands in somebody's script: what `gradstep find` does."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ..progress import bars
from .handles import handle
from .range_test import RangeTest, range_test

MODULE = "__gradstep_find__"  # what the script is called: no name of a module that it imports


class Refused(Exception):
    """A script that does not keep to the contract, or a log that cannot be read, in words."""


def load(target: str) -> tuple[Callable[[], float], Any]:
    """What a function in a script returns: a training step and its optimizer.

    Args:
        target: ``SCRIPT.py:FUNCTION``. The script is run as a module, not as ``__main__``; the
            modules beside it can be imported.

    Raises:
        Refused: there is no such file or function, or it returns something else.
        Whatever the script and the function raise.
    """
    file, _, name = target.rpartition(":")
    path = Path(file)
    if not file or not name.isidentifier():
        raise Refused(f"got {target!r}, wanted SCRIPT.py:FUNCTION")
    if path.suffix != ".py" or not path.is_file():
        raise Refused(f"{file}: got no such file, wanted a script that ends with .py")
    spec = importlib.util.spec_from_file_location(MODULE, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))
    sys.modules[MODULE] = module  # where dataclasses and pickling look for it
    try:
        spec.loader.exec_module(module)
        function = getattr(module, name, None)
        if not callable(function):
            known = [key for key, value in vars(module).items() if _is_own(value)]
            have = f"which has {', '.join(known)}" if known else "which has none"
            raise Refused(f"{file}: got no function {name!r}, {have}")
        made = function()
    finally:
        sys.path.remove(str(path.resolve().parent))
    if not isinstance(made, tuple | list) or len(made) != 2 or not callable(made[0]):
        raise Refused(f"{target}: got {_shown(made)} from it, wanted (train_step, optimizer)")
    try:
        handle(made[1])
    except TypeError as error:
        raise Refused(f"{target}: {error}") from None
    return made[0], made[1]


def _is_own(value: Any) -> bool:
    return callable(value) and getattr(value, "__module__", None) == MODULE


def _shown(made: Any) -> str:
    if isinstance(made, tuple | list):
        inner = ", ".join(type(value).__name__ for value in made)
        return f"({inner})" if isinstance(made, tuple) else f"[{inner}]"
    return type(made).__name__


def find(target: str, low: float, high: float, points: int, sweeps: int) -> RangeTest:
    """The range test of what :func:`load` finds, with a progress bar where tqdm is installed.

    Raises:
        Refused: :func:`load` or :func:`range_test` refuses what it got.
        Whatever the script raises.
    """
    train_step, optimizer = load(target)
    try:
        bar = bars("a progress bar", "demo")(total=points * sweeps, unit="step")
    except ImportError:
        bar = nullcontext()
    with bar as shown:
        progress = None if shown is None else lambda _: shown.update()
        try:
            return range_test(train_step, optimizer, low, high, points, sweeps, progress=progress)
        except (TypeError, ValueError) as error:
            last = error.__traceback__
            while last is not None and last.tb_next is not None:
                last = last.tb_next
            ours = last is not None and last.tb_frame.f_globals["__name__"].startswith(__package__)
            if ours:
                raise Refused(f"{target}: {error}") from None
            raise  # the script's own
