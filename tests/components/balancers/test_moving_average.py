"""Normalisation by a moving average."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lossweights import ConfigError, WeightedLoss
from lossweights.components.balancers import MovingAverage
from lossweights.components.balancers.moving_average import moving_average_weights
from tests.components.balancers.reference import LOSSES, agree, trained, weights_of
from tests.components.balancers.test_edges import HARD


def test_weights_by_hand() -> None:
    total, norm = torch.tensor([2.0, 0.1, 0.0, 1e-9]), torch.tensor([0.5, 0.5, 0.5, 0.5])
    weights = moving_average_weights(total, norm, highest=1e3)
    assert weights.tolist() == pytest.approx([0.25, 5, 1, 1e3])


def test_weights_are_those_of_the_definition() -> None:
    """Bias-corrected: sums with decaying weights over the sum of these weights."""
    ours, _ = weights_of(MovingAverage(smoothing=0.8))
    assert ours[0].tolist() == [1, 1, 1]
    for step in range(1, len(LOSSES)):
        decaying = 0.8 ** torch.arange(step - 1, -1, -1, dtype=torch.float64)
        agree(ours[step], decaying.sum() / (decaying @ LOSSES[:step]))


def test_trajectory_of_a_criterion() -> None:
    ours, _ = trained({"kind": "moving-average", "smoothing": 0})
    agree(ours[1:], 1 / LOSSES[:7], relative=1e-5)


def test_weights_with_a_reference_by_hand() -> None:
    total, norm = torch.tensor([2.0, 0.5, 0.0, 1e-9]), torch.tensor([0.5, 0.5, 0.5, 0.5])
    weights = moving_average_weights(total, norm, highest=1e3, reference=0)
    assert weights.tolist() == pytest.approx([1, 4, 1, 1e3])
    weights = moving_average_weights(total, norm, highest=1e3, reference=2)
    assert weights.tolist() == [1, 1, 1, 1], "a reference that was always 0"


def test_a_reference_keeps_its_weight_and_the_others_come_to_its_size() -> None:
    plain, _ = trained({"kind": "moving-average", "smoothing": 0.5})
    ours, _ = trained({"kind": "moving-average", "smoothing": 0.5, "reference": "b"})
    assert ours[:, 1].tolist() == [1] * 8
    agree(ours[1:], (plain / plain[:, 1:2])[1:].double(), relative=1e-5)


def test_the_reference_is_found_by_its_name_among_the_balanced_terms() -> None:
    terms: dict[str, Any] = {"a": {"balanced": False}, "z": 1.0, "m": 1.0}
    criterion = WeightedLoss(terms, balancer={"kind": "moving-average", "reference": "z"})
    criterion({"a": torch.tensor(7.0), "m": torch.tensor(0.5), "z": torch.tensor(2.0)})
    criterion.step()
    assert criterion.weights == {"a": 1.0, "z": 1.0, "m": 4.0}


@pytest.mark.parametrize("name", HARD)
def test_weights_with_a_reference_stay_finite(name: str) -> None:
    losses = torch.tensor(HARD[name]).repeat(8, 1)
    weights, _ = weights_of(MovingAverage(reference="b"), losses)
    assert weights.isfinite().all()
    assert (weights[:, 1] == 1).all()


def test_weights_are_1_until_the_reference_was_seen() -> None:
    terms: dict[str, Any] = {"a": 1.0, "late": {"optional": True}}
    criterion = WeightedLoss(terms, balancer={"kind": "moving-average", "reference": "late"})
    weights = []
    for losses in ({"a": 5.0}, {"a": 5.0, "late": 1.0}, {"a": 5.0}):
        criterion({name: torch.tensor(loss) for name, loss in losses.items()})
        criterion.step()
        weights.append(criterion.weights["a"])
    assert weights == pytest.approx([1, 0.2, 0.2])


def test_the_first_step_is_no_different_from_the_last() -> None:
    """Without the correction a constant loss of 4 would at first count as 0.04."""
    weights, _ = weights_of(MovingAverage(), torch.full((300, 1), 4.0))
    assert weights[1:].flatten().tolist() == pytest.approx([0.25] * 299, rel=1e-4)


def test_the_sign_of_a_loss_does_not_matter() -> None:
    ours, _ = weights_of(MovingAverage(), LOSSES)
    negative, _ = weights_of(MovingAverage(), -LOSSES)
    agree(negative, ours)


def test_a_term_that_goes_to_0_is_held_up_by_highest() -> None:
    losses = torch.tensor([[1.0]] + [[0.0]] * 40)
    weights, _ = weights_of(MovingAverage(smoothing=0.5, highest=100), losses)
    assert weights[1:4].flatten().tolist() == pytest.approx([1, 3, 7])
    assert weights[-1].tolist() == [100]


def test_refused() -> None:
    with pytest.raises(ConfigError, match=r"balancer\.smoothing: must be less than 1"):
        WeightedLoss(terms=["a"], balancer={"kind": "moving-average", "smoothing": 1})
    with pytest.raises(ConfigError, match=r"balancer\.highest: must be greater than 0"):
        WeightedLoss(terms=["a"], balancer={"kind": "moving-average", "highest": 0})
    message = r"balancer: reference 'bat' is not a balanced term; did you mean 'bar'\?"
    with pytest.raises(ConfigError, match=message):
        WeightedLoss(["bar", "a"], balancer={"kind": "moving-average", "reference": "bat"})
