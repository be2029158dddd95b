"""The command ``gradstep``, from where it can be said in words that an import went wrong."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; see :func:`gradstep.cli.main`."""
    try:
        from gradstep.cli import main as run  # noqa: PLC0415 - Ctrl-C may come while it is imported

        return run()
    except KeyboardInterrupt:
        print("gradstep: interrupted", file=sys.stderr)
        return 130
    except (ImportError, ValueError) as error:
        print(f"gradstep: {error}", file=sys.stderr)
        return 1
