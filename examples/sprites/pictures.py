"""Pictures of the traversals of the codes, and of the training."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.pictures import COLUMN, STYLE, lines, means
from sprites.data import FACTORS, SIZE
from sprites.run import EVERY, PLACES, SPREAD, Result, by_config

SHOWN = ("beta-1", "beta-4", "capacity", "pid")  # if none of these was run, the first four
CURVES = {
    "weight/kl": "weight of KL",
    "raw/kl": "KL (nats)",
    "raw/reconstruction": "reconstruction\nerror (nats)",
}
POINTS = 40  # points per curve, each a mean


def save_traversals(results: Sequence[Result], path: Path) -> Path:
    """Draw the traversals of the first seed: a panel per config, a row per dimension."""
    firsts = [group[0] for group in by_config(results).values()]
    shown = [result for result in firsts if result.run.config in SHOWN] or firsts[: len(SHOWN)]
    height = (len(shown) + 1) // 2
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2 * COLUMN, 3.1 * height + 0.2))
        panels = figure.subplots(height, 2, squeeze=False).flatten()
        for panel, result in zip(panels, shown, strict=False):
            draw_traversals(panel, result)
        for panel in panels[len(shown) :]:
            panel.set_visible(False)
        figure.supxlabel(
            f"one dimension of the code, from {-SPREAD:g} to {SPREAD:g}, its KL, and the factor "
            "that it has most information on, as a fraction",
            fontsize=8,
        )
        figure.savefig(path)
    return path


def draw_traversals(panel: Axes, result: Result) -> None:
    """Draw rows of pictures, from the largest KL to the smallest."""
    rows = result.traversals.swapaxes(1, 2).reshape(-1, PLACES * SIZE)
    panel.imshow(rows, cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
    panel.set_title(f"{result.run.config}: MIG {result.figures['mig']:.2f}")
    panel.set_xticks([])
    names = list(FACTORS)
    labels = [
        f"{kl:.1f} nats\n{names[np.argmax(information)]} {max(information):.2f}"
        for kl, information in zip(result.code.kl, result.code.information, strict=True)
    ]
    panel.set_yticks(SIZE * np.arange(len(labels)) + SIZE / 2, labels)
    panel.tick_params(length=0)
    for edge in SIZE * np.arange(1, len(labels)):
        panel.axhline(edge - 0.5, color="#CCCCCC", linewidth=0.5)
    for spine in panel.spines.values():
        spine.set_visible(False)


def save_curves(results: Sequence[Result], path: Path) -> Path:
    """Draw weight, KL and error over training: a line for a config, the mean over its seeds."""
    groups = by_config(results)
    line_of = lines(groups)
    with mpl.rc_context({**STYLE, "axes.grid": True}):
        figure = Figure(figsize=(COLUMN, 5.8))
        axes = figure.subplots(len(CURVES), sharex=True)
        for panel, (metric, label) in zip(axes, CURVES.items(), strict=True):
            panel.set_ylabel(label)
            for config, group in groups.items():
                over_seeds = np.mean([result.history[metric] for result in group], axis=0)
                middles, values = means(over_seeds, max(1, len(over_seeds) // POINTS))
                panel.plot(EVERY * middles, values, label=config, **line_of[config])
        axes[0].set_ylim(0, 18)  # the weight of a capacity is far above, and not a price
        axes[1].set_ylim(bottom=0)
        # All curves begin with the same steep fall, which would flatten the rest.
        lasts = [result.history["raw/reconstruction"][-1] for result in results]
        axes[2].set_ylim(0, 2 * max(lasts))
        axes[2].set_xlabel("optimizer step (training batches)")
        figure.legend(*axes[1].get_legend_handles_labels(), loc="outside upper center", ncols=3)
        figure.savefig(path)
    return path
