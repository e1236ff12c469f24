"""What a weight of 0 does to AdamW and to DistributedDataParallel, with `keep` and `skip`."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tests.examples.conftest import Call
from tests.examples.programs import EXAMPLES, run_on_two_ranks


def test_all_ways_come_out_as_the_docs_say(monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    done = call(importlib.import_module("zero_weight"))
    assert done.status == 0, done.err
    check(1, done.out)


@pytest.mark.slow
def test_on_two_ranks_too(tmp_path: Path) -> None:
    done = run_on_two_ranks(EXAMPLES / "zero_weight.py", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    check(2, done.stdout)


def check(ranks: int, printed: str) -> None:
    """What the program has printed."""
    adamw, parallel = printed.strip().split("\n\n")

    rows = [line.split() for line in adamw.splitlines()[2:]]
    assert [row[:3] for row in rows] == [
        ["keep", "0", "0.0"],
        ["keep", "0", "0.1"],
        ["skip", "none", "0.0"],
        ["skip", "none", "0.1"],
    ]
    at_once, later = ([float(row[column]) for row in rows] for column in (3, 4))
    assert at_once[0] == 0.0  # gradients of zero alone move nothing
    assert at_once[1] > 0.001  # what decays, moves
    assert later[0] > 0.01  # by momentum
    assert later[1] != later[0]
    assert at_once[2:] == later[2:] == [0.0, 0.0]

    head, *ways = parallel.splitlines()
    assert head == f"DistributedDataParallel, {ranks} process(es)"
    fails = "fails: Expected to have finished reduction"
    outcomes = ["trains for 10 steps", fails, "trains for 10 steps", fails, "trains for 10 steps"]
    assert [way[45:] for way in ways] == outcomes
    assert [way[:45].rstrip() for way in ways] == [
        "weight 0, keep",
        "weight 0, skip",
        "weight 0, skip, find_unused_parameters=True",
        "dormant",
        "dormant, in a separate module",
    ]
