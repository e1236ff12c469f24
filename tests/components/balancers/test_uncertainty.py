"""Uncertainty weighting, and what learned weights have in common."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from lossweights import ConfigError, WeightedLoss
from lossweights.components.balancers import UncertaintyWeighting
from lossweights.components.balancers.uncertainty import uncertainty_weights
from tests.components.balancers.reference import LOSSES, agree, moment, recorded, trained


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.05)


def test_weights_by_hand() -> None:
    log_variance = torch.tensor([0.0, math.log(2), -math.log(4)])
    assert uncertainty_weights(log_variance).tolist() == pytest.approx([0.5, 0.25, 2.0])


def test_penalties_by_hand() -> None:
    state = {"log_variance": torch.tensor([0.0, math.log(3)])}
    log, log1p = UncertaintyWeighting(), UncertaintyWeighting(regularizer="log1p")
    assert log.penalty(state, moment(0)).tolist() == pytest.approx([0, math.log(3) / 2])
    assert log1p.penalty(state, moment(0)).tolist() == pytest.approx([math.log(2), math.log(4)])


@pytest.mark.parametrize("deviation", [0.5, 1.0, 3.0])
def test_log1p_is_as_published(deviation: float) -> None:
    """l / (2 c^2) + log(1 + c^2), with c^2 = exp(s)."""
    balancer = UncertaintyWeighting(regularizer="log1p", initial=2 * math.log(deviation))
    criterion = WeightedLoss(terms=["a"], balancer=balancer)
    expected = 3.0 / (2 * deviation**2) + math.log(1 + deviation**2)
    assert float(criterion({"a": torch.tensor(3.0)}).detach()) == pytest.approx(expected)


def kendall(loss: float, s: float) -> float:
    """Equation 7 of the paper, with s = log sigma^2; LibMTL, torchjd."""
    return 0.5 * math.exp(-s) * loss + 0.5 * s


def kendall_of_a_cross_entropy(loss: float, s: float) -> float:
    """Equation 10 of the paper: l / sigma^2 + log sigma."""
    sigma = math.exp(s / 2)
    return loss / sigma**2 + math.log(sigma)


def gal(loss: float, s: float) -> float:
    """The example code of the paper's authors, MultiMAE."""
    return math.exp(-s) * loss + s


def log_of_the_square(loss: float, s: float) -> float:
    """Code that learns sigma: 0.5 / sigma^2 * l + log sigma^2."""
    sigma = math.exp(s / 2)
    return 0.5 / sigma**2 * loss + math.log(sigma**2)


def liebel(loss: float, s: float) -> float:
    """AutomaticWeightedLoss, which learns sigma."""
    sigma = math.exp(s / 2)
    return 0.5 / sigma**2 * loss + math.log(1 + sigma**2)


def without_a_square(loss: float, s: float) -> float:
    """l / sigma + log(1 + sigma), for which s is log sigma."""
    sigma = math.exp(s)
    return loss / sigma + math.log(1 + sigma)


@pytest.mark.parametrize(
    ("factor", "regularizer", "theirs"),
    [
        ("half", "log", kendall),
        ("full", "log", kendall_of_a_cross_entropy),
        ("full", "log_variance", gal),
        ("half", "log_variance", log_of_the_square),
        ("half", "log1p", liebel),
        ("full", "log1p", without_a_square),
    ],
)
@pytest.mark.parametrize("s", [-1.5, 0.0, 0.7])
def test_variants_of_public_code(factor: str, regularizer: str, theirs: Any, s: float) -> None:
    table = {"kind": "uncertainty", "factor": factor, "regularizer": regularizer, "initial": s}
    criterion = WeightedLoss(terms=["a", "b"], balancer=table)
    total = criterion({"a": torch.tensor(3.0), "b": torch.tensor(0.2)})
    assert float(total.detach()) == pytest.approx(theirs(3.0, s) + theirs(0.2, s))
    total.backward()  # the slopes in s, by differences
    (log_variance,) = criterion.parameters()
    slopes = [(theirs(loss, s + 1e-5) - theirs(loss, s - 1e-5)) / 2e-5 for loss in (3.0, 0.2)]
    assert log_variance.grad is not None
    assert log_variance.grad.tolist() == pytest.approx(slopes, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "initial"), [("uncertainty-sgd", 0.0), ("uncertainty-libmtl", -0.5)]
)
def test_trajectory_in_float64(name: str, initial: float) -> None:
    log_variance = torch.full((3,), initial, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([log_variance], lr=0.1)
    for losses, theirs in zip(LOSSES, recorded(name), strict=True):
        weights = uncertainty_weights(log_variance)
        agree(weights.detach(), theirs)
        optimizer.zero_grad()
        (weights @ losses + 0.5 * log_variance.sum()).backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("name", "table", "optimizer"),
    [
        ("uncertainty-sgd", {}, sgd),
        ("uncertainty-adam", {}, adam),
        ("uncertainty-libmtl", {"initial": -0.5}, sgd),
    ],
)
def test_trajectory_of_a_criterion(name: str, table: dict[str, Any], optimizer: Any) -> None:
    weights, totals = trained({"kind": "uncertainty", **table}, optimizer=optimizer)
    agree(weights, recorded(name)[:8], relative=1e-4)
    if name == "uncertainty-sgd":
        agree(totals, recorded("uncertainty-sgd-total")[:8, 0], relative=1e-4)


