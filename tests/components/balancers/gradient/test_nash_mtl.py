"""Nash-MTL; test_fairgrad holds its equation to the general one."""

from __future__ import annotations

import numpy as np
import pytest

from lossweights import ConfigError, WeightedLoss
from lossweights.components.balancers import NashMTL
from lossweights.components.balancers.gradient.fairgrad import fair_weights
from tests.components.balancers.gradient.gramians import (
    cases,
    gradient,
    gramian,
    hostile,
    stationary,
    weights_of,
)


@pytest.mark.parametrize("name", ["libmtl direction Nash_MTL", "torchjd direction NashMTL"])
def test_recorded_directions(name: str) -> None:
    """Theirs where they solve the equation: then all gains times weights are equal."""
    agreed = 0
    for case in cases(name, "libmtl weights Nash_MTL"):
        theirs = case.recorded["libmtl weights Nash_MTL"]
        shares = theirs * (case.gramian @ theirs)
        solved = np.abs(shares - 1).max() < 1e-3
        if solved or stationary(case.jacobian):
            ours = case.jacobian.T @ weights_of(NashMTL(), case.jacobian)
            assert np.abs(ours - case.recorded[name]).max() < 1e-5, case.name
            agreed += 1
    assert agreed == 8


@pytest.mark.parametrize("name", hostile())
def test_the_direction_conflicts_with_none(name: str) -> None:
    jacobian = hostile()[name]
    norms = np.linalg.norm(jacobian, axis=1)
    weights = weights_of(NashMTL(max_norm=None), jacobian)
    d = jacobian.T @ (weights / max(1.0, float(weights.max())))
    noise = 1e-12 * norms * (weights / max(1.0, float(weights.max())) @ norms)
    assert (jacobian @ d >= -noise).all()


def test_scales_of_terms_do_not_matter() -> None:
    jacobian = hostile()["badly scaled"]
    scales = np.array([1e3, 1e-6, 1.0, 1e12])
    ours = fair_weights(gramian(jacobian * scales[:, None]), 1.0) * scales
    assert ours.tolist() == pytest.approx(fair_weights(gramian(jacobian), 1.0).tolist(), rel=1e-9)


def test_the_length_of_the_direction() -> None:
    for case in cases():
        if stationary(case.jacobian):
            continue
        terms = len(case.jacobian)
        for max_norm, length in ((None, terms**0.5), (1.0, 1.0), (0.25, 0.25), (10, terms**0.5)):
            weights = weights_of(NashMTL(max_norm=max_norm), case.jacobian)
            d = case.jacobian.T @ weights
            assert np.linalg.norm(d) == pytest.approx(length)


def test_gradients_of_0_have_weight_1() -> None:
    assert weights_of(NashMTL(), np.zeros((3, 4))).tolist() == [1, 1, 1]


def test_a_criterion_goes_where_all_gain() -> None:
    for case in cases():
        if not stationary(case.jacobian):
            d = gradient(case.jacobian, "nash-mtl")
            assert (case.jacobian @ d > 0).all()
            assert np.linalg.norm(d) == pytest.approx(1, rel=1e-5)


def test_refused() -> None:
    message = r"balancer\.max_norm: must be greater than 0"
    with pytest.raises(ConfigError, match=message):
        WeightedLoss(terms=["a"], balancer={"kind": "nash-mtl", "max_norm": 0})
