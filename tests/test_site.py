"""The built pages: what their search finds first, and their pictures in dark mode."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lossweights import Balancer, Controller, Schedule, Transform

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--quiet", "-b", "html"]
    built = subprocess.run(  # noqa: S603
        [*command, DOCS, folder], capture_output=True, encoding="utf-8", check=False
    )
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture
def extension(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(DOCS))
    return importlib.import_module(request.param)


def found_first(site: Path, query: str) -> list[tuple[str, str]]:
    """The pages and anchors that have a query as a main entry of the index.

    Sphinx's `searchtools.js` gives these 100 points. A title has at most 16, a class 26.
    """
    text = (site / "searchindex.js").read_text(encoding="utf-8")
    index: dict[str, Any] = json.loads(text.removeprefix("Search.setIndex(").removesuffix(")"))
    places = index["indexentries"].get(query.lower(), [])
    return [(index["docnames"][page], anchor) for page, anchor, is_main in places if is_main]


@pytest.mark.slow
@pytest.mark.xdist_group("site")
@pytest.mark.parametrize(
    ("query", "page", "anchor"),
    [
        ("KL annealing", "recipes/vae", ".*"),
        ("beta annealing", "recipes/vae", ".*"),
        ("posterior collapse", "recipes/vae", ".*"),
        ("loss weighting", "which", ".*"),
        ("cyclical annealing", ".*", "cyclical"),
        ("warmup", ".*", "warmup"),
        ("uncertainty weighting", ".*", "uncertainty"),
        ("GradNorm", ".*", "gradnorm"),
        ("PCGrad", ".*", "pcgrad"),
    ],
)
def test_the_search_finds_the_right_page_first(
    site: Path, query: str, page: str, anchor: str
) -> None:
    [found] = found_first(site, query)
    assert re.fullmatch(page, found[0])
    assert re.fullmatch(anchor, found[1])


@pytest.mark.slow
@pytest.mark.xdist_group("site")
@pytest.mark.parametrize("extension", ["searching"], indirect=True)
def test_words_are_found_where_they_belong(site: Path, extension: ModuleType) -> None:
    for kind, words in extension.OF_KINDS.items():
        for word in words:
            assert [anchor for _, anchor in found_first(site, word)] == [kind], word
    for page, words in extension.OF_PAGES.items():
        for word in words:
            assert [found for found, _ in found_first(site, word)] == [page], word


@pytest.mark.slow
@pytest.mark.xdist_group("site")
@pytest.mark.parametrize("family", [Balancer, Controller, Schedule, Transform])
def test_each_kind_is_found_in_a_guide(
    site: Path, family: type[Balancer | Controller | Schedule | Transform]
) -> None:
    for kind, declaration in family.kinds().items():
        if declaration.__module__.startswith("lossweights."):
            for name in (kind, declaration.__name__):
                assert found_first(site, name), name


@pytest.mark.slow
@pytest.mark.xdist_group("site")
def test_a_page_has_its_pictures_twice(site: Path) -> None:
    images = re.findall(r"<img [^>]*>", (site / "choosing.html").read_text(encoding="utf-8"))
    for name, shown in {"choosing-front": "only-light", "choosing-front-dark": "only-dark"}.items():
        [image] = [image for image in images if f"/{name}.png" in image]
        assert shown in image
        assert (site / "_images" / f"{name}.png").is_file()


@pytest.mark.parametrize("extension", ["dark_pictures"], indirect=True)
def test_each_picture_has_a_dark_version(extension: ModuleType) -> None:
    """If it fails, run `python docs/dark_pictures.py`."""
    pictures = extension.light_pictures()
    dark = {extension.dark_of(picture) for picture in pictures}
    assert dark == set((DOCS / "pictures").glob("*-dark.png"))
    assert len(pictures) > 30
    for picture in pictures:
        with Image.open(picture) as light, Image.open(extension.dark_of(picture)) as other:
            assert light.size == other.size


@pytest.mark.slow
@pytest.mark.parametrize("extension", ["dark_pictures"], indirect=True)
def test_dark_versions_are_up_to_date(extension: ModuleType, tmp_path: Path) -> None:
    """If it fails, run `python docs/dark_pictures.py`."""
    for picture in extension.light_pictures():
        expected = tmp_path / picture.name
        expected.write_bytes(extension.darken(picture.read_bytes()))
        with Image.open(expected) as wanted, Image.open(extension.dark_of(picture)) as found:
            apart = np.abs(np.asarray(wanted, int) - np.asarray(found, int))
        assert apart.max() <= 1, picture.name  # of 255: how powers are rounded


@pytest.mark.parametrize("extension", ["dark_pictures"], indirect=True)
def test_white_is_the_background_black_is_light_and_hues_stay(extension: ModuleType) -> None:
    colors = np.array([[1, 1, 1], [0, 0, 0], [0.9, 0.62, 0]], np.float32)
    white, black, orange = extension.on_dark(colors)
    assert white.tolist() == pytest.approx(extension.BACKGROUND.tolist())
    assert black.tolist() == pytest.approx([0.92] * 3)
    assert orange[0] > orange[1] > orange[2]
