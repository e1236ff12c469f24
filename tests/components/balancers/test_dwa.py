"""DWA."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from lossweights import ConfigError, WeightedLoss
from lossweights.components.balancers import DWA
from tests.components.balancers.reference import agree, recorded, trained, weights_of

TABLES = {
    "dwa-2-1": {"temperature": 2, "every": "1 steps"},
    "dwa-0.5-4": {"temperature": 0.5, "every": "4 steps"},
    "dwa-libmtl": {"temperature": 2, "every": "4 steps"},
}


@pytest.mark.parametrize("name", TABLES)
def test_trajectory_in_float64(name: str) -> None:
    weights, _ = weights_of(DWA.model_validate(TABLES[name]))
    agree(weights, recorded(name), relative=1e-7)


@pytest.mark.parametrize("name", TABLES)
def test_trajectory_of_a_criterion(name: str) -> None:
    weights, _ = trained({"kind": "dwa", **TABLES[name]}, steps=12)
    agree(weights, recorded(name)[:12], relative=1e-5)


def test_softadapt_by_ratios_is_a_case_of_it_one_step_later() -> None:
    weights, _ = weights_of(DWA(temperature=1, every="1 steps"))
    agree(weights[1:], recorded("softadapt-ratio")[:-1], relative=1e-7)


def test_two_epochs_by_hand() -> None:
    """Means of 3 and 1, then 3 (1 + log 3) and 1: exponents that differ by log 3."""
    ratio = 1 + math.log(3)
    losses = torch.tensor([[2.0, 0.5], [4.0, 1.5], [3 * ratio, 1.0], [3 * ratio, 1.0], [0, 0]])
    weights, _ = weights_of(DWA(temperature=1, every="2 steps"), losses)
    assert weights[:4].tolist() == [[1, 1]] * 4
    assert weights[4].tolist() == pytest.approx([1.5, 0.5])


def test_a_term_that_starts_late_counts_as_unchanged_at_first() -> None:
    terms: dict[str, Any] = {"a": 1.0, "late": {"optional": True}}
    criterion = WeightedLoss(terms=terms, balancer={"kind": "dwa", "every": "1 steps"})
    for late in (False, False, True):
        criterion({"a": torch.tensor(1.0)} | ({"late": torch.tensor(9.0)} if late else {}))
        criterion.step()
        assert criterion.weights == {"a": 1.0, "late": 1.0}


def test_refused() -> None:
    with pytest.raises(ConfigError, match=r"balancer\.temperature: must be greater than 0"):
        WeightedLoss(terms=["a"], balancer={"kind": "dwa", "temperature": 0})
    with pytest.raises(ConfigError, match=r'balancer\.every: 10 has no unit: write "10 steps"'):
        WeightedLoss(terms=["a"], balancer={"kind": "dwa", "every": 10})
