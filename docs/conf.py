"""The docs as a site: `sphinx-build -W -n docs site`, then open site/index.html.

Rules, schedules and commands are written into pages and drawn here, by the code itself. What the
site shows needs no network: formulas are MathML, and nothing is fetched.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # what stands beside this file

import make_reference  # noqa: E402
import make_rules  # noqa: E402
import make_schedules  # noqa: E402
from written import write  # noqa: E402

import gradstep  # noqa: E402

for made in (make_rules, make_schedules, make_reference):
    write(made.files())

project, author = "gradstep", "The gradstep authors"
version = release = gradstep.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "mathml"]
html_theme = "sphinx_book_theme"
html_title = "gradstep"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_theme_options = {
    "navbar_persistent": [],  # the search stands in the sidebar already
    "show_toc_level": 2,
    "use_download_button": False,
}
html_context = {"default_mode": "auto"}  # light or dark, as the reader has it

myst_heading_anchors = 4
myst_fence_as_directive = ["math"]

python_maximum_signature_line_length = 80
autodoc_member_order = "bysource"
autodoc_type_aliases = {"ArrayLike": "ArrayLike", "ArrayTree": "ArrayTree"}
# what signatures do not depend on: a compiled part, and the bases of callbacks
autodoc_mock_imports = ["gradstep.jax._xla", "keras", "lightning", "transformers"]
# a list, where the usual kind would document each once more
napoleon_custom_sections = [("Attributes", "params_style")]


def link_within(_app: Sphinx, *arguments: Any) -> None:
    """Files beside docs/ are pages of the site."""
    source = arguments[-1]
    for file, page in (("README.md", "index.md"), ("CONTRIBUTING.md", "contributing.md")):
        source[0] = re.sub(rf"\]\((?:\.\./)?{file}", f"]({page}", source[0])


def resolve(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, shown: nodes.Element
) -> nodes.Element | None:
    """Short names of docstrings that stand in other modules, too; and types in signatures.

    Those need not be documented here; what a docstring refers to must be.
    """
    if node.get("refdomain") != "py":
        return None
    ancestor = node.parent
    while ancestor is not None:
        if isinstance(ancestor, addnodes.desc_signature):
            return shown
        ancestor = ancestor.parent
    for module in ("gradstep", "gradstep.schedules", "gradstep.tuning", "gradstep.torch"):
        node["py:module"] = module
        found = env.domains["py"].resolve_xref(
            env, node["refdoc"], app.builder, node["reftype"], node["reftarget"], node, shown
        )
        if found is not None:
            return found
    return None


def is_told_by_class(
    _app: Sphinx, _kind: str, _name: str, what: object, skipped: bool, _options: object
) -> bool:
    """Fields of tuples, whose own docstrings say nothing."""
    return skipped or (getattr(what, "__doc__", "") or "").startswith("Alias for field number")


def mark_parts(_app: Sphinx, _kind: str, _name: str, _what: object, *rest: Any) -> None:
    """The parts of a rule's docstring that have no list begin with a word in bold."""
    lines = rest[-1]
    parts = "When|States?|Where (?:frameworks|others) differ|Source"
    lines[:] = [re.sub(rf"^({parts}):(?= )", r"**\1:**", line) for line in lines]


ARRAY_LIKE = r"~?jax\.\S*\.Array \| ~?numpy\.ndarray \| [^,\]]*?\| complex"


def shorten(
    _app: Sphinx, _kind: str, _name: str, _what: object, _options: object, shown: str, returned: str
) -> tuple[str, str] | None:
    """Signatures of JAX's types by their names, and of functions without where they lie."""
    if not shown:
        return None
    shown = re.sub(ARRAY_LIKE, "~jax.typing.ArrayLike", shown)
    return re.sub(r"<function [^,)]*>", "...", shown), returned


def setup(app: Sphinx) -> None:
    app.connect("source-read", link_within)
    app.connect("include-read", link_within)
    app.connect("missing-reference", resolve)
    app.connect("autodoc-skip-member", is_told_by_class)
    app.connect("autodoc-process-docstring", mark_parts)
    app.connect("autodoc-process-signature", shorten)
