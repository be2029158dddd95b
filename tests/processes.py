"""Scripts in a process of their own."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import gradstep as gs


def environment(**changes):
    """This process's, in which the same gradstep is found; None takes a variable out."""
    folder = str(Path(gs.__file__).parent.parent)
    path = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
    values = {**os.environ, "PYTHONPATH": path, **changes}
    return {name: value for name, value in values.items() if value is not None}


def finished(script, *, options=("-W", "error"), timeout=120, cwd=None, **changes):
    """The script's process at its end, whatever that was. Hanging is a failure."""
    return subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(script)],
        env=environment(**changes),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def run(script, **how):
    """What the script printed; that it fails is a failure."""
    result = finished(script, **how)
    assert result.returncode == 0, result.stderr
    return result.stdout
