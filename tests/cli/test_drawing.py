"""Curves in a terminal are drawn where their numbers are."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import plotext
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossweights.cli.drawing import Curve, panel

MARKS = "ox+*#@%&"
ROWS = 8


def curve(*values: float, mark: str = "o", steps: list[int] | None = None) -> Curve:
    found = np.arange(len(values)) if steps is None else np.array(steps)
    return Curve(found, np.array(values, dtype=float), mark, 6)


def panel_rows(curves: list[Curve], last: int, width: int) -> list[str]:
    """The rows of a panel without colors."""
    return str(plotext.uncolorize(panel(curves, last, f"step {last}", width))).splitlines()


def drawn(*curves: Curve, last: int, columns: int = 20) -> list[str]:
    """The rows of the panel without their axes, the top one first, all of one length."""
    rows = panel_rows([*curves], last, columns + 8)
    edge = rows[0].index("┤") + 1
    return [f"{row[edge:]:<{columns}}" for row in rows[:ROWS]]


def heights(rows: list[str], column: int) -> list[int]:
    """In which rows a column is drawn, from 0 for the lowest."""
    return [ROWS - 1 - index for index, row in enumerate(rows) if row[column : column + 1].strip()]


def test_a_ramp_goes_from_the_lower_left_to_the_upper_right() -> None:
    rows = drawn(curve(*np.linspace(0, 1, 100)), last=99)
    assert heights(rows, 0)[0] == 0
    width = max(len(row.rstrip()) for row in rows)
    assert heights(rows, width - 1)[-1] == ROWS - 1
    lowest = [heights(rows, column)[0] for column in range(width)]
    assert lowest == sorted(lowest)


def test_a_constant_is_a_line_between_0_and_itself() -> None:
    rows = drawn(curve(3.0, 3.0), curve(0.0, 3.0, mark="x"), last=1)
    assert set(rows[0].strip()) == {"o", "x"}
    assert "o" not in "".join(rows[1:])


def test_a_jump_is_drawn_as_a_stroke() -> None:
    """In one column, or half of it in the next."""
    rows = drawn(curve(*[0.0] * 50, *[1.0] * 50), last=99)
    found = [set(heights(rows, column)) for column in range(20)]
    strokes = [left | right for left, right in pairwise(found) if len(left | right) == ROWS]
    assert 1 <= len(strokes) <= 2


def test_what_lasts_one_step_is_seen() -> None:
    values = np.zeros(20_000)
    values[7001] = 1.0
    assert max(map(len, (heights(drawn(curve(*values), last=19_999), c) for c in range(20)))) > 1


def test_curves_that_coincide_take_turns() -> None:
    same = [curve(1.0, 1.0, mark=mark) for mark in MARKS[:3]]
    assert drawn(*same, last=1)[0].strip()[:6] == "ox+ox+"


def test_a_shorter_training_ends_where_it_ends() -> None:
    rows = drawn(
        curve(1.0, 1.0, steps=[0, 50]), curve(0.5, 0.5, mark="x", steps=[0, 100]), last=100
    )
    assert 9 <= rows[0].rstrip().rindex("o") <= 13
    assert any(row.rstrip().endswith("x") for row in rows)


@pytest.mark.parametrize("values", [[0.7], [0.0], [1.0, 0.0], [-1.0, -0.5, 1e30]])
def test_trainings_of_few_steps_fill_the_panel(values: list[float]) -> None:
    rows = drawn(curve(*values), last=len(values) - 1)
    width = max(len(row.rstrip()) for row in rows)
    assert len(values) == 1 or all(heights(rows, column) for column in range(width))


def test_the_axis_tells_the_highest_and_the_lowest() -> None:
    texts = panel_rows([curve(0.25, -2.0)], 1, 40)
    assert texts[0].startswith("0.25┤")
    assert texts[ROWS - 1].startswith("  -2┤")
    assert texts[-1].split() == ["0", "step", "1"]


def dots(rows: list[str]) -> set[tuple[int, int]]:
    """The dots that are set, by column and row from the lower left, by the standard's numbers."""
    numbers = {
        1: (0, 3),
        2: (0, 2),
        3: (0, 1),
        4: (1, 3),
        5: (1, 2),
        6: (1, 1),
        7: (0, 0),
        8: (1, 0),
    }
    return {
        (2 * column + x, 4 * (ROWS - 1 - index) + y)
        for index, row in enumerate(rows)
        for column, cell in enumerate(row)
        for number, (x, y) in numbers.items()
        if cell != " " and (ord(cell) - 0x2800) >> (number - 1) & 1
    }


def test_braille_is_drawn_dot_by_dot() -> None:
    top, bottom, rising = (
        dots(drawn(curve(*values, mark="braille"), last=1))
        for values in ((1.0, 1.0), (-1.0, -1.0), (0.0, 1.0))
    )
    assert {y for _, y in top} == {4 * ROWS - 1}
    assert {y for _, y in bottom} == {0}
    right = max(x for x, _ in rising)
    assert {(0, 0), (right, 4 * ROWS - 1)} <= rising
    columns = [[y for x, y in sorted(rising) if x == column] for column in range(right + 1)]
    for before, here in pairwise(columns):  # the line has no gap
        assert here == [*range(here[0], here[-1] + 1)]
        assert here[0] - before[-1] in (0, 1)


@given(
    width=st.integers(20, 250),
    values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50),
    n=st.integers(1, 8),
)
def test_no_row_is_wider_than_it_may_be(width: int, values: list[float], n: int) -> None:
    curves = [curve(*values, mark=mark) for mark in MARKS[:n]]
    rows = panel_rows(curves, len(values) - 1, width)
    assert len(rows) == ROWS + 2
    assert max(map(len, rows)) <= width
    axes = str.maketrans("│┤└┬─", "||+--")
    assert all(row.translate(axes).isascii() for row in rows)
