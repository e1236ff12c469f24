"""Projections onto the dual cone of the gradients, by UPGrad and DualProj."""

from __future__ import annotations

import sys
from fractions import Fraction
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

from lossweights import ConfigError, WeightedLoss
from lossweights.components.balancers import DualProj, GramianBalancer, UPGrad
from lossweights.components.balancers.gradient.dual_cone import projection_weights
from tests.components.balancers.gradient.gramians import (
    Array,
    cases,
    gramian,
    hostile,
    moment,
    scattered,
    weights_of,
)

BOTH: list[GramianBalancer] = [UPGrad(), DualProj()]


def exactly(jacobian: Array, vectors: Array) -> Array:
    """The projections of sums of rows onto their dual cone, in rational numbers.

    The projection of J'u is J'v with v = u + x: of all faces of x >= 0 one has the v with
    (G v)_i = 0 on the face, and no product below 0.
    """
    rows = [[Fraction(float(value)) for value in row] for row in jacobian]
    products = [[_dot(a, b) for b in rows] for a in rows]
    found = []
    for vector in vectors:
        weights = _projected(products, [Fraction(float(value)) for value in vector])
        found.append([float(_dot(weights, column)) for column in zip(*rows, strict=True)])
    return np.array(found)


def _projected(products: list[list[Fraction]], vector: list[Fraction]) -> list[Fraction]:
    terms = range(len(vector))
    slopes = [_dot(row, vector) for row in products]
    for size in range(len(vector) + 1):
        for face in combinations(terms, size):
            added = _solved(
                [[products[i][j] for j in face] for i in face], [-slopes[i] for i in face]
            )
            if added is None or any(value < 0 for value in added):
                continue
            weights = list(vector)
            for index, value in zip(face, added, strict=True):
                weights[index] += value
            if all(_dot(row, weights) >= 0 for row in products):
                return weights
    raise AssertionError("no face holds the projection")


def _solved(matrix: list[list[Fraction]], vector: list[Fraction]) -> list[Fraction] | None:
    rows = [[*row, value] for row, value in zip(matrix, vector, strict=True)]
    for k in range(len(rows)):
        pivot = next((i for i in range(k, len(rows)) if rows[i][k]), None)
        if pivot is None:
            return None
        rows[k], rows[pivot] = rows[pivot], rows[k]
        for i in range(len(rows)):
            if i != k:
                factor = rows[i][k] / rows[k][k]
                rows[i] = [a - factor * b for a, b in zip(rows[i], rows[k], strict=True)]
    return [rows[k][-1] / rows[k][k] for k in range(len(rows))]


def _dot(a: Any, b: Any) -> Fraction:
    return sum((x * y for x, y in zip(a, b, strict=True)), Fraction(0))


def upgrad_exactly(jacobian: Array) -> Array:
    mean: Array = exactly(jacobian, np.eye(len(jacobian))).mean(axis=0)
    return mean


def dualproj_exactly(jacobian: Array) -> Array:
    # The whole numbers are exact; 1 / m is not.
    projected: Array = exactly(jacobian, np.ones((1, len(jacobian))))[0] / len(jacobian)
    return projected


EXACTLY = {"upgrad": upgrad_exactly, "dualproj": dualproj_exactly}


def away(balancer: GramianBalancer, jacobian: Array) -> float:
    """How far the direction is from the exact one, relative to the largest gradient."""
    found = jacobian.T @ weights_of(balancer, jacobian)
    size = np.linalg.norm(jacobian, axis=1).max() or 1.0
    return float(np.abs(found - EXACTLY[balancer.kind](jacobian)).max() / size)


@pytest.mark.parametrize("balancer", BOTH, ids=["upgrad", "dualproj"])
def test_directions_in_rational_numbers(balancer: GramianBalancer) -> None:
    assert max(away(balancer, case.jacobian) for case in cases()) < 1e-9
    hard = hostile()
    del hard["scales between"]  # float32 does not hold the weights: they are made smaller
    few = [jacobian for jacobian in (*hard.values(), *scattered(60)) if len(jacobian) < 6]
    assert max(away(balancer, jacobian) for jacobian in few) < 1e-8


