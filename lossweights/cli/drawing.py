"""Curves drawn in a terminal."""

from collections.abc import Mapping, Sequence
from textwrap import fill, indent
from typing import NamedTuple

import numpy as np
import plotext
from rich.console import Console
from rich.text import Text

from lossweights.components.schedules import Steps, Values
from lossweights.config.loss_config import LossConfig
from lossweights.config.timeline import Curves

_MARKS = "ox+*#@%&"
_COLORS = (6, 5, 3, 2, 4, 1, 14, 13)  # of a terminal: cyan, magenta, yellow, ...
_ASCII = str.maketrans("│┤└┬─", "||+--")
_WIDEST, _NARROWEST, _HEIGHT = 120, 20, 10


class Curve(NamedTuple):
    """The weights of a term at increasing steps, both of shape (n,), and how to draw them."""

    steps: Steps
    weights: Values
    mark: str
    color: int


def draw(found: Mapping[str, tuple[LossConfig, Curves]], console: Console) -> None:
    """Prints the curves of configs, by name."""
    is_unicode, is_alone = console.encoding.lower().startswith("utf"), len(found) == 1
    last = max(int(curves.steps[-1]) for _, curves in found.values())
    (_, longest), *_ = found.values()
    at = longest.horizon.at(last)
    marks = ["braille"] if is_alone and is_unicode else _MARKS
    looks = list(zip(found, marks, _COLORS, strict=False))
    for name, mark, color in looks:
        console.print(Text.assemble("" if is_alone else (f"{mark} ", f"color({color})"), name))
    for term in dict.fromkeys(term for config, _ in found.values() for term in config.terms):
        lines = [
            Curve(curves.steps, curves.weights[term], mark, color)
            for (_, curves), (_, mark, color) in zip(found.values(), looks, strict=True)
            if term in curves.weights
        ]
        levels = np.unique(np.concatenate([line.weights for line in lines]))
        flat = f"  {levels[0]:.6g} throughout" if len(levels) == 1 else ""
        console.print(Text.assemble("\n", (term, "bold"), flat))
        for name, (config, _) in found.items():
            if note := _note(config, term):
                said = fill(note if is_alone else f"{name}: {note}", console.width - 2)
                console.print(Text(indent(said, "  "), "dim"))
        if not flat:
            drawing = panel(lines, last, at, max(_NARROWEST, min(console.width, _WIDEST)))
            for row in Text.from_ansi(drawing if is_unicode else drawing.translate(_ASCII)).split():
                row.rstrip()
                console.print(row)
    for name, (config, _) in found.items():
        if not config.horizon.is_bounded:
            note = "the length of training is not known, so the curves end after the last change"
            option = "--total-steps" if config.horizon.unit == "steps" else "--total"
            console.print(f"\n{fill(f'{name}: {note}; give it with {option}', console.width)}")


def panel(curves: Sequence[Curve], last: int, at: str, width: int) -> str:
    """Curves over steps 0 to `last` with their axes, colored by ANSI escape sequences.

    `at` is the last step in words.
    """
    weights = np.concatenate([[0.0], *(curve.weights for curve in curves)])
    low, high = float(weights.min()), float(weights.max() if weights.any() else 1)
    labels = [f"{low:.3g}", f"{high:.3g}"]
    columns = width - max(map(len, labels)) - 1
    plotext.clear_figure()
    plotext.theme("clear")
    plotext.limit_size(width=False, height=False)  # else to the size of a terminal
    plotext.plot_size(width, _HEIGHT)
    plotext.xaxes(lower=True, upper=False)
    plotext.yaxes(left=True, right=False)
    plotext.xlim(0, max(last, 1))
    plotext.ylim(low, high)
    plotext.xticks([0, last], ["0", at])
    plotext.yticks([low, high], labels)
    for curve in curves:
        plotext.plot(curve.steps, curve.weights, marker=curve.mark, color=curve.color)
    # Each curve hides the ones before it, so each is drawn once more in every n-th column.
    for turn, curve in enumerate(curves if len(curves) > 1 else ()):
        steps = np.arange(turn, columns, len(curves)) * last / (columns - 1)
        steps = steps[steps <= curve.steps[-1]]
        weights = np.interp(steps, curve.steps, curve.weights)
        plotext.scatter(steps, weights, marker=curve.mark, color=curve.color)
    return str(plotext.build())


def _note(config: LossConfig, term: str) -> str:
    """What the curve of a term does not show; empty if it shows everything."""
    if term not in config.terms:
        return "has no such term"
    declared, factors = config.terms[term], []
    if declared.controller is not None:
        factors.append(f"the controller {declared.controller.kind}")
    if config.balancer is not None and declared.is_balanced:
        factors.append(f"the balancer {config.balancer.kind}")
    return f"multiplied in training by {' and '.join(factors)}" if factors else ""
