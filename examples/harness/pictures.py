"""The style of the pictures."""

from collections.abc import Iterable
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Okabe and Ito's palette for color-blind readers, without its yellow, which is too light on white.
BLACK, ORANGE, BLUE, SKY, GREEN, VERMILION, PINK = COLORS = (
    "#000000",
    "#E69F00",
    "#0072B2",
    "#56B4E9",
    "#009E73",
    "#D55E00",
    "#CC79A7",
)
LINES = [{"color": color, "linestyle": style} for style in ("-", "--", ":") for color in COLORS]
# The line of a config, by its name, in the pictures of all examples. A color is a way to weigh, a
# dash is a variant of it.
TABLE = {
    # Fixed weights.
    "constant": (BLACK, "-"),
    "equal": (BLACK, "-"),
    "by-hand": (BLACK, "--"),
    "beta-1": (BLACK, "-"),
    "beta-4": (BLACK, "--"),
    "beta-16": (BLACK, ":"),
    # Schedules.
    "monotonic": (ORANGE, "-"),
    "ramp": (ORANGE, "-"),
    "warm-up": (ORANGE, "-"),
    "long-ramp": (SKY, "-"),
    "cyclical": (BLUE, "-"),
    "cyclical-linear": (BLUE, "-"),
    "cyclical-cosine": (BLUE, "--"),
    "cyclical-sigmoid": (BLUE, ":"),
    "cyclical-low": (BLUE, "-."),
    # Controllers.
    "pid": (GREEN, "-"),
    "pid-5": (GREEN, ":"),
    "pid-10": (GREEN, "-"),
    "pid-20": (GREEN, "--"),
    "pid-growing": (GREEN, "--"),
    "lagrangian": (PINK, "-"),
    # Transforms.
    "free-bits": (VERMILION, "-"),
    "capacity": (VERMILION, "--"),
    # Balancers, by values and by gradients.
    "relobralo": (BLUE, "-"),
    "softadapt": (SKY, "-"),
    "uw-so": (BLUE, "--"),
    "lr-annealing": (VERMILION, "-"),
    "lr-annealing-plain": (VERMILION, "--"),
    "lr-annealing-mean": (VERMILION, ":"),
    "ntk": (GREEN, "-"),
    "norm-balance": (GREEN, "--"),
    "conflict-free": (PINK, "-"),
    # Starts of an adversary.
    "none": (BLACK, "-"),
    "from-start": (ORANGE, "-"),
    "late": (BLUE, "-"),
    "late-ramp": (SKY, "-"),
    "head-start": (GREEN, "-"),
}
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
COLUMN = 3.6  # inches: the width of a picture in one column


def lines(configs: Iterable[str]) -> dict[str, dict[str, str]]:
    """The line of each config: that of its name, or one that no other has if the name is new."""
    named = {config: _line(config) for config in configs}
    free = cycle([line for line in LINES if line not in named.values()] or LINES)
    return {config: line or next(free) for config, line in named.items()}


def _line(config: str) -> dict[str, str]:
    if config not in TABLE:
        return {}
    color, style = TABLE[config]
    return {"color": color, "linestyle": style}


def means(values: NDArray[np.float64], window: int) -> tuple[NDArray[np.float64], ...]:
    """The middles of consecutive windows, and the means of the values over them."""
    firsts = np.arange(0, len(values), window)
    counts = np.diff(firsts, append=len(values))
    return firsts + counts / 2, np.add.reduceat(values, firsts) / counts
