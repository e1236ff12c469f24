"""Exponential decay."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lossweights import Exponential, Horizon, HorizonError, epochs


@given(st.integers(0, 200), st.sampled_from([0.1, 0.5, 0.9, 0.999]))
def test_takes_the_same_part_of_the_way_at_each_step(step: int, rate: float) -> None:
    exact = float(Fraction(rate) ** step)
    assert float(Exponential(rate=rate)(step)) == pytest.approx(exact, rel=1e-13)


def test_half_of_the_way_is_left_after_a_half_life() -> None:
    found = Exponential(start=9.0, stop=1.0, half_life="6 steps")([0, 6, 12, 18])
    assert found.tolist() == [9.0, 5.0, 3.0, 2.0]


def test_rate_is_meant_for_per() -> None:
    horizon = Horizon(steps_per_epoch=20)
    found = Exponential(rate=0.25, per=epochs(1))([0, 10, 20, 40], horizon)
    assert found.tolist() == pytest.approx([1.0, 0.5, 0.25, 0.0625], rel=1e-15)
    assert Exponential(rate=0.5)([3]).tolist() == [0.125]


@pytest.mark.parametrize("start", [0.1, -0.3, 1e16, 5e-324])
def test_starts_at_start_exactly_and_holds_it_through_the_delay(start: float) -> None:
    values = Exponential(start=start, stop=0.3, half_life="5 steps", delay="3 steps")(range(5))
    assert set(values[:4]) == {start}


def test_comes_to_stop_and_stays_there() -> None:
    schedule = Exponential(start=1.0, stop=0.3, half_life="1 steps")
    assert schedule([10**4, 2**62]).tolist() == [0.3, 0.3]
    assert schedule.ends(Horizon()) is None


def test_ends_up_at_stop_unless_training_ends_before() -> None:
    schedule = Exponential(start=1.0, stop=0.0, half_life="5 steps")
    assert schedule.final(Horizon()) == 0.0
    assert schedule.final(Horizon(10)) == 0.25
    assert schedule.final(Horizon(0)) == 1.0


def test_never_turns() -> None:
    assert (np.diff(Exponential(rate=0.97, stop=0.2)(np.arange(2000))) <= 0).all()


def test_a_share_of_a_training_without_steps_is_where_it_starts() -> None:
    assert Exponential(half_life="10%")([0, 5], Horizon(0)).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({}, "give the speed: either `rate: 0.99` or `half_life: 10 epochs`"),
        ({"rate": 0.9, "half_life": "3 steps"}, "give the speed: either"),
        ({"half_life": "3 steps", "per": "2 steps"}, "`per` belongs to `rate`"),
        ({"rate": 0.5, "every": "2 epochs"}, "`every: 2 epochs` holds .* `per: 2 epochs` or"),
        ({"half_life": "0 steps"}, "a length above 0"),
        ({"rate": 0.5, "per": "0%"}, "a length above 0"),
        ({"rate": 1.0}, "rate\n  Input should be less than 1"),
        ({"rate": 0.0}, "rate\n  Input should be greater than 0"),
    ],
)
def test_refuses(fields: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Exponential.model_validate(fields)


def test_asks_for_the_horizon_of_its_lengths() -> None:
    with pytest.raises(HorizonError, match=r"1 epoch cannot .* before steps_per_epoch is known"):
        Exponential(rate=0.9, per="1 epoch")([1])
    with pytest.raises(HorizonError, match=r"10% of training .* before total_steps is known"):
        Exponential(half_life="10%")([1])
