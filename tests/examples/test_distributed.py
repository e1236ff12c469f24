"""The example on several processes."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tests.examples.conftest import Call
from tests.examples.programs import EXAMPLES, run_on_two_ranks


@pytest.mark.slow
def test_two_ranks_end_with_the_same_weights(tmp_path: Path) -> None:
    done = run_on_two_ranks(EXAMPLES / "distributed.py", "--quick", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    check(2, done.stdout)


def test_one_process_is_one_rank(monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    done = call(importlib.import_module("distributed"), "--quick")
    assert done.status == 0, done.err
    check(1, done.out)


def check(ranks: int, printed: str) -> None:
    """What the program has printed."""
    head, *epochs, last = printed.strip().splitlines()
    assert head.split() == [
        "epoch",
        "digit",
        "w",
        "digit",
        "center",
        "w",
        "center",
        "size",
        "w",
        "size",
    ]
    assert [line.split()[0] for line in epochs] == ["0", "1"]
    assert last.strip() == f"the weights agree on {ranks} rank(s)"
