"""FairGrad."""

from __future__ import annotations

import numpy as np
import pytest

from lossweights import ConfigError, WeightedLoss
from lossweights.components.balancers.gradient.fairgrad import FairGrad, fair_weights
from tests.components.balancers.gradient.gramians import (
    Array,
    cases,
    gradient,
    gramian,
    hostile,
    scattered,
    stationary,
    weights_of,
)

POWERS = (0.1, 0.5, 1.0, 2.0)
# Where some direction is down for all, and scales are not too far apart for all powers.
SOLVABLE = (
    "one term",
    "equal",
    "two equal",
    "nearly equal",
    "collinear",
    "orthogonal",
    "20 terms",
    "20 terms of rank 5, on one side",
    "tiny",
    "huge",
)


def alone(jacobian: Array, power: float) -> Array:
    """The weights of terms that are orthogonal to all others."""
    weights: Array = np.linalg.norm(jacobian, axis=1) ** (-2 / (1 + power))
    return weights


@pytest.mark.parametrize("power", POWERS)
def test_values_by_hand(power: float) -> None:
    assert fair_weights(np.diag([4.0]), power).tolist() == pytest.approx([4 ** (-1 / (1 + power))])
    orthogonal = fair_weights(np.diag([1.0, 64.0]), power)
    assert orthogonal.tolist() == pytest.approx([1, 64 ** (-1 / (1 + power))])
    # Two unit gradients with cosine c: (1 + c) b = b ** -p.
    for cosine in (-0.99, -0.5, 0.7, 1.0):
        both = fair_weights(np.array([[1, cosine], [cosine, 1]]), power)
        assert both.tolist() == pytest.approx([(1 + cosine) ** (-1 / (1 + power))] * 2, rel=1e-8)


@pytest.mark.parametrize("power", POWERS)
def test_what_each_term_gains_is_the_inverse_power_of_its_weight(power: float) -> None:
    """The equation has one solution, and a small error in it is a small error of the weights."""
    given = [case.jacobian for case in cases()] + scattered(80) + [hostile()[n] for n in SOLVABLE]
    tried = 0
    for jacobian in given:
        if stationary(jacobian):
            continue
        weights = fair_weights(gramian(jacobian), power)
        assert (weights > 0).all()
        gains = jacobian @ (jacobian.T @ weights)
        # What is added to the squares of the gradients, in these units.
        added = 1e-12 * (weights / alone(jacobian, power)).max() ** (1 + power)
        assert np.abs(gains * weights**power - 1).max() <= 1e-9 + 3 * added
        tried += 1
    assert tried > 80


@pytest.mark.parametrize(
    ("name", "power", "tolerance"),
    [
        ("torchjd weights FairGrad(alpha=1)", 1.0, 1e-10),
        ("torchjd weights FairGrad(alpha=2)", 0.5, 1e-8),
        ("libmtl weights FairGrad", 1.0, 1e-10),
    ],
)
def test_recorded_weights(name: str, power: float, tolerance: float) -> None:
    for case in cases(name):
        if not stationary(case.jacobian):
            ours = weights_of(FairGrad(fairness=1 / power), case.jacobian)
            assert ours.tolist() == pytest.approx(case.recorded[name].tolist(), rel=tolerance)


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("name", hostile())
def test_hostile_gradients(name: str, power: float) -> None:
    jacobian = hostile()[name]
    norms = np.linalg.norm(jacobian, axis=1)
    weights = fair_weights(gramian(jacobian), power)
    assert np.isfinite(weights).all()
    assert (weights > 0).all()
    assert (weights[norms == 0] == 1).all()
    moved = norms > 0
    bound = (len(norms) / 1e-12) ** (1 / (1 + power))
    if name not in {"scales between", "one tiny", "one huge"}:
        assert (weights[moved] <= 10 * bound * alone(jacobian[moved], power)).all()
    clipped = weights_of(FairGrad(fairness=1 / power), jacobian)
    assert np.isfinite(clipped.astype(np.float32)).all()


