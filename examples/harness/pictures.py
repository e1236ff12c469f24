"""The style of the pictures."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Okabe and Ito's palette for color-blind readers, without its yellow.
COLORS = ("#000000", "#E69F00", "#0072B2", "#56B4E9", "#009E73", "#D55E00", "#CC79A7")
LINES = [{"color": color, "linestyle": style} for style in ("-", "--", ":") for color in COLORS]
STYLE: Any = {  # newer stubs of matplotlib need their own key type
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
    "grid.color": "#E5E5E5",
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "savefig.dpi": 200,
}
COLUMN = 3.6  # inches: the width of a picture in one column


def lines(configs: Iterable[str], known: Sequence[str]) -> dict[str, dict[str, str]]:
    """The line style of each config, the same for any selection.

    Args:
        configs: The configs that are drawn.
        known: All configs of the example; other configs get the styles after theirs.
    """
    order = list(dict.fromkeys([*known, *configs]))
    return {config: LINES[order.index(config) % len(LINES)] for config in configs}


def means(values: NDArray[np.float64], window: int) -> tuple[NDArray[np.float64], ...]:
    """The middles of consecutive windows, and the means of the values over them."""
    firsts = np.arange(0, len(values), window)
    counts = np.diff(firsts, append=len(values))
    return firsts + counts / 2, np.add.reduceat(values, firsts) / counts
