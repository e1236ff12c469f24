"""A local Sphinx extension that renders the docstrings on the pages of `docs/reference`.

Docstrings write math as Markdown does, `$x$` and `$$x$$`. Each field of a declaration is shown
once, with its type and its default, which are taken from the declaration itself.
"""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any

from sphinx.application import Sphinx

from lossweights import Balancer, Controller, Schedule, Shape, Transform
from lossweights.cli.docstrings import fields
from lossweights.components.declaration import Declaration

_LINKED = {"duration": "Duration", "dict": "table"} | {
    family.__name__.lower(): family.__name__
    for family in (Balancer, Controller, Schedule, Shape, Transform)
}
_BEFORE_NAPOLEON = 400


def setup(app: Sphinx) -> dict[str, bool]:
    """Connects the functions below to autodoc."""
    app.connect("autodoc-process-docstring", rewrite, priority=_BEFORE_NAPOLEON)
    app.connect("autodoc-process-signature", signature)
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True}


def rewrite(
    _app: Sphinx, what: str, _name: str, thing: Any, _options: Any, lines: list[str]
) -> None:
    """Rewrites a docstring as reStructuredText."""
    if what == "class" and isinstance(thing, type) and issubclass(thing, Declaration):
        lines[:] = with_fields(thing, lines)
    text = re.sub(
        r"(?m)^([A-Z]\. )", r"\\\1", "\n".join(lines)
    )  # the initial of an author, not item L. of a list
    lines[:] = with_math(text).splitlines()
    if what == "property":
        lines.insert(0, "\\ ")  # empty: napoleon reads the first line up to a colon as a type


def with_math(text: str) -> str:
    r"""Replaces Markdown's math by roles and directives.

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
    """Replaces the `Args` of a docstring by the fields of the declaration."""
    examples = next((i for i, line in enumerate(lines) if line.startswith(">>>")), len(lines))
    begin = lines.index("Args:") if "Args:" in lines else examples
    end = next((i for i in range(begin + 1, len(lines)) if lines[i][:1].strip()), len(lines))
    if begin == examples:
        end = begin
    documented = re.findall(r"(?m)^    (\w+):", "\n".join(lines[begin:end]))
    kind = getattr(declaration, "kind", "")
    described = [f"In a config `kind: {kind}`.", ""] if kind else []
    others: dict[str, list[str]] = {}
    known = {field.name: field for field in fields(declaration)}  # type: ignore[arg-type]  # it reads only fields and docstring
    for name in [*documented, *(name for name in known if name not in documented)]:
        field, home = known[name], home_of(declaration, name)
        if name in documented or not home:
            takes = re.sub(r"[a-z]+", lambda word: _LINKED.get(word[0], word[0]), field.type)
            default = "required" if field.default is None else f"default {field.default}"
            described += [f":param {name}: {field.meaning}", f":type {name}: {takes}, {default}"]
        else:
            others.setdefault(home, []).append(f"`{name}`")
    for home, names in others.items():
        described += ["", f"Also {', '.join(names)}, as in any :class:`~{home}`."]
    return [*lines[:begin], "", *described, "", *lines[end:]]


def home_of(declaration: type[Declaration], field: str) -> str:
    """The full name of the public base class that declares a field.

    It is empty if the declaration itself does, or a base that is not public.
    """
    for base in declaration.__mro__[1:]:
        if field in vars(base).get("__annotations__", {}):
            for home in ("lossweights", base.__module__.rpartition(".")[0]):
                if hasattr(sys.modules[home], base.__name__):
                    return f"{home}.{base.__name__}"
    return ""


def signature(
    _app: Sphinx,
    what: str,
    _name: str,
    thing: Any,
    _options: Any,
    arguments: str | None,
    gives: str,
) -> tuple[str, str] | None:
    """No signature for a declaration, whose fields are listed; aliases by their names."""
    if what == "class" and issubclass(thing, Declaration):
        return "", ""
    if arguments is None:
        return None
    arguments = re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", arguments)
    return arguments.replace("<factory>", "..."), gives


def skip(
    _app: Sphinx,
    _what: str,
    name: str,
    thing: Any,
    is_skipped: bool,
    _options: Any,
) -> bool | None:
    """Skips members that come from pydantic or torch."""
    del is_skipped
    home = getattr(inspect.unwrap(thing) if callable(thing) else thing, "__module__", "") or ""
    if name.startswith("model_") and name != "model_json_schema":
        return True
    return True if home.startswith(("pydantic", "torch.")) else None
