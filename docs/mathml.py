"""Math as MathML, which browsers draw by themselves: an extension, so that no page needs a net."""

from __future__ import annotations

import re
from itertools import cycle

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

_LOGGER = logging.getLogger(__name__)
_BAR = re.compile(r"<mo(?: stretchy=.false.|( minsize=[^>]*))?>(\||&#x0007C;|&#x02016;)</mo>")
_NAME = r"<mi>(?:log|exp|sin|cos)</mi>"


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the renderer `mathml`."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def inline(translator: HTML5Translator, node: nodes.math) -> None:
    """Within a line."""
    translator.body.append(drawn(node, "inline"))
    raise nodes.SkipNode


def block(translator: HTML5Translator, node: nodes.math_block) -> None:
    """On lines of its own, which scroll where a phone is too narrow."""
    translator.body.append(
        f'<div class="math" style="overflow-x: auto">{drawn(node, "block")}</div>'
    )
    raise nodes.SkipNode


def drawn(node: nodes.math | nodes.math_block, display: str) -> str:
    """The element; a command that the converter left as it was is a warning."""
    latex = re.sub(r"\\arg(?![A-Za-z])", r"\\mathrm{arg}", node.astext())
    element: str = convert(latex, display=display)
    if unknown := re.findall(r">(\\[A-Za-z|]+)<", element):
        _LOGGER.warning("latex2mathml does not know %s", ", ".join(unknown), location=node)
    element = element.replace('mathvariant="bold"', 'style="font-weight: bold"')
    space = '<mspace width="0.167em" />'
    element = re.sub(rf"(?<=</mi>)(?={_NAME})", space, element)
    element = re.sub(rf"({_NAME})(?=<m(?!o))", rf"\1{space}", element)
    if len(_BAR.findall(element)) % 2:
        return element
    # Bars enclose: by themselves they would stand apart, and grow with what is next to them.
    form = cycle(("prefix", "postfix"))
    still = ' stretchy="false"'
    return _BAR.sub(lambda bar: f'<mo form="{next(form)}"{bar[1] or still}>{bar[2]}</mo>', element)
