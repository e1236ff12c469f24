"""Aligned-MTL."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lossweights import ConfigError, WeightedLoss
from lossweights.components.balancers.gradient.aligned_mtl import AlignedMTL
from tests.components.balancers.gradient.gramians import cases, hostile, moment, weights_of

MODES = ("min", "median", "rmse")


def balancer(scale_mode: str = "min") -> AlignedMTL:
    return AlignedMTL.model_validate({"scale_mode": scale_mode})


@pytest.mark.parametrize("mode", MODES)
def test_recorded_weights(mode: str) -> None:
    key = f"torchjd weights AlignedMTL({mode})"
    for case in cases(key):
        ours = weights_of(balancer(mode), case.jacobian)
        np.testing.assert_allclose(ours, case.recorded[key], atol=1e-9, err_msg=case.name)


@pytest.mark.parametrize("mode", MODES)
def test_the_direction_is_the_mean_of_aligned_gradients(mode: str) -> None:
    """The orthogonal factor of the Jacobian (Procrustes), by its singular values, times a size."""
    rng = np.random.default_rng(0)
    for terms in (1, 2, 3, 4, 5, 8):
        jacobian = rng.normal(size=(terms, 9)) * 10 ** rng.uniform(-2, 2, size=(terms, 1))
        left, values, right = np.linalg.svd(jacobian, full_matrices=False)
        rising = values[::-1]
        size = {
            "min": rising[0],
            "median": rising[(terms - 1) // 2],
            "rmse": np.sqrt((values**2).mean()),
        }[mode]
        wanted = size * (left @ right).mean(axis=0)
        found = jacobian.T @ weights_of(balancer(mode), jacobian)
        np.testing.assert_allclose(found, wanted, atol=1e-6 * size)


def test_orthogonal_gradients_count_alike() -> None:
    jacobian = np.diag([4.0, 1.0, 0.25, 2.0])
    assert weights_of(balancer(), jacobian) * 4 == pytest.approx([1 / 16, 1 / 4, 1, 1 / 8])
    assert weights_of(balancer("median"), jacobian) * 4 == pytest.approx([1 / 4, 1, 4, 1 / 2])
    root = np.sqrt((16 + 1 + 1 / 16 + 4) / 4)
    assert weights_of(balancer("rmse"), jacobian) * 4 == pytest.approx(
        [root / 4, root, root * 4, root / 2]
    )


def test_weights_have_a_bound() -> None:
    for jacobian in hostile().values():
        assert np.abs(weights_of(balancer(), jacobian)).max() <= 1.001 / np.sqrt(len(jacobian))


@pytest.mark.parametrize("mode", MODES)
def test_equal_gradients_and_gradients_of_0(mode: str) -> None:
    jacobian = hostile()["equal"]
    assert weights_of(balancer(mode), jacobian) == pytest.approx([1 / 4] * 4)
    assert weights_of(balancer(mode), 0 * jacobian).tolist() == [1 / 4] * 4
    assert weights_of(balancer(mode), hostile()["all 0 but one"]) == pytest.approx([0, 1 / 3, 0])
    with_zero = weights_of(balancer(mode), hostile()["one 0"])
    others = weights_of(balancer(mode), np.delete(hostile()["one 0"], 1, axis=0))
    np.testing.assert_allclose(with_zero, np.insert(others * 3 / 4, 1, 0), atol=1e-12)


def test_dependent_gradients_in_float32() -> None:
    """The rounding of a sum is no direction of its own, by whose size all would be scaled."""
    rows = np.random.default_rng(1).normal(size=(2, 1000)).astype(np.float32)
    dependent = np.concatenate((rows, rows[:1] + rows[1:])).astype(np.float64)
    exact = np.concatenate((rows.astype(np.float64), rows.astype(np.float64).sum(0)[None]))
    ours = weights_of(balancer(), dependent)
    assert np.abs(ours).max() > 0.1
    np.testing.assert_allclose(ours, weights_of(balancer(), exact), atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", hostile())
def test_weights_stay_finite(mode: str, name: str) -> None:
    weights = weights_of(balancer(mode), hostile()[name])
    assert np.isfinite(weights.astype(np.float32)).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_scale_of_all_gradients_does_not_matter(mode: str, scale: float) -> None:
    for case in cases():
        ours = weights_of(balancer(mode), case.jacobian * scale)
        np.testing.assert_allclose(ours, weights_of(balancer(mode), case.jacobian), atol=1e-9)


def test_gradients_that_are_not_finite() -> None:
    found = balancer().weigh(torch.ones(2), {}, moment(np.full((2, 2), np.nan)))
    assert found.isnan().all()


def test_in_a_criterion() -> None:
    shared = torch.zeros(2, requires_grad=True)
    table = {"kind": "aligned-mtl", "scale_mode": "rmse"}
    criterion = WeightedLoss(terms=["a", "b"], balancer=table)
    criterion({"a": 7 * shared[0], "b": -shared[1]}, shared=shared).backward()
    assert shared.grad is not None
    assert shared.grad.tolist() == pytest.approx([2.5, -2.5])


def test_refused() -> None:
    with pytest.raises(ConfigError, match=r"balancer\.scale_mode: must be 'min', 'median'"):
        WeightedLoss(terms=["a"], balancer={"kind": "aligned-mtl", "scale_mode": "max"})