def test_log1p_never_makes_the_total_negative() -> None:
    for regularizer, is_negative in (("log", True), ("log1p", False)):
        criterion = WeightedLoss(
            terms=["a"], balancer={"kind": "uncertainty", "regularizer": regularizer}
        )
        optimizer = sgd(criterion.parameters())
        for _ in range(200):
            total = criterion({"a": torch.tensor(1e-3)})
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
        assert bool(total < 0) is is_negative


# Bounds, for both families of learned weights


def run(
    criterion: WeightedLoss, optimizer: torch.optim.Optimizer, loss: float, steps: int
) -> float:
    for _ in range(steps):
        optimizer.zero_grad()
        criterion({"a": torch.tensor(loss)}).backward()
        optimizer.step()
    return criterion.weights["a"]


@pytest.mark.parametrize("optimizer", [sgd, adam])
@pytest.mark.parametrize(
    ("kind", "bounds", "at_0"),
    [
        ("uncertainty", {"lowest": -1.0, "highest": 2.0}, 0.5),
        ("imtl-l", {"lowest": -2.0, "highest": 1.0}, 1.0),
    ],
)
def test_weights_keep_their_bounds_and_come_back(
    kind: str, bounds: dict[str, float], at_0: float, optimizer: Any
) -> None:
    """A parameter that crossed a bound is drawn back by the next loss that asks for it."""
    criterion = WeightedLoss(terms=["a"], balancer={"kind": kind, **bounds})
    learning = optimizer(criterion.parameters())
    assert run(criterion, learning, 1e-4, 300) == pytest.approx(at_0 * math.e, rel=1e-2)
    assert run(criterion, learning, 20.0, 300) == pytest.approx(at_0 * math.exp(-2), rel=1e-2)
    (learned,) = criterion.parameters()
    assert bounds["lowest"] - 1 < learned < bounds["highest"] + 1
    assert run(criterion, learning, 1.0, 1000) == pytest.approx(at_0, rel=0.1)


@pytest.mark.parametrize("kind", ["uncertainty", "imtl-l"])
def test_a_term_that_is_always_0_has_a_finite_weight(kind: str) -> None:
    criterion = WeightedLoss(terms=["a"], balancer=kind)
    optimizer = torch.optim.SGD(criterion.parameters(), lr=10.0)
    weight = run(criterion, optimizer, 0.0, 100)
    assert 1e20 < weight < 1e31
    assert criterion({"a": torch.tensor(0.0)}).isfinite()


@pytest.mark.parametrize("kind", ["uncertainty", "imtl-l"])
@pytest.mark.parametrize(
    "bounds",
    [{"lowest": 1.0}, {"highest": -1.0}, {"lowest": 1, "highest": -1}, {"lowest": 0, "highest": 0}],
)
def test_bounds_out_of_order(kind: str, bounds: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"balancer: lowest < highest with initial between them"):
        WeightedLoss(terms=["a"], balancer={"kind": kind, **bounds})


def test_unknown_regularizer() -> None:
    message = r"balancer\.regularizer: must be 'log', 'log_variance' or 'log1p', found 'l2'"
    with pytest.raises(ConfigError, match=message):
        WeightedLoss(terms=["a"], balancer={"kind": "uncertainty", "regularizer": "l2"})
