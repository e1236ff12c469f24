"""`lossweights sweep`: trains many configs under the same seeds, and compares them."""

import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from lossweights.cli import common
from lossweights.errors import ConfigError

_RANGE = re.compile(r"(\S+?)\s*\.\.\s*(\S+?)(\s+log)?")
_INTERRUPTED = 130  # the status of a command that Ctrl-C ends


def _varied(written: str) -> tuple[str, Any]:
    path, equals, value = map(str.strip, written.partition("="))
    if path and equals and (found := _RANGE.fullmatch(value)):
        return path, (_end(found[1]), _end(found[2]), *(["log"] if found[3] else []))
    try:
        choices = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError):  # ValueError: a date that does not exist
        choices = None
    if not path or not isinstance(choices, list):
        usage = "write PATH=LOW..HIGH, PATH='LOW..HIGH log' or PATH='[A, B, C]'"
        raise typer.BadParameter(f"{written!r}: {usage}", param_hint="'--vary'")
    return path, choices


def _end(written: str) -> Any:
    """A whole number, a number, or the text of a duration."""
    for read in (int, float):
        try:
            return read(written)
        except ValueError:
            pass
    return written


def _function(written: str) -> Callable[..., Any]:
    """The function of `FILE.py:NAME` or `MODULE:NAME`."""
    place, colon, name = written.rpartition(":")
    hint = "'TRAIN'"
    if not colon or not name.isidentifier():
        usage = "write FILE.py:NAME or MODULE:NAME, such as experiment.py:train"
        raise typer.BadParameter(f"{written!r}: {usage}", param_hint=hint)
    file = Path(place)
    if file.suffix == ".py":
        if not file.exists():
            raise typer.BadParameter(f"there is no file {place}", param_hint=hint)
        sys.path.insert(0, str(file.resolve().parent))
        place = file.stem
    common.import_modules([place])
    module = importlib.import_module(place)
    if file.suffix == ".py" and Path(str(module.__file__)).resolve() != file.resolve():
        problem = f"another module is called {place}, {module.__file__}: rename {file.name}"
        raise typer.BadParameter(problem, param_hint=hint)
    function = getattr(module, name, None)
    if not callable(function):
        raise typer.BadParameter(
            f"{written.rpartition(':')[0]} has no function {name!r}", param_hint=hint
        )
    return function  # type: ignore[no-any-return]


def sweep(
    train: Annotated[
        str,
        typer.Argument(metavar="TRAIN", help="FILE.py:NAME or MODULE:NAME of the function."),
    ],
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="A YAML, JSON or TOML file, or FILE:AT.")
    ],
    vary: Annotated[
        list[str],
        typer.Option(
            metavar="PATH=VALUES", help="What varies: a range or a list. May be repeated."
        ),
    ],
    trials: Annotated[
        int, typer.Option(metavar="N", min=1, help="Configs besides the unchanged one.")
    ],
    minimize: Annotated[
        list[str] | None, typer.Option(metavar="MEASURE", help="May be repeated.")
    ] = None,
    maximize: Annotated[
        list[str] | None, typer.Option(metavar="MEASURE", help="May be repeated.")
    ] = None,
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="Seeds of each config.")] = 1,
    workers: Annotated[int, typer.Option(metavar="N", min=1, help="Processes.")] = 1,
    storage: Annotated[
        str,
        typer.Option(metavar="STORAGE", help="A .db or .journal file, or address of a database."),
    ] = "sweep.db",
    name: Annotated[str, typer.Option(help="Name of the sweep in its storage.")] = "sweep",
    at: common.At = None,
    _imports: common.Imports = None,
) -> None:
    """Train many configs under the same seeds, and compare them.

    TRAIN is a function train(config, seed, report) that returns measures by name. The unchanged
    config is always number 0. The same command resumes a sweep, and a larger --trials extends it.

    \b
    Examples:
      lossweights sweep experiment.py:train elbo.yaml --vary "kl.weight=0.01..10 log"
        --minimize nll --maximize probe --trials 60 --seeds 3 --workers 2
      lossweights sweep experiment.py:train elbo.yaml --vary "kl.schedule.cycles=[1, 2, 4]"
        --minimize nll --trials 3
    """
    ranges = dict(map(_varied, vary))
    if len(ranges) < len(vary):
        raise typer.BadParameter("a path is given twice", param_hint="'--vary'")
    function = _function(train)
    from lossweights.search import sweep as run  # noqa: PLC0415  # it imports torch

    try:
        _, criterion, _ = common.read(config, at, {})
        front = run(
            criterion.config,
            function,
            vary=ranges,
            minimize=minimize or (),
            maximize=maximize or (),
            trials=trials,
            seeds=seeds,
            storage=storage,
            name=name,
            workers=workers,
        )
        typer.echo(front.table())
    except (ConfigError, ValueError, RuntimeError, ImportError) as error:
        common.fail(str(error))
    except KeyboardInterrupt:
        common.say(f"interrupted: the same command resumes it from {storage}", err=True)
        raise typer.Exit(_INTERRUPTED) from None
