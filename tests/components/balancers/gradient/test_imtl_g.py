"""IMTL-G."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lossweights import WeightedLoss
from lossweights.components.balancers.gradient.imtl_g import IMTLG
from tests.components.balancers.gradient.gramians import (
    Array,
    cases,
    hostile,
    moment,
    scattered,
    weights_of,
)

IMTL_G = IMTLG()


def projections(jacobian: Array, weights: Array) -> Array:
    """Of the direction on each gradient; 0 on a gradient of 0."""
    norms = np.linalg.norm(jacobian, axis=1)
    found: Array = jacobian @ (jacobian.T @ weights) / np.where(norms > 0, norms, 1.0)
    return found


def independent(jacobian: Array) -> bool:
    norms = np.linalg.norm(jacobian, axis=1, keepdims=True)
    return bool(norms.all() and np.linalg.svd(jacobian / norms, compute_uv=False)[-1] > 1e-5) and (
        jacobian.shape[0] <= jacobian.shape[1]
    )


def between(size: float) -> Array:
    """Two gradients, and one of a size nearly between them that has a negative weight."""
    return np.array([[1.0, 0.2, 0.0], [1.0, -0.2, 0.0], [1.0 * size, 0.0, 0.05 * size]])


def test_recorded_weights() -> None:
    checked = 0
    for case in cases("torchjd weights IMTLG"):
        if independent(case.jacobian):
            ours = weights_of(IMTL_G, case.jacobian)
            theirs = case.recorded["torchjd weights IMTLG"]
            np.testing.assert_allclose(ours, theirs, rtol=1e-8, err_msg=case.name)
            checked += 1
            if "libmtl weights IMTL" in case.recorded:
                theirs = case.recorded["libmtl weights IMTL"]
                np.testing.assert_allclose(ours, theirs, rtol=1e-6, err_msg=case.name)
    assert checked == 11


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-4, 1.0, np.pi / 2, 3.0, np.pi - 1e-4, np.pi])
def test_two_terms_whatever_their_angle(angle: float) -> None:
    """(n2, n1) / (n1 + n2): also where the closed form is 0 / 0, which is its limit."""
    jacobian = np.array([[3.0, 0.0], [np.cos(angle), np.sin(angle)]])
    assert weights_of(IMTL_G, jacobian).tolist() == pytest.approx([0.25, 0.75], rel=1e-6)


def test_projections_are_equal() -> None:
    for jacobian in (*hostile().values(), *scattered(60, seed=2)):
        if independent(jacobian):
            found = projections(jacobian, weights_of(IMTL_G, jacobian))
            np.testing.assert_allclose(found, found.mean(), rtol=1e-5)
            assert found.mean() > 0


def test_projections_of_dependent_gradients_are_as_equal_as_can_be() -> None:
    """Those nearest to 1 that any direction has, but for a factor."""
    for name in ("more terms than rank", "20 terms of rank 5", "opposed, with another"):
        jacobian = hostile()[name]
        units = jacobian / np.linalg.norm(jacobian, axis=1, keepdims=True)
        nearest = units @ np.linalg.lstsq(units, np.ones(len(units)), rcond=None)[0]
        found = projections(jacobian, weights_of(IMTL_G, jacobian))
        np.testing.assert_allclose(
            found / np.linalg.norm(found), nearest / np.linalg.norm(nearest), atol=1e-9
        )


def test_weights_sum_to_1() -> None:
    rng = np.random.default_rng(3)
    for terms in range(1, 9):
        weights = weights_of(IMTL_G, np.abs(rng.normal(size=(terms, 12))))
        assert weights.sum() == pytest.approx(1)
    for name in ("all 0", "equal", "stationary", "opposed, unequal", "one 0"):
        assert weights_of(IMTL_G, hostile()[name]).sum() == pytest.approx(1)


def test_the_direction_never_climbs_on_all_terms() -> None:
    """A small gradient with a negative share makes the published sum negative."""
    jacobian = between(1e-3)
    units = jacobian / np.linalg.norm(jacobian, axis=1, keepdims=True)
    shares = np.linalg.solve(units @ units.T, np.ones(3)) / np.linalg.norm(jacobian, axis=1)
    assert shares.sum() < 0
    weights = weights_of(IMTL_G, jacobian)
    assert weights.sum() == pytest.approx(-1)
    assert projections(jacobian, weights).min() > 0


def test_weights_do_not_explode_where_their_sum_passes_0() -> None:
    shares = weights_of(IMTL_G, between(1.0))  # of unit gradients but for a common factor
    norms = np.linalg.norm(between(1.0), axis=1)
    shares *= norms
    size = -shares[2] / norms[2] / (shares[:2] / norms[:2]).sum()
    for factor in (0.999999, 1.0, 1.000001):
        weights = weights_of(IMTL_G, between(size * factor))
        assert np.abs(weights).sum() == pytest.approx(1000)
        assert projections(between(size * factor), weights).min() > 0


def test_gradients_that_cancel_out() -> None:
    for name in ("opposed", "opposed, unequal", "stationary"):
        jacobian = hostile()[name] * 7
        weights = weights_of(IMTL_G, jacobian)
        assert (weights > 0).all()
        assert np.abs(jacobian.T @ weights).max() < 1e-12
    rounded = hostile()["stationary"].astype(np.float32).astype(np.float64)
    assert weights_of(IMTL_G, rounded).tolist() == pytest.approx([1 / 3] * 3)


def test_gradients_of_0() -> None:
    assert weights_of(IMTL_G, np.zeros((4, 2))).tolist() == [1 / 4] * 4
    jacobian = np.random.default_rng(4).normal(size=(3, 5))
    with_zero = weights_of(IMTL_G, np.insert(jacobian, 1, 0, axis=0))
    assert abs(with_zero[1]) < 1e-15
    np.testing.assert_allclose(np.delete(with_zero, 1), weights_of(IMTL_G, jacobian))


@pytest.mark.parametrize("name", hostile())
def test_weights_stay_finite(name: str) -> None:
    weights = weights_of(IMTL_G, hostile()[name])
    assert np.isfinite(weights.astype(np.float32)).all()
    assert np.abs(weights).sum() <= 1000.001


def test_scales_of_terms_do_not_matter_for_the_direction() -> None:
    """All but the length; 1e12 apart here."""
    jacobian = np.abs(np.random.default_rng(5).normal(size=(5, 9)))
    scales = np.array([[1e-6], [1.0], [1e6], [30.0], [1e-3]])
    plain = jacobian.T @ weights_of(IMTL_G, jacobian)
    scaled = (scales * jacobian).T @ weights_of(IMTL_G, scales * jacobian)
    cosine = plain @ scaled / np.linalg.norm(plain) / np.linalg.norm(scaled)
    assert abs(cosine) == pytest.approx(1, abs=1e-9)


def test_gradients_that_are_not_finite() -> None:
    found = IMTL_G.weigh(torch.ones(2), {}, moment(np.array([[1.0, np.inf], [np.inf, 1.0]])))
    assert found.isnan().all()


def test_in_a_criterion() -> None:
    shared = torch.zeros(2, requires_grad=True)
    criterion = WeightedLoss(terms=["a", "b"], balancer="imtl-g")
    criterion({"a": 10 * shared[0], "b": 0.1 * shared[1]}, shared=shared).backward()
    assert shared.grad is not None
    assert shared.grad.tolist() == pytest.approx([1 / 10.1] * 2)
