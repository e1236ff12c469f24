"""Version and date of the release are the same in every file that has them."""

import re
import tomllib
from pathlib import Path

import yaml

import lossweights

ROOT = Path(__file__).parents[1]


def test_versions_and_dates_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    released = re.search(r"^## (\S+) \((\d{4}-\d\d-\d\d)\)$", changes, re.MULTILINE)
    assert released, "CHANGELOG.md has no section `## version (date)`"
    assert project["version"] == lossweights.__version__ == citation["version"] == released[1]
    assert str(citation["date-released"]) == released[2]
    assert project["license"] == citation["license"]
    assert project["authors"] == citation["authors"]


def test_the_supported_pythons_are_those_of_the_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    listed = [each.rpartition(":: ")[2] for each in project["classifiers"] if ":: 3." in each]
    assert project["requires-python"] == f">={listed[0]}"


def test_the_page_of_the_package_index_has_no_link_to_a_file_that_is_not_there() -> None:
    hook = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]
    page = (ROOT / "README.md").read_text("utf-8")
    for each in hook["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        page = re.sub(each["pattern"], each["replacement"], page)
    assert "(`docs/schedules.md`)" in page
    assert re.findall(r"\]\((?!https?:|#)[^)]*\)|<img [^>]*>", page) == []
