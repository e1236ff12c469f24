"""Pictures of errors, weights and solutions."""

from collections.abc import Sequence
from math import ceil
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import LogFormatter
from numpy.typing import NDArray

from harness.pictures import COLORS, COLUMN, STYLE, lines
from klein_gordon.network import TERMS
from klein_gordon.problem import SIDE, exact, grid
from klein_gordon.run import Result, by_config

GRID = {"axes.grid": True}


def save_errors(results: Sequence[Result], path: Path) -> Path:
    """Draw the error over training: a line for each config, the mean over its seeds."""
    groups = by_config(results)
    line_of = lines(groups)
    with mpl.rc_context(STYLE | GRID):
        figure = Figure(figsize=(COLUMN, 3.6))
        axes = figure.subplots()
        for config, group in groups.items():
            line = line_of[config]
            errors = np.array([list(result.errors.values()) for result in group])
            steps = list(group[0].errors)
            axes.plot(
                steps, errors.mean(axis=0), label=config, color=line["color"], ls=line["linestyle"]
            )
            axes.fill_between(
                steps, errors.min(axis=0), errors.max(axis=0), color=line["color"], alpha=0.1, lw=0
            )
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.4)))
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("relative L2 error")
        figure.legend(loc="outside upper center", ncols=2)
        figure.savefig(path)
    return path


def save_weights(results: Sequence[Result], path: Path) -> Path:
    """Draw the share of each term in the sum of all weights: a panel per config, one seed.

    Negative weights, which `conflict-free` can give, are drawn by their absolute value.
    """
    groups = by_config(results)
    with mpl.rc_context(STYLE | GRID):
        figure, panels = _panels(len(groups), across=3, width=1.9, height=1.3)
        for panel, (config, group) in zip(panels, groups.items(), strict=True):
            panel.set_title(config)
            panel.set_yscale("log")
            panel.set_ylim(1e-8, 2)
            run, found = group[0].run, group[0].weights
            weights = np.abs([found[term] for term in TERMS])
            shares = weights / weights.sum(axis=0)
            steps = np.arange(0, run.steps, run.interval)
            for term, share, color in zip(TERMS, shares, COLORS[::2], strict=True):
                panel.plot(steps, share, color=color, label=term)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
        figure.supxlabel("optimizer step", fontsize=8)
        figure.supylabel("share of the weights", fontsize=8)
        figure.savefig(path)
    return path


def save_solutions(results: Sequence[Result], path: Path) -> Path:
    """Draw the exact solution, and the error of each config's first seed."""
    groups = by_config(results)
    solution = exact(grid()).reshape(SIDE, SIDE).numpy()
    with mpl.rc_context(STYLE):
        figure, panels = _panels(1 + len(groups), across=5, width=1.3, height=1.35)
        panels[0].set_title("exact solution")
        image = _draw_map(panels[0], solution)
        for panel, (config, group) in zip(panels[1:], groups.items(), strict=True):
            panel.set_title(config)
            found = np.reshape(group[0].solution, (SIDE, SIDE))
            _draw_map(panel, found - solution)
        figure.colorbar(image, ax=list(panels), shrink=0.6, aspect=30, pad=0.01, extend="both")
        figure.supxlabel("t", fontsize=8)
        figure.supylabel("x", fontsize=8)
        figure.savefig(path)
    return path


def _panels(
    count: int, across: int, width: float, height: float
) -> tuple[Figure, NDArray[np.object_]]:
    """A figure of `count` small panels, `across` per row; sizes in inches."""
    across = min(across, count)
    down = ceil(count / across)
    figure = Figure(figsize=(width * across + 0.6, height * down + 0.5))
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flatten()
    for panel in panels[count:]:
        panel.set_visible(False)
    for panel in panels[max(count - across, 0) : count]:
        panel.tick_params(labelbottom=True)
    return figure, panels[:count]


def _draw_map(axes: Axes, values: NDArray[np.float32]) -> AxesImage:
    """Draw values on the grid, with colors from -1 to 1."""
    return axes.imshow(
        values.T, origin="lower", extent=(0, 1, 0, 1), cmap="PuOr", vmin=-1, vmax=1, aspect="auto"
    )
