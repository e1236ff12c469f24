"""Calling an example's `main` without a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

Call = Callable[..., "Done"]


class Done(NamedTuple):
    """What a program left."""

    status: object
    out: str
    err: str


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Call:
    """Calls the `main` of an example in the folder `tmp_path`; its jobs run in this process."""
    monkeypatch.chdir(tmp_path)

    def run(program: ModuleType, *arguments: str) -> Done:
        monkeypatch.setattr("sys.argv", [f"{program.__name__}.py", *arguments])
        if hasattr(program, "run_in_parallel"):
            monkeypatch.setattr(program, "run_in_parallel", one_after_another)
        status: object = 0
        try:
            program.main()
        except SystemExit as end:
            status = end.code
        return Done(status, *capsys.readouterr())

    return run


def one_after_another(
    work: Callable[[Any, Any], Any], jobs: Mapping[str, Any], processes: int
) -> list[Any]:
    """The results of all jobs."""
    return [work(job, lambda *_: None) for job in jobs.values()]
