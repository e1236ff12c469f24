"""Ramps: both ends exact, monotone between, flat after."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lossweights import Horizon, Ramp, Shape, Warmup
from tests.components.schedules.examples import ALL_SHAPES

WEIGHTS = st.floats(-1e30, 1e30)


@given(WEIGHTS, WEIGHTS, st.integers(1, 200), st.integers(0, 20), st.sampled_from(ALL_SHAPES))
def test_runs_from_start_to_stop_and_never_turns(
    start: float, stop: float, over: int, delay: int, shape: Shape
) -> None:
    ramp = Ramp(start=start, stop=stop, over=f"{over} steps", delay=f"{delay} steps", shape=shape)
    values = ramp(np.arange(delay + over + 20))
    assert set(values[: delay + 1]) == {start}
    assert set(values[delay + over :]) == {stop}
    assert ramp.ends(Horizon()) == delay + over
    assert ramp.final(Horizon()) == stop
    rounding = 4e-16 * max(abs(start), abs(stop))
    assert (np.diff(values) * np.sign(stop - start) >= -rounding).all()


@given(st.floats(-10, 10), st.floats(-10, 10), st.integers(1, 10_000), st.integers(0, 10_000))
def test_a_linear_ramp_is_that_of_exact_arithmetic(
    start: float, stop: float, over: int, step: int
) -> None:
    exact = Fraction(start) + (Fraction(stop) - Fraction(start)) * Fraction(min(step, over), over)
    found = Ramp(start=start, stop=stop, over=f"{over} steps")(step)
    assert float(found) == pytest.approx(float(exact), rel=0, abs=1e-14)


def test_the_last_step_of_training_is_not_the_end_of_a_ramp_over_all_of_it() -> None:
    """Step T is the one after the last: the weight of update T - 1 is (T - 1) / T of the way."""
    ramp = Ramp(start=0.0, stop=1.0, over="100%")
    assert ramp.curve(4).tolist() == [0.0, 0.25, 0.5, 0.75]
    assert ramp.final(Horizon(4)) == 1.0


@pytest.mark.parametrize("total", [0, 1, 2])
def test_short_trainings(total: int) -> None:
    ramp = Ramp(start=0.3, stop=0.1, over="100%")
    assert ramp(0, Horizon(total)) == (0.3 if total else 0.1)
    assert ramp([total, 99], Horizon(total)).tolist() == [0.1, 0.1]


def test_a_ramp_of_no_length_jumps_when_its_delay_is_over() -> None:
    assert Ramp(start=0.2, stop=0.7, over="0 steps")([0, 1]).tolist() == [0.7, 0.7]
    late = Ramp(start=0.2, stop=0.7, over="0 steps", delay="2 steps")
    assert late([0, 1, 2, 3]).tolist() == [0.2, 0.2, 0.7, 0.7]
    assert Warmup(over="0 steps", delay="2 steps")([1, 2]).tolist() == [0.0, 1.0]


def test_training_that_ends_within_the_ramp_ends_where_it_has_come_to() -> None:
    assert Ramp(start=0.0, stop=1.0, over="20 steps").final(Horizon(5)) == 0.25
    assert Ramp(start=0.0, stop=1.0, over="20 steps", delay="9 steps").final(Horizon(5)) == 0.0


def test_needs_its_length() -> None:
    with pytest.raises(ValidationError, match="over\n  Field required"):
        Ramp.model_validate({"start": 0.0, "stop": 1.0})
    with pytest.raises(ValidationError, match=r"over\n  Value error, 10.5 has no unit"):
        Warmup.model_validate({"over": 10.5})