def test_no_direction_is_down_for_all() -> None:
    """The direction is 0 next to what it is made of, but for what is down for the others."""
    for name in ("opposed", "opposed, unequal", "stationary", "more terms than rank"):
        jacobian = hostile()[name]
        weights = fair_weights(gramian(jacobian), 1.0)
        assert np.linalg.norm(jacobian.T @ weights) < 1e-4
    with_another = hostile()["stationary, with another"]
    d = with_another.T @ fair_weights(gramian(with_another), 1.0)
    assert d == pytest.approx(with_another[3], abs=1e-4)


@pytest.mark.parametrize("power", POWERS)
def test_the_scale_of_all_gradients(power: float) -> None:
    jacobian = scattered(2)[1]
    theirs = fair_weights(gramian(jacobian), power)
    for scale in (1e-30, 1e-3, 1e30):
        ours = fair_weights(gramian(scale * jacobian), power) * scale ** (2 / (1 + power))
        assert ours.tolist() == pytest.approx(theirs.tolist(), rel=1e-9)


@pytest.mark.parametrize("power", [0.2, 0.5, 2.0, 5.0])
def test_gradients_of_different_scales_conflict_with_none(power: float) -> None:
    rng = np.random.default_rng(6)
    for _ in range(20):
        jacobian = rng.normal(size=(4, 8)) * 10 ** rng.uniform(-2, 2, size=(4, 1))
        weights = fair_weights(gramian(jacobian), power)
        d = jacobian.T @ weights
        norms = np.linalg.norm(jacobian, axis=1)
        assert (jacobian @ d >= -1e-11 * norms * (weights @ norms)).all()


FAIRNESS = (0.01, 0.02, 0.1, 0.5, 2.0, 10.0, 30.0)


@pytest.mark.parametrize("fairness", FAIRNESS)
def test_random_scales_at_every_fairness(fairness: float) -> None:
    """The equation in lengths of b_i g_i, and no conflict unless the direction is about 0."""
    rng = np.random.default_rng(8)
    tried = 0
    for index in range(300):
        jacobian = _random(rng, index)
        norms = np.linalg.norm(jacobian, axis=1)
        weights = fair_weights(gramian(jacobian), 1 / fairness)
        sizes, units = weights * norms, jacobian / norms[:, None]
        products = units @ (units.T @ sizes)
        wanted = np.exp(-np.log(weights) / fairness - np.log(norms))
        assert (np.abs(products + 1e-12 * sizes - wanted) <= 1e-11 * sizes.sum()).all()
        length = np.linalg.norm(units.T @ sizes)
        if length > 1e-6 * sizes.sum():
            assert products.min() >= -1e-6 * length
            tried += 1
    assert tried > 150


def _random(rng: np.random.Generator, index: int) -> Array:
    """Rows of scales 1e-3 to 1e3: 2 to 8, some collinear, opposed or of whole numbers."""
    terms, width = rng.integers(2, 9), rng.integers(2, 12)
    jacobian = rng.normal(size=(terms, width))
    if index % 3 == 0:
        jacobian = np.round(3 * jacobian)
        jacobian[:, 0] += (np.abs(jacobian).sum(axis=1) == 0).astype(np.float64)
    if index % 5 == 0:
        jacobian[-1] = rng.uniform(0.1, 3) * jacobian[0]
    if index % 17 == 0:
        jacobian[-1] = -jacobian[0]
    scaled: Array = jacobian * 10 ** rng.uniform(-3, 3, size=(terms, 1))
    return scaled


@pytest.mark.parametrize("fairness", FAIRNESS)
def test_two_terms_by_bisection(fairness: float) -> None:
    """The ratio t of the weights has (G_11 + G_12 t) / (G_12 + G_22 t) = t ** p."""
    rng = np.random.default_rng(9)
    for _ in range(30):
        jacobian = rng.normal(size=(2, 3)) * 10 ** rng.uniform(-3, 3, size=(2, 1))
        (a, b), (_, c) = gramian(jacobian)
        low, high = np.log(1e-200), np.log(1e200)
        for _ in range(200):
            middle = (low + high) / 2
            t = np.exp(middle)
            above, below = a + b * t, b + c * t  # only one of them can be negative
            is_low = below <= 0 or (above > 0 and np.log(above / below) > middle / fairness)
            low, high = (middle, high) if is_low else (low, middle)
        weights = fair_weights(gramian(jacobian), 1 / fairness)
        assert np.log(weights[1] / weights[0]) == pytest.approx(low, abs=1e-6)


