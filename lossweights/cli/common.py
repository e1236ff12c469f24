"""What commands share: options, reading configs, reporting errors, writing files."""

import importlib
import re
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from textwrap import fill, indent
from typing import Annotated, Any, NoReturn

import typer

import lossweights  # whose names import torch when they are used, which takes seconds
from lossweights.components.durations import read_total, read_total_steps
from lossweights.config.files import Source
from lossweights.errors import ConfigError, HorizonError, dotted, quoted

_NARROWEST = 20  # columns of a paragraph, however narrow the terminal is


def import_modules(names: list[str] | None) -> list[str] | None:
    """Imports modules by name, also from the current folder, so that their kinds are registered."""
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
                problem += (
                    f"; write the name of the module: {'.'.join(Path(name).with_suffix('').parts)}"
                )
            raise typer.BadParameter(f"{name!r} cannot be imported: {problem}") from None
    return names


def _checked(read: Callable[[object], object]) -> Callable[[str | None], str | None]:
    def check(written: str | None) -> str | None:
        try:
            read(written)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        return written

    return check


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
        callback=_checked(read_total_steps),
        help='Optimizer steps of the training, or "40 epochs". Overrides the config.',
    ),
]
Total = Annotated[
    str | None,
    typer.Option(
        metavar="LENGTH",
        callback=_checked(read_total),
        help='Length of the training in any unit: "2e9 tokens". Overrides the config.',
    ),
]
StepsPerEpoch = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Optimizer steps per epoch. Overrides the config."),
]


def lengths(
    total_steps: str | None, total: str | None, steps_per_epoch: int | None
) -> dict[str, Any]:
    """The changes that the options for the length of training make."""
    if total_steps and total:
        raise typer.BadParameter(
            "--total-steps and --total both set the length of training: drop one of them"
        )
    given = {"total_steps": total_steps, "total": total} if total_steps or total else {}
    return given | ({"steps_per_epoch": steps_per_epoch} if steps_per_epoch else {})


def read(
    argument: str, at: str | None, changes: Mapping[str, Any]
) -> tuple[str, "lossweights.WeightedLoss", list[str]]:
    """The name of a config, `FILE` or `FILE:AT`, its criterion, and the warnings of building it.

    Raises:
        ConfigError: If there is no config or several, or if a training would refuse it: the name,
            and below it one line per problem.
    """
    path, colon, own = argument.rpartition(":")
    if colon and not Path(argument).exists() and Path(path).exists():
        argument, at = path, own
    try:
        found, config = _config(Path(argument), at, changes)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            criterion = lossweights.WeightedLoss(config)
    except (ValueError, ImportError) as error:
        file = Path(argument)
        names = "|".join(re.escape(dotted([name])) for name in (str(file), file.name))
        lines = re.sub(f"^({names})[:,]? ", "", str(error), flags=re.MULTILINE)  # it is said above
        raise ConfigError(f"{_name(file, at)}: refused\n{indent(lines, '  ')}") from None
    return _name(Path(argument), found), criterion, [str(each.message) for each in caught]


def _name(path: Path, at: str | None) -> str:
    return f"{path}:{at}" if at else str(path)


def _config(
    path: Path, at: str | None, changes: Mapping[str, Any]
) -> tuple[str | None, "lossweights.LossConfig"]:
    """The changed config at a dotted path in a file, or the only one there, and its dotted path."""
    source = Source.of(path)
    data, location = source.part(at)
    if "terms" not in data and (sections := _sections(data, *map(str, location))):
        at = sections[0]
        if len(sections) > 1:
            raise ConfigError(
                f"{source.place(location)}: there are several configs, {quoted(sections)}: "
                f"write --at {at}, or {path}:{at}"
            )
    config = lossweights.LossConfig.read(path, at)
    try:
        return at, config.override(changes)
    except ConfigError as error:
        raise ConfigError(indent(str(error), "after the changes: ")) from None


def _sections(data: Mapping[Any, Any], *path: str) -> list[str]:
    """The dotted paths of all tables with terms."""
    if isinstance(data.get("terms"), Mapping | list):
        return [".".join(path)]
    tables = {str(key): part for key, part in data.items() if isinstance(part, Mapping)}
    return [found for key, part in tables.items() for found in _sections(part, *path, key)]


def say(text: str, *, err: bool = False) -> None:
    """Prints lines; in a terminal, those that are too wide continue between two words."""
    width = max(shutil.get_terminal_size((sys.maxsize, 0)).columns, _NARROWEST)
    for line in text.splitlines():
        indent = " " * (len(line) - len(line.lstrip()) + 2)
        options: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
        typer.echo(fill(line, width, subsequent_indent=indent, **options), err=err)


def fail(message: str) -> NoReturn:
    """Prints an error on standard error and exits with status 1."""
    say(f"error: {message}", err=True)
    raise typer.Exit(1)


def fail_without_length(name: str, error: HorizonError) -> NoReturn:
    """Says which option gives the length of training that a config lacks."""
    lacks = str(error).rpartition("before ")[2].removesuffix(" is known")
    fail(f"{name}: {error}: pass --{lacks.replace('_', '-')}")


def save(path: Path, content: bytes) -> None:
    """Writes a file and says so on standard error."""
    try:
        path.write_bytes(content)
    except OSError as error:
        fail(f"{path} cannot be written: {error.strerror}")
    typer.echo(f"wrote {path}", err=True)
