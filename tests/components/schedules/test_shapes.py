"""The formulas of the shapes, and how they are written; test_properties holds what all keep."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lossweights import Ramp, Shape, Warmup
from lossweights.components.schedules import (
    CosineShape,
    ExponentialShape,
    GaussianShape,
    HoldShape,
    LinearShape,
    PowerShape,
    SigmoidShape,
)
from lossweights.components.schedules.shapes import interpolate

PROGRESS = st.floats(0.001, 0.999)


def at(shape: Shape, progress: float) -> float:
    return float(shape(np.array([progress]))[0])


@given(PROGRESS, st.floats(0.01, 300))
def test_sigmoid_is_the_logistic_stretched(progress: float, sharpness: float) -> None:
    def logistic(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    bottom, top = logistic(-sharpness / 2), logistic(sharpness / 2)
    expected = (logistic(sharpness * progress - sharpness / 2) - bottom) / (top - bottom)
    assert at(SigmoidShape(sharpness=sharpness), progress) == pytest.approx(expected, abs=1e-12)


@given(PROGRESS, st.floats(-30, 30).filter(lambda k: abs(k) > 0.01))
def test_exponential_follows_its_formula(progress: float, sharpness: float) -> None:
    expected = (math.exp(sharpness * progress) - 1) / (math.exp(sharpness) - 1)
    found = at(ExponentialShape(sharpness=sharpness), progress)
    assert found == pytest.approx(expected, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("epoch", [1, 20, 40, 79, 80, 300])
def test_gaussian_is_the_ramp_up_of_semi_supervised_training(epoch: int) -> None:
    """`rampup` of github.com/smlaine2/tempens, a32743a, and `sigmoid_rampup` of Mean Teacher."""
    theirs = math.exp(-(max(0.0, 1 - epoch / 80) ** 2) * 5.0)
    ours = Warmup(over="80 steps", shape="gaussian").at(epoch)
    assert ours == pytest.approx(theirs, rel=1e-15)


@pytest.mark.parametrize("epoch", [0, 250, 251, 275, 299])
def test_gaussian_below_0_is_the_ramp_down_of_semi_supervised_training(epoch: int) -> None:
    """`rampdown` of tempens: of 300 epochs it takes the last 50."""
    since = (epoch - 250) * 0.5
    theirs = math.exp(-(since * since) / 50) if epoch >= 250 else 1.0
    shape = GaussianShape(sharpness=-12.5)
    ours = Ramp(start=1.0, stop=0.0, over="50 steps", delay="250 steps", shape=shape).at(epoch)
    assert ours == pytest.approx(theirs, rel=1e-12)


@given(PROGRESS, st.floats(-500, 500).filter(bool))
def test_gaussian_follows_its_formula(progress: float, sharpness: float) -> None:
    rising = math.exp(-abs(sharpness) * (1 - progress) ** 2)
    falling = math.exp(-abs(sharpness) * progress**2)
    expected = rising if sharpness > 0 else 1 - falling
    found = at(GaussianShape(sharpness=sharpness), progress)
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-15)


@given(PROGRESS, st.floats(-500, 500).filter(bool))
def test_the_two_gaussians_are_twins(progress: float, sharpness: float) -> None:
    twin = 1 - at(GaussianShape(sharpness=-sharpness), 1 - progress)
    assert at(GaussianShape(sharpness=sharpness), progress) == pytest.approx(twin, abs=1e-15)


@given(PROGRESS, st.floats(0.01, 50))
def test_power_follows_its_formula(progress: float, exponent: float) -> None:
    expected = math.exp(exponent * math.log(progress))
    assert at(PowerShape(exponent=exponent), progress) == pytest.approx(expected, rel=1e-12)


@given(PROGRESS)
def test_cosine_linear_and_hold_follow_their_formulas(progress: float) -> None:
    assert at(CosineShape(), progress) == pytest.approx(math.sin(math.pi * progress / 2) ** 2)
    assert at(LinearShape(), progress) == progress
    assert at(HoldShape(), progress) == 0.0


@pytest.mark.parametrize("shape", [CosineShape(), SigmoidShape(), SigmoidShape(sharpness=999)])
def test_some_are_symmetric(shape: Shape) -> None:
    progress = np.linspace(0, 1, 65)
    np.testing.assert_allclose(shape(progress), 1 - shape(1 - progress), atol=1e-15)
    assert at(shape, 0.5) == pytest.approx(0.5, abs=1e-15)


@pytest.mark.parametrize("sharpness", [1e-300, 1e-9])
def test_hardly_sharp_is_nearly_straight(sharpness: float) -> None:
    for shape in (SigmoidShape(sharpness=sharpness), ExponentialShape(sharpness=sharpness)):
        assert at(shape, 0.25) == pytest.approx(0.25, abs=1e-9)


def test_the_ends_are_exact_whatever_values_returns() -> None:
    class Crooked(Shape):
        def values(self, progress: np.ndarray) -> np.ndarray:
            return np.full(progress.shape, 0.5)

    assert Crooked()(np.array([0.0, 0.1, 1.0])).tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("written", ["cosine", {"kind": "cosine"}, CosineShape()])
def test_a_kind_alone_will_do(written: object) -> None:
    assert Shape.read(written) == CosineShape()
    ramp = Ramp.model_validate({"start": 0, "stop": 1, "over": "4 steps", "shape": written})
    assert ramp.shape == CosineShape()


def test_options_stand_in_a_table() -> None:
    assert Shape.read({"kind": "power", "exponent": "0.5"}) == PowerShape(exponent=0.5)


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("cosin", "'cosin' is not a kind of shape; did you mean 'cosine'[?] there are 'cosine'"),
        (1.0, "a shape is a table with a `kind`, found 1.0; there are 'cosine'"),
        ({"sharpness": 3}, "a shape is a table with a `kind`, found {'sharpness': 3}"),
        ({"kind": "cosine", "sharpness": 3}, r"unknown field 'sharpness' \('cosine' has none\)"),
        ({"kind": "sigmoid", "sharpness": 0}, "greater than 0"),
        ({"kind": "sigmoid", "sharpness": 1001}, "less than or equal to 1000"),
        ({"kind": "exponential", "sharpness": 0}, "a straight line: write shape: linear"),
        ({"kind": "exponential", "sharpness": 501}, "less than or equal to 500"),
        ({"kind": "gaussian", "sharpness": 0}, "a jump: write shape: hold"),
        ({"kind": "power", "exponent": 0}, "greater than 0"),
    ],
)
def test_refuses(written: object, problem: str) -> None:
    with pytest.raises((ValueError, ValidationError), match=problem):
        Shape.read(written)


@pytest.mark.parametrize(
    ("start", "stop"), [(0.1, 0.3), (0.3, 0.1), (1e-30, 1.0), (1e16, 1.0), (-0.7, 0.1), (0.1, -0.2)]
)
@pytest.mark.parametrize(
    "shape", ["linear", "cosine", "sigmoid", "exponential", "gaussian", "power", "hold"]
)
def test_interpolation_is_exact_at_both_ends(start: float, stop: float, shape: str) -> None:
    """start + (stop - start) is not stop for each pair of floats."""
    values = interpolate(start, stop, shape, np.array([-0.5, 0.0, 0.5, 1.0, 1.5]))
    assert values[[0, 1, 3, 4]].tolist() == [start, start, stop, stop]


def test_some_of_these_pairs_do_round() -> None:
    assert any(a + (b - a) != b for a, b in [(0.1, 0.3), (1e16, 1.0), (-0.7, 0.1)])