@pytest.mark.parametrize(
    ("rows", "fairness"),
    [
        ([[-2000, -2000], [-100, 200], [0, -1]], 30.0),
        ([[2, 1, -1], [200, 200, 200], [-1, -2, 0]], 0.02),
    ],
)
def test_weights_far_apart(rows: list[list[int]], fairness: float) -> None:
    """Newton's method from the weights of orthogonal gradients needs more than 100 steps."""
    jacobian = np.array(rows, dtype=np.float64)
    d = jacobian.T @ weights_of(FairGrad(fairness=fairness), jacobian)
    cosines = jacobian @ d / np.linalg.norm(jacobian, axis=1) / np.linalg.norm(d)
    assert cosines.min() >= -1e-10


def test_weights_too_small_for_a_float_conflict_with_none() -> None:
    rng = np.random.default_rng(0)
    for exponent in (12, 20, 30):
        jacobian = rng.normal(size=(4, 6))
        jacobian[0] *= 10.0**-exponent
        norms = np.linalg.norm(jacobian, axis=1, keepdims=True)
        weights = fair_weights(gramian(jacobian), 1 / 30)
        assert np.isfinite(weights).all()
        d = (jacobian / norms).T @ (weights * norms[:, 0])
        assert (jacobian @ d / norms[:, 0]).min() >= -1e-10 * np.linalg.norm(d)


def test_from_the_sum_to_equal_gains() -> None:
    jacobian = np.array([[1.0, 0.0, 0.5], [0.0, 2.0, -0.5], [-0.3, 0.0, 3.0]])
    assert fair_weights(gramian(jacobian), 100.0).tolist() == pytest.approx([1, 1, 1], abs=0.05)
    gains = gramian(jacobian) @ fair_weights(gramian(jacobian), 0.01)
    assert gains.tolist() == pytest.approx([1, 1, 1], abs=0.05)


def test_a_gradient_of_0_takes_no_part() -> None:
    jacobian = hostile()["one 0"]
    with_it = fair_weights(gramian(jacobian), 1.0)
    assert with_it[1] == 1
    assert with_it[[0, 2, 3]].tolist() == fair_weights(gramian(jacobian[[0, 2, 3]]), 1.0).tolist()
    assert weights_of(FairGrad(), np.zeros((1, 4))).tolist() == [1]


def test_the_order_of_terms_does_not_matter() -> None:
    for jacobian in scattered(30):
        if not stationary(jacobian):
            turned = fair_weights(gramian(jacobian[::-1]), 0.5)[::-1]
            ours = fair_weights(gramian(jacobian), 0.5)
            assert turned.tolist() == pytest.approx(ours.tolist(), rel=1e-6)


def test_the_length_of_the_direction() -> None:
    for case in cases():
        if not stationary(case.jacobian):
            fair = FairGrad(fairness=2, max_norm=0.1)
            d = case.jacobian.T @ weights_of(fair, case.jacobian)
            assert np.linalg.norm(d) == pytest.approx(0.1)


def test_a_criterion_goes_where_all_gain() -> None:
    for case in cases():
        if not stationary(case.jacobian):
            assert (case.jacobian @ gradient(case.jacobian, "fairgrad") > 0).all()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"max_norm": -1}, r"balancer\.max_norm: must be greater"),
        ({"fairness": 0}, r"balancer\.fairness: must be greater"),
        ({"fairness": 1e3}, r"balancer\.fairness: must be less"),
    ],
)
def test_refused(table: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        WeightedLoss(terms=["a"], balancer={"kind": "fairgrad", **table})
