"""Pictures can be made of anything, are legible, and leave everything else alone."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from matplotlib import style
from matplotlib.figure import Figure

from lossweights import History, LossConfig
from lossweights.analysis import plot
from lossweights.analysis.plot import looks
from tests.analysis.test_plot import OF_HISTORIES, ONE, history, legend, many, titles


def pixels(figure: Figure) -> bytes:
    file = BytesIO()
    figure.savefig(file, format="rgba", dpi=60)
    return file.getvalue()


# Odd histories


@pytest.mark.parametrize("picture", OF_HISTORIES)
@pytest.mark.parametrize(
    "terms",
    [
        {"a": [1.0], "b": [2.0]},
        {"a": [math.nan], "b": [math.inf]},
        {"a": [0.0, 0.0], "b": [0.0, 0.0]},
        {"a": [None, 1.0], "b": [1.0, None]},
        {"a": [1e38, 3e38], "b": [1e-38, 1e-45]},
        {"a": [None, None], "b": [-1.0, math.nan]},
    ],
    ids=["one row", "no number", "zeros", "in turn", "extremes", "never"],
)
def test_any_history_can_be_drawn(
    picture: Callable[[History], Figure], terms: dict[str, Any]
) -> None:
    figure = picture(history(terms))
    left, right = figure.axes[0].get_xlim()
    assert right - left >= 1
    pixels(figure)  # warnings are errors


@pytest.mark.parametrize("picture", OF_HISTORIES)
def test_a_history_that_holds_too_little_says_what_it_needs(
    picture: Callable[[History], Figure],
) -> None:
    with pytest.raises(ValueError, match="the history has no rows yet"):
        picture(History())
    bare = History()
    bare.rows.append({"step": 0, "total": 1.0, "weighted/a": 1.0})
    with pytest.raises(ValueError, match=r"keeps no '\w+', found 'total', 'weighted/a': write"):
        picture(bare)


# Legible

LONG = "auxiliary_segmentation_boundary_refinement_loss_" * 3


@pytest.mark.parametrize("name", ["$", "$x$ $\\frac{1$", "_a", "a_b^c", "%s {0}", "a\nb", LONG])
@pytest.mark.parametrize("spread", [1.5, 1e3], ids=["together", "apart"])
def test_names_stand_as_they_are_in_one_line(name: str, spread: float) -> None:
    figure = plot.values(history({name: [1.0, 1.0], "other": [spread, spread]}))
    written = (legend(figure) or titles(figure))[0]
    pixels(figure)  # mathtext would raise
    if name == LONG:
        assert written[:8] + written[-8:] == name[:8] + name[-8:]
        assert "…" in written
    else:
        assert written == name.replace("\n", " ")


@pytest.mark.parametrize("picture", OF_HISTORIES)
@pytest.mark.parametrize(("count", "width"), [(2, 6.4), (20, 3.6)], ids=["roomy", "crowded"])
def test_nothing_covers_anything(picture: Callable[..., Figure], count: int, width: float) -> None:
    named = history({f"{i} {LONG}": [1.0, 10.0 ** (i % 4)] for i in range(count)})
    figure = picture(named, width=width)
    figure.draw_without_rendering()  # which lays it out
    whole = figure.bbox.padded(1.0)
    boxes = [panel.get_tightbbox() for panel in figure.axes]
    boxes += [each.get_window_extent() for each in figure.legends]
    for index, box in enumerate(boxes):
        assert box is not None
        assert whole.x0 <= box.x0 < box.x1 <= whole.x1
        assert whole.y0 <= box.y0 < box.y1 <= whole.y1
        for other in boxes[:index]:
            assert other is not None
            assert not box.padded(-1.0).overlaps(other.padded(-1.0))


def test_looks_differ_in_colour_and_in_dashes() -> None:
    assert len({(look["color"], str(look["linestyle"])) for look in map(looks, range(21))}) == 21
    assert len({look["color"] for look in map(looks, range(7))}) == 7
    assert all(looks(i)["linestyle"] != looks(i + 1)["linestyle"] for i in range(21))


# Everything else is left alone


@pytest.mark.parametrize("theirs", ["dark_background", "Solarize_Light2"])
def test_a_picture_looks_the_same_under_any_style_and_changes_none(theirs: str) -> None:
    def draw() -> list[bytes]:
        spread = plot.values(history({"a": [1.0, 1e3]}))
        return [*map(pixels, (plot.overview(many(8)), plot.config({"a": ONE, "b": ONE}), spread))]

    expected = draw()
    with style.context(theirs):
        mpl.rcParams["font.family"] = ["DejaVu Sans"]
        mpl.rcParams["savefig.facecolor"] = "black"
        before = dict(mpl.rcParams)
        assert draw() == expected
        assert dict(mpl.rcParams) == before


def test_pyplot_is_not_even_loaded(tmp_path: Path) -> None:
    code = (
        "import sys; from lossweights import LossConfig; from lossweights.analysis import plot; "
        "plot.config(LossConfig.read({'terms': ['a']})).savefig('a.png'); "
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_without_matplotlib_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None; "
        "from lossweights import LossConfig; from lossweights.analysis import History, plot; "
        "plot.config(LossConfig.read({'terms': ['a']}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)  # noqa: S603
    assert done.stderr.splitlines()[-1] == (
        "ImportError: lossweights.analysis.plot needs matplotlib: pip install 'lossweights[plot]'"
    )


@pytest.mark.parametrize(
    "names",
    [
        [f"decoder.layers.{n}.cross_attention.loss_classification" for n in range(12)],
        [f"{n}_decoder.layers.cross_attention.loss_classification" for n in range(12)],
        [f"decoder.layers.cross_attention.loss_classification_{n}" for n in range(12)],
        [f"decoder.{n // 4}.layers.cross_attention.{n % 4}.loss_classification" for n in range(12)],
        ["kl", "decoder.layers.cross_attention.loss", "decoder.layers.self_attention.loss"],
    ],
)
@pytest.mark.parametrize("width", [3.2, 6.4, 12.0])
def test_long_names_stay_different(names: list[str], width: float) -> None:
    terms: Any = {name: 10.0 ** (3 * n) for n, name in enumerate(names)}
    figure = plot.config(LossConfig(terms=terms, total_steps=10), width=width)
    pixels(figure)
    shown = [axes.title if axes.title.get_text() else axes._left_title for axes in figure.axes]  # type: ignore[attr-defined]
    assert len({title.get_text() for title in shown}) == len(names)
    assert all(title.get_window_extent().x1 <= figure.bbox.x1 for title in shown)
