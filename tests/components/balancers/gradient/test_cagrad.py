"""CAGrad."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lossweights import ConfigError, WeightedLoss
from lossweights.components.balancers.gradient.cagrad import CAGrad, conflict_averse_weights
from lossweights.components.balancers.gradient.mgda import mgda_weights
from tests.components.balancers.gradient import exact
from tests.components.balancers.gradient.gramians import (
    Array,
    cases,
    gramian,
    hostile,
    scattered,
    weights_of,
)

RADII = (0.1, 0.5, 0.9, 1.0, 2.0)
STATIONARY = {
    "all 0",
    "all 0 but one",
    "one 0",
    "one term of 0",
    "opposed",
    "opposed, unequal",
    "opposed, with another",
    "nearly opposed",
    "stationary",
    "nearly stationary",
    "stationary, with another",
    "more terms than rank",
    "20 terms of rank 5",
}


def direction(jacobian: Array, radius: float) -> Array:
    found: Array = jacobian.T @ conflict_averse_weights(gramian(jacobian), radius)
    return found


def test_values_by_hand() -> None:
    """The mean of (6, 0) and (0, 8) is (3, 4); 3 away, both products are 6 d_0 = 8 d_1."""
    k = (48 + np.sqrt(704)) / 50
    assert direction(np.diag([6.0, 8.0]), 0.6).tolist() == pytest.approx([4 * k, 3 * k])


def test_opposed_gradients_by_hand() -> None:
    """Of g and -3 g the mean is -g: with radius c the best for the first is -(1 - c) g."""
    jacobian = np.array([[1.0], [-3.0]])
    assert direction(jacobian, 0.25).tolist() == pytest.approx([-0.75])
    assert direction(jacobian, 1.0).tolist() == pytest.approx([0])
    assert direction(jacobian, 2.0).tolist() == pytest.approx([0])


@pytest.mark.parametrize(
    ("name", "radius", "rescale", "tolerance"),
    [
        ("torchjd weights CAGrad(c=0.5)", 0.5, 0, 2e-4),
        ("libmtl direction CAGrad", 0.5, 0, 1e-3),
        ("libmtl direction CAGrad(rescale=1)", 0.5, 1, 1e-3),
    ],
)
def test_recorded_values(name: str, radius: float, rescale: int, tolerance: float) -> None:
    """Theirs are as accurate as their solvers; torchjd has weights of 0 where g_w is 0."""
    for case in cases(name):
        theirs = case.recorded[name]
        if "weights" in name:
            if not theirs.any():
                continue
            theirs = case.jacobian.T @ theirs
        balancer = CAGrad.model_validate({"radius": radius, "rescale": rescale})
        ours = case.jacobian.T @ weights_of(balancer, case.jacobian)
        size = float(np.linalg.norm(case.jacobian.mean(axis=0)))
        # A mean of 0 is 0 up to rounding.
        assert np.abs(ours - theirs).max() <= tolerance * size + 1e-12, case.name


@pytest.mark.parametrize("radius", RADII)
def test_directions_found_by_trying_every_face(radius: float) -> None:
    for jacobian in scattered(60) + [case.jacobian for case in cases()]:
        shortest = jacobian.T @ mgda_weights(gramian(jacobian))
        if len(jacobian) > 6 or np.linalg.norm(shortest) <= 1e-9 * np.abs(jacobian).max():
            continue
        away = np.abs(direction(jacobian, radius) - exact.conflict_averse(jacobian, radius)).max()
        assert away <= 1e-11 * np.linalg.norm(jacobian.mean(axis=0))


@pytest.mark.parametrize("radius", RADII)
@pytest.mark.parametrize("name", sorted(set(hostile()) - STATIONARY))
def test_no_direction_in_the_ball_has_a_better_worst_product(name: str, radius: float) -> None:
    """The products, averaged with any weights, bound the worst: the best has a tight bound."""
    jacobian = hostile()[name]
    given, terms = gramian(jacobian), len(jacobian)
    weights = conflict_averse_weights(given, radius)
    mean = np.full(terms, 1 / terms)
    added = weights - mean
    assert (added >= 0).all()
    reach = radius * np.sqrt(mean @ given @ mean)
    assert np.sqrt(added @ given @ added) == pytest.approx(reach, rel=1e-9)
    share = added / added.sum()
    bound = share @ given @ mean + reach * np.sqrt(share @ given @ share)
    norms = np.sqrt(given.diagonal())
    noise = 1e-12 * norms * (weights @ norms)
    assert (given @ weights >= bound - noise).all()


@pytest.mark.parametrize("radius", RADII)
@pytest.mark.parametrize("name", hostile())
def test_hostile_gradients(name: str, radius: float) -> None:
    jacobian = hostile()[name]
    weights = weights_of(CAGrad(radius=radius), jacobian).astype(np.float32)
    assert np.isfinite(weights).all()
    assert (weights >= 0).all()
    exactly = conflict_averse_weights(gramian(jacobian), radius)
    norms = np.linalg.norm(jacobian, axis=1)
    mean = jacobian.mean(axis=0)
    # A Gramian cannot tell lengths below about 1e-8 of the gradients.
    noise = (1e-8 if "nearly" in name else 1e-12) * (exactly @ norms)
    d = jacobian.T @ exactly
    assert np.linalg.norm(d - mean) <= radius * np.linalg.norm(mean) + noise
    if radius >= 1:
        assert (jacobian @ d >= -noise * norms).all()


def test_where_no_direction_is_down_for_all() -> None:
    """The nearest to the mean that conflicts with none, or 0; below 1 the mean goes down."""
    jacobian = hostile()["opposed, with another"]
    mean, opposed = jacobian.mean(axis=0), jacobian[0] / np.linalg.norm(jacobian[0])
    along = mean @ opposed
    assert abs(along) > 0.1
    for radius in (1.0, 3.0):
        assert direction(jacobian, radius) == pytest.approx(mean - along * opposed)
    turned = hostile()["opposed, unequal"]
    for radius in (0.1, 0.5, 0.9):
        assert direction(turned, radius) == pytest.approx((1 - radius) * turned.mean(axis=0))
        assert direction(jacobian, radius) @ mean > 0


@pytest.mark.parametrize("distance", [1e-2, 1e-3, 1e-4, 1e-5])
def test_where_directions_that_are_down_for_all_are_few(distance: float) -> None:
    thirds = 2 * np.pi * np.arange(3) / 3
    jacobian = np.stack((np.cos(thirds), 2 * np.sin(thirds), np.full(3, distance)), axis=1)
    jacobian *= np.array([[1.0], [3.0], [2.0]])
    for radius in RADII:
        theirs = exact.conflict_averse(jacobian, radius)
        away = np.abs(direction(jacobian, radius) - theirs).max()
        # Squares of the distance are lost to rounding in a Gramian.
        assert away <= 1e-14 / distance**2


def test_more_terms_than_directions_of_every_length() -> None:
    rng = np.random.default_rng(8)
    for _ in range(60):
        terms, width = rng.integers(2, 12), rng.integers(1, 6)
        jacobian = rng.normal(size=(terms, width)) * 10 ** rng.uniform(-6, 6, size=(terms, 1))
        weights = conflict_averse_weights(gramian(jacobian), 1.2)
        d, mean = jacobian.T @ weights, jacobian.mean(axis=0)
        norms = np.linalg.norm(jacobian, axis=1)
        noise = 1e-9 * (weights @ norms)
        assert (jacobian @ d >= -noise * norms).all()
        assert np.linalg.norm(d - mean) <= 1.2 * np.linalg.norm(mean) + noise


def test_from_the_mean_to_the_shortest() -> None:
    for case in cases():
        terms = len(case.jacobian)
        assert conflict_averse_weights(case.gramian, 0).tolist() == [1 / terms] * terms
        shortest = case.jacobian.T @ mgda_weights(case.gramian)
        length = np.linalg.norm(shortest)
        if length > 1e-9:
            d = direction(case.jacobian, 1e9)
            assert d / np.linalg.norm(d) == pytest.approx(shortest / length, abs=1e-6)


def test_gradients_of_0_and_a_mean_of_0() -> None:
    for name in ("all 0", "one term of 0", "opposed", "stationary"):
        terms = len(hostile()[name])
        weights = conflict_averse_weights(gramian(hostile()[name]), 0.5)
        assert weights.tolist() == pytest.approx([1 / terms] * terms)
    assert conflict_averse_weights(gramian(hostile()["one 0"]), 0.5)[1] == 0.25


def test_one_term() -> None:
    assert conflict_averse_weights(np.array([[4.0]]), 0.5).tolist() == pytest.approx([1.5])


def test_the_scale_of_all_gradients_does_not_matter() -> None:
    jacobian = hostile()["badly scaled"]
    theirs = conflict_averse_weights(gramian(jacobian), 0.5).tolist()
    for scale in (1e-30, 1e-3, 1e30):
        ours = conflict_averse_weights(gramian(scale * jacobian), 0.5)
        assert ours.tolist() == pytest.approx(theirs, rel=1e-9)


def test_the_order_of_terms_does_not_matter() -> None:
    for jacobian in scattered(30):
        away = np.abs(direction(jacobian[::-1], 0.5) - direction(jacobian, 0.5)).max()
        assert away <= 1e-11 * np.linalg.norm(jacobian.mean(axis=0))


def test_rescaled() -> None:
    jacobian = np.diag([6.0, 8.0])
    plain = weights_of(CAGrad(radius=0.6), jacobian)
    for rescale, divisor in ((1, 1.36), (2, 1.6)):
        balancer = CAGrad.model_validate({"radius": 0.6, "rescale": rescale})
        assert weights_of(balancer, jacobian).tolist() == pytest.approx((plain / divisor).tolist())


def test_a_criterion_goes_there() -> None:
    for case in cases():
        x = torch.zeros(case.jacobian.shape[1], requires_grad=True)
        values = torch.tensor(case.jacobian, dtype=torch.float32) @ x
        names = [f"t{i}" for i in range(len(values))]
        criterion = WeightedLoss(terms=names, balancer="cagrad")
        criterion(dict(zip(names, values, strict=True)), shared=x).backward()
        assert x.grad is not None
        away = np.abs(x.grad.numpy() - direction(case.jacobian, 0.5)).max()
        assert away <= 1e-5 * np.linalg.norm(case.jacobian, axis=1).max()


def test_refused() -> None:
    with pytest.raises(ConfigError, match=r"balancer\.radius: must be greater than or eq"):
        WeightedLoss(terms=["a"], balancer={"kind": "cagrad", "radius": -0.1})
    with pytest.raises(ConfigError, match=r"balancer\.rescale: must be 0, 1 or 2"):
        WeightedLoss(terms=["a"], balancer={"kind": "cagrad", "rescale": 3})
