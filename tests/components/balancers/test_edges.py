"""What every balancer must stand: losses of 0, negative, tiny, huge; one term; terms not seen."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lossweights import WeightedLoss
from lossweights.components.balancers import Balancer, GradientBalancer
from tests.components.balancers.reference import LOSSES, NAMES, trained, weights_of

TABLES: list[dict[str, Any]] = [
    {"kind": "cov"},
    {"kind": "cov", "smoothing": 0.9},
    {"kind": "dwa", "every": "1 steps", "temperature": 0.01},
    {"kind": "dwa", "every": "3 steps"},
    {"kind": "famo"},
    {"kind": "geometric"},
    {"kind": "imtl-l"},
    {"kind": "moving-average"},
    {"kind": "random"},
    {"kind": "relobralo", "temperature": 0.01, "saudade": 0.5, "smoothing": 0.5},
    {"kind": "softadapt", "every": "1 steps", "sharpness": 100.0},
    {"kind": "softadapt", "every": "1 steps", "variant": "normalized", "order": 3},
    {"kind": "softadapt", "every": "2 steps", "variant": "loss_weighted"},
    {"kind": "stch", "temperature": 1e-3},
    {"kind": "uncertainty"},
    {"kind": "uncertainty", "factor": "full", "regularizer": "log_variance"},
    {"kind": "uw-so", "temperature": 1e-3},
]
SUMS = {"cov": 1, "dwa": 3, "famo": 1, "random": 1, "relobralo": 3, "softadapt": 1, "stch": 1 / 3}
SUMS |= {"uw-so": 1}
HARD = {
    "all 0": [[0.0, 0.0, 0.0]],
    "one 0": [[0.0, 1.0, 2.0]],
    "0 now and then": [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 3.0]],
    "negative": [[-1.0, -20.0, -3.0], [-2.0, -10.0, -3.0]],
    "through 0": [[-1.0, 2.0, 1.0], [1.0, -2.0, 1.0]],
    "tiny": [[1e-38, 1e-30, 1e-45], [1e-30, 1e-38, 1e-40]],
    "huge": [[1e38, 1e30, 1e35], [1e30, 1e38, 1e37]],
    "far apart": [[1e-30, 1e30, 1.0], [1e30, 1e-30, 1.0]],
}


def test_every_kind_is_here() -> None:
    ours = {
        name
        for name, kind in Balancer.kinds().items()
        if kind.__module__.startswith("lossweights.") and not issubclass(kind, GradientBalancer)
    }
    assert {table["kind"] for table in TABLES} == ours


@pytest.mark.parametrize("table", TABLES, ids=str)
@pytest.mark.parametrize("name", HARD)
def test_weights_and_state_stay_finite(table: dict[str, Any], name: str) -> None:
    losses = torch.tensor(HARD[name]).repeat(8, 1)
    after = losses.roll(1, 0) if table["kind"] == "famo" else None
    weights, state = weights_of(Balancer.read(table), losses, after)
    assert weights.isfinite().all()
    assert (weights >= 0).all()
    for key, tensor in state.items():
        assert tensor.isfinite().all(), key
    if table["kind"] in SUMS:
        sums = torch.full((len(losses),), float(SUMS[table["kind"]]))
        torch.testing.assert_close(weights.sum(dim=1), sums)


@pytest.mark.parametrize("table", TABLES, ids=str)
def test_hard_times_are_forgotten(table: dict[str, Any]) -> None:
    """After a spike, ordinary losses have ordinary weights again."""
    losses = torch.cat((torch.tensor([[1e38, 0.0, -1e38]] * 3), LOSSES.float().repeat(2, 1)))
    after = losses if table["kind"] == "famo" else None
    weights, _ = weights_of(Balancer.read(table), losses, after)
    assert weights[-1].isfinite().all()


@pytest.mark.parametrize("table", TABLES, ids=str)
def test_one_term(table: dict[str, Any]) -> None:
    after = LOSSES[:, :1] if table["kind"] == "famo" else None
    weights, _ = weights_of(Balancer.read(table), LOSSES[:, :1], after)
    assert weights.isfinite().all()
    if table["kind"] not in {"imtl-l", "uncertainty", "moving-average"}:
        torch.testing.assert_close(weights, torch.ones_like(weights))


@pytest.mark.parametrize("table", [t for t in TABLES if t["kind"] != "random"], ids=str)
def test_the_order_of_terms_does_not_matter(table: dict[str, Any]) -> None:
    forwards, _ = trained(table)
    backwards, _ = trained(table, names=NAMES[::-1])
    assert torch.equal(forwards, backwards)
    ours, _ = weights_of(Balancer.read(table))
    turned, _ = weights_of(Balancer.read(table), LOSSES.flip(1))
    torch.testing.assert_close(turned.flip(1), ours)


@pytest.mark.parametrize("table", TABLES, ids=str)
def test_a_term_that_is_never_seen(table: dict[str, Any]) -> None:
    criterion = WeightedLoss(terms={"a": 1, "b": 1, "never": {"optional": True}}, balancer=table)
    for a, b, _ in LOSSES[:8].float():
        total = criterion({"a": a.clone().requires_grad_(), "b": b})
        total.backward()
        assert total.isfinite()
        criterion.step()
        if table["kind"] == "famo":
            criterion.observe_after({"a": a * 0.9, "b": b * 0.8})
    report = criterion.report()
    assert report is not None
    assert set(report.weighted) == {"a", "b"}


@pytest.mark.parametrize("table", TABLES, ids=str)
def test_float64_losses_are_weighed_too(table: dict[str, Any]) -> None:
    criterion = WeightedLoss(terms=NAMES, balancer=table)
    total = criterion(dict(zip(NAMES, LOSSES[0], strict=True)))
    assert total.isfinite()
    assert total.dtype == torch.float64
