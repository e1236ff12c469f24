"""Our docstrings as Sphinx reads them: a local extension for the pages of `docs/reference`.

Docstrings write math as Markdown does, `$x$` and `$$x$$`. The fields of a declaration are shown
once each, inherited ones last, with what they take and their default, from the declaration itself.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from sphinx.application import Sphinx

from lossweights import Balancer, Controller, Schedule, Shape, Transform
from lossweights.cli.docstrings import fields
from lossweights.components import Declaration

_LINKED = {"duration": "Duration"} | {
    family.__name__.lower(): family.__name__
    for family in (Balancer, Controller, Schedule, Shape, Transform)
}
_BEFORE_NAPOLEON = 400


def setup(app: Sphinx) -> dict[str, bool]:
    """Hooks into autodoc."""
    app.connect("autodoc-process-docstring", rewrite, priority=_BEFORE_NAPOLEON)
    app.connect("autodoc-process-signature", without_signature)
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True}


def rewrite(
    _app: Sphinx, what: str, _name: str, thing: Any, _options: Any, lines: list[str]
) -> None:
    """What a docstring says, as reStructuredText."""
    if what == "class" and isinstance(thing, type) and issubclass(thing, Declaration):
        lines[:] = with_fields(thing, lines)
    lines[:] = with_math("\n".join(lines)).splitlines()


def with_math(text: str) -> str:
    r"""Markdown's math as roles and directives.

    >>> with_math("Of $x_i$.")
    'Of :math:`x_i`.'
    """
    text = re.sub(
        r"(?ms)^( *)\$\$(.+?)\$\$",
        lambda found: f"{found[1]}.. math::\n\n" + _indented(found[2], found[1] + "   "),
        text,
    )
    return re.sub(r"(?s)\$([^$`]+?)\$", lambda f: f":math:`{' '.join(f[1].split())}`", text)


def _indented(text: str, margin: str) -> str:
    return "\n".join(f"{margin}{line.strip()}" for line in text.splitlines())


def with_fields(declaration: type[Declaration], lines: list[str]) -> list[str]:
    """The docstring with all fields of a declaration in place of its `Args`."""
    kept: list[str] = []
    inside, where = False, len(lines)
    for line in lines:
        if line == "Args:":
            inside, where = True, len(kept)
        elif inside and line and not line.startswith(" "):
            inside = False
        if not inside:
            kept.append(line)
    kind = getattr(declaration, "kind", "")
    described = [f"In a config `kind: {kind}`.", ""] if kind else []
    known = fields(declaration)  # type: ignore[arg-type]  # which reads fields and docstring alone
    for field in sorted(known, key=lambda field: field.name not in declaration.__annotations__):
        takes = re.sub(r"[a-z]+", lambda word: _LINKED.get(word[0], word[0]), field.type)
        default = f"default {field.default}" if field.default else "needed"
        described += [
            f":param {field.name}: {field.meaning}",
            f":type {field.name}: {takes}, {default}",
        ]
    return [*kept[:where], "", *described, "", *kept[where:]]


def without_signature(
    _app: Sphinx, what: str, _name: str, thing: Any, *_others: object
) -> tuple[str, str] | None:
    """Of a declaration none, since the fields are told one by one."""
    return ("", "") if what == "class" and issubclass(thing, Declaration) else None


def skip(
    _app: Sphinx,
    _what: str,
    name: str,
    thing: Any,
    is_skipped: bool,
    _options: Any,
) -> bool | None:
    """Leaves out what pydantic and torch put into a class, and fields, which are arguments."""
    del is_skipped
    home = getattr(inspect.unwrap(thing) if callable(thing) else thing, "__module__", "") or ""
    if name.startswith("model_") and name != "model_json_schema":
        return True
    return True if home.startswith(("pydantic", "torch.")) else None
