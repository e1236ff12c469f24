"""Fixed weights that are read off a short training: that the comparison runs and is fair."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from lossweights import LossConfig
from tests.examples.conftest import Call
from tests.examples.programs import EXAMPLES, run_program

CONFIGS = EXAMPLES / "calibration.yaml"
SECTIONS = yaml.safe_load(CONFIGS.read_text("utf-8"))
CALIBRATED = ["by-gradients", "by-values"]


@pytest.fixture
def calibration(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("calibration")


@pytest.mark.slow
def test_every_problem_is_trained_in_every_way(tmp_path: Path) -> None:
    done = run_program("calibration.py", "--quick", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    check(list(SECTIONS), done.stdout, tmp_path / "runs" / "calibration")


def test_one_problem_is_trained_in_every_way(
    calibration: ModuleType, call: Call, tmp_path: Path
) -> None:
    done = call(calibration, "--quick", "--problems", "equation")
    assert done.status == 0, done.err
    check(["equation"], done.out, tmp_path / "runs" / "calibration")


def check(problems: Sequence[str], printed: str, out: Path) -> None:
    """What a program has printed and left."""
    runs = json.loads((out / "figures.json").read_text("utf-8"))["runs"]
    assert [(run["job"]["problem"], run["job"]["way"]) for run in runs] == [
        (problem, way) for problem in problems for way in [*SECTIONS[problem], *CALIBRATED]
    ]
    for problem in problems:
        rows = (out / f"{problem}.md").read_text("utf-8").splitlines()[2:]
        names = [row.split(" | ")[0].removeprefix("| ") for row in rows]
        assert names == [*SECTIONS[problem], *CALIBRATED]
    for run in runs:
        if run["job"]["way"] in CALIBRATED:
            assert run["verdict"]
            assert f"{run['job']['problem']}, {run['job']['way']}, seed 0: " in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--problems", "digits"], "invalid choice: 'digits'"),
        (["--ways", "by-gradient"], "no problem has the way 'by-gradient'"),
        (["--seeds", "0"], "a whole number from 1"),
    ],
)
def test_a_wrong_option_gives_one_line(
    arguments: list[str], words: str, calibration: ModuleType, call: Call
) -> None:
    done = call(calibration, *arguments)
    assert done.status == 2
    assert words in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize("problem", ["five-tasks", "equation", "sprites"])
def test_a_probe_measures_every_term_twenty_times(calibration: ModuleType, problem: str) -> None:
    config = LossConfig.read(CONFIGS, at=f"{problem}.equal")
    history = calibration.probe(calibration.PROBLEMS[problem], config, 0, 400)
    assert history.rows[-1]["step"] == 19
    for term in config.terms:
        for quantity in ("value", "gradient/norm"):
            assert sum(f"{quantity}/{term}" in row for row in history.rows) == 20


def test_a_training_starts_again_after_its_probe(calibration: ModuleType) -> None:
    """It gives what the same weights give without a probe."""
    from calibrated.report import Job

    found = calibration.train(Job("equation", "by-gradients", 3, 40), lambda *_: None)
    assert found.weights["residual"] == 1.0
    assert min(found.weights.values()) >= 1.0
    assert max(found.weights.values()) > 1.0

    problem = calibration.PROBLEMS["equation"]
    training, measure = problem.start(3, 40)
    terms = {name: {"weight": weight} for name, weight in found.weights.items()}
    for _ in training(calibration.WeightedLoss(terms=terms, total_steps=40)):
        pass
    assert measure() == found.figures


@pytest.mark.parametrize(
    ("section", "file", "at"),
    [
        ("five-tasks.equal", "multi_task.yaml", "equal"),
        ("five-tasks.moving-average", "multi_task.yaml", "moving-average"),
        ("equation.equal", "pinn.yaml", "equal"),
        ("equation.by-hand", "pinn.yaml", "by-hand"),
        ("equation.lr-annealing", "pinn.yaml", "lr-annealing"),
        ("pronunciations.equal", "vae_elbo/constant.yaml", "loss"),
        ("pronunciations.pid", "vae_elbo/pid.yaml", "loss"),
        ("sprites.equal", "beta_vae.yaml", "beta-1"),
        ("sprites.by-hand", "beta_vae.yaml", "beta-4"),
        ("sprites.pid-growing", "beta_vae.yaml", "pid-growing"),
    ],
)
def test_configs_are_those_of_the_other_examples(section: str, file: str, at: str) -> None:
    assert LossConfig.read(CONFIGS, at=section) == LossConfig.read(EXAMPLES / file, at=at)


def test_weights_by_hand_are_looked_for_on_validation_images(
    calibration: ModuleType, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    from digit_tasks import data

    loaded = []
    load = data.load

    def spy(name: str) -> data.Examples:
        loaded.append(name)
        return load(name)

    monkeypatch.setattr(data, "load", spy)  # the loop has its own reference
    done = call(calibration, "--tune", "--quick")
    assert done.status == 0, done.err
    assert set(loaded) == {"validation"}
    assert "position.weight" in done.out
    assert done.out.count("delta_m") == 1
