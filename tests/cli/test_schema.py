"""`schema` gives editors what the reader reads."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from lossweights import ConfigError, LossConfig
from lossweights.cli.schema import schema_at
from tests.cli.conftest import SPIKE, Call, write
from tests.test_docs import PAGES, declarations

RAMP = {"kind": "ramp", "start": 0.0, "stop": 1.0, "over": "5 steps"}
RAMP_OF_TERM = {"weight": 2.0, "schedule": RAMP, "optional": True, "balanced": False}
ROOT = Path(__file__).parents[2]
DECLARATION: dict[str, Any] = {"terms": {"nll": 1.0, "kl": {"kind": "cyclical", "cycles": 4}}}


@functools.cache
def validator(at: str | None = None) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schema_at(at))


def test_it_is_a_schema_printed_or_written(call: Call, tmp_path: Path) -> None:
    printed = call("schema")
    assert (printed.status, printed.err) == (0, "")
    found = json.loads(printed.out)
    assert found == schema_at(None)
    jsonschema.Draft202012Validator.check_schema(found)
    assert jsonschema.validators.validator_for(found) is jsonschema.Draft202012Validator
    written = call("schema", "--out", "s.json")
    assert (written.status, written.err) == (0, "wrote s.json\n")
    assert "\n# yaml-language-server: $schema=s.json\n" in written.out
    assert json.loads((tmp_path / "s.json").read_text()) == found


def test_a_config_may_name_its_schema_and_nothing_else(call: Call) -> None:
    assert validator().is_valid({"$schema": "./loss.schema.json", **DECLARATION})
    assert not validator().is_valid({"$schema": 3, **DECLARATION})
    assert not validator().is_valid({"$shema": "./loss.schema.json", **DECLARATION})


@pytest.mark.parametrize(
    "told",
    [
        {"sync": False},  # to YAML 1.1, and so to us, what `off` says
        {"sync": True},
        {"sync": "off"},
        {"sync": "on"},
        {"total_steps": "1e4 steps"},
        {"total_steps": "40"},
        {"total_steps": "25%"},
        {"terms": []},
        {"terms": {}},
        {"terms": {"g": {"terms": ["a", "b"]}}},
        {"terms": {"g": {"terms": {"a{0..2}": 1.0, "in": {"terms": {"x": RAMP}}}, **RAMP_OF_TERM}}},
        {"terms": {"g": {"terms": ["a"], "controller": "manual", "accumulates": "sum"}}},
        {"terms": {"g": {"terms": ["a"], "transform": None, "reduction": None}}},
        {"terms": {"g": {"terms": None, "transform": "log", "reduction": "mean"}}},
        {"terms": {"g": {"terms": {"a": {"transform": "log", "reduction": "mean"}}}}},
        {"terms": {"g": {"terms": {"a": {"controller": None, "balanced": None}}}}},
        {"terms": {"g": {"terms": {"a": {"accumulates": "mean", "optional": True}}}}},
        {"terms": {"g": {"terms": {}}}},
        {"terms": {"g": {"terms": []}}},
        {"terms": {"g": {"terms": ["a", "a"]}}},
        {"terms": {"g": {"terms": ["a*"]}}},
        {"terms": {"g": {"terms": 1.0}}},
        {"terms": {"g": {"terms": {"a": "heavy"}}}},
        {"terms": {"g": {"terms": {"a": {"wieght": 1.0}}}}},
        {"terms": {"g": {"terms": ["a"], "transform": "log"}}},
        {"terms": {"g": {"terms": ["a"], "reduction": "mean"}}},
        {"terms": {"g": {"terms": {"a": "manual"}}}},
        {"terms": {"g": {"terms": {"a": {"kind": "manual"}}}}},
        {"terms": {"g": {"terms": {"a": {"controller": "manual"}}}}},
        {"terms": {"g": {"terms": {"a": {"balanced": True}}}}},
        {"terms": {"g": {"terms": {"a": {"accumulates": "sum"}}}}},
        {"terms": {"g": {"terms": {"in": {"terms": ["a"], "controller": "manual"}}}}},
        {"terms": {"g": {"terms": {"in": {"terms": {"a": {"balanced": False}}}}}}},
    ],
    ids=str,
)
def test_it_accepts_what_the_reader_accepts(told: dict[str, Any]) -> None:
    declaration = {**DECLARATION, **told}
    try:
        LossConfig.read(declaration)
    except ConfigError:
        assert not validator().is_valid(declaration)
    else:
        validator().validate(declaration)


def test_the_declaration_may_lie_deeper() -> None:
    found = validator("training.loss")
    found.check_schema(found.schema)
    assert found.is_valid({"model": 3, "training": {"epochs": 2, "loss": DECLARATION}})
    assert not found.is_valid({"training": {"loss": {"terms": {"nll": "heavy"}}}})
    assert not validator("loss").is_valid({"loss": {"terms": ["a"], "balancer": "nope"}})
    assert found.is_valid({"loss": 3}), "all else is free"


def test_it_knows_kinds_of_ones_own(call: Call, tmp_path: Path) -> None:
    write(tmp_path, "spike.py", SPIKE)
    declaration = {"terms": {"kl": {"kind": "cli-spike", "height": 1.0}}}
    assert not jsonschema.Draft202012Validator(json.loads(call("schema").out)).is_valid(declaration)
    found = json.loads(call("schema", "--import", "spike").out)
    jsonschema.validate(declaration, found)


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/**/*.yaml")), ids=lambda p: p.name)
def test_the_examples_conform(path: Path) -> None:
    for declaration in declarations(yaml.safe_load(path.read_text(encoding="utf-8"))):
        validator().validate(declaration)


@pytest.mark.parametrize(
    "page", [p for p in PAGES if not p.name.startswith("plugins")], ids=lambda page: page.name
)
def test_the_configs_of_the_docs_conform(page: Path) -> None:
    """But those that are there to be refused, and those with kinds that the page defines."""
    for text in re.findall(r"(?ms)^```yaml\n(.*?)^```", page.read_text(encoding="utf-8")):
        for declaration in declarations(yaml.safe_load(text)):
            validator().validate(declaration)
