"""Options that several commands take, and what they all do about errors and files."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from lossweights.components.durations import read_total_steps
from lossweights.errors import HorizonError


def import_modules(names: list[str] | None) -> list[str] | None:
    """Imports modules by name, from the current folder too, so that their kinds are registered.

    Raises:
        typer.BadParameter: For a module that cannot be imported: which, why, and where.
    """
    if names and "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    for name in names or ():
        try:
            with redirect_stdout(sys.stderr):  # standard output is for what was asked for
                importlib.import_module(name)
        except (Exception, SystemExit) as error:  # noqa: BLE001  # a script may do anything
            hint = ""
            if Path(name).suffix == ".py":
                hint = f"; it wants the module's name: {'.'.join(Path(name).with_suffix('').parts)}"
            raise typer.BadParameter(
                f"{name!r} cannot be imported: {type(error).__name__}: {error}{_where(error)}{hint}"
            ) from None
    return names


def _where(error: BaseException) -> str:
    """`" (kinds.py, line 3)"`: where in the module that was named its import failed."""
    for frame, line in traceback.walk_tb(error.__traceback__):
        if frame.f_globals["__name__"].partition(".")[0] not in ("importlib", "lossweights"):
            return f" ({Path(frame.f_code.co_filename).name}, line {line})"
    return ""


def _check_total(written: str | None) -> str | None:
    try:
        read_total_steps(written)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return written


Imports = Annotated[
    list[str] | None,
    typer.Option(
        "--import",
        metavar="MODULE",
        callback=import_modules,
        is_eager=True,
        help="Import this module first, for the kinds that it registers. May be repeated.",
    ),
]
Configs = Annotated[
    list[str],
    typer.Argument(
        metavar="CONFIG",
        help="YAML, JSON or TOML files; FILE:AT for the declaration at a dotted path in one.",
    ),
]
At = Annotated[
    str | None,
    typer.Option(metavar="PATH", help="Where in the files the declaration lies: training.loss."),
]
TotalSteps = Annotated[
    str | None,
    typer.Option(
        metavar="N",
        callback=_check_total,
        help='Optimizer steps of the training, or "40 epochs", in place of what the config says.',
    ),
]
StepsPerEpoch = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=1, help="Optimizer steps of an epoch, in place of what the config says."
    ),
]


def horizon_changes(total_steps: str | None, steps_per_epoch: int | None) -> dict[str, object]:
    """The length of training as changes of a config; none where nothing was said."""
    said = {"total_steps": total_steps, "steps_per_epoch": steps_per_epoch}
    return {name: value for name, value in said.items() if value is not None}


@contextmanager
def told() -> Iterator[None]:
    """Turns what a user can get wrong into lines on standard error, and exit status 1."""
    try:
        yield
    except HorizonError as error:
        option = "--steps-per-epoch" if "before steps_per_epoch" in str(error) else "--total-steps"
        refuse(f"{error}, with {option}")
    except (ValueError, ImportError) as error:
        refuse(str(error))


def refuse(message: str) -> NoReturn:
    """Says what was refused on standard error and ends with status 1."""
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(1)


def save(path: Path, content: str | bytes) -> None:
    """Writes a file and says so on standard error."""
    try:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    except OSError as error:
        refuse(f"{path} cannot be written: {error.strerror}")
    typer.echo(f"wrote {path}", err=True)
