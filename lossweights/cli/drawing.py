"""Curves drawn in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill, indent
from typing import NamedTuple

import numpy as np
import plotext
from rich.console import Console
from rich.text import Text

from lossweights.components.schedules import Steps, Values
from lossweights.config.loss_config import LossConfig
from lossweights.config.timeline import Curves, to_draw

_MARKS = "ox+*#@%&"
_COLORS = (6, 5, 3, 2, 4, 1, 14, 13)  # of a terminal: cyan, magenta, yellow, ...
_ASCII = str.maketrans("│┤└┬─", "||+--")
_WIDEST, _NARROWEST, _HEIGHT = 120, 20, 10
_FEW = 4  # names of members in a line


class Title(NamedTuple):
    """What a panel shows: the weight of a term, or a scheduled number."""

    name: str
    is_number: bool = False

    @property
    def shown(self) -> str:
        """Above the panel."""
        return f"scheduled.{self.name}" if self.is_number else self.name


class Curve(NamedTuple):
    """Weights, or a scheduled number, at increasing steps, both of shape (n,); how to draw them."""

    steps: Steps
    values: Values
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
    drawn = {name: _named(curves) for name, (_, curves) in found.items()}
    terms = to_draw([curves for _, curves in found.values()])
    numbers = [title for columns in drawn.values() for title in columns if title.is_number]
    for title in dict.fromkeys([*map(Title, terms), *numbers]):
        lines = [
            Curve(curves.steps, columns[title], mark, color)
            for columns, (_, curves), (_, mark, color) in zip(
                drawn.values(), found.values(), looks, strict=True
            )
            if title in columns
        ]
        levels = np.unique(np.concatenate([line.values for line in lines]))
        flat = f"  {levels[0]:.6g} throughout" if len(levels) == 1 else ""
        alike = [] if title.is_number else terms[title.name]
        more = f" and {len(alike)} alike" if alike else ""
        console.print(Text.assemble("\n", (title.shown, "bold"), more, flat))
        for name, (config, curves) in found.items():
            followers = "" if title.is_number else _followers(curves, title.name)
            for note in filter(None, (_note(config, title), followers)):
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
    values = np.concatenate([[0.0], *(curve.values for curve in curves)])
    low, high = float(values.min()), float(values.max() if values.any() else 1)
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
        plotext.plot(curve.steps, curve.values, marker=curve.mark, color=curve.color)
    # Each curve hides the ones before it, so each is drawn once more in every n-th column.
    for turn, curve in enumerate(curves if len(curves) > 1 else ()):
        steps = np.arange(turn, columns, len(curves)) * last / (columns - 1)
        steps = steps[steps <= curve.steps[-1]]
        values = np.interp(steps, curve.steps, curve.values)
        plotext.scatter(steps, values, marker=curve.mark, color=curve.color)
    return str(plotext.build())


def _named(curves: Curves) -> dict[Title, Values]:
    """What is drawn of a config."""
    weights = {Title(name): column for name, column in curves.weights.items()}
    numbers = {Title(name, is_number=True): column for name, column in curves.scheduled.items()}
    return weights | numbers


def _note(config: LossConfig, title: Title) -> str:
    """What the curve of a term does not show; empty if it shows everything."""
    if title.is_number:
        return "" if title.name in config.scheduled else "has no such number"
    if not (lineage := config.lineage(title.name)):
        return "has no such term"
    declared, factors = lineage[0], []
    if declared.controller is not None:
        factors.append(f"the controller {declared.controller.kind}")
    if config.balancer is not None and declared.is_balanced:
        factors.append(f"the balancer {config.balancer.kind}")
    return f"multiplied in training by {' and '.join(factors)}" if factors else ""


def _followers(curves: Curves, group: str) -> str:
    """The members whose weight in a group does not change; empty if there are none."""
    alike: dict[float, list[str]] = {}
    for name, part in curves.parts.get(group, {}).items():
        if part is not None:
            alike.setdefault(part, []).append(name.removeprefix(f"{group}/"))
    said = [f"{_some(names)} x {part:.6g}" for part, names in alike.items()]
    return f"its members: {', '.join(said)}" if said else ""


def _some(names: Sequence[str]) -> str:
    """A few names, and how many others there are."""
    if len(names) <= _FEW:
        return ", ".join(names)
    return f"{', '.join(names[: _FEW - 1])} and {len(names) - _FEW + 1} others"
