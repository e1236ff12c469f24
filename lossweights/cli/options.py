"""Options that several commands share, and how commands report errors and write files."""

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
    """Imports modules by name, also from the current folder, so that their kinds are registered.

    Raises:
        typer.BadParameter: If a module cannot be imported: which one, why, and in which line.
    """
    if names and "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    for name in names or ():
        try:
            with redirect_stdout(sys.stderr):  # standard output is for the result of the command
                importlib.import_module(name)
        except (Exception, SystemExit) as error:  # noqa: BLE001  # a module may raise anything
            problem = f"{type(error).__name__}: {error}{_line_of(error)}"
            if Path(name).suffix == ".py":
                problem += f"; write its name: {'.'.join(Path(name).with_suffix('').parts)}"
            raise typer.BadParameter(f"{name!r} cannot be imported: {problem}") from None
    return names


def _line_of(error: BaseException) -> str:
    """The line of the user's module that failed, as in `" (kinds.py, line 3)"`."""
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
        help="YAML, JSON or TOML files; FILE:AT for the config at a dotted path in a file.",
    ),
]
At = Annotated[
    str | None,
    typer.Option(metavar="PATH", help="Dotted path of the config in its file: training.loss."),
]
TotalSteps = Annotated[
    str | None,
    typer.Option(
        metavar="N",
        callback=_check_total,
        help='Optimizer steps of the training, or "40 epochs". Overrides the config.',
    ),
]
StepsPerEpoch = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Optimizer steps per epoch. Overrides the config."),
]


def horizon_changes(total_steps: str | None, steps_per_epoch: int | None) -> dict[str, object]:
    """The given options as changes to a config."""
    given = {"total_steps": total_steps, "steps_per_epoch": steps_per_epoch}
    return {name: value for name, value in given.items() if value is not None}


@contextmanager
def errors_as_messages() -> Iterator[None]:
    """Reports the errors that a user can cause on standard error, and exits with status 1."""
    try:
        yield
    except HorizonError as error:
        option = "--steps-per-epoch" if "before steps_per_epoch" in str(error) else "--total-steps"
        fail(f"{error}, with {option}")
    except (ValueError, ImportError) as error:
        fail(str(error))


def fail(message: str) -> NoReturn:
    """Prints an error on standard error and exits with status 1."""
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(1)


def save(path: Path, content: str | bytes) -> None:
    """Writes a file and says so on standard error."""
    try:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    except OSError as error:
        fail(f"{path} cannot be written: {error.strerror}")
    typer.echo(f"wrote {path}", err=True)
