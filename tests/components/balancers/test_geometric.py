"""The geometric mean."""

from __future__ import annotations

import pytest
import torch

from lossweights import WeightedLoss
from lossweights.components.balancers.geometric import geometric_weights
from tests.components.balancers.reference import LOSSES, agree, recorded, trained


def test_weights_by_hand() -> None:
    """The mean of 1, 8 and 27 is 6: a third of 6, of 6 / 8, of 6 / 27."""
    weights = geometric_weights(torch.tensor([1.0, 8.0, 27.0]))
    assert weights.tolist() == pytest.approx([2, 1 / 4, 2 / 27])


def test_recorded_values() -> None:
    weights = torch.stack([geometric_weights(losses) for losses in LOSSES])
    agree(weights, recorded("geometric"))
    agree((weights * LOSSES).sum(dim=1), recorded("geometric-total")[:, 0])


def test_recorded_values_of_a_criterion() -> None:
    weights, totals = trained({"kind": "geometric"})
    agree(weights, recorded("geometric")[:8], relative=1e-5)
    agree(totals, recorded("geometric-total")[:8, 0], relative=1e-5)


def test_weights_are_the_derivatives() -> None:
    losses = torch.tensor([0.3, 7.0, 2e-5, 40.0], dtype=torch.float64, requires_grad=True)
    losses.prod().pow(1 / 4).backward()  # type: ignore[no-untyped-call]
    assert losses.grad is not None
    agree(geometric_weights(losses.detach()), losses.grad)


def test_a_product_beyond_float32_does_no_harm() -> None:
    weights = geometric_weights(torch.full((64,), 1e6))
    assert weights.tolist() == pytest.approx([1 / 64] * 64)


def test_a_loss_of_0_counts_as_a_tiny_one() -> None:
    weights = geometric_weights(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert weights.tolist() == pytest.approx([1e6 / 2, 1e-6 / 2])
    criterion = WeightedLoss(terms=["a", "b"], balancer="geometric")
    assert criterion({"a": torch.tensor(0.0), "b": torch.tensor(1.0)}).isfinite()
