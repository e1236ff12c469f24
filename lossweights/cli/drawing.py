"""Curves drawn in a terminal.

Drawn here and not by a library: those that were tried (plotext, plotille, uniplot) draw their
frames in Unicode always, and let one curve hide another where the two coincide, which is what
configs that are compared do for most of a training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

from lossweights.components.schedules import Steps, Values

MARKS = "ox+*#@%&"
STYLES = ("cyan", "magenta", "yellow", "green", "blue", "red", "bright_cyan", "bright_magenta")
_HEIGHT = 8
_BRAILLE = 0x2800
_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])  # by row and column


@dataclass(frozen=True)
class Curve:
    """One line of a panel.

    Args:
        steps: Rising, shape (n,).
        values: Shape (n,).
        mark: The character it is drawn with where several share a panel.
        style: Its colour.
    """

    steps: Steps
    values: Values
    mark: str
    style: str


def panel(
    curves: Sequence[Curve], last: int, width: int, *, unicode: bool, in_marks: bool
) -> list[Text]:
    """The rows of a panel with its axes, for curves over steps 0 to `last`.

    Args:
        curves: At least one; those that share a cell take turns in it.
        last: The step at the right edge.
        width: Columns for all of it.
        unicode: Whether the terminal has more than ASCII.
        in_marks: Whether each curve is drawn with its mark, coarsely, to be told apart without
            colour; else the first alone, finely in braille where the terminal has it.
    """
    low = min(0.0, *(float(curve.values.min()) for curve in curves))
    high = max(0.0, *(float(curve.values.max()) for curve in curves))
    if low == high:
        high = 1.0
    margin = max(len(f"{low:.3g}"), len(f"{high:.3g}"))
    columns = max(8, width - margin - 2)
    fine = unicode and not in_marks
    scale = (columns * 2, _HEIGHT * 4) if fine else (columns, _HEIGHT)
    cells = [_raster(curve, last, low, high, *scale) for curve in curves]
    rows = _in_braille(cells[0], curves[0].style) if fine else _in_marks(cells, curves)
    edge, corner, floor = "│└─" if unicode else "|+-"
    labels = {0: f"{high:.3g}", _HEIGHT - 1: f"{low:.3g}"}
    drawn = [
        Text(f"{labels.get(index, ''):>{margin}} {edge}") + row for index, row in enumerate(rows)
    ]
    right = f"step {last}"
    rows = [
        *drawn,
        Text(f"{'':>{margin}} {corner}{floor * columns}"),
        Text(f"{'':>{margin + 2}}0{right:>{columns - 1}}"),
    ]
    for row in rows:
        row.rstrip()
    return rows


def _raster(
    curve: Curve, last: int, low: float, high: float, columns: int, rows: int
) -> NDArray[np.bool_]:
    """Which cells a curve passes through, shape (rows, columns); the top row is `high`."""
    per_column = max(last, 1) / (columns - 1) if columns > 1 else 1.0
    # Between steps a line is drawn; so that no column is left out, each is asked for as well.
    between = np.arange(columns) * per_column
    between = between[(between >= curve.steps[0]) & (between <= curve.steps[-1])]
    times = np.union1d(curve.steps, between)
    levels = (np.interp(times, curve.steps, curve.values) - low) / (high - low) * (rows - 1)
    x = np.rint(times / per_column).astype(int)
    y = rows - 1 - np.rint(levels).astype(int)
    hit = np.zeros((rows, columns), dtype=bool)
    before = y[0]
    for column in np.unique(x):
        here = y[x == column]
        hit[min(here.min(), before) : max(here.max(), before) + 1, column] = True
        before = here[-1]
    return hit


def _in_braille(cells: NDArray[np.bool_], style: str) -> list[Text]:
    rows, columns = cells.shape[0] // 4, cells.shape[1] // 2
    blocks = cells.reshape(rows, 4, columns, 2).transpose(0, 2, 1, 3)
    codes = _BRAILLE + (blocks * _DOTS).sum(axis=(2, 3))
    return [
        Text("".join(chr(code) if code != _BRAILLE else " " for code in row), style)
        for row in codes
    ]


def _in_marks(cells: Sequence[NDArray[np.bool_]], curves: Sequence[Curve]) -> list[Text]:
    rows = []
    for row in zip(*cells, strict=True):
        line = Text()
        for column, hits in enumerate(zip(*row, strict=True)):
            here = [curve for curve, hit in zip(curves, hits, strict=True) if hit]
            if here:
                chosen = here[column % len(here)]
                line.append(chosen.mark, chosen.style)
            else:
                line.append(" ")
        rows.append(line)
    return rows
