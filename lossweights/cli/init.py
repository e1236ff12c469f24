"""`lossweights init`: writes a config to start from."""

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from lossweights.cli import common
from lossweights.errors import did_you_mean, quoted


def starters() -> dict[str, str]:
    """The text of every starter, by name."""
    found = files("lossweights.cli").joinpath("starters").iterdir()
    paths = {path.name.removesuffix(".yaml"): path for path in found if ".yaml" in path.name}
    return {name: paths[name].read_text(encoding="utf-8") for name in sorted(paths)}


def purpose(text: str) -> str:
    """The purpose of a starter: its first line, a comment."""
    return text.partition("\n")[0].removeprefix("# ")


def init(
    starter: Annotated[
        str | None,
        typer.Argument(metavar="STARTER", help=f"{', '.join(starters())}. Lists them if left out."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The file to write, else STARTER.yaml.")
    ] = None,
    *,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write a config to start from.

    It is valid and has comments. Without a name, the starters are listed.

    \b
    Examples:
      lossweights init
      lossweights init elbo
      lossweights init multi-task --out configs/loss.yaml
    """
    known = starters()
    if starter is None:
        width = max(map(len, known))
        for name, text in known.items():
            common.say(f"{name:<{width}}  {purpose(text)}")
        typer.echo("\n`lossweights init NAME` writes one.")
        return
    if starter not in known:
        near = did_you_mean(starter, known)
        raise typer.BadParameter(
            f"there is no starter {starter!r}{near} (there are {quoted(known)})"
        )
    path = out or Path(f"{starter}.yaml")
    if path.suffix.lower() not in (".yaml", ".yml"):
        raise typer.BadParameter(f"{str(path)!r}: write a name that ends in .yaml")
    if path.exists() and not force:
        common.fail(f"{path} exists; --force overwrites it")
    common.save(path, known[starter].encode())
    typer.echo(
        f"Next: lossweights check {path}\n"
        f"      lossweights preview {path}\n"
        f'In Python: criterion = WeightedLoss.from_config("{path.as_posix()}")'
    )
