"""Cycles against exact arithmetic and the paper's definition."""

from __future__ import annotations

from fractions import Fraction
from math import ceil, floor

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from lossweights import Cyclical, Horizon, Repeat, Schedule, Warmup, percent
from tests.components.schedules.cycles import exact_local

RATIOS = st.sampled_from([1e-9, 0.1, 0.25, 0.3, 0.333, 0.5, 0.7, 0.99, 1.0])


def exact_progress(local: int, period: Fraction, ratio: float) -> Fraction:
    return min(local / (Fraction(ratio) * period), Fraction(1))


@given(st.integers(1, 300), st.integers(1, 60), RATIOS)
def test_linear_cycles_are_those_of_exact_arithmetic(total: int, cycles: int, ratio: float) -> None:
    period = Fraction(total, cycles)
    exact = [
        float(exact_progress(exact_local(step, period, cycles), period, ratio))
        for step in range(2 * total)
    ]
    found = Cyclical(cycles=cycles, ratio=ratio)(np.arange(2 * total), Horizon(total))
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-14)


@given(st.integers(1, 400), st.integers(1, 40), RATIOS)
def test_each_cycle_starts_at_start(total: int, cycles: int, ratio: float) -> None:
    schedule = Cyclical(cycles=cycles, ratio=ratio, start=0.1, stop=0.3)
    begins = [floor(cycle * Fraction(total, cycles)) for cycle in range(cycles)]
    assert set(schedule(begins, Horizon(total))) == {0.1}
    assert set(schedule(np.arange(total, 2 * total + 10), Horizon(total))) <= {0.3} or ratio == 1.0


@example(27, 9, 1 / 3, "linear", 0)
@given(
    st.integers(1, 40),
    st.integers(1, 9),
    st.floats(0.01, 1.0),
    st.sampled_from(["linear", "cosine", "sigmoid", "hold"]),
    st.integers(0, 9),
)
def test_ends_where_the_last_ramp_does(
    period: int, cycles: int, ratio: float, shape: str, delay: int
) -> None:
    schedule = Cyclical(
        period=f"{period} steps", cycles=cycles, ratio=ratio, shape=shape, delay=f"{delay} steps"
    )
    end = schedule.ends(Horizon())
    assert end is not None
    assert delay + (cycles - 1) * period < end <= delay + cycles * period
    assert set(schedule(np.arange(ceil(end), ceil(end) + 50))) == {1.0}
    before = ceil(end - 1e-9) - 1  # a third of 27 steps ends a rounding late
    assert schedule(before) < 1.0


def test_the_defaults_are_the_papers() -> None:
    papers = Cyclical(cycles=4, ratio=0.5, start=0.0, stop=1.0, shape="linear")
    assert Cyclical().curve(101).tolist() == papers.curve(101).tolist()
    assert Cyclical(period="5 steps").cycles is None


def test_values_either_side_of_each_boundary() -> None:
    schedule = Cyclical(cycles=2, ratio=0.5, start=0.2, stop=1.0)
    assert schedule([0, 1, 4, 5, 9, 10, 11, 14, 15, 19, 20, 99], Horizon(20)).tolist() == (
        pytest.approx([0.2, 0.36, 0.84, 1.0, 1.0, 0.2, 0.36, 0.84, 1.0, 1.0, 1.0, 1.0])
    )


def test_cycles_that_do_not_divide_the_training_start_at_the_floor() -> None:
    begins = np.flatnonzero(Cyclical(cycles=4).curve(103) == 0.0)
    assert begins.tolist() == [0, 25, 51, 77]


def test_more_cycles_than_steps() -> None:
    assert Cyclical(cycles=10).curve(3).tolist() == [0.0, 0.0, 0.0]
    assert Cyclical(cycles=10)([3, 4], Horizon(3)).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("total", [0, 1, 2])
def test_short_trainings(total: int) -> None:
    schedule = Cyclical(cycles=1)
    assert schedule(0, Horizon(total)) == (0.0 if total else 1.0)
    assert schedule([total, total + 1], Horizon(total)).tolist() == [1.0, 1.0]
    assert schedule.final(Horizon(total)) == 1.0


