"""`calibrate` proposes weights from the file of a training, and refuses what does not fit it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lossweights import Horizon, LossConfig
from lossweights.analysis import calibrate
from tests.cli.conftest import Call, write

CONFIG = "terms:\n  nll: 1.0\n  kl: {kind: warmup, over: 10%}\n"
Record = Callable[..., Path]


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """Writes the file of a training of ten rows, and its config."""

    def run(config: str = CONFIG, **numbers: float) -> Path:
        write(tmp_path, "train.yaml", config)
        rows = [
            {"step": step} | {key.replace("__", "/"): x for key, x in numbers.items()}
            for step in range(9, 100, 10)
        ]
        return write(tmp_path, "run.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows))

    return run


VALUES: dict[str, Any] = {"value__nll": 8.0, "value__kl": 2.0}
NORMS: dict[str, Any] = {"gradient__norm__nll": 6.0, "gradient__norm__kl": 1.0}


def test_it_prints_what_the_function_finds(call: Call, record: Record) -> None:
    path = record(**VALUES, **NORMS)
    done = call("calibrate", "run.jsonl", "train.yaml", "--total-steps", 100, columns=200)
    assert (done.status, done.err) == (0, "")
    found = calibrate(path, path.with_name("train.yaml"), horizon=Horizon(100))
    assert done.out == f"{found}\n"
    assert "  kl:\n    weight: 6.0\n" in done.out


def test_shares_and_what_has_them_are_options(call: Call, record: Record) -> None:
    record("terms: [nll, kl, 'a=b']", **VALUES, **NORMS, **{"value__a=b": 2.0})
    arguments = ("--shares", "kl=0.2", "--shares", "a=b=0.3", "--by", "values")
    done = call("calibrate", "run.jsonl", "train.yaml", *arguments)
    assert "by values" in done.out.splitlines()[0]
    assert "  kl: {weight: 1.6}" in done.out  # 0.2 / 0.5 * 8 / 2
    assert "  a=b: {weight: 2.4}" in done.out


def test_a_section_of_a_file(call: Call, record: Record) -> None:
    sections = "old: {terms: [nll, kl], total_steps: 9}\nnew: {terms: {nll: 1.0, kl: -3.0}}\n"
    record(sections, **VALUES)
    by_name = call("calibrate", "run.jsonl", "train.yaml:new")
    assert "  kl: {weight: -4.0}" in by_name.out
    assert call("calibrate", "run.jsonl", "train.yaml", "--at", "new").out == by_name.out
    assert "there are several configs" in call("calibrate", "run.jsonl", "train.yaml").err


def test_the_whole_config_can_be_written(call: Call, record: Record, tmp_path: Path) -> None:
    config = "total_steps: 50\nbalancer: uncertainty\nignore: [acc*]\n" + CONFIG.replace(
        "nll: 1.0", "nll: 1.0\n  '{{x}}': {optional: true, balanced: true}"
    )
    record(config, **VALUES, **NORMS, **{"value__{x}": 1.0, "gradient__norm__{x}": 2.0})
    done = call("calibrate", "run.jsonl", "train.yaml", "--out", "new.yaml", columns=200)
    assert done.err == "wrote new.yaml\n"
    changes: dict[str, Any] = {"kl.weight": 6.0, "balancer": None}
    terms = {"{{x}}.weight": 3.0, "{{x}}.balanced": None}
    expected = LossConfig.read(tmp_path / "train.yaml").override(changes | terms)
    assert LossConfig.read(tmp_path / "new.yaml") == expected
    written = (tmp_path / "new.yaml").read_text(encoding="utf-8")
    assert "nll: {weight: 1.0}" in written


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("run.jsonl", "train.yaml"), 1, "before total_steps is known: pass --total-steps\n"),
        (("none.jsonl", "train.yaml"), 1, "none.jsonl cannot be read: No such file"),
        (("train.yaml", "train.yaml"), 1, "train.yaml, line 1: a row of a history is a JSON"),
        (("run.jsonl", "none.yaml"), 1, "none.yaml: refused"),
        (("run.jsonl", "train.yaml", "--shares", "kll=0.1"), 1, "did you mean 'kl'?"),
        (("run.jsonl", "train.yaml", "--shares", "kl"), 2, "'kl': write NAME=SHARE, as in kl=0.1"),
        (("run.jsonl", "train.yaml", "--shares", "kl=x"), 2, "'kl=x': write NAME=SHARE"),
        (("run.jsonl", "train.yaml", "--by", "norms"), 2, "norms"),
        (("run.jsonl", "train.yaml", "--by", "gradients"), 1, "record them with"),
        (("run.jsonl", "train.yaml", "--out", "new.toml"), 2, "write a name that ends in .yaml"),
        (("run.jsonl", "other.yaml"), 1, "run.jsonl has the term 'kl', which the config lacks"),
    ],
)
def test_what_cannot_be_calibrated(
    arguments: tuple[str, ...], status: int, words: str, call: Call, record: Record, tmp_path: Path
) -> None:
    record(**VALUES)
    write(tmp_path, "other.yaml", "terms: [nll, beta]")
    length = () if words.startswith("before") else ("--total-steps", 100)
    done = call("calibrate", *arguments, *length, columns=200)
    assert (done.status, done.out) == (status, "")
    assert words in done.err
    assert not (tmp_path / "new.toml").exists()
