"""PCGrad."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lossweights import ConfigError, WeightedLoss
from lossweights.components.balancers.gradient.pcgrad import (
    PCGrad,
    pcgrad_weights,
)
from lossweights.components.random import Orders, orders
from tests.components.balancers.gradient.gramians import (
    Array,
    cases,
    gramian,
    hostile,
    moment,
    scattered,
    weights_of,
)

PCGRAD = PCGrad()


def surgery(jacobian: Array, order: Orders) -> Array:
    """Algorithm 1 of the paper, on the gradients themselves."""
    total = np.zeros(jacobian.shape[1])
    for own, others in zip(jacobian, order, strict=True):
        projected = own.copy()
        for other in jacobian[others]:
            product = projected @ other
            if product < 0:
                projected -= product / (other @ other) * other
        total += projected
    return total


def test_weights_by_hand() -> None:
    """(2, 0) becomes (1, 1), half of (-1, 1) too many; (-1, 1) becomes (0, 1)."""
    weights = weights_of(PCGRAD, np.array([[2.0, 0.0], [-1.0, 1.0]]))
    assert weights.tolist() == pytest.approx([1.5, 2.0])


def test_recorded_weights_of_two_terms() -> None:
    """With two terms there is one order."""
    checked = 0
    for case in cases("torchjd weights PCGrad", "libmtl direction PCGrad"):
        if len(case.jacobian) == 2:
            ours = weights_of(PCGRAD, case.jacobian)
            np.testing.assert_allclose(ours, case.recorded["torchjd weights PCGrad"], rtol=1e-12)
            theirs = case.recorded["libmtl direction PCGrad"]
            np.testing.assert_allclose(case.jacobian.T @ ours, theirs, rtol=1e-6)
            checked += 1
    assert checked == 5


def test_recorded_weights_where_the_order_does_not_matter() -> None:
    for case in cases("torchjd weights PCGrad"):
        found = {tuple(case.jacobian.T @ some_weights(case.jacobian, seed)) for seed in range(20)}
        if len(found) == 1:
            theirs = case.jacobian.T @ case.recorded["torchjd weights PCGrad"]
            assert found.pop() == pytest.approx(tuple(theirs), abs=1e-12)


def test_recorded_weights_are_among_those_of_all_orders() -> None:
    """Which order was drawn there is not known: one of some does it."""
    checked = 0
    for case in cases("torchjd weights PCGrad"):
        theirs = case.recorded["torchjd weights PCGrad"]
        found = (some_weights(case.jacobian, seed) for seed in range(3000))
        assert any(np.abs(weights - theirs).max() < 1e-9 for weights in found), case.name
        checked += len(theirs) > 2
    assert checked == 9


def some_weights(jacobian: Array, seed: int) -> Array:
    return pcgrad_weights(gramian(jacobian), orders(seed, 0, len(jacobian)))


def test_the_same_as_surgery_on_the_gradients() -> None:
    hard = {name: rows for name, rows in hostile().items() if "scales between" not in name}
    for index, jacobian in enumerate((*hard.values(), *scattered(60))):
        order = orders(index, 3, len(jacobian))
        ours = jacobian.T @ pcgrad_weights(gramian(jacobian), order)
        wanted = surgery(np.where(jacobian == 0, 0.0, jacobian), order)
        scale = np.abs(jacobian).max() or 1.0
        assert np.abs(ours - wanted).max() < 1e-7 * scale, index


def test_the_order_matters() -> None:
    jacobian = np.random.default_rng(0).normal(size=(4, 3))
    assert len({tuple(some_weights(jacobian, seed)) for seed in range(30)}) > 1


def test_two_terms_are_never_in_conflict() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        jacobian = rng.normal(size=(2, 3)) * 10 ** rng.uniform(-6, 6, size=(2, 1))
        along = jacobian @ (jacobian.T @ weights_of(PCGRAD, jacobian))
        assert (along >= -1e-12 * np.linalg.norm(jacobian, axis=1).max() ** 2).all()


def test_weights_where_nothing_conflicts() -> None:
    for jacobian in (np.zeros((3, 2)), np.eye(3), np.abs(np.random.default_rng(2).normal(size=9))):
        rows = jacobian.reshape(3, -1)
        assert weights_of(PCGRAD, rows).tolist() == [1] * 3


@pytest.mark.parametrize("name", hostile())
def test_weights_stay_finite(name: str) -> None:
    weights = weights_of(PCGRAD, hostile()[name])
    assert np.isfinite(weights.astype(np.float32)).all()
    assert weights.min() >= 1 or weights.max() > 1e29
    if name in {"opposed", "opposed, unequal"}:
        assert np.abs(hostile()[name].T @ weights).max() < 1e-12


def test_orders_are_permutations_of_the_others() -> None:
    for terms in (1, 2, 3, 8, 20):
        order = orders(5, 11, terms)
        assert order.shape == (terms, terms - 1)
        for own, others in enumerate(order):
            assert sorted([own, *others]) == list(range(terms))


def test_all_orders_are_as_likely() -> None:
    """Six orders of three others for each of four terms, in 3000 steps."""
    drawn = np.stack([orders(0, step, 4) for step in range(3000)])
    for own in range(4):
        _, counts = np.unique(drawn[:, own], axis=0, return_counts=True)
        assert counts.tolist() == pytest.approx([500] * 6, abs=100)
    assert not (drawn[:, 0] == drawn[:, 1]).all(axis=1).any()  # each has an order of its own


def test_orders_follow_from_seed_and_step() -> None:
    jacobian = np.random.default_rng(3).normal(size=(6, 4))

    def at(seed: int, step: int) -> tuple[float, ...]:
        now = moment(gramian(jacobian), step=step)
        balancer = PCGrad(seed=seed)
        return tuple(balancer.weigh(torch.ones(6), {}, now).tolist())

    before = torch.random.get_rng_state()
    assert at(1, 7) == at(1, 7)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert len({at(1, step) for step in range(20)}) == 20
    assert not {at(1, step) for step in range(20)} & {at(2, step) for step in range(20)}


def test_gradients_that_are_not_finite() -> None:
    found = PCGRAD.weigh(torch.ones(2), {}, moment(np.full((2, 2), np.inf)))
    assert found.isnan().all()


def test_in_a_criterion() -> None:
    shared = torch.zeros(2, requires_grad=True)
    criterion = WeightedLoss(terms=["a", "b", "c"], balancer={"kind": "pcgrad", "seed": 4})
    terms = {"a": 2 * shared[0], "b": shared[1] - shared[0], "c": 0 * shared[0]}
    criterion(terms, shared=shared).backward()
    assert shared.grad is not None
    assert shared.grad.tolist() == pytest.approx([1, 2])


def test_refused() -> None:
    with pytest.raises(ConfigError, match=r"balancer\.seed: must be greater than or equal"):
        WeightedLoss(terms=["a"], balancer={"kind": "pcgrad", "seed": -1})
