"""Through given points."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lossweights import Horizon, HorizonError, Piecewise


@given(
    st.lists(st.integers(0, 300), min_size=1, max_size=8, unique=True).map(sorted),
    st.data(),
)
def test_linear_is_numpys_interpolation(moments: list[int], data: st.DataObject) -> None:
    weights = [data.draw(st.floats(-5, 5)) for _ in moments]
    schedule = Piecewise(
        points=tuple((f"{at} steps", w) for at, w in zip(moments, weights, strict=True))
    )
    steps = np.arange(350)
    np.testing.assert_allclose(
        schedule(steps), np.interp(steps, moments, weights), rtol=0, atol=1e-13
    )
    assert schedule(moments).tolist() == weights
    assert schedule.ends(Horizon()) == moments[-1]


def test_hold_has_the_new_weight_at_each_milestone() -> None:
    schedule = Piecewise(
        points=(("2 steps", 1.0), ("4 steps", 0.1), ("5 steps", 0.7)), shape="hold"
    )
    assert schedule(range(7)).tolist() == [1.0, 1.0, 1.0, 1.0, 0.1, 0.7, 0.7]


@pytest.mark.parametrize("shape", ["cosine", "sigmoid", "exponential", "power", "linear"])
def test_every_shape_goes_through_every_point(shape: str) -> None:
    weights = [0.1, 0.7, -0.3, 0.3]
    points = tuple((f"{10 * k} steps", w) for k, w in enumerate(weights))
    values = Piecewise(points=points, shape=shape)(range(40))
    assert values[::10].tolist() == weights
    for k in range(3):
        leg = values[10 * k : 10 * k + 11]
        assert (np.diff(leg) * np.sign(weights[k + 1] - weights[k]) >= 0).all()


def test_moments_of_different_units() -> None:
    points = (("0 steps", 0.0), ("1 epochs", 1.0), ("50%", 0.5))
    schedule = Piecewise(points=points)
    horizon = Horizon(40, steps_per_epoch=10)
    assert schedule([0, 5, 10, 15, 20, 39], horizon).tolist() == [0, 0.5, 1, 0.75, 0.5, 0.5]
    with pytest.raises(
        ValueError,
        match=r"the times of `points` must rise, but 1 epoch is step 10 and 50% is step 5",
    ):
        schedule([0], Horizon(10, steps_per_epoch=10))


def test_moments_between_two_steps_are_not_rounded() -> None:
    schedule = Piecewise(points=(("0%", 0.0), ("25%", 1.0)))
    assert schedule.curve(6)[:3].tolist() == [0.0, 1 / 1.5, 1.0]


@pytest.mark.parametrize("total", [0, 1, 2])
def test_short_trainings(total: int) -> None:
    """Where moments fall together the later one counts."""
    schedule = Piecewise(points=(("0%", 0.1), ("50%", 0.2), ("100%", 0.3)))
    assert schedule(0, Horizon(total)) == (0.1 if total else 0.3)
    assert schedule([total, total + 9], Horizon(total)).tolist() == [0.3, 0.3]


def test_one_point_is_a_constant() -> None:
    schedule = Piecewise(points=(("5 steps", 0.3),))
    assert schedule([0, 5, 99]).tolist() == [0.3] * 3


@pytest.mark.parametrize(
    ("points", "problem"),
    [
        ([], "at least 1 item"),
        ([["4 steps", 1.0], ["4 steps", 2.0]], "rise, found 4 steps before 4 steps"),
        ([["50%", 1.0], ["25%", 2.0]], "rise, found 50% before 25%"),
        ([[4, 1.0]], '4 has no unit: write "4 steps"'),
        ([["4 steps"]], "points.0.1\n  Field required"),
        ([["4 steps", True]], "a number is needed, found True"),
        ([["4 steps", "nan"]], "finite number"),
    ],
)
def test_refuses(points: list[object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Piecewise.model_validate({"points": points})


def test_asks_for_the_horizon_of_its_moments() -> None:
    with pytest.raises(HorizonError, match=r"25% of training .* before total_steps is known"):
        Piecewise(points=(("0 steps", 1.0), ("25%", 0.0)))([0])
