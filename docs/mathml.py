"""Formulas as MathML, which browsers draw themselves: no script, no network, no fonts."""

from __future__ import annotations

import re

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator


def inline(self: HTML5Translator, node: nodes.math) -> None:
    self.body.append(convert(node.astext()))
    raise nodes.SkipNode


def block(self: HTML5Translator, node: nodes.math_block) -> None:
    """Equations beside one another, which a narrow page puts below one another."""
    equations = re.split(r"(?<=;)\s*\\quad\s", node.astext())
    drawn = " ".join(f"<span>{convert(one, display='block')}</span>" for one in equations)
    self.body.append(f'<div class="formula">{drawn}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
