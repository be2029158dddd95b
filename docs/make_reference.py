"""Write the pages of the reference that grow with what there is: rules and commands."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from written import write

from gradstep.cli import parser
from gradstep.rule import RULES

HERE = Path(__file__).parent / "reference"


def rules(module: str, title: str, introduction: str) -> str:
    """A class of each rule."""
    classes = "\n".join(f".. autoclass:: {module}.{name}\n" for name in RULES)
    return f"{title}\n{'=' * len(title)}\n\n{introduction}\n\n{classes}"


def commands() -> str:
    """What each command says of itself."""
    os.environ["COLUMNS"] = "80"
    top = parser()
    lines = ["# Commands", "", "`gradstep`, or `python -m gradstep`.", ""]
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                lines += [f"## gradstep {name}", "", "```text", command.format_help(), "```", ""]
    return "\n".join(lines)


def files() -> dict[Path, str]:
    """Every file and what it holds."""
    numpy = (
        "How each moves and which is for what: :doc:`../rules`. Methods are those of "
        ":class:`gradstep.Optimizer`."
    )
    torch = (
        "The classes of :doc:`rules`, for tensors. Methods are those of "
        ":class:`gradstep.torch.Optimizer`."
    )
    return {
        HERE / "rules.rst": rules("gradstep", "Rules", numpy),
        HERE / "torch-rules.rst": rules("gradstep.torch", "PyTorch: rules", torch),
        HERE / "commands.md": commands(),
    }


if __name__ == "__main__":
    write(files())
