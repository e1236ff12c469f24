"""Every public name has its place in the reference, once, and nothing else has one."""

from __future__ import annotations

import importlib.util
import inspect
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_origin

import numpy as np
import pytest
import torch

import lossweights
from lossweights import WeightedLoss
from lossweights.cli.docstrings import fields
from lossweights.components.declaration import Declaration

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(page for page in (DOCS / "reference").glob("*.md") if page.stem != "index")

# One level below the root: modules of which every name is public, and public names of others.
BELOW_ROOT: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        [
            "lossweights.analysis",
            "lossweights.analysis.plot",
            "lossweights.components.balancers",
            "lossweights.components.controllers",
            "lossweights.components.schedules",
            "lossweights.search",
            "lossweights.testing",
        ],
        (),
    ),
    "lossweights.components.context": ("Gradients", "Statistic"),
    "lossweights.config.timeline": ("Curves",),
}
# Returned by public functions, and never constructed by a user.
RETURNED = {
    "lossweights.analysis.calibration.TermCalibration",
    "lossweights.analysis.measurements.Quartiles",
    "lossweights.analysis.verdict.PairCalibration",
    "lossweights.criterion.clock.Follower",
    "lossweights.criterion.scheduled.Scheduled",
}
OF_TORCH = {"extra_repr"}  # a method of `WeightedLoss` that torch calls


def named(page: Path) -> str:
    return page.stem


def names_of(module: str) -> list[str]:
    """The public names of a module below the root, without its modules."""
    found = importlib.import_module(module)
    names = BELOW_ROOT[module] or getattr(found, "__all__", None)
    names = names or [name for name in vars(found) if not name.startswith("_")]
    return [name for name in names if not inspect.ismodule(getattr(found, name))]


def public_things() -> dict[str, Any]:
    """Everything that a user may import, by its full name, each once."""
    found = {f"lossweights.{name}": getattr(lossweights, name) for name in lossweights.__all__}
    for module in BELOW_ROOT:
        for name in sorted(set(names_of(module)).difference(lossweights.__all__)):
            found[f"{module}.{name}"] = getattr(importlib.import_module(module), name)
    folder = Path(lossweights.__path__[0]) / "integrations"
    for path in sorted(folder.glob("*.py")):
        if path.stem in ("__init__", "common"):  # `common` is what the others share
            continue
        adapter = importlib.import_module(f"lossweights.integrations.{path.stem}")
        found |= {
            f"{adapter.__name__}.{name}": thing
            for name, thing in vars(adapter).items()
            if not name.startswith("_") and getattr(thing, "__module__", "") == adapter.__name__
        }
    return found


PUBLIC = public_things()
ALIASES = {name for name, thing in PUBLIC.items() if get_origin(thing)}
DECLARATIONS = [
    thing for thing in PUBLIC.values() if inspect.isclass(thing) and issubclass(thing, Declaration)
]


def directives(page: Path) -> list[tuple[str, str, str]]:
    """Kind, full name and what follows (options, content), of each directive of a page."""
    found, module = [], "lossweights"
    kinds = r"auto\w+|type|data|attribute|currentmodule"
    pattern = rf"(?m)^\.\. (?:py:)?({kinds}):: (\S+)\n((?:(?:   .*)?\n)*)"
    for kind, name, rest in re.findall(pattern, page.read_text(encoding="utf-8")):
        if kind == "currentmodule":
            module = name
        else:
            whole = name if name.startswith("lossweights.") else f"{module}.{name}"
            found.append((kind, whole, rest))
    return found


def thing_of(name: str) -> Any:
    """What a full name means."""
    parts = name.split(".")
    home = next(end for end in range(len(parts), 0, -1) if is_module(".".join(parts[:end])))
    thing: Any = importlib.import_module(".".join(parts[:home]))
    for part in parts[home:]:
        assert hasattr(thing, part), name
        thing = inspect.getattr_static(thing, part)
    return thing


def is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def test_a_name_of_the_root_is_the_same_below_it() -> None:
    for module in BELOW_ROOT:
        for name in set(names_of(module)).intersection(lossweights.__all__):
            assert getattr(importlib.import_module(module), name) is getattr(lossweights, name)


