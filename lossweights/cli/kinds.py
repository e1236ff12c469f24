"""`lossweights kinds`: what can stand in a config, and how."""

from __future__ import annotations

import re
import sys
import textwrap
from typing import Annotated

import typer
import yaml
from pylatexenc.latex2text import LatexNodes2Text
from rich.console import Console
from rich.text import Text

from lossweights.cli.docstrings import fields, short_summary, sources, summary
from lossweights.cli.examples import example
from lossweights.cli.options import Imports
from lossweights.components.declaration import Component, load_plugins
from lossweights.errors import did_you_mean, quoted

_ORDER = ("Schedule", "Shape", "Controller", "Balancer", "Transform")
_FORMULAS = LatexNodes2Text(math_mode="text")
_WIDEST = 110
_NARROWEST = 20  # a column of text, however narrow the terminal


def kinds(
    kind: Annotated[
        str | None, typer.Argument(metavar="KIND", help="One of them, to be told all about it.")
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(metavar="FAMILY", help="Only schedules, shapes, controllers, ..."),
    ] = None,
    _imports: Imports = None,
) -> None:
    """What may stand in a config, plug-ins included.

    With KIND its fields, where it is from, and an example.

    \b
    Examples:
      lossweights kinds
      lossweights kinds --family balancer
      lossweights kinds cyclical
      lossweights kinds spike --import my_schedules
    """
    if broken := load_plugins():
        typer.echo(f"warning: {broken.removeprefix('; ')}", err=True)
    chosen = _families(family)
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    console.width = min(console.width, _WIDEST)
    if kind is None:
        for each in chosen:
            _list(each, console)
        console.print("lossweights kinds KIND tells the fields of one, with an example.")
        return
    found = [each.kinds()[kind] for each in chosen if kind in each.kinds()]
    if not found:
        known = {name for each in chosen for name in each.kinds()}
        raise typer.BadParameter(
            f"{kind!r} is no kind{did_you_mean(kind, known)} (`lossweights kinds` lists them)"
        )
    for cls in found:
        _tell(cls, console)


def _families(name: str | None) -> list[type[Component]]:
    families = {each.__name__: each for each in Component.__subclasses__() if each.kinds()}
    families = {key: families[key] for key in sorted(families, key=_place)}
    if name is None:
        return list(families.values())
    wanted = name.lower().removesuffix("s")
    for key, each in families.items():
        if key.lower() == wanted:
            return [each]
    known = [key.lower() for key in families]
    raise typer.BadParameter(
        f"{name!r} is no family{did_you_mean(name, known)} (there are {quoted(known)})"
    )


def _place(family: str) -> tuple[int, str]:
    return (_ORDER.index(family) if family in _ORDER else len(_ORDER), family)


def _list(family: type[Component], console: Console) -> None:
    console.print(Text(f"{family.__name__.lower()}s", "bold"))
    members = family.kinds()
    left = max(map(len, members)) + 4
    for kind, cls in members.items():
        line = Text(f"  {kind:<{left - 2}}", "cyan") + _filled(short_summary(cls), left, console)
        line.rstrip()
        console.print(line)
    console.print()


def _tell(cls: type[Component], console: Console) -> None:
    family = cls.family.__name__.lower()
    console.print(Text.assemble((cls.kind, "bold cyan"), f"  a {family}, in Python {name_of(cls)}"))
    if about := summary(cls):
        console.print("  " + _filled(about, 2, console))
    if found := fields(cls):
        console.print(Text("\nfields", "bold"))
    for field in found:
        end = f", default {field.default}" if field.default else ", needed"
        console.print(Text.assemble("  ", (field.name, "cyan"), f": {field.type}{end}"))
        if field.meaning:
            console.print("      " + _filled(field.meaning, 6, console))
    if papers := sources(cls):
        console.print(Text("\nsource", "bold"))
        for paper in papers:
            console.print("  " + _filled(paper, 2, console))
    if config := example(cls):
        console.print(Text("\nexample", "bold"))
        text = yaml.safe_dump(config, sort_keys=False, default_flow_style=None, width=sys.maxsize)
        console.print(textwrap.indent(text, "  "))
    else:
        console.print()


def _filled(text: str, indent: int, console: Console) -> str:
    """A paragraph of which all lines but the first are indented, its formulas in plain text."""
    text = re.sub(r"\$[^$]+\$", lambda found: _FORMULAS.latex_to_text(found[0]), text)
    width = max(_NARROWEST, console.width - indent)
    return f"\n{'':{indent}}".join(textwrap.wrap(text, width, break_on_hyphens=False))


def name_of(cls: type[Component]) -> str:
    """Where a class is imported from: the package that offers it, or its module."""
    top = cls.__module__.partition(".")[0]
    offered = getattr(sys.modules.get(top), cls.__name__, None)
    return f"{top if offered is cls else cls.__module__}.{cls.__qualname__}"
