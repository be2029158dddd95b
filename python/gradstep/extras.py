"""Optional packages: imported where they are used, and missed by what brings them."""

from __future__ import annotations

import importlib
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
