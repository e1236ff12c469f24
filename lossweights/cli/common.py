"""What commands share: options, reading configs, reporting errors, writing files."""

from __future__ import annotations

import importlib
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from textwrap import indent
from typing import Annotated, Any, NamedTuple, NoReturn

import typer

from lossweights.components.durations import read_total_steps
from lossweights.config.files import Source
from lossweights.config.loss_config import LossConfig
from lossweights.criterion.weighted_loss import WeightedLoss
from lossweights.errors import ConfigError, quoted


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
            problem = f"{type(error).__name__}: {error}"
            for frame, line in traceback.walk_tb(error.__traceback__):
                package = frame.f_globals["__name__"].partition(".")[0]
                if package not in ("importlib", "lossweights"):
                    problem += f" ({Path(frame.f_code.co_filename).name}, line {line})"
                    break
            if Path(name).suffix == ".py":
                problem += f"; write its name: {'.'.join(Path(name).with_suffix('').parts)}"
            raise typer.BadParameter(f"{name!r} cannot be imported: {problem}") from None
    return names


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


class Found(NamedTuple):
    """The criterion that a training would build, and the warnings of building it."""

    name: str  # FILE or FILE:AT
    criterion: WeightedLoss
    warnings: list[str]


def read(
    argument: str,
    at: str | None,
    total_steps: str | None,
    steps_per_epoch: int | None,
    changes: Mapping[str, Any] | None = None,
) -> Found:
    """The criterion of the config that an argument names, or of the only one in it.

    Args:
        argument: `FILE` or `FILE:AT`.
        at: The dotted path of the config in `FILE`.
        total_steps: Replaces that of the config, if given.
        steps_per_epoch: The same.
        changes: Other changes to the config, as `LossConfig.override` takes them.

    Raises:
        ConfigError: If there is no config or several, or if a training would refuse it: the name,
            and below it one line per problem.
    """
    path, colon, own = argument.rpartition(":")
    if colon and not Path(argument).exists() and Path(path).exists():
        argument, at = path, own
    horizon = {"total_steps": total_steps, "steps_per_epoch": steps_per_epoch}
    given = {name: value for name, value in horizon.items() if value is not None}
    try:
        return _read(Path(argument), at, {**(changes or {}), **given})
    except (ValueError, ImportError) as error:
        name = _name(Path(argument), at)
        raise ConfigError(f"{name}: refused\n{indent(str(error), '  ')}") from None


def _name(path: Path, at: str | None) -> str:
    return f"{path}:{at}" if at else str(path)


def _read(path: Path, at: str | None, changes: Mapping[str, Any]) -> Found:
    source = Source.of(path)
    data, location = source.part(at)
    if "terms" not in data and (found := list(_sections(data))):
        sections = [".".join(map(str, (*location, *section))) for section in found]
        at = sections[0]
        if len(sections) > 1:
            raise ConfigError(
                f"{source.place(location)}: there are several configs, {quoted(sections)}: "
                f"write --at {at}, or {path}:{at}"
            )
    config = LossConfig.read(path, at)
    try:
        config = config.override(changes)
    except ConfigError as error:
        raise ConfigError(indent(str(error), "changed: ")) from None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        criterion = WeightedLoss(config)
    return Found(_name(path, at), criterion, [str(warning.message) for warning in caught])


def _sections(data: Mapping[Any, Any]) -> Iterator[tuple[Any, ...]]:
    """The paths of all tables with terms."""
    if isinstance(data.get("terms"), Mapping | list):
        yield ()
        return
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from ((key, *path) for path in _sections(value))


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
