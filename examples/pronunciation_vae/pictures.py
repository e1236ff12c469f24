"""Pictures of the weights and of the training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from harness.pictures import COLUMN, STYLE, lines, means
from pronunciation_vae.report import WINDOW, Result, by_config

PANELS = {"weight/kl": "weight of KL", "raw/kl": "KL (nats)", "raw/reconstruction": "NLL (nats)"}
TARGET: Any = {"color": "#555555", "linewidth": 0.6, "zorder": 1}


def save_curves(results: Sequence[Result], path: Path) -> Path:
    """Draw weight, KL and NLL over training: a line for each config, the mean over its seeds."""
    groups = by_config(results)
    line_of = lines(groups)
    with mpl.rc_context({**STYLE, "axes.grid": True}):
        figure = Figure(figsize=(COLUMN, 5.6))
        axes = figure.subplots(len(PANELS), sharex=True, height_ratios=[1, 2, 2])
        for panel, (metric, label) in zip(axes, PANELS.items(), strict=True):
            panel.set_ylabel(label)
            for config, group in groups.items():
                over_seeds = np.mean([result.history[metric] for result in group], axis=0)
                panel.plot(*means(over_seeds, WINDOW), label=config, **line_of[config])
        for target in sorted({result.target for result in results if result.target}):
            axes[1].axhline(target, label=f"target: {target:g} nats", **TARGET)
        axes[1].set_yscale("log")  # vanished and surviving KLs differ by decades
        # The NLL of the first steps would flatten the rest.
        axes[2].set_ylim(top=max(r.history["raw/reconstruction"][-1] for r in results) + 4.0)
        axes[2].set_xlabel(f"optimizer step (training batches, means of {WINDOW})")
        figure.legend(*axes[1].get_legend_handles_labels(), loc="outside upper center", ncols=2)
        figure.savefig(path)
    return path


def save_weights(results: Sequence[Result], path: Path) -> Path:
    """Draw the weight of the KL term over training: a small panel for each config."""
    groups = by_config(results)
    line_of = lines(groups)
    height = (len(groups) + 1) // 2
    with mpl.rc_context({**STYLE, "axes.grid": True}):
        figure = Figure(figsize=(COLUMN, 1.1 * height + 0.3))
        panels = figure.subplots(height, 2, sharex=True, sharey=True, squeeze=False).flatten()
        for panel, (config, group) in zip(panels, groups.items(), strict=False):
            panel.plot(group[0].history["weight/kl"], **line_of[config])
            panel.set_title(config)
        for panel in panels[len(groups) - 2 : len(groups)]:
            panel.tick_params(labelbottom=True)
        for panel in panels[len(groups) :]:
            panel.set_visible(False)
        figure.supxlabel("optimizer step", fontsize=8)
        figure.supylabel("weight of the KL term", fontsize=8)
        figure.savefig(path)
    return path
