"""What the base checks for every schedule, and what it reads."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from pydantic import ValidationError

from lossweights import (
    Constant,
    Horizon,
    HorizonError,
    Product,
    Ramp,
    Schedule,
    Steps,
    Values,
    Warmup,
)


class Wrong(Schedule):
    """Without a kind: an abstract base that is registered nowhere."""

    result: str

    def values(self, steps: Steps, horizon: Horizon) -> Values:
        results = {
            "scalar": np.array(1.0),
            "short": np.ones(max(len(steps) - 1, 0)),
            "nan": np.where(steps == 3, np.nan, 1.0),
            "inf": np.where(steps >= 2, -np.inf, 1.0),
            "both": np.where(steps == 3, np.inf, np.where(steps == 4, -np.inf, 0.0)),
            "ints": steps,
            "float32": np.float32(0.1) * np.ones(len(steps), dtype=np.float32),
            "large": np.full(len(steps), 1e308),
        }
        return results[self.result]


@pytest.mark.parametrize("result", ["scalar", "short"])
def test_values_of_another_shape_are_an_error(result: str) -> None:
    with pytest.raises(
        ValueError, match=r"values\(\) returned shape \(.*\) for 5 steps; return one"
    ):
        Wrong(result=result)(range(5))


@pytest.mark.parametrize(("result", "step"), [("nan", 3), ("inf", 2), ("both", 3)])
def test_a_value_that_is_not_finite_names_its_step(result: str, step: int) -> None:
    assert Wrong(result=result)([0, 1]).tolist() == Wrong(result=result)([0, 0]).tolist()
    with pytest.raises(
        ValueError, match=rf"Wrong\(result='{result}'\) is not finite at step {step}"
    ):
        Wrong(result=result)(range(6))


def test_finite_values_whose_sum_is_not_are_fine() -> None:
    assert Wrong(result="large")(range(6)).tolist() == [1e308] * 6


def test_values_are_given_in_float64() -> None:
    assert Wrong(result="ints")([0, 7]).dtype == np.float64
    assert Wrong(result="float32")([0, 7]).dtype == np.float64


def test_a_float32_never_stands_between() -> None:
    thirds = Ramp(start=0.0, stop=0.1, over="3 steps")([1, 2])
    for k, value in enumerate(thirds, start=1):
        assert abs(Fraction(float(value)) - Fraction(0.1) * k / 3) < Fraction(1, 10**17)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        (0.5, 0.5),
        (3, 3.0),
        (-1, -1.0),
        ("1e-3", 0.001),
        (" 2 ", 2.0),
        (np.float32(0.5), 0.5),
        (np.int64(4), 4.0),
    ],
)
def test_a_number_is_a_constant(written: object, value: float) -> None:
    schedule = Schedule.read(written)
    assert schedule == Constant(value=value)
    assert schedule([0, 10**15]).tolist() == [value, value]
    assert schedule.ends(Horizon()) == 0
    assert schedule.final(Horizon()) == value


@pytest.mark.parametrize("written", [math.nan, math.inf, "nan", "-inf"])
def test_a_number_that_is_not_finite_is_refused(written: object) -> None:
    with pytest.raises(ValidationError, match="value\n  Input should be a finite number"):
        Schedule.read(written)


@pytest.mark.parametrize("written", [True, None, [1.0], (1.0, 2.0)])
def test_what_is_no_schedule_is_refused_with_what_is(written: object) -> None:
    with pytest.raises(
        ValueError, match=r"a schedule is a table with a `kind`, found .*'cyclical'"
    ):
        Schedule.read(written)


def test_a_kind_or_a_class_in_place_of_a_schedule_says_what_to_write() -> None:
    with pytest.raises(ValueError, match="a kind belongs in a table: write {kind: cyclical}"):
        Schedule.read("cyclical")
    with pytest.raises(ValueError, match="write {kind: ramp, start: ..., stop: ..., over: ...}"):
        Schedule.read("ramp")
    with pytest.raises(ValueError, match="not a kind of schedule; did you mean 'cyclical'"):
        Schedule.read("cycle")
    with pytest.raises(ValueError, match=r"Constant is a class: call it, Constant\(...\)"):
        Schedule.read(Constant)


def test_a_plugin_cannot_write_over_the_steps_of_others() -> None:
    class Greedy(Schedule):
        def values(self, steps: Steps, horizon: Horizon) -> Values:
            steps += 1
            return steps.astype(float)

    assert Product(factors=(Greedy(), Greedy()))([0, 1]).tolist() == [1.0, 4.0]


def test_horizon_may_be_left_out_where_it_is_not_needed() -> None:
    assert Warmup(over="4 steps")(2) == 0.5
    with pytest.raises(HorizonError, match=r"50% of training .* before total_steps is known"):
        Warmup(over="50%")(2)
    with pytest.raises(HorizonError, match=r"2 epochs cannot .* before steps_per_epoch is known"):
        Warmup(over="2 epochs").at(2, total_steps=100)