def test_start_may_lie_above_stop() -> None:
    """The paper's code gives a constant then."""
    assert Cyclical(cycles=2, start=1.0, stop=0.0).curve(8).tolist() == [1, 0.5, 0, 0, 1, 0.5, 0, 0]


def test_a_period_is_the_same_whatever_the_total() -> None:
    schedule, steps = Cyclical(period="10 steps"), np.arange(100)
    assert schedule(steps).tolist() == schedule(steps, Horizon(35)).tolist()
    assert schedule([0, 5, 9, 10, 990, 995]).tolist() == [0, 1, 1, 0, 0, 1]


@pytest.mark.parametrize(("total", "cycles"), [(10, 4), (20, 14), (50, 6), (103, 7), (1000, 9)])
def test_a_period_between_two_steps_is_not_rounded(total: int, cycles: int) -> None:
    shared = Cyclical(cycles=cycles, ratio=0.3)
    periodic = Cyclical(period=percent(100 / cycles), cycles=cycles, ratio=0.3)
    assert periodic.curve(total).tolist() == pytest.approx(shared.curve(total).tolist(), rel=1e-12)
    begins = [floor(cycle * Fraction(total, cycles)) for cycle in range(cycles)]
    assert np.flatnonzero(periodic.curve(total) == 0.0).tolist() == begins


def test_cycles_go_on_beyond_what_float64_can_count() -> None:
    steps = np.array([2**k + near for k in range(40, 63) for near in range(-3, 4)])
    for schedule in (Cyclical(period="7.7%"), Repeat(schedule=Warmup(over="2%"), period="7.7%")):
        values = schedule(steps, Horizon(1003))
        assert ((values >= 0.0) & (values <= 1.0)).all()


def test_a_period_with_cycles_stops_after_the_last() -> None:
    schedule = Cyclical(period="4 steps", cycles=2)
    assert schedule(range(10)).tolist() == [0, 0.5, 1, 1, 0, 0.5, 1, 1, 1, 1]


def test_a_delay_leaves_the_rest_of_training_to_the_cycles() -> None:
    assert Cyclical(cycles=2, start=0.5, stop=1.0, delay="2 steps").curve(10).tolist() == [
        *(0.5, 0.5),
        *(0.5, 0.75, 1.0, 1.0),
        *(0.5, 0.75, 1.0, 1.0),
    ]


def test_a_delay_as_long_as_the_training_leaves_the_start() -> None:
    schedule = Cyclical(cycles=2, delay="100%")
    assert schedule.curve(3).tolist() == [0.0, 0.0, 0.0]
    assert schedule(3, Horizon(3)) == 1.0


@pytest.mark.parametrize("at", [0, 1, 57, 100])
def test_ends_up_at_stop_wherever_training_ends(at: int) -> None:
    assert Cyclical(cycles=3, stop=0.7).final(Horizon(at)) == 0.7
    assert Cyclical(period="10 steps", stop=0.7).final(Horizon()) == 0.7


@pytest.mark.parametrize(
    "schedule", [Cyclical(), Cyclical(period="3 steps"), Cyclical(period="9 steps", ratio=0.1)]
)
def test_cycles_without_a_last_one_have_no_end(schedule: Schedule) -> None:
    assert schedule.ends(Horizon(100)) is None


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"cycles": 0}, "cycles\n  Input should be greater than or equal to 1"),
        ({"cycles": 2.5}, "cycles\n  Input should be a valid integer"),
        ({"cycles": True}, "cycles\n  Value error, a number is needed, found True"),
        ({"ratio": 0}, "ratio\n  Input should be greater than 0"),
        ({"ratio": 1.01}, "ratio\n  Input should be less than or equal to 1"),
        ({"period": "0 steps"}, "give `period` a length above 0"),
        ({"period": 10}, '10 has no unit: write "10 steps" or "10 epochs"'),
        ({"shape": "wave"}, "'wave' is not a kind of shape"),
    ],
)
def test_refuses(fields: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Cyclical.model_validate(fields)