def test_every_public_name_is_documented_in_one_place() -> None:
    counted = Counter(
        name
        for page in PAGES
        for kind, name, _ in directives(page)
        if kind not in ("automethod", "autoproperty", "attribute")
    )
    once = {name for name, count in counted.items() if count == 1}
    assert once == set(counted), "twice"
    assert once == PUBLIC.keys() | RETURNED


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_directive_names_what_there_is(page: Path) -> None:
    for kind, name, rest in directives(page):
        if kind == "attribute":  # of instances
            continue
        thing = thing_of(name)
        expected: dict[str, Callable[[object], bool]] = {
            "autoclass": inspect.isclass,
            "autoexception": inspect.isclass,
            "autofunction": inspect.isfunction,
        }
        if kind in expected:
            assert expected[kind](thing), f"{kind} {name}"
        for members in re.findall(r"(?m)^   :members: (.+)$", rest):
            for member in members.split(", "):
                assert hasattr(thing, member), f"{name}.{member}"


def test_an_alias_is_shown_as_what_it_is() -> None:
    found = {
        name: rest for page in PAGES for kind, name, rest in directives(page) if kind == "type"
    }
    assert found.keys() == ALIASES
    for name, rest in found.items():
        written = re.search(r":canonical: (.+)\n\n   \w", rest)
        assert written, f"{name}: its type, and what it is"
        scope = {"torch": torch, "numpy": np, "Literal": Literal}
        assert eval(written[1], scope) == PUBLIC[name]  # noqa: S307  # our own page


def test_every_attribute_of_a_criterion_is_documented() -> None:
    documented = {
        name.removeprefix("lossweights.WeightedLoss.")
        for _, name, _ in directives(DOCS / "reference" / "criterion.md")
        if name.startswith("lossweights.WeightedLoss.")
    }
    of_torch = {*vars(torch.nn.Module()), *OF_TORCH}
    offered = {
        name
        for owner in (WeightedLoss, WeightedLoss(["nll"]))
        for name in vars(owner)
        if not name.startswith("_")
    }
    assert documented == offered - of_torch


def test_the_table_of_contents_has_all_names() -> None:
    text = (DOCS / "reference" / "index.md").read_text(encoding="utf-8")
    listed = Counter(re.findall(r"(?m)^   ~?(lossweights\.\S+)$", text))
    stated = Counter(re.findall(r"(?m)^\* `(\w+)`", text))
    assert set(listed.values()) == {1}
    last = {name.rpartition(".")[2] for name in PUBLIC.keys() - listed.keys()}
    assert listed.keys() - PUBLIC.keys() == RETURNED
    assert last == stated.keys()
    assert {page.stem for page in PAGES} <= set(text.split())


@pytest.mark.parametrize("declaration", DECLARATIONS, ids=lambda cls: cls.__name__)
def test_every_field_has_a_meaning(declaration: Any) -> None:
    """The reference takes it from the docstring, for inherited fields too."""
    assert all(field.meaning for field in fields(declaration))
    known = declaration.model_fields.items()
    taken = {name for name, field in known if field.annotation is not NoneType}
    assert {field.name for field in fields(declaration)} == taken


def test_building_the_reference_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (DOCS / "conf.py").read_text(encoding="utf-8")
    assert "intersphinx" not in text  # it would fetch what others document
    monkeypatch.syspath_prepend(str(DOCS))
    docstrings = importlib.import_module("docstrings")
    cyclical = lossweights.Cyclical
    lines = inspect.cleandoc(cyclical.__doc__ or "").splitlines()
    docstrings.rewrite(None, "class", "lossweights.Cyclical", cyclical, None, lines)
    written = "\n".join(lines)
    assert "$" not in written
    assert "Args:" not in written
    assert ":math:`P`" in written
    assert "\n.. math::\n\n   w(t) =" in written
    for name in cyclical.model_fields.keys() - {"delay", "every"}:
        assert written.count(f":param {name}:") == 1
    home = "lossweights.components.schedules.DelayedSchedule"  # below the root, and linked there
    assert f"Also `delay`, as in any :class:`~{home}`." in lines
    assert "Also `every`, as in any :class:`~lossweights.Schedule`." in lines
    assert ":type ratio: number > 0 and <= 1, default 0.5" in lines
    assert "In a config `kind: cyclical`." in lines
    assert docstrings.signature(None, "class", "", cyclical, None, "(x)", "") == ("", "")
    assert docstrings.signature(None, "class", "", WeightedLoss, None, "(x)", "") == ("(x)", "")
