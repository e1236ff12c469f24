"""Repeated schedules against exact arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lossweights import Cyclical, Horizon, Ramp, Repeat, Schedule, Warmup
from tests.components.schedules.cycles import exact_local

RATIOS = st.sampled_from([1e-9, 0.1, 0.25, 0.3, 0.333, 0.5, 0.7, 0.99, 1.0])


def float_of(step: int) -> float:
    return float(step)


@given(st.integers(1, 200), st.integers(1, 30))
def test_repeat_hands_on_the_steps_since_the_cycle_began(total: int, cycles: int) -> None:
    period = Fraction(total, cycles)
    schedule = Repeat(schedule=Schedule.read(float_of), cycles=cycles)
    exact = [exact_local(step, period, cycles) for step in range(total)]
    assert schedule.curve(total).tolist() == exact


@given(st.integers(1, 200), st.integers(1, 30), RATIOS)
def test_a_repeated_ramp_is_cyclical(total: int, cycles: int, ratio: float) -> None:
    """Where the cycles are whole, so that both mean the same length of ramp."""
    total *= cycles
    over = f"{100 * ratio / cycles!r}%"
    repeated = Repeat(schedule=Warmup(over=over), cycles=cycles).curve(total)
    np.testing.assert_allclose(
        repeated, Cyclical(cycles=cycles, ratio=ratio).curve(total), atol=1e-12
    )


@given(st.integers(1, 500), st.integers(1, 40))
def test_repeat_stays_at_the_inner_final_from_the_last_step_on(total: int, cycles: int) -> None:
    schedule = Repeat(schedule=Ramp(start=1.0, stop=0.0, over="1000 steps"), cycles=cycles)
    after = schedule(np.arange(total, total + 10), Horizon(total))
    assert set(after) == {schedule.final(Horizon(total))} == {1 - math.ceil(total / cycles) / 1000}


def test_what_is_repeated_shares_a_cycle() -> None:
    nested = Repeat(schedule=Cyclical(cycles=2, ratio=1), period="8 steps")
    assert nested(range(9)).tolist() == [0, 0.25, 0.5, 0.75, 0, 0.25, 0.5, 0.75, 0]


def test_repeat_with_cycles_ends_and_without_does_not() -> None:
    warmup = Warmup(over="2 steps")
    assert Repeat(schedule=warmup, period="5 steps", cycles=3).ends(Horizon()) == 15
    assert Repeat(schedule=warmup, period="5 steps").ends(Horizon(100)) is None
    assert Repeat(schedule=warmup, cycles=3).ends(Horizon(100)) is None
    assert Repeat(schedule=warmup, period="5 steps").final(Horizon()) == 1.0


def test_repeat_needs_to_know_how_often() -> None:
    with pytest.raises(ValidationError, match="give `period: 10 epochs`, `cycles: 4`"):
        Repeat(schedule=Warmup(over="2 steps"))
    with pytest.raises(ValidationError, match="give `period` a length above 0"):
        Repeat(schedule=Warmup(over="2 steps"), period="0%")