@pytest.mark.parametrize("exponent", [-3, -6, -9])
@pytest.mark.parametrize("balancer", BOTH, ids=["upgrad", "dualproj"])
def test_nearly_dependent_gradients(balancer: GramianBalancer, exponent: int) -> None:
    """A Gramian knows them to half of its digits: to about 1e-8 of the largest."""
    rng = np.random.default_rng(exponent + 9)
    for _ in range(5):
        jacobian = rng.normal(size=(4, 2)) @ rng.normal(size=(2, 6))
        jacobian += 10.0**exponent * rng.normal(size=(4, 6))
        assert away(balancer, jacobian) < 1e-7


@pytest.mark.parametrize("name", hostile())
def test_what_makes_a_projection(name: str) -> None:
    """v >= u, no product below 0, and what was added is orthogonal to the projection."""
    jacobian = hostile()[name]
    terms, products = len(jacobian), gramian(jacobian)
    norms = np.linalg.norm(jacobian, axis=1)
    units = np.where(norms > 0, norms, 1.0)
    vectors = np.concatenate((np.eye(terms), np.full((1, terms), 1 / terms)))
    for vector, weights in zip(vectors, projection_weights(products, vectors), strict=True):
        size = (vector * norms).max() or 1.0
        along = products @ weights / units / size
        assert (weights >= vector).all()
        assert along.min() > -1e-9
        assert np.abs((weights - vector) * units / size * along).max() < 1e-9


@pytest.mark.parametrize("balancer", BOTH, ids=["upgrad", "dualproj"])
@pytest.mark.parametrize("name", hostile())
def test_weights_stay_finite_and_no_term_is_left_out(balancer: GramianBalancer, name: str) -> None:
    jacobian = hostile()[name]
    weights = weights_of(balancer, jacobian)
    assert np.isfinite(weights.astype(np.float32)).all()
    if weights.max() < 1e29:  # else all were made smaller
        assert weights.min() >= 1 / len(jacobian)
    assert (weights > 0).all()


@pytest.mark.parametrize("balancer", BOTH, ids=["upgrad", "dualproj"])
def test_no_conflict_on_scales_far_apart(balancer: GramianBalancer) -> None:
    """In float32, as weights are given: each gradient's cosine with the direction."""
    rng = np.random.default_rng(1)
    for terms in (2, 3, 5, 8, 20):
        jacobian = rng.normal(size=(terms, 2 * terms)) + 2 * rng.normal(size=2 * terms)
        jacobian[::2] *= -1
        jacobian *= 10 ** rng.uniform(-6, 6, size=(terms, 1))
        direction = jacobian.T @ weights_of(balancer, jacobian)
        norms = np.linalg.norm(jacobian, axis=1) * np.linalg.norm(direction)
        assert (jacobian @ direction / norms).min() > -1e-6


@pytest.mark.parametrize("balancer", BOTH, ids=["upgrad", "dualproj"])
def test_weights_are_those_of_the_mean_where_nothing_conflicts(balancer: GramianBalancer) -> None:
    agreeing = np.abs(np.random.default_rng(2).normal(size=(5, 4)))
    for jacobian in (agreeing, agreeing * 1e-30, np.zeros((5, 4)), np.eye(5), agreeing[[0] * 5]):
        assert weights_of(balancer, jacobian).tolist() == [1 / 5] * 5


@pytest.mark.parametrize("balancer", BOTH, ids=["upgrad", "dualproj"])
def test_a_gradient_of_0_changes_nothing_for_others(balancer: GramianBalancer) -> None:
    jacobian = np.array([[1.0, 0.0, 0.0], [-2.0, 1.0, 0.0], [0.0, -3.0, 1.0]])
    with_zero = np.insert(jacobian, 1, 0, axis=0)
    weights = weights_of(balancer, with_zero)
    assert weights[1] == 1 / 4
    assert weights.max() > 2 / 4
    others = np.delete(weights, 1)
    np.testing.assert_allclose(others * 4, weights_of(balancer, jacobian) * 3, rtol=1e-9)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e30])
@pytest.mark.parametrize("balancer", BOTH, ids=["upgrad", "dualproj"])
def test_the_scale_of_all_gradients_does_not_matter(
    balancer: GramianBalancer, scale: float
) -> None:
    for case in cases():
        ours = weights_of(balancer, case.jacobian)
        if len(ours) == np.linalg.matrix_rank(case.jacobian):
            np.testing.assert_allclose(weights_of(balancer, case.jacobian * scale), ours, rtol=1e-6)


