"""Write docs/rules.md, its picture, and the lists of rules in README.md and docs/pytorch.md.

`python docs/make_rules.py [--check]`. All of it comes from the rules themselves: the catalogue
says what they keep, their classes what they are. `--check` writes nothing and exits 1 if a file is
not as it would be written.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

import make_rule_paths

import gradstep as gs
from gradstep import _core, storages
from gradstep.rule import FAMILIES, RULES, Rule, State

ROOT = Path(__file__).parent.parent
PATHS = ROOT / "docs" / "rule-paths.svg"
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


def first_sentence(text: str) -> str:
    """Up to the first point that ends a sentence, without it."""
    return re.split(r"(?<=[a-z)])[.:;](?=\s|$)", plain(text))[0]


def per_parameter(rule: Rule, storage: str) -> str:
    """Bytes of all states in a storage, where their roles allow it, else in float32."""
    many = 1 << 20  # so many that what is kept for rows, columns and tensors does not show

    def size(state: State) -> float:
        if getattr(state, "shape", "same") != "same":
            return 0.0
        stored = storage if state.role in storages.ROLES[storage] else "float32"
        return float(_core.storage_bytes(stored, many)) / many

    if storage != "float32" and not any(s.role in storages.ROLES[storage] for s in rule.states):
        return "—"
    always = sum(size(state) for state in rule.states if state.is_on(rule.defaults))
    more = [
        f"+{size(state):.3g} with {state.option}"
        for state in rule.states
        if not state.is_on(rule.defaults)
    ]
    factored = any(getattr(state, "shape", "same") != "same" for state in rule.states)
    kept = f"{always:.3g}" + (" and a row and a column" if factored else "")
    return ", ".join([kept, *more])


def families() -> dict[str, list[Rule]]:
    """The rules of each family, in the order of the families."""
    found: dict[str, list[Rule]] = {family: [] for family in FAMILIES.values()}
    for rule in RULES.values():
        found[rule.family].append(rule)
    return {family: rules for family, rules in found.items() if rules}


def short_table() -> str:
    """A row for each family, with links to its rules."""
    rows = [
        f"| {family} | "
        + ", ".join(f"[`{rule.name}`](docs/rules.md#{rule.name.lower()})" for rule in rules)
        + " |"
        for family, rules in families().items()
    ]
    return "\n".join(["| what it moves by | rules |", "|---|---|", *rows])


def which_when() -> list[str]:
    """The table at the top of the page: what a rule is, for what, and what its states take."""
    lines = [
        '| rule | what it is | for | state, bytes per parameter | with `states="q8"` |',
        "|---|---|---|---|---|",
    ]
    for family, rules in families().items():
        lines.append(f"| **{family}** | | | | |")
        for rule in rules:
            known = parts(rule)
            lines.append(
                f"| [`{rule.name}`](#{rule.name.lower()}) | {plain(known['what'])} | "
                f"{first_sentence(known['When'])} | {per_parameter(rule, 'float32')} | "
                f"{per_parameter(rule, 'q8')} |"
            )
    return lines


def page() -> str:
    """docs/rules.md."""
    lines = [
        "# Rules",
        "",
        INTRODUCTION,
        "",
        "## Which rule when",
        "",
        *which_when(),
        "",
        f"![The path of each rule]({PATHS.name})",
        "",
        make_rule_paths.CAPTION,
    ]
    for rule in RULES.values():
        known = parts(rule)
        lines += ["", f"## {rule.name}", "", plain(known["what"]), ""]
        if "formula" in known:
            lines += ["```math", inspect.cleandoc(known["formula"]), "```", ""]
        lines += [f"**When:** {plain(known['When'])}", ""]
        lines += ["| argument | default | may be |", "|---|---|---|"]
        for key in rule.defaults:
            if key != "frozen":
                known_values = rule.ranges.get(key) or rule.choices.get(key)
                wanted = known_values.wanted if known_values else "True or False"
                if rule.lengths[key] > 1:
                    wanted = f"{rule.lengths[key]} of: {wanted}"
                lines.append(f"| `{key}` | `{rule.defaults[key]!r}` | {wanted} |")
        lines += ["", f"**States:** {states(rule)}.", ""]
        lines += [f"**Where frameworks differ:** {plain(known['Where frameworks differ'])}", ""]
        lines += [f"**Source:** {plain(known['Source'])}"]
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
        PATHS: make_rule_paths.picture(),
        readme: between(readme.read_text(encoding="utf-8"), "rules", short_table()),
        pytorch: between(pytorch.read_text(encoding="utf-8"), "rules", listed),
    }


def main() -> int:
    check = "--check" in sys.argv[1:]
    old = {path: text for path, text in files().items() if _read(path) != text}
    for path, text in old.items():
        print(f"{path.relative_to(ROOT)}: {'not as it would be written' if check else 'written'}")
        if not check:
            path.write_text(text, encoding="utf-8")
    return int(check and bool(old))


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


if __name__ == "__main__":
    sys.exit(main())
