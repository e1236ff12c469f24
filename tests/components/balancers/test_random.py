"""Random loss weighting."""

from __future__ import annotations

import pytest
import torch

from lossweights import ConfigError, WeightedLoss
from lossweights.components.balancers import RandomWeighting
from tests.components.balancers.reference import recorded, weights_of


def many(seed: int, n: int = 3, steps: int = 4000) -> torch.Tensor:
    return weights_of(RandomWeighting(seed=seed), torch.ones(steps, n))[0]


def test_weights_are_a_softmax_of_normal_draws() -> None:
    """The difference of two log-weights is that of two normal draws: variance 2, mean 0."""
    logs = many(0).log()
    differences = logs[:, 0] - logs[:, 1]
    assert differences.mean() == pytest.approx(0, abs=0.1)
    assert differences.var() == pytest.approx(2, rel=0.1)


def test_weights_sum_to_1_as_those_of_others() -> None:
    theirs = recorded("random")
    torch.testing.assert_close(theirs.sum(dim=1), torch.ones(24, dtype=torch.float64))
    ours = many(0)
    torch.testing.assert_close(ours.sum(dim=1), torch.ones(4000))
    assert ours.mean(dim=0).tolist() == pytest.approx([1 / 3] * 3, abs=0.02)


def test_weights_follow_from_seed_and_step() -> None:
    assert torch.equal(many(1, steps=50), many(1, steps=50))
    assert not torch.isin(many(2, steps=50), many(1, steps=50)).any()
    assert len({tuple(weights) for weights in many(1, steps=500).tolist()}) == 500


def test_a_criterion_at_a_step_has_its_weights() -> None:
    """However it got there, and in whatever order the terms are given."""
    stepped = WeightedLoss(terms=["a", "b"], balancer={"kind": "random", "seed": 9})
    seen = []
    for _ in range(5):
        seen.append(stepped.weights)
        stepped.step()
    set_there = WeightedLoss(terms=["b", "a"], balancer={"kind": "random", "seed": 9})
    set_there.set_step(3)
    assert set_there.weights == seen[3]
    assert len({weights["a"] for weights in seen}) == 5


def test_one_term_has_weight_1() -> None:
    assert many(0, n=1, steps=3).tolist() == [[1.0]] * 3


def test_refused() -> None:
    with pytest.raises(ConfigError, match=r"balancer\.seed: must be greater than or equal"):
        WeightedLoss(terms=["a"], balancer={"kind": "random", "seed": -1})
