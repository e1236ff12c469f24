"""The picture of a sweep: its front, or its best value, in the looks of `analysis.plot`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from lossweights.analysis.plot import INK, REST, blank, looks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lossweights.search.front import Front, Outcome

_PANEL = 3.1  # inches: the height of a panel
_BLUE, _ORANGE = looks(0)["color"], looks(1)["color"]
_APART = 0.05  # of a panel: closer numbers would overlap


def draw(front: Front, width: float) -> Figure:
    """The picture of `Front.plot`.

    Raises:
        ImportError: Without matplotlib (extra `plot`).
        ValueError: If no config is done.
    """
    if not front.done:
        raise ValueError("no config is done yet: there is nothing to draw")
    pairs = [*combinations(front.objectives, 2)]
    panels = max(len(pairs), 1) + (len(pairs) > 0)  # the last one is the hypervolume
    columns = min(panels, 2)
    rows = -(-panels // columns)
    with blank(width, rows * _PANEL + 0.3) as figure:
        ratios = [2, 1] if len(pairs) == 1 else None
        axes = [*figure.subplots(rows, columns, squeeze=False, width_ratios=ratios).flat]
        for unused in axes[panels:]:
            unused.remove()
        if pairs:
            for panel, (x, y) in zip(axes, pairs, strict=False):
                _draw_pair(panel, front, x, y)
            _draw_volume(axes[panels - 1], front)
        else:
            _draw_values(axes[0], front)
        handles, labels = axes[0].get_legend_handles_labels()
        order = {label: handle for handle, label in zip(handles, labels, strict=True)}
        figure.legend([*order.values()], [*order], loc="outside lower left", ncols=4, borderpad=0)
        return figure


def _draw_pair(panel: Axes, front: Front, x: str, y: str) -> None:
    """All configs in the plane of two objectives, with their standard deviations."""
    panel.grid(visible=True, axis="both")
    for name, set_label in ((x, panel.set_xlabel), (y, panel.set_ylabel)):
        better = "larger" if name in front.maximize else "smaller"
        set_label(f"{name} ({better} is better)", parse_math=False)
    others = [each for each in front.done if each not in front.points]
    for outcomes, color, label in ((others, REST, "dominated"), (front.points, _BLUE, "front")):
        if outcomes:
            means, stds = _columns(outcomes, (x, y))
            panel.errorbar(
                *(means[0], means[1], stds[1], stds[0]),
                linestyle="",
                marker="o",
                markersize=4,
                color=color,
                ecolor=(color, 0.4),
                elinewidth=1,
                label=label,
                zorder=2.5 if color == _BLUE else 2.2,
            )
    if len(front.objectives) == 2:
        _draw_edge(panel, front, x, y)
    _mark(panel, front, x, y)
    _number(panel, [*_marked(front).values(), *front.points], x, y)
    panel.margins(0.08)


def _number(panel: Axes, outcomes: Sequence[Outcome], x: str, y: str) -> None:
    """The numbers of configs, the first ones first, without those that would hide another."""
    (left, right), (low, high) = panel.get_xlim(), panel.get_ylim()
    placed: list[tuple[float, float]] = []
    for each in outcomes:
        spot = each.mean(x), each.mean(y)
        inside = (spot[0] - left) / (right - left), (spot[1] - low) / (high - low)
        if all(max(abs(inside[0] - a), abs(inside[1] - b)) > _APART for a, b in placed):
            placed.append(inside)
            panel.annotate(
                str(each.number), spot, xytext=(4, 4), textcoords="offset points", fontsize=7
            )


def _draw_edge(panel: Axes, front: Front, x: str, y: str) -> None:
    """The edge of what the means dominate, as steps."""
    means, _ = _columns(front.done, (x, y))
    signs = [-1 if name in front.maximize else 1 for name in (x, y)]
    order = np.lexsort((signs[1] * means[1], signs[0] * means[0]))
    best = np.minimum.accumulate(signs[1] * means[1][order])
    is_new = np.append(True, best[1:] < best[:-1])
    edge_x, edge_y = means[0][order][is_new], signs[1] * best[is_new]
    panel.step(edge_x, edge_y, where="post", color=_BLUE, linewidth=0.9, alpha=0.6, zorder=2.1)


def _marked(front: Front) -> dict[str, Outcome]:
    """The configs with a mark of their own, by its name."""
    knee, first = front.knee(), front.done[0]
    found = {} if knee is None else {"knee": knee}
    return found | ({"unchanged": first} if first.number == 0 else {})


def _mark(panel: Axes, front: Front, x: str, y: str) -> None:
    for name, each in _marked(front).items():
        is_knee = name == "knee"
        panel.plot(
            [each.mean(x)],
            [each.mean(y)],
            linestyle="",
            marker="D" if is_knee else "s",
            markersize=11 if is_knee else 8,
            fillstyle="none",
            color=_ORANGE if is_knee else INK,
            label=name,
            zorder=2.8,
        )


def _draw_volume(panel: Axes, front: Front) -> None:
    numbers = [each.number for each in front.done]
    panel.step(numbers, front.hypervolume(), where="post", color=INK)
    panel.set_xlabel("config")
    panel.set_ylabel("hypervolume")
    panel.set_ylim(bottom=0)
    panel.locator_params(axis="x", integer=True)


def _draw_values(panel: Axes, front: Front) -> None:
    """The mean of one objective by number, and the best so far."""
    (name,) = front.objectives
    better = "larger" if name in front.maximize else "smaller"
    panel.set_xlabel("config")
    panel.set_ylabel(f"{name} ({better} is better)", parse_math=False)
    numbers = [each.number for each in front.done]
    means, stds = _columns(front.done, (name,))
    best = np.maximum if name in front.maximize else np.minimum
    panel.errorbar(
        *(numbers, means[0], stds[0]),
        linestyle="",
        marker="o",
        markersize=4,
        color=REST,
        label="config",
    )
    steps = {"where": "post", "color": _BLUE, "label": "best so far"}
    panel.step(numbers, best.accumulate(means[0]), **steps)
    for each, color, label, marker in (
        (front.best, _ORANGE, f"best: {front.best.number}", "D"),
        *((one, INK, "unchanged", "s") for one in front.done if one.number == 0),
    ):
        ring = {"markersize": 9, "linestyle": "", "fillstyle": "none", "zorder": 2.8}
        spot = ([each.number], [each.mean(name)])
        panel.plot(*spot, marker=marker, color=color, label=label, **ring)  # type: ignore[arg-type]
    panel.locator_params(axis="x", integer=True)
    panel.margins(x=0.03)


def _columns(
    outcomes: Sequence[Outcome], names: Sequence[str]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Means and standard deviations of measures by config; no deviation is 0."""
    means = [np.array([each.mean(name) for each in outcomes]) for name in names]
    stds = [np.nan_to_num([each.std(name) for each in outcomes]) for name in names]
    return means, stds
