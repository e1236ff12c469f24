"""The smooth maximum."""

from __future__ import annotations

import math

import pytest
import torch

from lossweights import ConfigError, WeightedLoss
from lossweights.components.balancers.stch import stch_weights
from tests.components.balancers.reference import LOSSES, agree, recorded, trained


def test_weights_by_hand() -> None:
    """Losses that differ by n mu log 3 share 1 / n as 1 to 3."""
    losses = torch.tensor([1.0, 1 + 2 * 0.5 * math.log(3)])
    assert stch_weights(losses, 0.5).tolist() == pytest.approx([1 / 8, 3 / 8])


def test_recorded_values() -> None:
    agree(torch.stack([stch_weights(losses, 0.01) for losses in LOSSES]), recorded("stch"))
    weights, _ = trained({"kind": "stch", "temperature": 0.01})
    agree(weights, recorded("stch")[:8], relative=1e-6)


@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0, 10.0])
def test_weights_are_the_derivatives(temperature: float) -> None:
    """Of mu log sum exp(l / (n mu)), with preferences of 1 / n."""
    losses = torch.tensor([0.3, 0.5, 0.1, 0.45], dtype=torch.float64, requires_grad=True)
    (temperature * torch.logsumexp(losses / (4 * temperature), dim=0)).backward()  # type: ignore[no-untyped-call]
    assert losses.grad is not None
    agree(stch_weights(losses.detach(), temperature), losses.grad)


def test_from_the_largest_alone_to_all_equally() -> None:
    losses = torch.tensor([1.0, 2.0])
    assert stch_weights(losses, 1e-4).tolist() == [0.0, 0.5]
    assert stch_weights(losses, 1e6).tolist() == pytest.approx([0.25, 0.25])


def test_huge_losses() -> None:
    assert stch_weights(torch.tensor([1e38, 1.0]), 1e-6).tolist() == [0.5, 0.0]


def test_refused() -> None:
    with pytest.raises(ConfigError, match=r"balancer\.temperature: must be greater than 0"):
        WeightedLoss(terms=["a"], balancer={"kind": "stch", "temperature": 0})
