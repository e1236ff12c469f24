"""`lossweights kinds`: the kinds that a config can use, and their fields."""

import re
import sys
import textwrap
from collections.abc import Iterable
from importlib.resources import files
from itertools import accumulate
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.text import Text

import lossweights
from lossweights.cli.common import Imports, say
from lossweights.cli.docstrings import Field, fields, plain, sources, summary
from lossweights.components.declaration import Component, load_plugins
from lossweights.errors import did_you_mean, quoted

_FIRST = ("schedule", "controller", "balancer", "transform", "shape")  # before those of users
_WIDEST = 110
_NARROWEST = 20  # columns of a paragraph, however narrow the terminal is


def kinds(
    kind: Annotated[
        str | None, typer.Argument(metavar="KIND", help="Show this kind in detail.")
    ] = None,
    family: Annotated[
        str | None, typer.Option(metavar="FAMILY", help="Only schedules, shapes, controllers, ...")
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
        say(f"warning: {broken.removeprefix('; ')}", err=True)
    bases = lossweights.Component.__subclasses__()  # its first use imports all kinds
    found = {each.__name__.lower(): each.kinds() for each in bases}
    order = dict.fromkeys([*_FIRST, *sorted(found)])
    families = {name: found[name] for name in order if found[name]}
    if family is not None:
        if (wanted := family.lower().removesuffix("s")) not in families:
            near = f"{did_you_mean(family, families)} (there are {quoted(families)})"
            raise typer.BadParameter(f"{family!r} is not a family{near}")
        families = {wanted: families[wanted]}
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    console.width = min(console.width, _WIDEST)
    if kind is None:
        for name, members in families.items():
            _list(name, members, console)
            if family is not None and (shared := fields(next(iter(members.values())).family)):
                console.print(Text(f"fields of every {name}", "bold"))
                _show_fields(shared, console)
                console.print()
        say("`lossweights kinds KIND` shows the fields of one, with an example.")
        return
    chosen = [members[kind] for members in families.values() if kind in members]
    if not chosen:
        near = did_you_mean(kind, (name for members in families.values() for name in members))
        raise typer.BadParameter(f"{kind!r} is not a kind{near} (`lossweights kinds` lists them)")
    for cls in chosen:
        _show(cls, console)


def _list(family: str, members: dict[str, type[Component]], console: Console) -> None:
    console.print(Text(f"{family}s", "bold"))
    left = max(map(len, members)) + 4
    for kind, cls in members.items():
        about = re.sub(r"\s*[:,] \$[^$]+\$\.$", ".", summary(cls))  # without a formula at its end
        if issubclass(cls, lossweights.GradientBalancer):
            about = f"(uses gradients) {about}"
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
    _show_fields([field for field in found if not field.is_shared], console)
    if shared := [field._replace(meaning="") for field in found if field.is_shared]:
        _show_fields(shared, console)
        text = f"explained by `lossweights kinds --family {family}`"
        console.print(f"      {_filled(text, 6, console)}")
    if papers := sources(cls):
        console.print(Text("\nsource", "bold"))
    for paper in papers:
        console.print(f"  {_filled(paper, 2, console)}")
    if config := _example(cls):
        console.print(Text("\nexample", "bold"))
        text = yaml.safe_dump(config, sort_keys=False, default_flow_style=None, width=sys.maxsize)
        console.print(textwrap.indent(text.rstrip(), "  "))
    console.print()


def _show_fields(found: Iterable[Field], console: Console) -> None:
    for field in found:
        end = "required" if field.default is None else f"default {field.default}"
        console.print(Text.assemble("  ", (field.name, "cyan"), f": {field.type}, {end}"))
        if field.meaning:
            console.print(f"      {_filled(field.meaning, 6, console)}")


def _filled(text: str, indent: int, console: Console) -> str:
    """A paragraph whose later lines are indented."""
    width = max(_NARROWEST, console.width - indent)
    return f"\n{'':{indent}}".join(textwrap.wrap(plain(text), width, break_on_hyphens=False))


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
    reduced = {"reduction": "batch_mean"} if cls.kind == "free-bits" else {}
    of_terms = {
        "schedule": table,
        "controller": table,
        "transform": {"transform": short, **reduced},
        "shape": {"kind": "warmup", "over": "10%", "shape": short},
    }
    return {"terms": {"nll": 1.0, "kl": of_terms[family]}} if family in of_terms else {}
