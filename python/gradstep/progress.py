"""A progress bar, as a terminal or a notebook shows it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

from .extras import need


def bars(purpose: str, extra: str) -> Callable[..., Any]:
    """What makes a progress bar: ``bar(total=…, unit=…, quiet=False)``, a context of tqdm's.

    It is gone at its end, and not shown where nobody sees it: where stderr is neither a terminal
    nor a notebook's.

    Args:
        purpose, extra: as for :func:`need`.

    Raises:
        ImportError: tqdm is not installed.
    """
    with warnings.catch_warnings():
        # In a notebook without ipywidgets it would ask for them: a bar of letters will do.
        warnings.filterwarnings("ignore", message="IProgress not found")
        tqdm = need("tqdm.auto", purpose, extra).tqdm

    def bar(*, total: int, unit: str, quiet: bool = False) -> Any:
        shown = False if type(sys.stderr).__module__.startswith("ipykernel") else None
        return tqdm(total=total, unit=unit, disable=quiet or shown, leave=False)

    return bar
