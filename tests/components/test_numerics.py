"""Ratios, weights by ratios, and logarithms of any loss."""

from __future__ import annotations

import math

import pytest
import torch

from lossweights.components.numerics import (
    nan_for_inf,
    relative,
    relative_weights,
    safe_log,
)


def test_relative_values() -> None:
    losses, before = torch.tensor([6.0, -1.0, 3.0, 0.0]), torch.tensor([3.0, 2.0, -1.5, 4.0])
    assert relative(losses, before).tolist() == [2.0, -0.5, -2.0, 0.0]


def test_a_loss_that_was_0_counts_as_unchanged() -> None:
    assert relative(torch.tensor([5.0, 0.0]), torch.zeros(2)).tolist() == [1.0, 1.0]


def test_huge_ratios_are_bounded() -> None:
    ratio = relative(torch.tensor([1e30, -1e30]), torch.tensor([1e-30, 1e-30]))
    assert ratio.tolist() == pytest.approx([1e30, -1e30])


def test_weights_by_ratios() -> None:
    """Ratios of 1 and 1 + T log 3 are exponents that differ by log 3: shares of 1/4 and 3/4."""
    temperature = 0.5
    losses = torch.tensor([2.0, 1 + temperature * math.log(3)], dtype=torch.float64)
    weights = relative_weights(losses, torch.tensor([2.0, 1.0]).double(), temperature)
    assert weights.tolist() == pytest.approx([0.5, 1.5])


def test_two_huge_ratios_share_evenly() -> None:
    weights = relative_weights(torch.tensor([1e38, 1e37, 0.0]), torch.full((3,), 1e-3), 1e-20)
    assert weights.tolist() == [1.5, 1.5, 0.0]


def test_the_logarithm_of_what_is_not_positive_is_finite() -> None:
    logs = safe_log(torch.tensor([0.0, -3.0, math.e]))
    assert logs.isfinite().all()
    assert logs[2] == pytest.approx(1)


def test_what_is_infinite_becomes_nan() -> None:
    found = nan_for_inf(torch.tensor([1.0, torch.inf, -torch.inf, torch.nan]))
    assert found.tolist() == pytest.approx([1, *[math.nan] * 3], nan_ok=True)
