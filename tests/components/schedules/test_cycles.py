"""The steps since a cycle began, in exact arithmetic."""

from __future__ import annotations

from fractions import Fraction
from math import ceil, floor

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lossweights.components.schedules.cycles import since_cycle_began
from tests.components.schedules.cycles import exact_local


@given(st.integers(2, 10**9), st.integers(1, 10**4), st.integers(0, 10**9))
def test_long_trainings_stay_exact(total: int, cycles: int, step: int) -> None:
    """In float64, as long as (t + 1) * denominator stays under 2**53."""
    period = Fraction(total, cycles)
    cycle = min(ceil((step + 1) / period) - 1, cycles - 1)
    assert floor(cycle * period) <= step
    found = since_cycle_began(np.array([step]), period, cycles)
    if (step + 1) * period.denominator < 2**53:
        assert found[0] == step - floor(cycle * period)


@given(st.fractions(Fraction(1, 20), 50, max_denominator=1000), st.integers(0, 3000))
def test_cycles_without_a_last_one_go_on(period: Fraction, step: int) -> None:
    found = since_cycle_began(np.array([step]), period, None)
    assert found[0] == exact_local(step, period, None)
