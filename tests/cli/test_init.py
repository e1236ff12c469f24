"""`init` writes configs that are right as they stand, and destroys nothing."""

from __future__ import annotations

import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from lossweights import LossConfig, WeightedLoss
from lossweights.cli.init import purpose, starters
from tests.cli.conftest import Call

STARTERS = starters()


@pytest.mark.parametrize("name", STARTERS)
def test_a_starter_is_right_as_it_stands(name: str, call: Call, tmp_path: Path) -> None:
    done = call("init", name)
    assert (done.status, done.err) == (0, f"wrote {name}.yaml\n")
    assert f"lossweights check {name}.yaml" in done.out
    assert f'WeightedLoss.from_config("{name}.yaml")' in done.out
    assert (tmp_path / f"{name}.yaml").read_text(encoding="utf-8") == STARTERS[name]
    for command in ("check", "preview"):
        done = call(command, f"{name}.yaml")
        assert (done.status, done.err) == (0, ""), command


@pytest.mark.parametrize("name", STARTERS)
def test_a_starter_teaches(name: str) -> None:
    text = STARTERS[name]
    about, *others = text.splitlines()
    assert about == f"# {purpose(text)}"
    assert any("lossweights schema --out loss.schema.json" in line for line in others)
    # By such a line, wherever it stands, an editor asks for a schema that is not written yet.
    assert not re.search(r"(?m)^#\s+yaml-language-server\s*:", text)
    assert f'from_config("{name}.yaml")' in text
    assert max(map(len, text.splitlines())) <= 105


@pytest.mark.parametrize("name", STARTERS)
def test_a_starter_conforms_to_the_schema(name: str) -> None:
    jsonschema.validate(yaml.safe_load(STARTERS[name]), LossConfig.model_json_schema())


def test_they_are_listed(call: Call) -> None:
    lines = call("init").out.splitlines()
    assert {"elbo", "multi-task", "pinn", "gan", "detection"} <= STARTERS.keys()
    asked = call("init", "--help").out.split("Arguments:")[1]
    for name, text in STARTERS.items():
        assert any(line.startswith(f"{name} ") and purpose(text) in line for line in lines)
        assert name in asked


def test_nothing_is_written_over(call: Call, tmp_path: Path) -> None:
    (tmp_path / "elbo.yaml").write_text("mine")
    done = call("init", "elbo")
    assert (done.status, done.out) == (1, "")
    assert done.err == "error: elbo.yaml exists; --force overwrites it\n"
    assert (tmp_path / "elbo.yaml").read_text() == "mine"
    assert call("init", "elbo", "--force").status == 0
    assert (tmp_path / "elbo.yaml").read_text() == STARTERS["elbo"]


def test_another_name(call: Call, tmp_path: Path) -> None:
    done = call("init", "pinn", "--out", "my/loss.yml")
    assert done.err == "error: my/loss.yml cannot be written: No such file or directory\n"
    (tmp_path / "my").mkdir()
    assert "check my/loss.yml" in call("init", "pinn", "--out", "my/loss.yml").out
    assert (tmp_path / "my/loss.yml").read_text() == STARTERS["pinn"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["elb"], "did you mean 'elbo'?"),
        (["elbo", "--out", "loss.json"], "write a name that ends in .yaml"),
    ],
)
def test_a_wrong_call(arguments: list[str], problem: str, call: Call, tmp_path: Path) -> None:
    done = call("init", *arguments)
    assert done.status == 2
    assert problem in done.err
    assert not list(tmp_path.iterdir())


def test_the_clock_that_a_comment_says_to_share_can_be_shared(tmp_path: Path) -> None:
    (tmp_path / "gan.yaml").write_text(STARTERS["gan"])
    criterion = WeightedLoss.from_config(tmp_path / "gan.yaml")
    shared = re.search(r"clock=criterion\.(\w+)", STARTERS["gan"])
    assert shared is not None
    second = WeightedLoss(["real"], clock=getattr(criterion, shared[1]))
    criterion.step()
    assert second.current_step == 1