@pytest.mark.parametrize("balancer", BOTH, ids=["upgrad", "dualproj"])
def test_the_order_of_terms_does_not_matter(balancer: GramianBalancer) -> None:
    for jacobian in scattered(20, seed=4):
        turned = jacobian[::-1].T @ weights_of(balancer, jacobian[::-1])
        ours = jacobian.T @ weights_of(balancer, jacobian)
        assert np.abs(turned - ours).max() <= 1e-9 * np.abs(jacobian).max()


@pytest.mark.parametrize("balancer", BOTH, ids=["upgrad", "dualproj"])
def test_a_gramian_that_rounding_made_indefinite(balancer: GramianBalancer) -> None:
    """Dependent gradients whose products were rounded to float32."""
    rng = np.random.default_rng(5)
    for _ in range(20):
        jacobian = rng.normal(size=(6, 3)) @ rng.normal(size=(3, 9))
        products = gramian(jacobian).astype(np.float32).astype(np.float64)
        weights = balancer.weigh(torch.ones(6), {}, moment(products)).numpy()
        along = jacobian @ (jacobian.T @ weights) / np.linalg.norm(jacobian, axis=1)
        assert along.min() > -1e-2
        assert weights.min() >= 1 / 6
    no_gramian = 6 * np.eye(6) - 5 * np.ones((6, 6))
    assert np.isfinite(balancer.weigh(torch.ones(6), {}, moment(no_gramian)).numpy()).all()


@pytest.mark.parametrize("balancer", BOTH, ids=["upgrad", "dualproj"])
def test_where_the_solver_gives_up_another_one_goes_on(
    balancer: GramianBalancer, monkeypatch: pytest.MonkeyPatch
) -> None:
    jacobians = [np.random.default_rng(6).normal(size=(4, 6)), hostile()["opposed, unequal"]]
    directions = [jacobian.T @ weights_of(balancer, jacobian) for jacobian in jacobians]

    def gives_up(*_: object) -> None:
        raise RuntimeError("Maximum number of iterations reached")

    monkeypatch.setattr("scipy.optimize.nnls", gives_up)
    for jacobian, direction in zip(jacobians, directions, strict=True):
        np.testing.assert_allclose(
            jacobian.T @ weights_of(balancer, jacobian), direction, atol=1e-9
        )


@pytest.mark.parametrize("balancer", BOTH, ids=["upgrad", "dualproj"])
def test_no_conflict_beside_gradients_of_0_and_opposed_ones(balancer: GramianBalancer) -> None:
    rng = np.random.default_rng(8)
    for index in range(400):
        size = (rng.integers(2, 7), rng.integers(1, 6))
        jacobian = rng.integers(-3, 4, size=size).astype(np.float64)
        jacobian[rng.integers(len(jacobian))] *= index % 2
        if index % 3 == 0:
            jacobian[-1] = -jacobian[0]
        products = jacobian @ (jacobian.T @ weights_of(balancer, jacobian))
        assert products.min() >= -1e-9


@pytest.mark.parametrize("balancer", BOTH, ids=["upgrad", "dualproj"])
def test_gradients_that_are_not_finite(balancer: GramianBalancer) -> None:
    found = balancer.weigh(torch.ones(2), {}, moment(np.array([[1.0, np.nan], [np.nan, 1.0]])))
    assert found.isnan().all()


@pytest.mark.parametrize("kind", ["upgrad", "dualproj"])
def test_what_is_shared_moves_along_the_exact_direction(kind: str) -> None:
    rows = torch.from_numpy(cases()[1].jacobian)
    shared = torch.zeros(rows.shape[1], dtype=torch.float64, requires_grad=True)
    criterion = WeightedLoss(terms=list("abcd"), balancer=kind)
    criterion(dict(zip("abcd", rows @ shared, strict=True)), shared=shared).backward()
    assert shared.grad is not None
    np.testing.assert_allclose(shared.grad.numpy(), EXACTLY[kind](rows.numpy()), atol=1e-5)


@pytest.mark.parametrize("kind", ["upgrad", "dualproj"])
def test_without_the_solver(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    message = rf"'{kind}' needs the package scipy: pip install \"lossweights\[gradients\]\""
    with pytest.raises(ConfigError, match=message):
        WeightedLoss(terms=["a", "b"], balancer=kind)
