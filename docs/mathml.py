"""Math as MathML, which browsers draw by themselves: an extension, so that no page needs a net."""

from __future__ import annotations

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the renderer `mathml`."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def inline(translator: HTML5Translator, node: nodes.math) -> None:
    """Within a line."""
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def block(translator: HTML5Translator, node: nodes.math_block) -> None:
    """On lines of its own, which scroll where a phone is too narrow."""
    drawn = convert(node.astext(), display="block")
    translator.body.append(f'<div class="math" style="overflow-x: auto">{drawn}</div>')
    raise nodes.SkipNode
