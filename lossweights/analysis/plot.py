"""Pictures of a config before training, and of a history after it.

Each function returns a new matplotlib `Figure`, for `figure.savefig("weights.png")` or the last
line of a notebook cell, or raises an ImportError without matplotlib (extra `plot`). Neither
pyplot's figures nor rcParams are changed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from lossweights.analysis.history import History
from lossweights.components.durations import Horizon
from lossweights.components.schedules import Steps, Values
from lossweights.config.loss_config import LossConfig
from lossweights.config.timeline import Curves, to_draw
from lossweights.errors import did_you_mean, quoted

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["config", "gradients", "overview", "shares", "values", "weights"]

Columns: TypeAlias = Mapping[str, Values]  # by term
Look: TypeAlias = dict[str, Any]  # color, dashes and width of a line
Line: TypeAlias = tuple[Steps, Values, Look]
Panels: TypeAlias = dict[str, list[Line]]  # by title
Entry: TypeAlias = tuple[str, Look]  # of the legend
Painter: TypeAlias = tuple[str, Callable[["Axes"], None]]  # the title of a panel, and what draws it

_WIDTH = 6.4  # inches
_PANEL = 1.7  # inches: the width that a small panel needs,
_SMALL, _LARGE = 1.15, 1.9  # and the heights of small and large panels
_LETTER, _LINE = 0.062, 0.155  # inches: the width of a letter, and the height of a line
_SIMILAR = 20  # up to this ratio of their peaks, curves can be read from one linear axis
_DECADES = 100  # from this ratio of largest to smallest value on, the axis is logarithmic
_AREAS = 120  # side by side, at most
_MOST_LARGE = 4  # large panels of a config
_MOST_CELLS = 7  # terms of a matrix whose cells have numbers
_ROUNDING = 1e-3  # by which the sum of all shares may differ from 1
_LABELS = {"raw": "value", "weight": "weight"}

# Okabe and Ito's palette for color-blind readers, without its yellow, which is too light on white.
# The dashes distinguish the lines without any color.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444")
_DASHES = ("-", (0, (5, 1.5)), (0, (5, 1.5, 1, 1.5)))
_DOTTED: Look = {"linestyle": (0, (1, 1.2)), "linewidth": 1.3, "zorder": 2.3}
REST = "#BBBBBB"  # the color of the terms that are combined
INK = "#222222"
_ALONE: Look = {"color": INK, "linewidth": 1.2}  # of a line that the legend does not have
_STYLE: Any = (  # newer stubs of matplotlib want their own type of key
    dict.fromkeys(("font.size", "axes.titlesize", "axes.labelsize", "legend.fontsize"), 8)
    | dict.fromkeys(("xtick.labelsize", "ytick.labelsize"), 7)
    | dict.fromkeys(("text.color", "axes.labelcolor"), INK)
    | dict.fromkeys(("xtick.labelcolor", "ytick.labelcolor"), INK)
    | dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), "#888888")
    | dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False)
    | {"axes.grid": True, "axes.grid.axis": "y", "axes.axisbelow": True, "axes.xmargin": 0.01}
    | {"grid.color": "#E5E5E5", "grid.linewidth": 0.6, "lines.linewidth": 1.2}
    | {"legend.handlelength": 2.4, "legend.labelspacing": 0.25}
)


def config(
    configs: Mapping[str, LossConfig] | LossConfig,
    horizon: Horizon | None = None,
    *,
    width: float = _WIDTH,
) -> Figure:
    """The weights and the scheduled numbers of configs, before training.

    The terms of one config share a panel if they are similar in size; several configs are compared
    in one panel per term. Each scheduled number has a panel. The weight of a term with a controller
    or a balancer is dotted, because it is multiplied by a factor that is only known in training. A
    member of a group is drawn if its weight in the group changes; members of a group with equal
    weights share a curve.

    Args:
        configs: A config, or several by name.
        horizon: Length of training; by default that of the config.
        width: Width in inches.

    Raises:
        TypeError: If something other than a config is passed.
        ValueError: If the configs count in different units.
        HorizonError: If a schedule needs the length of training and it is not known.

    >>> from lossweights import LossConfig
    >>> from lossweights.analysis import plot
    >>> linear = LossConfig.read({"terms": {"kl": {"kind": "warmup", "over": "50%"}}})
    >>> cosine = linear.override({"kl.schedule.shape": "cosine"})
    >>> figure = plot.config({"linear": linear, "cosine": cosine}, Horizon(total_steps=1000))
    """
    named = {"": configs} if isinstance(configs, LossConfig) else configs
    if not isinstance(named, Mapping) or not all(isinstance(c, LossConfig) for c in named.values()):
        raise TypeError(
            "plot.config takes a LossConfig, such as criterion.config, or several by name, "
            f"found {repr(configs) if isinstance(configs, str) else type(configs).__name__}"
        )
    if not named:
        raise ValueError("at least one config is needed, found none")
    curves = {name: Curves.of(each, horizon) for name, each in named.items()}
    shown = to_draw([*curves.values()])
    titles = {
        name: f"{name} and {len(alike)} alike" if alike else name for name, alike in shown.items()
    }
    panels: Panels = {}
    entries: list[Entry] = []
    for index, (name, each) in enumerate(curves.items()):
        entries.append((name, looks(index)))
        for term in [term for term in titles if term in each.weights]:
            look = looks(index, dotted=term in each.adaptive)
            panels.setdefault(titles[term], []).append((each.steps, each.weights[term], look))
    if len(curves) == 1:
        columns = {title: each.weights[term] for term, title in titles.items()}
        dotted = [title for term, title in titles.items() if term in each.adaptive]
        panels, entries = _arranged(each.steps, columns, dotted)
    numbers: Panels = {}
    for index, each in enumerate(curves.values()):
        look = looks(index) if len(curves) > 1 else _ALONE
        for number, column in each.scheduled.items():
            numbers.setdefault(f"scheduled.{number}", []).append((each.steps, column, look))
    named_terms = {name for each in curves.values() for name in each.weights}
    if named_terms.difference(shown, *shown.values()):
        entries.append(("members without a curve follow their group", {"linestyle": ""}))
    if any(each.adaptive for each in curves.values()):
        entries.append(("dotted: times a factor found in training", {"color": REST} | _DOTTED))
    return _picture(panels, entries, "weight", width, _one_unit(curves), numbers)


def values(history: History, *, group: str | None = None, width: float = _WIDTH) -> Figure:
    """The values of the terms as they were passed: `raw`.

    The terms share a panel if they are similar in size; otherwise each has its own. The axis is
    logarithmic if all values are above 0 and span two decades.

    Args:
        history: The history of a training.
        group: Draws the members of this group. By default the terms outside of groups are drawn.
        width: Width in inches.

    Raises:
        ValueError: If there is no such group, if the history has no rows, or no `raw`.

    >>> import torch
    >>> from lossweights import History, WeightedLoss
    >>> from lossweights.analysis import plot
    >>> criterion = WeightedLoss(terms=["nll"])
    >>> history = History(criterion)
    >>> _ = criterion({"nll": torch.tensor(2.0)})
    >>> criterion.step()
    >>> figure = plot.values(history)
    """
    columns = _columns(history, "raw", group)
    return _picture(*_arranged(history.steps, columns), "raw", width, history.unit)


def weights(history: History, *, group: str | None = None, width: float = _WIDTH) -> Figure:
    """The weights of the terms, with the factors found in training.

    The terms share a panel if they are similar in size; otherwise each has its own.

    Args:
        history: The history of a training.
        group: Draws the members of this group. By default the terms outside of groups are drawn.
        width: Width in inches.

    Raises:
        ValueError: If there is no such group, if the history has no rows, or no `weight`.
    """
    columns = _columns(history, "weight", group)
    return _picture(*_arranged(history.steps, columns), "weight", width, history.unit)


def shares(history: History, *, group: str | None = None, width: float = _WIDTH) -> Figure:
    r"""The shares of the terms in the loss, $|w_i l_i| / \sum_j |w_j l_j|$, stacked.

    If there are many terms, those with the smallest shares are combined. The shares of the members
    of a group are those in the group: their sum is 1.

    Args:
        history: The history of a training.
        group: Draws the members of this group. By default the terms outside of groups are drawn.
        width: Width in inches.

    Raises:
        ValueError: If there is no such group, if the history has no rows, or no `share`.
    """
    columns = _columns(history, "share", group)
    look_of, entries = _largest(columns)
    areas = [(name, {"color": look["color"], "linewidth": 6}) for name, look in entries]
    return _figure(
        width,
        [("", partial(_stack, history.steps, columns, look_of, _share(group)))],
        areas,
        history.unit,
    )


def overview(history: History, *, group: str | None = None, width: float = _WIDTH) -> Figure:
    """Values, weights and shares in three panels on one time axis, and each scheduled number.

    If terms differ in size, the axis is logarithmic or, if some values are not above 0, each term
    is divided by its largest value. With many terms, those with the smallest shares are gray.

    Args:
        history: The history of a training.
        group: Draws the members of this group. By default the terms outside of groups are drawn.
        width: Width in inches.

    Raises:
        ValueError: If there is no such group, if the history has no rows, or lacks `raw`, `weight`
            or `share`.
    """
    columns = _columns(history, "share", group)
    look_of, entries = _largest(columns)
    gray = {"color": REST, "linewidth": 0.7}
    panels: list[Painter] = []
    for quantity, label in _LABELS.items():
        drawn = _columns(history, quantity, group)
        if not _are_similar(drawn.values()) and _numbers(drawn.values()).min() <= 0:
            drawn = {name: column / (_peak(column) or 1.0) for name, column in drawn.items()}
            label = f"{label} / its largest"  # noqa: PLW2901  # of this panel
        below_first = sorted(drawn, key=lambda name: name in look_of)  # gray lines below the others
        lines = [(history.steps, drawn[name], look_of.get(name, gray)) for name in below_first]
        panels.append(("", partial(_draw, lines, quantity, label)))
    panels.append(("", partial(_stack, history.steps, columns, look_of, _share(group))))
    for metric in history:
        if metric.startswith("scheduled/"):
            line = (history.steps, history[metric], _ALONE)
            panels.append((metric, partial(_draw, [line], "weight", "")))
    return _figure(width, panels, entries, history.unit)


def gradients(history: History, *, width: float = _WIDTH) -> Figure:
    """The norms of the terms' gradients over time, and how the gradients agree.

    Each cell of the matrix has the mean cosine between two gradients and, below it, the part of the
    measurements in which it was negative: there the terms conflict. Red is conflict.

    Args:
        history: A history that measured them: `History(criterion, gradients="500 steps")`.
        width: Width in inches.

    Raises:
        ValueError: If the history has no rows, or none with gradients.

    >>> import torch
    >>> from lossweights import History, WeightedLoss
    >>> from lossweights.analysis import plot
    >>> criterion = WeightedLoss(terms=["a", "b"])
    >>> history = History(criterion, gradients="100 steps")
    >>> features = torch.ones(3, requires_grad=True)
    >>> _ = criterion({"a": features.sum(), "b": features[0] - features[1]}, shared=features)
    >>> criterion.step()
    >>> figure = plot.gradients(history)
    """
    prefix = "gradient/norm/"
    names = [metric.removeprefix(prefix) for metric in history if metric.startswith(prefix)]
    if not names:
        raise ValueError(
            'no row has gradients: write History(criterion, gradients="500 steps"), and pass '
            "shared= in the call, as in criterion(terms, shared=features)"
        )
    names = [name for name in history.terms if name in names] or names
    norms = {name: history[prefix + name] for name in names}
    measured = ~np.all([np.isnan(column) for column in norms.values()], axis=0)
    lines: list[Line] = []
    for index, column in enumerate(norms.values()):
        lines.append((history.steps[measured], column[measured], looks(index)))
    title = "norm of the gradient"
    if len(names) == 1:
        return _figure(width, [(title, partial(_draw, lines, "gradient", ""))], [], history.unit)
    cosines, conflicts = (_pairs(history, kind, names) for kind in ("cosine", "conflict"))
    return _figure(
        width,
        [(title, partial(_draw, lines, "gradient", ""))],
        [(name, looks(index)) for index, name in enumerate(names)],
        history.unit,
        matrix=("cosine, and how often below 0", partial(_cells, names, cosines, conflicts)),
    )


def looks(index: int, *, dotted: bool = False) -> Look:
    """Color and dashes of a line by its index; 21 are different.

    Lines with more gaps are thinner and drawn later, so that equal lines show through the gaps.
    """
    gaps = (index + index // len(_COLORS)) % len(_DASHES)
    dashes = {"linestyle": _DASHES[gaps], "linewidth": 1.6 - 0.3 * gaps, "zorder": 2 + 0.1 * gaps}
    return {"color": _COLORS[index % len(_COLORS)]} | (_DOTTED if dotted else dashes)


def _one_unit(curves: Mapping[str, Curves]) -> str:
    """The unit of all curves; a ValueError if there are several."""
    units = {name: each.horizon.unit for name, each in curves.items()}
    if len(set(units.values())) > 1:
        raise ValueError(f"a picture has one time axis, and the configs count {units}: draw each")
    return next(iter(units.values()))


def _columns(history: History, quantity: str, group: str | None) -> Columns:
    """A quantity by term, or by member of a group.

    Raises:
        ValueError: If no term has it, or there is no such group.
        TypeError: For another object than a history.
    """
    if not isinstance(history, History):
        is_monitor = isinstance(getattr(history, "history", None), History)
        usage = "make one before training, history = History(criterion), and pass it"
        raise TypeError(
            f"a picture of a training needs a History, found {type(history).__name__}: "
            f"{'pass its attribute `history`' if is_monitor else usage}"
        )
    kept, group_of = dict.fromkeys(history), _groups(history)
    if group is not None and len(history) and group not in group_of.values():
        groups = list(dict.fromkeys(filter(None, group_of.values())))
        near = did_you_mean(str(group), groups)
        known = f"the groups are {quoted(groups)}" if groups else "the history has none"
        raise ValueError(f"no group is called {group!r}{near} ({known})")
    metrics = {name: f"{quantity}/{name}" for name, its in group_of.items() if its == group}
    found = {name: history[metric] for name, metric in metrics.items() if metric in kept}
    if not found and not len(history):
        raise ValueError(
            "the history has no rows yet: it takes one after an optimizer step with a training "
            "forward pass; call criterion.follow(optimizer) once, or criterion.step() per step"
        )
    if not found:
        raise ValueError(
            f"the history keeps no {quantity!r}, found {quoted(kept)}: write "
            f"History(criterion, include=[..., {quantity!r}]), or omit include"
        )
    return found


def _groups(history: History) -> dict[str, str | None]:
    """The group of each term, as far as names show it; None outside of groups.

    A name such as `deep/d0` is that of a member if there is a term `deep`, unless the shares of all
    terms add up to 1: then they are terms whose names have slashes.
    """
    kept, names = dict.fromkeys(history), history.terms
    found: dict[str, str | None] = {}
    for name in names:
        ends = [index for index, letter in enumerate(name) if letter == "/"]
        around = [name[:end] for end in ends if name[:end] in names]
        found[name] = around[-1] if around else None
    columns = {n: np.nan_to_num(history[f"share/{n}"]) for n in names if f"share/{n}" in kept}
    groups = [columns[name] for name in {*found.values()} if name in columns]
    if groups:
        are_all = abs(np.sum([*columns.values()], axis=0) - 1) < _ROUNDING
        if np.any(are_all & (np.sum(groups, axis=0) > 10 * _ROUNDING)):
            return dict.fromkeys(names)
    return found


def _arranged(
    steps: Steps, columns: Columns, dotted: Collection[str] = ()
) -> tuple[Panels, list[Entry]]:
    """One panel for all terms and a legend if they are similar in size; otherwise one for each."""
    together = 1 < len(columns) <= len(_COLORS) and _are_similar(columns.values())
    panels: Panels = {}
    entries: list[Entry] = []
    for index, (name, column) in enumerate(columns.items()):
        # The color of a term is the same in all pictures, unless there are too many terms.
        look = looks(index if len(columns) <= len(_COLORS) else 0, dotted=name in dotted)
        panels.setdefault("" if together else name, []).append((steps, column, look))
        entries.append((name, look))
    return panels, entries if together else []


def _largest(columns: Columns) -> tuple[dict[str, Look], list[Entry]]:
    """The looks of the terms with the largest shares, and a legend that also counts the others."""
    sizes = {name: np.nan_to_num(column).mean() for name, column in columns.items()}
    ranked = sorted(sizes, key=lambda name: -sizes[name])
    large = set(ranked if len(ranked) <= len(_COLORS) else ranked[: len(_COLORS) - 1])
    look_of = {name: looks(i) for i, name in enumerate(name for name in columns if name in large)}
    rest = [(f"{len(columns) - len(large)} others", {"color": REST})]
    return look_of, [*look_of.items(), *(rest if len(large) < len(columns) else ())]


def _are_similar(columns: Iterable[Values]) -> bool:
    """Whether one linear axis shows each of them."""
    peaks = [*filter(None, map(_peak, columns))] or [1.0]  # one of 0 fits anywhere
    return max(peaks) <= _SIMILAR * min(peaks)


def _peak(column: Values) -> float:
    return float(np.abs(column[np.isfinite(column)]).max(initial=0.0))


def _numbers(columns: Iterable[Values]) -> Values:
    return np.concatenate([column[np.isfinite(column)] for column in columns])


def _picture(
    panels: Panels,
    entries: Sequence[Entry],
    quantity: str,
    width: float,
    unit: str,
    numbers: Panels | None = None,
) -> Figure:
    """Lines of a quantity in panels by title, and those of scheduled numbers."""
    label = _LABELS[quantity] if len(panels) == 1 else ""
    painted = [(title, partial(_draw, lines, quantity, label)) for title, lines in panels.items()]
    painted += [
        (title, partial(_draw, lines, quantity, "")) for title, lines in (numbers or {}).items()
    ]
    is_small = len(panels) > 1 or len(painted) > _MOST_LARGE
    return _figure(width, painted, entries, unit, small=is_small)


def _figure(
    width: float,
    panels: Sequence[Painter],
    entries: Sequence[Entry],
    unit: str,
    *,
    small: bool = False,
    matrix: Painter | None = None,
) -> Figure:
    """Panels in a grid (`small` ones side by side), with a legend below, in the user's fonts.

    The `unit` of the clock is the label of the time axis. A `matrix`, which has none, is drawn
    beside a single panel.
    """
    time = "step" if unit == "steps" else unit
    columns = min(len(panels), max(int(width / _PANEL), 1)) if small else 1
    rows = math.ceil(len(panels) / columns)
    widest = max((len(name) for name, _ in entries), default=0) * _LETTER + 0.55
    beside = max(1, min(len(entries), int(width / widest)))
    height = rows * (_SMALL if small else _LARGE) + math.ceil(len(entries) / beside) * _LINE + 0.3
    with blank(width, height) as figure:
        from matplotlib.lines import Line2D  # noqa: PLC0415  # an extra
        from matplotlib.ticker import EngFormatter, MaxNLocator  # noqa: PLC0415

        grid: Any = {"sharex": True} if matrix is None else {"width_ratios": (3, 2)}
        columns += matrix is not None
        axes: list[Axes] = [*figure.subplots(rows, columns, squeeze=False, **grid).flat]
        if matrix is not None:
            title, paint = matrix
            paint(axes[-1])
            axes[-1].set_title(title, loc="left")
        for unused in axes[len(panels) :] if matrix is None else ():
            unused.remove()
        del axes[len(panels) :]
        titles = _shortened((title for title, _ in panels), width / columns - 0.45)
        for index, (panel, title, (_, paint)) in enumerate(zip(axes, titles, panels, strict=True)):
            panel.xaxis.set_major_locator(MaxNLocator(4 if columns > 1 else 7, integer=True))
            panel.xaxis.set_major_formatter(EngFormatter(sep=""))
            if index >= len(panels) - columns:  # the lowest of its column
                panel.tick_params(labelbottom=True)
            if index >= (rows - 1) * columns:
                panel.set_xlabel(time)
            paint(panel)
            panel.set_title(title, loc="left", parse_math=False)
        left, right = axes[0].get_xlim()
        if right - left < 1:  # a single step
            axes[0].set_xlim(left - 1, right + 1)
        if entries:
            handles: list[Artist] = [Line2D([], [], **look) for _, look in entries]
            # The names are set afterwards: one that begins with _ was hidden up to matplotlib 3.9.
            dots = ["."] * len(entries)
            key = figure.legend(handles, dots, loc="outside lower left", ncols=beside, borderpad=0)
            shown = _shortened((name for name, _ in entries), width - 0.55)
            for text, name in zip(key.get_texts(), shown, strict=True):
                text.set_parse_math(False)  # a name may contain dollars
                text.set_text(name)
        return figure


@contextmanager
def blank(width: float, height: float) -> Iterator[Figure]:
    """An empty figure of a size in inches; our style, with the user's fonts, is set in the block.

    Raises:
        ImportError: Without matplotlib (extra `plot`).
    """
    try:
        import matplotlib as mpl  # noqa: PLC0415  # an extra
        from matplotlib import style  # noqa: PLC0415
        from matplotlib.figure import Figure  # noqa: PLC0415
        from matplotlib.patches import Rectangle  # noqa: PLC0415
    except ImportError:
        raise ImportError(
            "lossweights.analysis.plot needs matplotlib: pip install 'lossweights[plot]'"
        ) from None
    # One by one: to read them all would choose a backend.
    fonts: Any = {key: mpl.rcParams[key] for key in mpl.rcParams if key.startswith("font.")}
    with style.context(["default", fonts | _STYLE]):
        figure = Figure(figsize=(width, height), layout="constrained")
        # `savefig` takes the background from the user's style, which may be as dark as the text.
        ground = Rectangle((-1, -1), 3, 3, transform=figure.transFigure, color="w", zorder=-1)
        ground.set_in_layout(False)
        figure.add_artist(ground)
        yield figure


def _shortened(names: Iterable[str], inches: float) -> list[str]:
    """Names in one line each, shortened to a width in inches; different ones stay different."""
    names = ["".join(letter if letter.isprintable() else " " for letter in name) for name in names]
    most = max(int(inches / _LETTER), 8)
    cut = [_without_middle(name, most) for name in names]
    short = list(cut)
    for index, name in enumerate(names):
        alike = [each for each, other in zip(names, cut, strict=True) if other == cut[index]]
        if len(set(alike)) > 1:  # show where they begin to differ
            first = len(os.path.commonprefix(alike))  # noqa: RUF071  # letters, no paths
            begin = max(min(first - most // 2, len(name) - most + 1), 1)
            short[index] = f"…{name[begin : begin + most - 2]}…"
    if len(set(short)) < len(set(names)):
        short = [f"{n} {_without_middle(name, most - 3)}" for n, name in enumerate(names, 1)]
    return short


def _without_middle(name: str, most: int) -> str:
    if len(name) <= most:
        return name
    end = (most - 1) // 2
    return f"{name[: most - 1 - end]}…{name[-end:]}"


def _draw(lines: Sequence[Line], quantity: str, label: str, panel: Axes) -> None:
    """Lines with gaps at missing values, where a value between gaps is a point.

    The scale is logarithmic if a linear one hides values; a linear scale of weights includes 0.
    """
    panel.set_ylabel(label)
    for steps, column, look in lines:
        values = np.where(np.isfinite(column), column, np.nan)
        panel.plot(steps, values, **look)
        gaps = np.concatenate([[True], np.isnan(values), [True]])
        alone = gaps[:-2] & gaps[2:]
        panel.plot(steps[alone], values[alone], color=look["color"], linestyle="", marker=".")
    columns = [column for _, column, _ in lines]
    numbers, from_zero = _numbers(columns), quantity == "weight"
    if not len(numbers):
        return
    if numbers.min() > 0 and not (from_zero and _are_similar(columns)):
        if numbers.max() >= _DECADES * numbers.min():
            panel.set_yscale("log")
    elif from_zero:
        panel.set_ylim(min(0.0, numbers.min() * 1.05), 0.0 if numbers.max() < 0 else None)


def _pairs(history: History, kind: str, names: Sequence[str]) -> Values:
    """The mean over the rows of a metric of each pair of terms, shape (n, n); nan without any."""
    found, known = np.full((len(names), len(names)), np.nan), {*history}
    for row, name in enumerate(names):
        for column, other in enumerate(names):
            metric = "/".join(["gradient", kind, *sorted((name, other))])
            if name != other and metric in known:
                found[row, column] = np.nanmean(history[metric])
    return found


def _cells(names: Sequence[str], cosines: Values, conflicts: Values, panel: Axes) -> None:
    """A matrix of cosines in color, with numbers if there is room."""
    panel.imshow(cosines, cmap="RdBu", vmin=-1, vmax=1, aspect="equal")
    panel.grid(visible=False)
    panel.spines[:].set_visible(False)
    places, shown = range(len(names)), _shortened(names, 0.8)
    panel.set_yticks(places, shown, parse_math=False)
    panel.set_xticks(
        places, shown, parse_math=False, rotation=45, ha="right", rotation_mode="anchor"
    )
    panel.tick_params(length=0)
    for row in places if len(names) <= _MOST_CELLS else ():
        for column in places:
            if not np.isnan(cosine := cosines[row, column]):
                text = f"{cosine:.2f}\n{conflicts[row, column]:.0%}"
                color = "w" if abs(cosine) > 0.6 else INK  # on the dark ends of the scale
                panel.text(column, row, text, ha="center", va="center", color=color, fontsize=6.5)


def _share(group: str | None) -> str:
    return "share" if group is None else "share in the group"


def _stack(
    steps: Steps, columns: Columns, look_of: Mapping[str, Look], label: str, panel: Axes
) -> None:
    """Stacked shares, each row from the one before to its own step, with gaps at missing values.

    If there are more rows than areas, neighbors are averaged. Terms without a look are combined.
    """
    from matplotlib.ticker import PercentFormatter  # noqa: PLC0415  # an extra

    colors = [*(look["color"] for look in look_of.values()), REST]
    shares = [np.nan_to_num(columns[name]) for name in look_of]  # 0 for a missing term
    others = [np.nan_to_num(columns[name]) for name in columns if name not in look_of]
    shares += [np.sum(others, axis=0)] if others else []
    firsts = np.arange(0, len(steps), math.ceil(len(steps) / _AREAS))
    sums = np.add.reduceat(np.array(shares), firsts, axis=1)
    totals = sums.sum(axis=0)
    heights = sums / np.where(totals > 0, totals, np.nan)
    lasts = np.append(firsts[1:], len(steps)) - 1
    length = np.median(np.diff(steps)) if len(steps) > 1 else 1  # of the first row, as of most
    # A row is over when its last step is done.
    edges = np.append(max(0, steps[0] + 1 - length), steps[lasts] + 1)
    for top, height, color in zip(np.cumsum(heights, axis=0), heights, colors, strict=False):
        area: Look = {"facecolor": color, "edgecolor": "w", "linewidth": 0.5}  # for equal grays
        panel.stairs(top, edges, baseline=top - height, fill=True, **area)
    panel.set_ylim(0, 1)
    panel.yaxis.set_major_formatter(PercentFormatter(1))
    panel.set_axisbelow(False)
    panel.set_ylabel(label)
