"""IMTL-L: learned scales."""

from __future__ import annotations

import math

import pytest
import torch

from lossweights import WeightedLoss
from lossweights.components.balancers import IMTLL, UncertaintyWeighting
from tests.components.balancers.reference import LOSSES, moment


def test_weights_and_penalties_by_hand() -> None:
    balancer, state = IMTLL(), {"log_scale": torch.tensor([0.0, math.log(3)])}
    assert balancer.weigh(torch.ones(2), state, moment(0)).tolist() == pytest.approx([1, 3])
    assert balancer.penalty(state, moment(0)).tolist() == pytest.approx([0, -math.log(3)])


def test_it_brings_every_weighted_loss_to_1() -> None:
    criterion = WeightedLoss(terms=["a", "b"], balancer="imtl-l")
    optimizer = torch.optim.SGD(criterion.parameters(), lr=0.02)
    for _ in range(2000):
        optimizer.zero_grad()
        criterion({"a": torch.tensor(20.0), "b": torch.tensor(0.05)}).backward()
        optimizer.step()
    assert criterion.weights == pytest.approx({"a": 1 / 20, "b": 20}, rel=1e-2)


def test_three_steps_by_hand() -> None:
    """The gradient of exp(s) l - s in s is exp(s) l - 1."""
    scale = [0.0, 0.0, 0.0]
    criterion = WeightedLoss(terms=["a", "b", "c"], balancer="imtl-l")
    optimizer = torch.optim.SGD(criterion.parameters(), lr=0.01)
    for losses in LOSSES[:3].tolist():
        assert list(criterion.weights.values()) == pytest.approx([math.exp(s) for s in scale])
        terms = dict(zip("abc", map(torch.tensor, losses), strict=True))
        total = criterion(terms)
        expected = sum(math.exp(s) * x - s for s, x in zip(scale, losses, strict=True))
        assert float(total.detach()) == pytest.approx(expected, rel=1e-5)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        scale = [s - 0.01 * (math.exp(s) * x - 1) for s, x in zip(scale, losses, strict=True)]


def test_it_is_twice_uncertainty_at_the_opposite_scale() -> None:
    scale = torch.tensor([0.3, -1.2, 2.0])
    impartial, uncertainty = IMTLL(), UncertaintyWeighting()
    ours, theirs = {"log_scale": scale}, {"log_variance": -scale}
    for method in ("weigh", "penalty"):
        arguments = (scale,) if method == "weigh" else ()
        torch.testing.assert_close(
            getattr(impartial, method)(*arguments, ours, moment(0)),
            2 * getattr(uncertainty, method)(*arguments, theirs, moment(0)),
        )
