"""Analytic uncertainty."""

from __future__ import annotations

import pytest
import torch

from lossweights import ConfigError, WeightedLoss
from lossweights.components.balancers import UWSO
from lossweights.components.balancers.uw_so import uw_so_weights
from tests.components.balancers.reference import LOSSES, agree, trained, weights_of


def test_weights_by_hand() -> None:
    losses = torch.tensor([1.0, 0.5, torch.inf], dtype=torch.float64)
    exponentials = torch.tensor([0.5, 1.0, 0.0], dtype=torch.float64).exp()
    agree(uw_so_weights(losses, temperature=2.0), exponentials / exponentials.sum())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0])
def test_weights_are_those_of_public_code(temperature: float) -> None:
    """Code for LibMTL, and others: softmax of 1 / (l + 1e-8) by the temperature, of l detached."""
    ours, _ = weights_of(UWSO(temperature=temperature))
    agree(ours, torch.softmax(1 / (LOSSES + 1e-8) / temperature, dim=-1), relative=1e-6)


def test_trajectory_of_a_criterion() -> None:
    """The weights are those of the same step, and no gradient goes through them."""
    weights, totals = trained({"kind": "uw-so"})
    expected = torch.softmax(1 / LOSSES[:8], dim=-1)
    agree(weights, expected, relative=1e-5)
    agree(totals, (expected * LOSSES[:8]).sum(dim=1), relative=1e-5)


def test_the_weight_is_the_best_scale_of_a_learned_noise() -> None:
    """Without the softmax, 1 / l is where l / sigma + log sigma is least."""
    scales = torch.linspace(0.01, 3, 2991, dtype=torch.float64)
    for loss in (0.3, 1.0, 2.5):
        best = scales[(loss / scales + scales.log()).argmin()]
        assert float(best) == pytest.approx(loss, abs=1e-2)


def test_losses_of_0_and_below_count_as_very_small() -> None:
    found = uw_so_weights(torch.tensor([1e-8, 0.0, -3.0, 1.0]), temperature=1.0)
    assert found.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0.0])


def test_an_infinite_loss_has_the_least_weight_and_nan_makes_all_nan() -> None:
    found = uw_so_weights(torch.tensor([torch.inf, 1.0, 1.0]), temperature=1.0)
    expected = torch.softmax(torch.tensor([0.0, 1.0, 1.0]), dim=0)
    assert found.tolist() == pytest.approx(expected.tolist())
    assert uw_so_weights(torch.tensor([torch.nan, 1.0, 1.0]), temperature=1.0).isnan().all()


def test_a_temperature_near_0_is_finite() -> None:
    found = uw_so_weights(torch.tensor([0.0, 1.0]), temperature=1e-38)
    assert found.isfinite().all()
    assert float(found.sum()) == pytest.approx(1)


def test_refused() -> None:
    with pytest.raises(ConfigError, match=r"balancer\.temperature: must be greater than 0"):
        WeightedLoss(terms=["a"], balancer={"kind": "uw-so", "temperature": 0})
