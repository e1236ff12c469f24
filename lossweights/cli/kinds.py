"""`lossweights kinds`: the kinds that a config can use, and their fields."""

from __future__ import annotations

import re
import sys
import textwrap
from importlib.resources import files
from itertools import accumulate
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.text import Text

from lossweights.cli.common import Imports
from lossweights.cli.docstrings import fields, sources, summary
from lossweights.components.declaration import Component, load_plugins
from lossweights.errors import did_you_mean, quoted

_WIDEST = 110
_NARROWEST = 20  # columns of a paragraph, however narrow the terminal is


def kinds(
    kind: Annotated[
        str | None, typer.Argument(metavar="KIND", help="Show this kind in detail.")
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(metavar="FAMILY", help="Only schedules, shapes, controllers, ..."),
    ] = None,
    _imports: Imports = None,
) -> None:
    """The kinds that a config can use, including those of plug-ins.

    With KIND: its fields, its paper, and an example.

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
        console.print("`lossweights kinds KIND` shows the fields of one, with an example.")
        return
    found = [each.kinds()[kind] for each in chosen if kind in each.kinds()]
    if not found:
        known = {name for each in chosen for name in each.kinds()}
        raise typer.BadParameter(
            f"{kind!r} is no kind{did_you_mean(kind, known)} (`lossweights kinds` lists them)"
        )
    for cls in found:
        _show(cls, console)


def _families(name: str | None) -> list[type[Component]]:
    known = {each.__name__.lower(): each for each in Component.__subclasses__() if each.kinds()}
    if name is None:
        return [known[each] for each in sorted(known)]
    wanted = name.lower().removesuffix("s")
    if wanted not in known:
        raise typer.BadParameter(
            f"{name!r} is no family{did_you_mean(name, known)} (there are {quoted(known)})"
        )
    return [known[wanted]]


def _list(family: type[Component], console: Console) -> None:
    console.print(Text(f"{family.__name__.lower()}s", "bold"))
    members = family.kinds()
    left = max(map(len, members)) + 4
    for kind, cls in members.items():
        about = re.sub(r"\s*[:,] \$[^$]+\$\.$", ".", summary(cls))  # without a formula at its end
        line = Text(f"  {kind:<{left - 2}}", "cyan") + _filled(about, left, console)
        line.rstrip()
        console.print(line)
    console.print()


def _show(cls: type[Component], console: Console) -> None:
    family = cls.family.__name__.lower()
    console.print(Text.assemble((cls.kind, "bold cyan"), f"  a {family}, in Python {_name(cls)}"))
    if about := summary(cls):
        console.print(f"  {_filled(about, 2, console)}")
    if found := fields(cls):
        console.print(Text("\nfields", "bold"))
    for field in found:
        end = "required" if field.default is None else f"default {field.default}"
        console.print(Text.assemble("  ", (field.name, "cyan"), f": {field.type}, {end}"))
        if field.meaning:
            console.print(f"      {_filled(field.meaning, 6, console)}")
    if papers := sources(cls):
        console.print(Text("\nsource", "bold"))
    for paper in papers:
        console.print(f"  {_filled(paper, 2, console)}")
    if config := _example(cls):
        console.print(Text("\nexample", "bold"))
        text = yaml.safe_dump(config, sort_keys=False, default_flow_style=None, width=sys.maxsize)
        console.print(textwrap.indent(text.rstrip(), "  "))
    console.print()


def _filled(text: str, indent: int, console: Console) -> str:
    """A paragraph whose later lines are indented; its formulas lose their dollar signs."""
    text = re.sub(r"\$([^$]+)\$", r"\1", text)
    width = max(_NARROWEST, console.width - indent)
    return f"\n{'':{indent}}".join(textwrap.wrap(text, width, break_on_hyphens=False))


def _name(cls: type) -> str:
    """The shortest path by which a class is imported: from the first package that exports it."""
    packages = accumulate(cls.__module__.split("."), "{}.{}".format)
    exporting = (p for p in packages if getattr(sys.modules.get(p), cls.__name__, None) is cls)
    return f"{next(exporting, cls.__module__)}.{cls.__qualname__}"


def _example(cls: type[Component]) -> dict[str, Any]:
    """A config that uses a kind, with a placeholder for a required field of unknown meaning."""
    family = cls.family.__name__.lower()
    required = {field.name: f"<{field.type}>" for field in fields(cls) if field.default is None}
    examples = yaml.safe_load(files("lossweights.cli").joinpath("examples.yaml").read_text("utf-8"))
    values = examples.get(family, {}).get(cls.kind, required)
    table = {"kind": cls.kind, **values}
    short = table if values else cls.kind
    if family == "balancer":
        return {"terms": {"first": 1.0, "second": 1.0}, "balancer": short}
    if family in ("schedule", "controller"):
        return {"terms": {"nll": 1.0, "kl": table}}
    if family == "transform":
        reduced = {"reduction": "batch_mean"} if cls.kind == "free-bits" else {}
        return {"terms": {"nll": 1.0, "kl": {"transform": short, **reduced}}}
    if family == "shape":
        return {"terms": {"nll": 1.0, "kl": {"kind": "warmup", "over": "10%", "shape": short}}}
    return {}
