"""Scripts in a process of their own."""

import os
import socket
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


def free_port():
    """A port of this machine that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def together(script, arguments, *, cwd, timeout=240, **changes):
    """What went wrong in processes that run a script at the same time, one for each argument.

    Each has its number in RANK and LOCAL_RANK.
    """
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script, argument],
            env=environment(**changes, RANK=str(rank), LOCAL_RANK=str(rank)),
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank, argument in enumerate(arguments)
    ]
    errors = []
    try:
        for rank, process in enumerate(running):
            output, _ = process.communicate(timeout=timeout)
            if process.returncode:
                errors.append(f"rank {rank} ended with {process.returncode}: {output[-3000:]}")
    finally:
        for process in running:
            process.kill()
            process.wait()
    return errors
