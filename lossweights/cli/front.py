"""`lossweights front`: the results of a sweep, as a table, a picture, or one of its configs."""

import io
from pathlib import Path
from typing import Annotated

import typer
import yaml

from lossweights.cli import common

_FORMATS = (".png", ".svg")


def front(
    storage: Annotated[
        str,
        typer.Argument(metavar="STORAGE", help="A .db or .journal file, or address of a database."),
    ],
    name: Annotated[str, typer.Option(help="Name of the sweep in its storage.")] = "sweep",
    config: Annotated[
        int | None, typer.Option(metavar="N", help="Print the config with this number as YAML.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a picture to this .png or .svg file too."),
    ] = None,
    _imports: common.Imports = None,
) -> None:
    """Show the results of a sweep, also while it is running.

    In the table, * marks the front, k its knee, and b the best config with one objective.

    \b
    Examples:
      lossweights front sweep.db
      lossweights front sweep.db --out front.png
      lossweights front sweep.db --config 7 > best.yaml
    """
    if out is not None and out.suffix.lower() not in _FORMATS:
        raise typer.BadParameter(f"{str(out)!r}: write a name that ends in .png or .svg")
    from lossweights.search import Front  # noqa: PLC0415  # it imports torch
    from lossweights.search.ranges import stored  # noqa: PLC0415

    picture = io.BytesIO()
    try:
        found = Front.load(storage, name)
        if config is not None:
            text = yaml.safe_dump(stored(found.config(config)), sort_keys=False, allow_unicode=True)
            typer.echo(text, nl=False)
        else:
            typer.echo(found.table())
        if out is not None:
            figure = found.plot()
            figure.savefig(picture, format=out.suffix[1:].lower(), dpi=150)
    except (ValueError, ImportError) as error:
        common.fail(str(error))
    if out is not None:
        common.save(out, picture.getvalue())
