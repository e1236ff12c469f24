"""What users import: all of it documented, nothing more, and built by config libraries."""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import json
import pkgutil
import subprocess
import sys
import tomllib
from importlib.metadata import metadata
from pathlib import Path
from typing import Any, get_origin

import pytest
from hydra.utils import instantiate
from jsonargparse import ArgumentParser
from omegaconf import OmegaConf

import lossweights
from lossweights import ConfigError, WeightedLoss

MODULES = [lossweights] + [
    importlib.import_module(found.name)
    for found in pkgutil.walk_packages(lossweights.__path__, "lossweights.")
]


def test_all_is_exactly_what_is_public() -> None:
    names: dict[str, object] = {}
    exec("from lossweights import *", names)  # noqa: S102
    assert names.keys() - {"__builtins__"} == set(lossweights.__all__)
    assert {name for name in dir(lossweights) if name[0] != "_"} == set(lossweights.__all__)
    assert len(set(lossweights.__all__)) == len(lossweights.__all__)


def test_names_are_where_type_checkers_find_them() -> None:
    """The module gets its names when they are used; the imports above them are never run."""
    (imports,) = (
        node
        for node in ast.parse(Path(lossweights.__file__).read_text("utf-8")).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    for line in imports.body:
        assert isinstance(line, ast.ImportFrom)
        home = importlib.import_module(str(line.module))
        for name in line.names:
            assert getattr(lossweights, name.name) is getattr(home, name.name)
    found = [name.name for line in imports.body for name in line.names]  # type: ignore[attr-defined]
    assert sorted(found) == sorted(lossweights.__all__)


def test_a_name_that_does_not_exist_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="module 'lossweights' has no attribute 'Wramup'"):
        lossweights.Wramup  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Wramup'"):
        exec("from lossweights import Wramup", {})  # noqa: S102


@pytest.mark.parametrize("name", ["Monitor", "calibrate", "plot", "Outcome"])
def test_a_name_of_a_package_inside_says_how_to_import_it(name: str) -> None:
    with pytest.raises(AttributeError, match="write `from lossweights") as caught:
        getattr(lossweights, name)
    space: dict[str, object] = {}
    exec(str(caught.value).split("`")[1], space)  # noqa: S102
    assert name in space


def test_the_packages_are_attributes_without_an_import_of_theirs() -> None:
    code = "import lossweights; print(lossweights.components.balancers.DWA.kind)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout.strip() == "dwa"


@pytest.mark.parametrize("name", lossweights.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    thing = getattr(lossweights, name)
    if get_origin(thing) is not None:
        return  # an alias of a type, which the reference documents: see test_reference
    assert inspect.getdoc(thing)
    for attribute, value in vars(thing).items() if inspect.isclass(thing) else ():
        if not attribute.startswith(("_", "model_")) and callable(value):
            assert inspect.getdoc(getattr(thing, attribute)), f"{name}.{attribute}"


def test_version_is_the_one_of_the_package() -> None:
    assert metadata("lossweights")["version"] == lossweights.__version__


def test_the_oldest_that_are_allowed_are_those_that_are_tried() -> None:
    root = Path(__file__).parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    extras = itertools.chain.from_iterable(project["optional-dependencies"].values())
    allowed = dict(wanted.split(">=") for wanted in [*project["dependencies"], *extras])
    lines = (root / "constraints-lowest.txt").read_text("utf-8").splitlines()
    tried = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert tried.keys() == allowed.keys()
    for name, version in tried.items():
        lowest, _, _ = allowed[name].partition(",")
        assert f"{version}.".startswith(f"{lowest}.")


def test_import_needs_the_core_alone() -> None:
    """Extras are imported where they are used: `import lossweights` loads none of them."""
    extras = (
        *(
            "yaml",
            "matplotlib",
            "rich",
            "typer",
            "scipy",
            "sklearn",
            "omegaconf",
            "hydra",
            "pandas",
        ),
        *("lightning", "transformers", "accelerate", "ignite", "optuna", "moocore"),
    )
    code = (
        f"import sys; from lossweights import *; print([m for m in {extras!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_a_file_is_one_thing(module: object) -> None:
    path = Path(str(module.__file__))  # type: ignore[attr-defined]
    lines = path.read_text(encoding="utf-8").splitlines()
    assert ast.get_docstring(ast.parse("\n".join(lines))), "says what it is for"


TERMS: dict[str, Any] = {
    "nll": 1.0,
    "kl": {"weight": 0.5, "schedule": {"kind": "warmup", "over": "10 steps"}},
}


def test_hydra_builds_it() -> None:
    config = OmegaConf.create(
        {
            "beta": 0.25,
            "loss": {
                "_target_": "lossweights.WeightedLoss",
                "terms": {**TERMS, "l2": "${beta}"},
                "total_steps": 100,
                "ignore": ["acc*"],
            },
        }
    )
    criterion = instantiate(config.loss)
    assert isinstance(criterion, WeightedLoss)
    criterion.set_step(5)
    assert criterion.weights == {"nll": 1.0, "kl": 0.25, "l2": 0.25}


def test_jsonargparse_builds_it() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(WeightedLoss, "loss")
    arguments = {"terms": TERMS, "total_steps": 100, "eval_weights": {"kl": 2.0}}
    parsed = parser.parse_object(
        {"loss": {"class_path": "lossweights.WeightedLoss", "init_args": arguments}}
    )
    criterion = parser.instantiate(parsed).loss
    criterion.set_step(5)
    assert criterion.weights == {"nll": 1.0, "kl": 0.25}
    assert criterion.config.eval_weights == {"kl": 2.0}


def test_jsonargparse_cannot_change_a_term_with_dots_in_its_name_and_it_is_refused() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(WeightedLoss, "loss")
    terms = json.dumps({"ce": 1.0, "aux.ce": {"kind": "warmup", "over": "10%"}})
    parsed = parser.parse_args([f"--loss.terms={terms}", "--loss.terms.aux.ce=0.1"])
    with pytest.raises(ConfigError, match=r"terms\.aux\.ce: unknown field 'ce'"):
        parser.instantiate(parsed)


def test_state_is_no_buffer_that_ranks_would_overwrite() -> None:
    criterion = WeightedLoss(terms=TERMS)
    assert list(criterion.named_buffers()) == list(criterion.named_parameters()) == []
