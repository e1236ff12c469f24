"""The paths that points take, in the plane and in that of the objectives."""

from collections.abc import Callable, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.pictures import STYLE
from two_objectives.problem import EXTENT, STARTS, Front, values
from two_objectives.run import Result

COLUMNS = 4
PANEL = 1.8  # inches
# Okabe and Ito's palette, which color-blind readers can tell apart: one for each start.
COLORS = dict(zip(STARTS, ("#0072B2", "#009E73", "#CC79A7", "#D55E00", "#000000"), strict=True))
FRONT: Any = {"color": "#BBBBBB", "linewidth": 5, "solid_capstyle": "round", "zorder": 1}


def save_plane(results: Sequence[Result], front: Front, path: Path) -> Path:
    """Draw the paths in the plane, over the contours of the mean of both objectives."""
    axis = torch.linspace(-EXTENT, EXTENT, 241)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)
    heights = values(grid).mean(dim=-1).numpy()

    def draw(axes: Axes, result: Result) -> None:
        _draw_path(axes, result.points().numpy(), COLORS[result.run.start])

    def prepare(axes: Axes) -> None:
        axes.contour(
            axis,
            axis,
            heights,
            levels=14,
            colors="#CCCCCC",
            linestyles="solid",
            linewidths=0.5,
            zorder=0,
        )
        axes.plot(*front.points.T.numpy(), **FRONT)
        axes.set_aspect("equal")

    return _save(results, path, prepare, draw, ("x", "y"))


def save_objectives(results: Sequence[Result], front: Front, path: Path) -> Path:
    """Draw the values of both objectives along the paths, and the Pareto front."""

    def draw(axes: Axes, result: Result) -> None:
        _draw_path(axes, result.values().numpy(), COLORS[result.run.start])

    def prepare(axes: Axes) -> None:
        axes.plot(*front.values.T.numpy(), **FRONT)
        axes.set_xlim(-21, 16)
        axes.set_ylim(-21, 16)
        axes.set_aspect("equal")

    return _save(results, path, prepare, draw, ("f1", "f2"))


def _save(
    results: Sequence[Result],
    path: Path,
    prepare: Callable[[Axes], None],
    draw: Callable[[Axes, Result], None],
    labels: tuple[str, str],
) -> Path:
    """A small panel for each method."""
    methods = list(dict.fromkeys(result.run.method for result in results))
    height = ceil(len(methods) / COLUMNS)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(COLUMNS * PANEL, height * (PANEL + 0.15) + 0.4))
        panels = figure.subplots(height, COLUMNS, sharex=True, sharey=True, squeeze=False)
        for panel, method in zip(panels.flatten(), methods, strict=False):
            panel.set_title(method)
            prepare(panel)
            for result in results:
                if result.run.method == method:
                    draw(panel, result)
        for panel in panels.flatten()[len(methods) :]:
            panel.set_visible(False)
        starts = [
            Line2D([], [], color=color, marker="o", markersize=3, label=f"from {x:g}, {y:g}")
            for (x, y), color in COLORS.items()
        ]
        figure.legend(handles=starts, loc="outside upper center", ncols=len(starts))
        figure.supxlabel(labels[0], fontsize=8)
        figure.supylabel(labels[1], fontsize=8)
        figure.savefig(path)
    return path


def _draw_path(axes: Axes, points: Any, color: str) -> None:
    axes.plot(*points.T, color=color, linewidth=0.9, zorder=2)
    axes.plot(*points[0], "o", color=color, markersize=3, zorder=3)
    axes.plot(
        *points[-1],
        "*",
        color=color,
        markersize=7,
        markeredgecolor="white",
        markeredgewidth=0.4,
        zorder=4,
    )
