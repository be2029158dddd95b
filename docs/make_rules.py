"""Write docs/rules.md and a picture of each rule: `python docs/make_rules.py`.

All of it comes from the rules themselves: the catalogue says what they keep, their classes what
they are. The site is built with it; nothing of it is committed.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import make_rule_paths
from written import write

import gradstep as gs
from gradstep import _core, storages
from gradstep.rule import FAMILIES, RULES, Rule, State

HERE = Path(__file__).parent
INTRODUCTION = (
    "The arguments that all rules share (storages, clipping, averages, statistics) are those of "
    "{py:class}`gradstep.Optimizer`; [`gradstep.torch`](reference/torch.md) has the same rules "
    "under the same names, and [`gradstep.jax`](reference/jax.md) as functions."
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
    text = re.sub(r":(class|func|meth):(`[^`]+`)", r"{py:\1}\2", text)
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


def gallery() -> str:
    """The paths of all rules, each a link to its rule."""
    return "\n".join(f"[![{name}](rules/{name.lower()}.svg)](#{name.lower()})" for name in RULES)


def page() -> str:
    """docs/rules.md."""
    lines = ["# Rules", "", INTRODUCTION, "", "## Which rule when", "", *which_when(), ""]
    lines += ["## How each moves", "", make_rule_paths.CAPTION, "", gallery()]
    for rule in RULES.values():
        known = parts(rule)
        name = rule.name
        lines += ["", f"## {name}", "", plain(known["what"]), ""]
        if "formula" in known:
            lines += ["```math", inspect.cleandoc(known["formula"]), "```", ""]
        lines += [f"![The path of {name}](rules/{name.lower()}.svg)", ""]
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
        lines += [f"**Source:** {plain(known['Source'])}", ""]
        lines += [
            f"**Reference:** {{py:class}}`gradstep.{name}`, {{py:class}}`gradstep.torch.{name}`"
        ]
    return "\n".join(lines) + "\n"


def files() -> dict[Path, str]:
    """Every file and what it holds."""
    drawn = {
        HERE / "rules" / f"{name.lower()}.svg": make_rule_paths.picture(rule)
        for name, rule in RULES.items()
    }
    return {HERE / "rules.md": page(), **drawn}


if __name__ == "__main__":
    write(files())
