"""ConFIG."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lossweights import WeightedLoss
from lossweights.components.balancers.gradient.conflict_free import (
    ConFIG,
    conflict_free_weights,
)
from tests.components.balancers.gradient.gramians import (
    Array,
    cases,
    gramian,
    hostile,
    scattered,
    weights_of,
)


def direction(jacobian: Array) -> Array:
    found: Array = jacobian.T @ conflict_free_weights(gramian(jacobian))
    return found


def units(jacobian: Array) -> Array:
    found: Array = jacobian / np.linalg.norm(jacobian, axis=1, keepdims=True)
    return found


def from_the_gradients(jacobian: Array) -> Array:
    """What the paper computes, from the gradients that are not 0, for a pseudo-inverse as ours."""
    moved = jacobian[jacobian.any(axis=1)]
    if not len(moved):
        return np.zeros(jacobian.shape[1])
    target = np.linalg.pinv(units(moved), rcond=1e-6).sum(axis=1)
    length = np.linalg.norm(target)
    if length < 1e-6:
        return np.zeros(jacobian.shape[1])
    found: Array = (moved @ target).sum() * target / length**2
    return found


def test_values_by_hand() -> None:
    """(1, 0) and (0, 3): at 45 degrees they reach (1 + 3) / sqrt(2), which is (2, 2)."""
    assert conflict_free_weights(np.diag([1.0, 9.0])).tolist() == pytest.approx([2, 2 / 3])
    # Two unit gradients, of any cosine: their sum.
    for cosine in (-0.999, -0.5, 0.0, 0.9):
        both = conflict_free_weights(np.array([[1, cosine], [cosine, 1]]))
        assert both.tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize("name", ["conflictfree direction ConFIG", "torchjd direction ConFIG"])
def test_recorded_directions(name: str) -> None:
    for case in cases():
        assert np.abs(direction(case.jacobian) - case.recorded[name]).max() < 1e-12, case.name


def test_directions_from_the_gradients() -> None:
    for jacobian in [*scattered(60), *hostile().values()]:
        norms = np.linalg.norm(jacobian, axis=1)
        away = np.abs(direction(jacobian) - from_the_gradients(jacobian)).max()
        # A Gramian tells lengths of 1e-7 from 0 no better.
        assert away <= 1e-6 * norms.max()


def test_independent_gradients_have_the_same_angle_to_the_direction() -> None:
    tried = 0
    for jacobian in scattered(80):
        if np.linalg.svd(units(jacobian))[1].min() < 1e-3 or len(jacobian) > jacobian.shape[1]:
            continue
        d = direction(jacobian)
        cosines = units(jacobian) @ d / np.linalg.norm(d)
        assert cosines.min() > 0
        assert cosines.tolist() == pytest.approx([cosines[0]] * len(cosines))
        assert np.linalg.norm(d) == pytest.approx(cosines @ np.linalg.norm(jacobian, axis=1))
        tried += 1
    assert tried > 20


@pytest.mark.parametrize("name", hostile())
def test_hostile_gradients(name: str) -> None:
    weights = weights_of(ConFIG(), hostile()[name]).astype(np.float32)
    assert np.isfinite(weights).all()


def test_no_direction_is_0() -> None:
    for name in ("opposed", "opposed, unequal", "stationary"):
        assert not conflict_free_weights(gramian(hostile()[name])).any()


def test_few_directions_that_all_agree_on() -> None:
    """Three gradients in a plane, lifted out of it: the direction points out of it, as they do."""
    thirds = 2 * np.pi * np.arange(3) / 3
    for height in (1e-2, 1e-4, 1e-5):
        jacobian = np.stack((np.cos(thirds), np.sin(thirds), np.full(3, height)), axis=1)
        assert direction(jacobian) == pytest.approx([0, 0, 3 * height], abs=1e-3 * height)


def test_nearly_no_direction() -> None:
    """Three gradients in a plane, at angles that are not quite equal."""
    for angle in (1e-2, 1e-4, 1e-5):
        turns = 2 * np.pi * np.arange(3) / 3 + np.array([0, angle, 3 * angle])
        jacobian = np.stack((np.cos(turns), np.sin(turns)), axis=1)
        theirs = from_the_gradients(jacobian)
        assert np.linalg.norm(theirs) > angle / 10
        assert direction(jacobian) == pytest.approx(theirs, abs=1e-4 * angle)


def test_gradients_of_0_take_no_part() -> None:
    jacobian = hostile()["one 0"]
    weights = conflict_free_weights(gramian(jacobian))
    assert weights[1] == 1
    others = conflict_free_weights(gramian(jacobian[[0, 2, 3]]))
    assert weights[[0, 2, 3]].tolist() == others.tolist()
    assert conflict_free_weights(np.zeros((3, 3))).tolist() == [1, 1, 1]
    assert conflict_free_weights(np.array([[4.0]])).tolist() == pytest.approx([1])


def test_equal_gradients_are_summed() -> None:
    assert conflict_free_weights(gramian(hostile()["equal"])).tolist() == pytest.approx([1] * 4)


def test_scales() -> None:
    jacobian = hostile()["badly scaled"]
    theirs = conflict_free_weights(gramian(jacobian)).tolist()
    for scale in (1e-30, 1e-3, 1e30):
        ours = conflict_free_weights(gramian(scale * jacobian))
        assert ours.tolist() == pytest.approx(theirs, rel=1e-9)
    # The direction does not depend on the scales of terms, only its length.
    scaled = direction(jacobian * np.array([[1e6], [1.0], [1e-3], [1.0]]))
    before = direction(jacobian)
    assert scaled / np.linalg.norm(scaled) == pytest.approx(before / np.linalg.norm(before))


def test_a_criterion_goes_there() -> None:
    for case in cases():
        x = torch.zeros(case.jacobian.shape[1], requires_grad=True)
        values = torch.tensor(case.jacobian, dtype=torch.float32) @ x
        names = [f"t{i}" for i in range(len(values))]
        criterion = WeightedLoss(terms=names, balancer="conflict-free")
        criterion(dict(zip(names, values, strict=True)), shared=x).backward()
        assert x.grad is not None
        theirs = case.recorded["conflictfree direction ConFIG"]
        away = np.abs(x.grad.numpy() - theirs).max()
        assert away <= 1e-5 * np.linalg.norm(case.jacobian)
