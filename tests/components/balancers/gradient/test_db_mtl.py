"""DB-MTL."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lossweights import WeightedLoss
from lossweights.components.balancers.gradient.db_mtl import DBMTL, dual_balancing_weights
from tests.components.balancers.gradient.norms import (
    HOSTILE,
    THETA,
    goes_without_values,
    hostile_weights,
    is_no_number_where_any_is_not,
    moment,
    recorded,
    toy_gradients,
    toy_losses,
)
from tests.components.balancers.reference import agree

SOME = st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=3)


def test_weights_by_hand() -> None:
    """The logarithms have norms of 1/2 and 2: the gradients of both are brought to 2."""
    losses, norms = torch.tensor([2.0, 3.0]), torch.tensor([1.0, 6.0])
    weights = dual_balancing_weights(losses, norms)
    assert weights.tolist() == pytest.approx([2, 1 / 3])


def test_gradients_are_those_recorded() -> None:
    for step, theirs in enumerate(recorded("db-mtl")):
        theta = THETA * (1 - step / 8)
        rows = toy_gradients(theta, step)
        weights = dual_balancing_weights(toy_losses(theta, step), rows.norm(dim=1))
        agree(weights @ rows, theirs, relative=1e-6)  # theirs has 1e-8 beside each norm too


def test_in_a_criterion() -> None:
    criterion = WeightedLoss(terms=["a", "b", "c"], balancer="db-mtl")
    for step, theirs in enumerate(recorded("db-mtl")):
        theta = (THETA * (1 - step / 8)).requires_grad_()
        losses = toy_losses(theta, step)
        criterion(dict(zip("abc", losses, strict=True)), shared=theta).backward()
        assert theta.grad is not None
        agree(theta.grad, theirs, relative=1e-5)
        criterion.step()


@given(losses=SOME, norms=SOME)
def test_all_gradients_have_the_largest_norm_of_a_logarithm(
    losses: list[float], norms: list[float]
) -> None:
    values, sizes = torch.tensor([losses, norms], dtype=torch.float64)
    weighted = dual_balancing_weights(values, sizes) * sizes
    largest = (sizes / values).max().item()
    assert weighted.tolist() == pytest.approx([largest] * 3, rel=2e-5)


@given(losses=SOME, norms=SOME, scales=SOME)
def test_the_scale_of_a_loss_does_not_matter(
    losses: list[float], norms: list[float], scales: list[float]
) -> None:
    """Weights go with its inverse: what is weighted stays."""
    values, sizes, by = torch.tensor([losses, norms, scales], dtype=torch.float64)
    plain = dual_balancing_weights(values, sizes)
    scaled = dual_balancing_weights(values * by, sizes * by)
    torch.testing.assert_close(scaled * by, plain, rtol=0.02, atol=0)  # 1e-8 beside 1e-6


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_norms(name: str) -> None:
    weights = hostile_weights(DBMTL(), name, steps=4)
    assert (weights > 0).all()
    assert (weights <= 1e30).all()


def test_a_term_whose_gradient_is_0_has_weight_1() -> None:
    losses, norms = torch.tensor([5.0, 0.0, 2.0]), torch.tensor([0.0, 0.0, 3.0])
    assert dual_balancing_weights(losses, norms).tolist() == pytest.approx([1, 1, 0.5])
    assert dual_balancing_weights(losses, 0 * norms).tolist() == [1, 1, 1]


def test_a_loss_that_is_not_positive_does_not_set_the_norm() -> None:
    """It has no logarithm; with one of something tiny all would weigh a hundred million."""
    losses, norms = torch.tensor([2.0, 0.0, -4.0]), torch.tensor([1.0, 8.0, 0.25])
    weighted = dual_balancing_weights(losses, norms) * norms
    assert weighted.tolist() == pytest.approx([0.5, 0.5, 0.5])
    weighted = dual_balancing_weights(-losses.abs(), norms) * norms
    assert weighted.tolist() == [8, 8, 8]


def test_a_loss_next_to_0_counts_as_a_tiny_one() -> None:
    losses, norms = torch.tensor([1.0, 1e-30]), torch.tensor([1.0, 1e-3])
    weighted = dual_balancing_weights(losses, norms) * norms
    assert weighted.tolist() == pytest.approx([1e5, 1e5])


def test_gradients_that_are_not_finite() -> None:
    is_no_number_where_any_is_not(DBMTL())


def test_nothing_waits_for_the_device() -> None:
    goes_without_values(DBMTL())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_loss_that_is_not_finite(bad: float) -> None:
    now = moment(torch.tensor([1.0, 1.0], dtype=torch.float64))
    weights = DBMTL().weigh(torch.tensor([1.0, bad]), {}, now)
    assert not weights.isfinite().all()
