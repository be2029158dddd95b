"""Scripts in a process of their own."""

import os
import socket
import subprocess
import sys
import textwrap
import time
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
    logs = [Path(cwd) / f"{rank}.log" for rank in range(len(arguments))]
    running = []
    for rank, (argument, log) in enumerate(zip(arguments, logs, strict=True)):
        with log.open("w") as output:  # a pipe could fill up while another one is read
            running.append(
                subprocess.Popen(
                    [sys.executable, "-c", script, argument],
                    env=environment(**changes, RANK=str(rank), LOCAL_RANK=str(rank)),
                    cwd=cwd,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            )
    deadline = time.monotonic() + timeout
    try:
        for process in running:
            process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        pass  # told below by how each ended
    finally:
        for process in running:
            process.kill()
            process.wait()
    return [
        f"rank {rank} ended with {process.returncode}: {log.read_text()[-3000:]}"
        for rank, (process, log) in enumerate(zip(running, logs, strict=True))
        if process.returncode
    ]
