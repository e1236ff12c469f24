"""Every public name has its place in the reference, once, and nothing else has one."""

from __future__ import annotations

import importlib.util
import inspect
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_origin

import numpy as np
import pytest
import torch

import lossweights
import lossweights.analysis.plot
import lossweights.testing
from lossweights import WeightedLoss
from lossweights.cli.docstrings import fields
from lossweights.components.declaration import Declaration

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(page for page in (DOCS / "reference").glob("*.md") if page.stem != "index")
PUBLIC = {name: getattr(lossweights, name) for name in lossweights.__all__}
ALIASES = {name for name, thing in PUBLIC.items() if get_origin(thing)}
DECLARATIONS = [
    thing for thing in PUBLIC.values() if inspect.isclass(thing) and issubclass(thing, Declaration)
]

# What criteria offer to their own parts, and to torch.
OF_ITS_PARTS = {"clock_moved", "clock_set", "clock_stepped", "extra_repr"}


def named(page: Path) -> str:
    return page.stem


def public_names() -> set[str]:
    """Every name that a user may import."""
    modules = [lossweights, lossweights.analysis.plot, lossweights.testing]
    found = {f"{module.__name__}.{name}" for module in modules for name in module.__all__}
    folder = Path(lossweights.__path__[0]) / "integrations"
    for path in sorted(folder.glob("*.py")):
        if path.stem in ("__init__", "common"):  # `common` is what the others share
            continue
        module = importlib.import_module(f"lossweights.integrations.{path.stem}")
        found |= {
            f"{module.__name__}.{name}"
            for name, thing in vars(module).items()
            if not name.startswith("_") and getattr(thing, "__module__", "") == module.__name__
        }
    return found


def directives(page: Path) -> list[tuple[str, str, str]]:
    """Kind, full name and what follows (options, content), of each directive of a page."""
    found, module = [], "lossweights"
    pattern = r"(?m)^\.\. (?:py:)?(auto\w+|type|data|currentmodule):: (\S+)\n((?:(?:   .*)?\n)*)"
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


def test_every_public_name_stands_in_one_place() -> None:
    counted = Counter(
        name
        for page in PAGES
        for kind, name, _ in directives(page)
        if kind not in ("automethod", "autoproperty")
    )
    once = {name for name, count in counted.items() if count == 1}
    assert once == set(counted), "twice"
    assert public_names() <= once
    # What public names return, and nobody makes.
    assert once - public_names() == {
        "lossweights.analysis.calibration.TermCalibration",
        "lossweights.analysis.diagnose",
    }


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_directive_names_what_there_is(page: Path) -> None:
    for kind, name, rest in directives(page):
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
        name.rpartition(".")[2]: rest
        for page in PAGES
        for kind, name, rest in directives(page)
        if kind == "type"
    }
    assert found.keys() == ALIASES
    for name, rest in found.items():
        written = re.search(r":canonical: (.+)\n\n   \w", rest)
        assert written, f"{name}: its type, and what it is"
        scope = {"torch": torch, "numpy": np, "Literal": Literal}
        assert eval(written[1], scope) == PUBLIC[name]  # noqa: S307  # our own page


def test_all_that_a_criterion_offers_is_told() -> None:
    told = {
        name.removeprefix("lossweights.WeightedLoss.")
        for _, name, _ in directives(DOCS / "reference" / "criterion.md")
        if name.startswith("lossweights.WeightedLoss.")
    }
    offered = {
        name
        for cls in WeightedLoss.__mro__
        if cls.__module__.startswith("lossweights.")
        for name in vars(cls)
        if not name.startswith("_")
    }
    assert told == offered - OF_ITS_PARTS


def test_the_table_of_contents_has_all_names() -> None:
    text = (DOCS / "reference" / "index.md").read_text(encoding="utf-8")
    listed = Counter(re.findall(r"(?m)^   ~?(lossweights\.\S+)$", text))
    stated = Counter(re.findall(r"(?m)^\* `(\w+)`", text))
    assert set(listed.values()) == {1}
    last = {name.rpartition(".")[2] for name in public_names() - listed.keys()}
    assert last == stated.keys()
    assert {page.stem for page in PAGES} <= set(text.split())


@pytest.mark.parametrize("declaration", DECLARATIONS, ids=lambda cls: cls.__name__)
def test_every_field_is_told_what_it_means(declaration: Any) -> None:
    """The reference shows them from here, inherited ones too."""
    assert all(field.meaning for field in fields(declaration))
    assert {field.name for field in fields(declaration)} == declaration.model_fields.keys()


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
    for name in cyclical.model_fields:
        assert written.count(f":param {name}:") == 1
    assert ":type ratio: number > 0 and <= 1, default 0.5" in lines
    assert "In a config `kind: cyclical`." in lines
    assert docstrings.signature(None, "class", "", cyclical, None, "(x)", "") == ("", "")
    assert docstrings.signature(None, "class", "", WeightedLoss, None, "(x)", "") == ("(x)", "")
