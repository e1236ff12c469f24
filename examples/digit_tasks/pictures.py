"""How the ways to weigh compare, and which tasks they let drive the loss."""

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from digit_tasks.run import EVERY, Result
from digit_tasks.tasks import TASKS
from harness.pictures import COLORS, COLUMN, STYLE, means
from harness.tables import Rows

SHOWN = ("equal", "relative", "uncertainty", "dwa", "stch", "famo", "gradnorm", "imtl-g")
_WINDOW = 5  # looks at the shares that one point of a picture is the mean of


def save_delta_m(rows: Rows, path: Path) -> Path:
    """Draw Delta-m of each config, the best on top: means and standard deviations over seeds."""
    values = {name: [figures["delta_m"] for figures in seeds] for name, seeds in rows.items()}
    names = sorted(values, key=lambda name: fmean(values[name]), reverse=True)
    with mpl.rc_context({**STYLE, "axes.grid": True, "axes.grid.axis": "y"}):
        figure = Figure(figsize=(COLUMN, 0.15 * len(names) + 0.7))
        axes = figure.subplots()
        axes.errorbar(
            [fmean(values[name]) for name in names],
            names,
            xerr=[stdev(values[name]) if len(values[name]) > 1 else 0 for name in names],
            fmt="o",
            markersize=3.5,
            linewidth=1,
            color=COLORS[2],
        )
        axes.axvline(0, color="black", linewidth=0.8)
        if "equal" in values:
            line: Any = {"color": COLORS[5], "linestyle": "--", "linewidth": 0.8}
            axes.axvline(fmean(values["equal"]), label="equal weights", **line)
            axes.legend(loc="center right")
        axes.set_ylim(-0.7, len(names) - 0.3)
        axes.set_xlabel("Δm, percent worse than single tasks")
        figure.savefig(path)
    return path


def save_shares(results: Sequence[Result], path: Path) -> Path:
    """Draw which part of the weighted loss each task has: means over seeds, a panel a config."""
    configs = dict.fromkeys(result.run.config for result in results)
    shown = [config for config in SHOWN if config in configs]
    with mpl.rc_context(STYLE):
        height = ceil(len(shown) / 2)
        figure = Figure(figsize=(COLUMN, 1.15 * height + 0.6))
        panels = figure.subplots(height, 2, sharex=True, sharey=True, squeeze=False).flatten()
        for panel, config in zip(panels, shown, strict=False):
            of_config = [result.shares for result in results if result.run.config == config]
            over_seeds = {
                task: np.mean([shares[task] for shares in of_config], axis=0) for task in TASKS
            }
            looks, _ = means(over_seeds["digit"], _WINDOW)
            areas = [100 * means(over_seeds[task], _WINDOW)[1] for task in TASKS]
            panel.stackplot(EVERY * looks, areas, labels=list(TASKS), colors=COLORS[1:6])
            panel.set_title(config)
            panel.margins(0)
        for panel in panels[len(shown) :]:
            panel.set_visible(False)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
        figure.supxlabel("optimizer step", fontsize=8)
        figure.supylabel("percent of the weighted loss", fontsize=8)
        figure.savefig(path)
    return path
