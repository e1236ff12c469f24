"""The command line called in an empty folder, with what it registers forgotten afterwards."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lossweights import Component
from lossweights.cli.app import app

Call = Callable[..., "Done"]


class Done:
    """What a command left: its status, and its lines."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Call]:
    """Calls `lossweights` in the folder `tmp_path`, in a terminal of so many columns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for family in Component.__subclasses__():
        monkeypatch.setattr(family, "_registry", dict(family._registry))

    def run(*arguments: object, columns: int = 0) -> Done:
        columns = columns or (200 if arguments and arguments[0] in ("check", "init") else 80)
        environment = {"COLUMNS": str(columns), "NO_COLOR": "1", "TERM": "xterm"}
        found = CliRunner().invoke(app, list(map(str, arguments)), env=environment)
        if found.exception is not None and not isinstance(found.exception, SystemExit):
            raise found.exception
        return Done(found.exit_code, found.stdout, found.stderr)

    yield run
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def write(folder: Path, name: str, text: str) -> Path:
    """A file with that text."""
    path = folder / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(text, encoding="utf-8")
    return path


SPIKE = '''
from lossweights import Horizon, Schedule, Steps, Values

class Spike(Schedule, kind="cli-spike"):
    """One spike.

    Args:
        height: How high
            it is.
    """

    height: float

    def values(self, steps: Steps, horizon: Horizon) -> Values:
        return 0.0 * steps + self.height
'''
