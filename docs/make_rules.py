"""Write docs/rules.md and the lists of rules in README.md and docs/pytorch.md.

`python docs/make_rules.py [--check]`. All of it comes from the rules themselves: the catalogue
says what they keep, their classes what they are. `--check` writes nothing and exits 1 if a file is
not as it would be written.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

import gradstep as gs
from gradstep.rule import RULES, Rule

ROOT = Path(__file__).parent.parent
INTRODUCTION = (
    "Written by `python docs/make_rules.py` from the rules themselves. The arguments that all "
    "rules share (storages, clipping, averages, statistics) are in `help(gradstep.Optimizer)`; "
    "`gradstep.torch` has the same rules under the same names."
)


def parts(rule: Rule) -> dict[str, str]:
    """A rule's docstring by its parts; the first line and the formula have names of their own."""
    text = inspect.getdoc(getattr(gs, rule.name)) or ""
    first, _, rest = text.partition("\n\n")
    found = {"what": first}
    if rest.startswith(".. math::"):
        found["formula"], _, rest = rest.removeprefix(".. math::").partition("\n\n")
    for part in re.split(r"\n\n(?=\w[\w ]*:)", rest):
        name, _, body = part.partition(":")
        found[name.removesuffix("s") if name == "States" else name] = inspect.cleandoc(body)
    return found


def plain(text: str) -> str:
    """A part of a docstring as Markdown."""
    text = re.sub(r":(?:class|func|meth):`~?([^`]+)`", r"`\1`", text)
    return re.sub(r"\s*\n\s*", " ", text.replace("``", "`")).strip()


def states(rule: Rule) -> str:
    """What a rule keeps for each parameter, and with which option."""
    kept = [
        f"`{state.name}`" + (f" with {state.option}" if state.option else "")
        for state in rule.states
    ]
    return ", ".join(kept) or "none"


def hyperparameters(rule: Rule) -> list[str]:
    """All but the rate and what every rule has."""
    return [key for key in rule.defaults if key not in ("lr", "maximize", "frozen")]


def short_table() -> str:
    """A row for each rule."""
    rows = [
        f"| [`{rule.name}`](docs/rules.md#{rule.name.lower()}) | {plain(parts(rule)['what'])} | "
        f"{states(rule)} | {', '.join(hyperparameters(rule))} |"
        for rule in RULES.values()
    ]
    return "\n".join(
        ["| rule | what it is | states | besides the rate |", "|---|---|---|---|", *rows]
    )


def page() -> str:
    """docs/rules.md."""
    lines = [
        "# Rules",
        "",
        INTRODUCTION,
    ]
    for rule in RULES.values():
        known = parts(rule)
        lines += ["", f"## {rule.name}", "", plain(known["what"]), ""]
        if "formula" in known:
            lines += ["```math", inspect.cleandoc(known["formula"]), "```", ""]
        lines += [f"**When.** {plain(known['When'])}", ""]
        lines += ["| argument | default | may be |", "|---|---|---|"]
        for key in rule.defaults:
            if key != "frozen":
                known_values = rule.ranges.get(key) or rule.choices.get(key)
                wanted = known_values.wanted if known_values else "True or False"
                if rule.lengths[key] > 1:
                    wanted = f"{rule.lengths[key]} of: {wanted}"
                lines.append(f"| `{key}` | `{rule.defaults[key]!r}` | {wanted} |")
        lines += ["", f"**States**: {states(rule)}.", ""]
        lines += [f"**Where frameworks differ.** {plain(known['Where frameworks differ'])}", ""]
        lines += [f"**Source.** {plain(known['Source'])}"]
    return "\n".join(lines) + "\n"


def between(text: str, mark: str, content: str) -> str:
    """A text with other content between the two marks of a name."""
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    head, _, rest = text.partition(begin)
    _, found, tail = rest.partition(end)
    assert found, f"no {begin} … {end}"
    return f"{head}{begin}\n{content}\n{end}{tail}"


def files() -> dict[Path, str]:
    """Every file that has something of the rules, as it is to be."""
    readme, pytorch = ROOT / "README.md", ROOT / "docs" / "pytorch.md"
    names = [f"`{rule}`" for rule in RULES]
    listed = f"{', '.join(names[:-1])} and {names[-1]}"
    return {
        ROOT / "docs" / "rules.md": page(),
        readme: between(readme.read_text(encoding="utf-8"), "rules", short_table()),
        pytorch: between(pytorch.read_text(encoding="utf-8"), "rules", listed),
    }


def main() -> int:
    check = "--check" in sys.argv[1:]
    old = [path for path, text in files().items() if _read(path) != text]
    for path in old:
        print(f"{path.relative_to(ROOT)}: {'not as it would be written' if check else 'written'}")
        if not check:
            path.write_text(files()[path], encoding="utf-8")
    return int(check and bool(old))


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


if __name__ == "__main__":
    sys.exit(main())
