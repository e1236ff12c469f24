"""The style of the pictures: panels of curves over the steps, with a legend below."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Column: TypeAlias = NDArray[np.float64]
Columns: TypeAlias = Mapping[str, Column]  # of terms, by name
Looks: TypeAlias = dict[str, Any]

# Okabe and Ito's palette for color-blind readers, without its yellow, which is too light on white.
# The dashes distinguish the lines without any color.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444")
_DASHES = ("-", (0, (5, 1.5)), (0, (5, 1.5, 1, 1.5)))
# Kept for weights that are found in training.
DOTTED: Looks = {"linestyle": (0, (1, 1.2)), "linewidth": 1.3, "zorder": 2.3}
REST = "#BBBBBB"  # the color of the terms that are combined

_INK = "#222222"
_LOOKS: Any = {  # newer stubs of matplotlib want their own type of key
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 8,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": "#888888",
    "xtick.color": "#888888",
    "ytick.color": "#888888",
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#E5E5E5",
    "grid.linewidth": 0.6,
    "axes.xmargin": 0.01,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "legend.labelspacing": 0.25,
    "lines.linewidth": 1.2,
}
_PANEL = 1.7  # inches: the width that a small panel needs,
_SMALL, _LARGE = 1.15, 1.9  # and the heights of small and large ones
_LETTER, _LINE = 0.062, 0.155  # inches: what a letter takes of a line, and a line of the height
_SIMILAR = 20  # up to this ratio of their peaks, curves can be read from one linear axis
_AREAS = 120  # side by side, at most
_DECADES = 100  # from this ratio of largest to smallest value on, the axis is logarithmic


@contextmanager
def our_looks() -> Iterator[None]:
    """The style of the pictures, on white. Of the user's style only the fonts are kept.

    Raises:
        ImportError: Without matplotlib (extra `plot`).
    """
    try:
        import matplotlib as mpl  # noqa: PLC0415  # an extra
        from matplotlib import style  # noqa: PLC0415
    except ImportError:
        raise ImportError(
            "lossweights.analysis.plot needs matplotlib: pip install 'lossweights[plot]'"
        ) from None
    # One by one: to read them all would choose a backend.
    fonts: Any = {key: mpl.rcParams[key] for key in mpl.rcParams if key.startswith("font.")}
    with style.context(["default", fonts | _LOOKS]):
        yield


def looks(index: int) -> Looks:
    """Color and dashes of a line by its index; 21 are different.

    Lines with more gaps are thinner and drawn later, so that equal lines show through the gaps.
    """
    gaps = (index + index // len(COLOURS)) % len(_DASHES)
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": _DASHES[gaps],
        "linewidth": 1.6 - 0.3 * gaps,
        "zorder": 2 + 0.1 * gaps,
    }


def shown(name: str, inches: float) -> str:
    """A name in one line, shortened in the middle to a width in inches."""
    name = "".join(letter if letter.isprintable() else " " for letter in name)
    most = max(int(inches / _LETTER), 8)
    if len(name) <= most:
        return name
    end = (most - 1) // 2
    return f"{name[: most - 1 - end]}…{name[-end:]}"


def are_similar(columns: Columns) -> bool:
    """Whether all have a similar size, so that one linear axis shows each."""
    peaks = [*filter(None, map(peak, columns.values()))] or [1.0]  # one of 0 fits anywhere
    return max(peaks) <= _SIMILAR * min(peaks)


def is_positive(columns: Columns) -> bool:
    """Whether a logarithmic axis can show them."""
    numbers = _numbers(columns)
    return bool(len(numbers) and numbers.min() > 0)


def peak(column: Column) -> float:
    """The largest absolute value."""
    return float(np.abs(column[np.isfinite(column)]).max(initial=0.0))


def _numbers(columns: Columns) -> Column:
    return np.concatenate([column[np.isfinite(column)] for column in columns.values()])


class Page:
    """A figure of panels in a grid, with a legend below.

    Args:
        width: Width in inches.
        panels: The number of panels.
        entries: The legend: names and line styles.
        small: Whether panels are side by side, if the width allows it.
    """

    def __init__(
        self,
        width: float,
        panels: int = 1,
        entries: Sequence[tuple[str, Looks]] = (),
        *,
        small: bool = False,
    ) -> None:
        from matplotlib.figure import Figure  # noqa: PLC0415  # an extra
        from matplotlib.patches import Rectangle  # noqa: PLC0415
        from matplotlib.ticker import EngFormatter, MaxNLocator  # noqa: PLC0415

        columns = min(panels, max(int(width / _PANEL), 1)) if small else 1
        rows = math.ceil(panels / columns)
        height = rows * (_SMALL if small else _LARGE)
        widest = max((len(name) for name, _ in entries), default=0) * _LETTER + 0.55
        beside = max(1, min(len(entries), int(width / widest)))
        below = math.ceil(len(entries) / beside) * _LINE
        self.figure = Figure(figsize=(width, height + below + 0.3), layout="constrained")
        # `savefig` takes the background from the user's style, which may be as dark as the text.
        ground = Rectangle((-1, -1), 3, 3, transform=self.figure.transFigure, color="w", zorder=-1)
        ground.set_in_layout(False)
        self.figure.add_artist(ground)
        grid = self.figure.subplots(rows, columns, sharex=True, squeeze=False)
        self.panels: list[Axes] = list(grid.flat)
        for unused in self.panels[panels:]:
            unused.remove()
        del self.panels[panels:]
        self._inches = width / columns
        for panel in self.panels:
            panel.xaxis.set_major_locator(MaxNLocator(4 if columns > 1 else 7, integer=True))
            panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        for panel in self.panels[-columns:]:  # the lowest of each column
            panel.tick_params(labelbottom=True)
        for panel in self.panels[(rows - 1) * columns :]:
            panel.set_xlabel("step")
        if entries:
            self._legend(entries, beside, width)

    def _legend(self, entries: Sequence[tuple[str, Looks]], beside: int, width: float) -> None:
        from matplotlib.lines import Line2D  # noqa: PLC0415  # an extra

        handles: list[Artist] = [Line2D([], [], **look) for _, look in entries]
        legend = self.figure.legend(
            handles, ["."] * len(handles), loc="outside lower left", ncols=beside, borderpad=0
        )
        for text, (name, _) in zip(legend.get_texts(), entries, strict=True):
            text.set_parse_math(False)  # a name may hold dollars
            text.set_text(shown(name, width - 0.55))  # or begin with _, which hid it up to 3.9

    def title(self, panel: Axes, name: str) -> None:
        """The name of a panel, above it."""
        panel.set_title(shown(name, self._inches - 0.45), loc="left", parse_math=False)

    def done(self) -> Figure:
        """The finished figure."""
        left, right = self.panels[0].get_xlim()
        if right - left < 1:  # a single step
            self.panels[0].set_xlim(left - 1, right + 1)
        return self.figure


def draw(panel: Axes, steps: NDArray[np.int64], column: Column, look: Looks) -> None:
    """A line with gaps at missing values; a value between gaps is a point."""
    values = np.where(np.isfinite(column), column, np.nan)
    panel.plot(steps, values, **look)
    gaps = np.concatenate([[True], np.isnan(values), [True]])
    alone = gaps[:-2] & gaps[2:]
    panel.plot(steps[alone], values[alone], color=look["color"], linestyle="", marker=".")


def stack(
    panel: Axes, steps: NDArray[np.int64], columns: Sequence[Column], colours: Sequence[str]
) -> None:
    """Stacked shares, each row until the next, with gaps at missing values.

    If there are more rows than areas, neighbors are averaged.
    """
    from matplotlib.ticker import PercentFormatter  # noqa: PLC0415  # an extra

    shares = np.nan_to_num(np.array(columns))  # a term that was not given has none
    firsts = np.arange(0, len(steps), math.ceil(len(steps) / _AREAS))
    sums = np.add.reduceat(shares, firsts, axis=1)
    totals = sums.sum(axis=0)
    shares = sums / np.where(totals > 0, totals, np.nan)
    tops = np.cumsum(shares, axis=0)
    last = np.median(np.diff(steps)) if len(steps) > 1 else 1
    edges = np.append(steps[firsts], steps[-1] + last)
    for top, share, colour in zip(tops, shares, colours, strict=True):
        area: Looks = {"facecolor": colour, "edgecolor": "w", "linewidth": 0.5}  # for equal greys
        panel.stairs(top, edges, baseline=top - share, fill=True, **area)
    panel.set_ylim(0, 1)
    panel.yaxis.set_major_formatter(PercentFormatter(1))
    panel.set_axisbelow(False)


def fit(panel: Axes, columns: Columns, *, from_zero: bool) -> None:
    """Sets the scale of a panel: logarithmic if a linear one does not show all values.

    Args:
        panel: The panel.
        columns: The curves in it.
        from_zero: Whether a linear scale should include 0, as for weights.
    """
    numbers = _numbers(columns)
    if is_positive(columns) and not (from_zero and are_similar(columns)):
        if numbers.max() >= _DECADES * numbers.min():
            panel.set_yscale("log")
    elif from_zero and len(numbers):
        panel.set_ylim(bottom=min(0.0, numbers.min() * 1.05))
        if numbers.max() < 0:
            panel.set_ylim(top=0.0)
