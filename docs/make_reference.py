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
    return f"# {title}\n\n{introduction}\n\n```{{eval-rst}}\n{classes}```\n"


def commands() -> str:
    """What each command says of itself."""
    os.environ.update(COLUMNS="80", PYTHON_COLORS="0")
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
        "How each moves and which is for what: [rules](../rules.md). Methods are those of "
        "{py:class}`gradstep.Optimizer`."
    )
    torch = (
        "The classes of [rules](rules.md), for tensors. Methods are those of "
        "{py:class}`gradstep.torch.Optimizer`."
    )
    return {
        HERE / "rules.md": rules("gradstep", "Rules for arrays", numpy),
        HERE / "torch-rules.md": rules("gradstep.torch", "Rules for PyTorch", torch),
        HERE / "commands.md": commands(),
    }


if __name__ == "__main__":
    write(files())
