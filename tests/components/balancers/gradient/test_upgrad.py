"""UPGrad; test_dual_cone holds what it shares with DualProj."""

from __future__ import annotations

import numpy as np
import pytest

from lossweights.components.balancers import UPGrad
from tests.components.balancers.gradient.gramians import cases, weights_of

# UPGrad's directions where CLARABEL fails (random6), or is off by 5e-5 and 9e-4: solved face by
# face in rational numbers, of which Python has any number of digits, as in test_dual_cone.
EXACT = {
    "random6": "3.61237694917055 -0.364925955331235 1.54291589618933 0.559874581102528 "
    "0.592772995416578 -0.533722513410835 2.91395441848595",
    "random10": "4.2677749503244 -2.82811230230361 1.57405814757274 1.18090329593958 "
    "-2.02700671218613 -0.209305095484366 -7.09279894154776 -4.32689620340348",
    "random18": "0.792556285596018 2.38890366141768 -4.25991154978251 1.13490746503762 "
    "-0.0982361443631329 -1.13022788297317 -1.08922611570936",
}


def test_weights_by_hand() -> None:
    """(2, 0) and (-1, 1): the first becomes (1, 1), the second (0, 1)."""
    first = weights_of(UPGrad(), np.array([[2.0, 0.0], [-1.0, 1.0]]))
    assert first.tolist() == pytest.approx([0.75, 1.0])
    second = weights_of(UPGrad(), np.array([[1.0, 0.0], [-3.0, 1.0]]))
    assert second.tolist() == pytest.approx([2.0, 0.65])


def test_recorded_directions() -> None:
    for case in cases("clarabel direction UPGrad"):
        found = case.jacobian.T @ weights_of(UPGrad(), case.jacobian)
        assert np.abs(found - case.recorded["clarabel direction UPGrad"]).max() < 1e-8, case.name


def test_recorded_weights() -> None:
    """Those of others with tolerances as tight as they stand; with the defaults they are off."""
    key = "torchjd weights UPGrad(reg_eps=norm_eps=1e-12)"
    for case in cases(key):
        found = weights_of(UPGrad(), case.jacobian)
        if len(found) == np.linalg.matrix_rank(case.jacobian):  # else others are as good
            np.testing.assert_allclose(found, case.recorded[key], rtol=1e-6, err_msg=case.name)


def test_directions_where_a_solver_fails() -> None:
    jacobians = {case.name: case.jacobian for case in cases()}
    for name, values in EXACT.items():
        found = jacobians[name].T @ weights_of(UPGrad(), jacobians[name])
        np.testing.assert_allclose(found, np.array(values.split(), float), atol=1e-8, err_msg=name)


def test_linear_under_scaling() -> None:
    """The property of the paper: linear in the scales of the gradients, as these are positive."""
    jacobian = np.random.default_rng(3).normal(size=(4, 6))
    one, two = np.array([[1.0], [5.0], [0.1], [2.0]]), np.array([[3.0], [0.2], [0.7], [1.0]])
    parts = [(scale * jacobian).T @ weights_of(UPGrad(), scale * jacobian) for scale in (one, two)]
    both = (one + two) * jacobian
    np.testing.assert_allclose(both.T @ weights_of(UPGrad(), both), sum(parts), atol=1e-9)
