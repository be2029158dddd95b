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
html_theme_options = {"use_download_button": False, "show_toc_level": 2}

myst_heading_anchors = 4
myst_fence_as_directive = ["math"]

autodoc_member_order = "bysource"
autodoc_type_aliases = {"ArrayLike": "ArrayLike", "ArrayTree": "ArrayTree"}
autodoc_mock_imports = ["gradstep.jax._xla", "keras", "lightning", "transformers"]  # callbacks derive from theirs
napoleon_custom_sections = [
    *("When", "State", "States", "Where frameworks differ", "Source"),
    ("Attributes", "params_style"),  # a list, where the usual kind would document each once more
]


def link_within(_app: Sphinx, _where: object, *rest: Any) -> None:
    """Files beside docs/ are pages of the site."""
    source = rest[-1]
    for file, page in (("README.md", "index.md"), ("CONTRIBUTING.md", "contributing.md")):
        source[0] = re.sub(rf"\]\((?:\.\./)?{file}", f"]({page}", source[0])


def plain_types(_app: Sphinx, _env: object, node: nodes.Element, shown: nodes.Element) -> Any:
    """Types in signatures need not be documented here; what a docstring refers to must be."""
    ancestor = node.parent
    while ancestor is not None:
        if isinstance(ancestor, addnodes.desc_signature):
            return shown
        ancestor = ancestor.parent
    return None


def is_told_by_class(
    _app: Sphinx, _kind: str, _name: str, what: object, skipped: bool, _options: object
) -> bool:
    """Fields of tuples, whose own docstrings say nothing."""
    return skipped or (getattr(what, "__doc__", "") or "").startswith("Alias for field number")


def setup(app: Sphinx) -> None:
    app.connect("source-read", link_within)
    app.connect("include-read", link_within)
    app.connect("missing-reference", plain_types)
    app.connect("autodoc-skip-member", is_told_by_class)
