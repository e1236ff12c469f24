"""How the pictures look."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Okabe and Ito's palette, which colour-blind readers can tell apart, without its yellow.
COLOURS = ("#000000", "#E69F00", "#0072B2", "#56B4E9", "#009E73", "#D55E00", "#CC79A7")
LINES = [{"color": colour, "linestyle": style} for style in ("-", "--", ":") for colour in COLOURS]
STYLE: Any = {  # newer stubs of matplotlib want their own type of key
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
COLUMN = 3.6  # inches: the width of a picture, which a column of text can hold


def lines(configs: Iterable[str], known: Sequence[str]) -> dict[str, dict[str, str]]:
    """The line of each config, the same whichever are drawn.

    Args:
        configs: Those that are drawn.
        known: All configs of the example; others have the lines after theirs.
    """
    order = list(dict.fromkeys([*known, *configs]))
    return {config: LINES[order.index(config) % len(LINES)] for config in configs}


def means(values: NDArray[np.float64], window: int) -> tuple[NDArray[np.float64], ...]:
    """Steps in the middle of consecutive windows, and the means of the values over these."""
    firsts = np.arange(0, len(values), window)
    counts = np.diff(firsts, append=len(values))
    return firsts + counts / 2, np.add.reduceat(values, firsts) / counts
