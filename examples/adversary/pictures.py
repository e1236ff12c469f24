"""Pictures of the reconstructions, and of the training."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from adversary.run import SHOWN, Result, by_config
from harness.pictures import COLUMN, STYLE, lines

PANELS = {
    "weight": "weight of the\nadversarial term",
    "hinge": "hinge loss of\nthe discriminator",
    "sharpness": "sharpness",
    "error": "MSE x 1000",
}


def save_curves(results: Sequence[Result], path: Path) -> Path:
    """Draw weight, losses and sharpness over training: each line the mean over the seeds."""
    groups = by_config(results)
    line_of = lines(groups)
    with mpl.rc_context({**STYLE, "axes.grid": True}):
        figure = Figure(figsize=(COLUMN, 6.0))
        axes = figure.subplots(len(PANELS), sharex=True)
        for panel, (key, label) in zip(axes, PANELS.items(), strict=True):
            panel.set_ylabel(label)
            for config, group in groups.items():
                steps = _curve(group[:1], "step")
                panel.plot(steps, _curve(group, key), label=config, **line_of[config])
        # The first steps would flatten the rest.
        axes[-2].set_ylim(bottom=np.quantile(_all(results, "sharpness"), 0.1))
        errors = _all(results, "error")
        axes[-1].set_ylim(min(errors) - 1, np.quantile(errors, 0.9))
        axes[-1].set_xlabel("optimizer step of the autoencoder")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
        figure.savefig(path)
    return path


def _all(results: Sequence[Result], key: str) -> list[float]:
    return [point[key] for result in results for point in result.history]


def _curve(group: Sequence[Result], key: str) -> NDArray[np.float64]:
    values = np.array([[point[key] for point in result.history] for result in group])
    means: NDArray[np.float64] = values.mean(axis=0)
    return means


def save_images(results: Sequence[Result], held_out: Tensor, path: Path) -> Path:
    """Draw held-out images, and below them their reconstructions by the first seed."""
    rows = {"images": held_out[:SHOWN].tolist()}
    rows |= {config: group[0].reconstructions for config, group in by_config(results).items()}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(COLUMN, 0.43 * len(rows)))
        for axes, (name, images) in zip(figure.subplots(len(rows)), rows.items(), strict=True):
            gaps = np.pad(np.array(images), ((0, 0), (0, 0), (0, 1)))  # white between images
            axes.imshow(np.hstack(list(gaps)), cmap="gray_r", vmin=0, vmax=1)
            axes.set_ylabel(name, rotation=0, ha="right", va="center")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        figure.savefig(path)
    return path
