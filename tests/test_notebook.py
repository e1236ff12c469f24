"""The notebook of the docs runs, and prints what it shows."""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[1] / "docs"


def printed(notebook: dict[str, Any]) -> list[str]:
    """The words that the cells print."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    return " ".join("".join(output.get("text", [])) for output in outputs).split()


@pytest.mark.slow
def test_it_runs_and_prints_what_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, run `python docs/notebooks.py`."""
    monkeypatch.syspath_prepend(str(DOCS))
    path = DOCS / "start.ipynb"
    run = importlib.import_module("notebooks").execute(path)
    shown = json.loads(path.read_text(encoding="utf-8"))
    assert len(printed(shown)) > 50
    for found, wanted in zip(printed(run), printed(shown), strict=True):
        try:
            assert float(found.rstrip("%")) == pytest.approx(float(wanted.rstrip("%")), rel=2e-3)
        except ValueError:
            assert found == wanted
    outputs = [output for cell in run["cells"] for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "data" in output]
    assert [list(picture["data"]) for picture in pictures] == [["image/png", "text/plain"]]


def test_its_links_lead_somewhere() -> None:
    notebook = json.loads((DOCS / "start.ipynb").read_text(encoding="utf-8"))
    text = "\n".join("".join(cell["source"]) for cell in notebook["cells"])
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)", text)
    assert len(links) > 5
    assert [link for link in links if not (DOCS / link).is_file()] == []
