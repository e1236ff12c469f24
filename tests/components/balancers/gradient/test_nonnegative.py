"""Quadratic programs with nonnegative variables."""

from __future__ import annotations

import numpy as np
import pytest

from lossweights.components.balancers.gradient.nonnegative import nonnegative_minimum
from tests.components.balancers.gradient import exact
from tests.components.balancers.gradient.gramians import Array, gramian, scattered


def value(matrix: Array, vector: Array, x: Array) -> float:
    return float(x @ matrix @ x / 2 - vector @ x)


def problems() -> list[tuple[Array, Array]]:
    """With unit diagonals; the minimum exists, since c is a combination of the rows of Q."""
    rng = np.random.default_rng(1)
    found = []
    for jacobian in scattered(80):
        rows = jacobian / np.linalg.norm(jacobian, axis=1, keepdims=True)
        found.append((gramian(rows), rows @ rng.normal(size=rows.shape[1])))
    return found


def test_values_by_hand() -> None:
    matrix = np.array([[2.0, 1.0], [1.0, 2.0]])
    assert nonnegative_minimum(matrix, np.array([3.0, 3.0])).tolist() == pytest.approx([1, 1])
    assert nonnegative_minimum(matrix, np.array([2.0, -1.0])).tolist() == [1, 0]
    assert nonnegative_minimum(matrix, np.array([2.0, 1.0])).tolist() == pytest.approx([1, 0])
    assert nonnegative_minimum(matrix, np.array([-1.0, -2.0])).tolist() == [0, 0]
    assert nonnegative_minimum(np.eye(1), np.array([3.0])).tolist() == [3]


def test_minima_found_by_trying_every_face() -> None:
    for matrix, vector in problems():
        x = nonnegative_minimum(matrix, vector)
        assert (x >= 0).all()
        assert value(matrix, vector, x) == pytest.approx(exact.least(matrix, vector), abs=1e-13)


def test_minima_where_the_linear_systems_have_no_solution() -> None:
    """Rows that depend on each other on one side of the origin, and any c: the minimum exists."""
    rng = np.random.default_rng(7)
    for _ in range(60):
        terms, width = rng.integers(2, 7), rng.integers(1, 4)
        rows = rng.normal(size=(terms, width))
        rows[:, 0] = rng.uniform(0.5, 1, size=terms)
        matrix = gramian(rows / np.linalg.norm(rows, axis=1, keepdims=True))
        vector = rng.normal(size=terms)
        x = nonnegative_minimum(matrix, vector)
        assert (x >= 0).all()
        assert (vector - matrix @ x <= 1e-10).all()
        assert value(matrix, vector, x) == pytest.approx(exact.least(matrix, vector), abs=1e-9)


def test_no_variable_that_is_0_would_gain_and_all_others_are_at_their_best() -> None:
    for matrix, vector in problems():
        x = nonnegative_minimum(matrix, vector)
        slope = vector - matrix @ x
        assert (slope <= 1e-12).all()
        assert np.abs(slope[x > 0]).max(initial=0) <= 1e-12


def test_every_start_leads_to_the_minimum() -> None:
    rng = np.random.default_rng(2)
    for matrix, vector in problems():
        lowest = value(matrix, vector, nonnegative_minimum(matrix, vector))
        for start in (
            np.zeros(len(vector)),
            np.ones(len(vector)),
            rng.exponential(size=len(vector)),
        ):
            x = nonnegative_minimum(matrix, vector, start)
            assert value(matrix, vector, x) == pytest.approx(lowest, abs=1e-13)


@pytest.mark.parametrize(
    ("matrix", "vector", "lowest"),
    [
        (np.ones((3, 3)), np.ones(3), -0.5),
        (np.ones((3, 3)), np.array([1.0, 1.0, 0.5]), -0.5),
        (np.array([[1.0, -1.0], [-1.0, 1.0]]), np.array([-1.0, 1.0]), -0.5),
        (np.array([[1.0, -1.0], [-1.0, 1.0]]), np.zeros(2), 0.0),
        (np.diag([1.0, 0.0]), np.array([1.0, -1.0]), -0.5),
        (np.zeros((2, 2)), np.zeros(2), 0.0),
    ],
)
def test_singular_matrices(matrix: Array, vector: Array, lowest: float) -> None:
    x = nonnegative_minimum(matrix, vector)
    assert np.isfinite(x).all()
    assert value(matrix, vector, x) == pytest.approx(lowest, abs=1e-15)


def test_small_gains_are_not_left_out() -> None:
    x = nonnegative_minimum(np.eye(2), np.array([1.0, 1e-9]), np.zeros(2))
    assert x.tolist() == pytest.approx([1, 1e-9])


def test_a_variable_takes_the_place_of_one_that_it_depends_on() -> None:
    matrix = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    for start in ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [2.0, 2.0, 2.0]):
        x = nonnegative_minimum(matrix, np.array([1, 1 + 1e-9, 1e-10]), np.array(start))
        assert x.tolist() == pytest.approx([0, 1 + 1e-9, 1e-10])


def test_rounding_is_not_taken_for_a_minimum_far_away() -> None:
    """Two opposed rows, but for rounding: the minimum is not where that of the matrix is."""
    matrix = np.array([[1 + 2e-16, 1, -1], [1, 1 - 1e-16, -1], [-1, -1, 1]])
    x = nonnegative_minimum(matrix, np.array([-0.5547001962252, -0.5547001854096, 0.5547001969013]))
    assert x.tolist() == pytest.approx([0, 0, 0.5547001969013])


def test_nearly_singular_matrices() -> None:
    """Rows that differ by less than a Gramian in float64 can tell."""
    rng = np.random.default_rng(3)
    for distance in (1e-4, 1e-6, 1e-8, 1e-10, 1e-12):
        rows = rng.normal(size=6) + distance * rng.normal(size=(5, 6))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        x = nonnegative_minimum(gramian(rows), np.ones(5))
        assert np.isfinite(x).all()
        assert value(gramian(rows), np.ones(5), x) == pytest.approx(-0.5, rel=20 * distance)


def test_what_is_given_is_left_alone() -> None:
    matrix, vector, start = np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([2.0, -1.0]), np.ones(2)
    nonnegative_minimum(matrix, vector, start)
    assert matrix.tolist() == [[2, 1], [1, 2]]
    assert vector.tolist() == [2, -1]
    assert start.tolist() == [1, 1]
