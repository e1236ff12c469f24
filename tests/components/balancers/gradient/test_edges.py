"""What every balancer by gradients must stand, through a criterion: any set of gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lossweights import WeightedLoss
from lossweights.components.balancers import Balancer, GradientBalancer
from tests.components.balancers.gradient.gramians import hostile

TABLES: list[dict[str, Any]] = [
    {"kind": "aligned-mtl"},
    {"kind": "cagrad"},
    {"kind": "conflict-free"},
    {"kind": "db-mtl"},
    {"kind": "dualproj"},
    {"kind": "fairgrad"},
    {"kind": "gradnorm"},
    {"kind": "gradient-similarity", "primary": "t00"},
    {"kind": "gradvac"},
    {"kind": "imtl-g"},
    {"kind": "lr-annealing", "reference": "t00"},
    {"kind": "mgda"},
    {"kind": "nash-mtl"},
    {"kind": "norm-balance", "per_item": False},
    {"kind": "norm-balance", "per_item": False, "total": "mean"},
    {"kind": "ntk", "every": "1 steps"},
    {"kind": "pcgrad"},
    {"kind": "upgrad"},
]
PROMISED: list[dict[str, Any]] = [
    {"kind": "mgda"},
    {"kind": "upgrad"},
    {"kind": "dualproj"},
    {"kind": "cagrad", "radius": 1.0},
]
JACOBIANS = hostile()


def test_every_kind_is_here() -> None:
    ours = {
        name
        for name, kind in Balancer.kinds().items()
        if kind.__module__.startswith("lossweights.") and issubclass(kind, GradientBalancer)
    }
    assert {table["kind"] for table in TABLES} == ours


def direction(table: dict[str, Any], jacobian: Tensor, steps: int = 3) -> Tensor:
    """How the total goes up after some steps with these gradients."""
    shared = torch.ones(jacobian.shape[1], dtype=torch.float64, requires_grad=True)
    names = [f"t{index:02}" for index in range(len(jacobian))]
    criterion = WeightedLoss(terms=names, balancer=table)
    for _ in range(steps):
        shared.grad = None
        terms = dict(zip(names, jacobian @ shared, strict=True))
        criterion(terms, shared=shared).backward()
        weights = criterion.metrics(include=["weight"])
        criterion.step()
    assert np.isfinite(list(weights.values())).all()
    for key, tensor in criterion.state_dict().items():
        assert tensor.isfinite().all(), key
    assert shared.grad is not None
    return shared.grad


@pytest.mark.parametrize("name", JACOBIANS)
@pytest.mark.parametrize("table", TABLES, ids=lambda table: table["kind"])
def test_weights_and_state_stay_finite(table: dict[str, Any], name: str) -> None:
    assert direction(table, torch.from_numpy(JACOBIANS[name])).isfinite().all()


@pytest.mark.parametrize("name", JACOBIANS)
@pytest.mark.parametrize("table", PROMISED, ids=lambda table: table["kind"])
def test_no_term_gets_worse_where_that_is_promised(table: dict[str, Any], name: str) -> None:
    jacobian = torch.from_numpy(JACOBIANS[name])
    norms = jacobian.norm(dim=1, keepdim=True)
    along = direction(table, jacobian)
    products = jacobian / norms.clamp(min=1e-300) @ along
    # Weights are kept in float32: so much of what cancels out may be left.
    left = 1e-6 * (torch.ones_like(norms) * along.abs().max()).max() + 1e-6 * norms.max()
    assert (products >= -left).all()


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table["kind"])
def test_hard_times_are_forgotten(table: dict[str, Any]) -> None:
    """After gradients of 0, huge, and not finite, ordinary ones have ordinary weights again."""
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 5)))
    names = ["t00", "t01", "t02"]
    criterion = WeightedLoss(terms=names, balancer=table)
    hard = [torch.zeros(3, 5), torch.full((3, 5), 1e30), torch.full((3, 5), torch.nan)]
    for jacobian in [*hard, *[rows] * 60]:
        shared = torch.ones(5, dtype=torch.float64, requires_grad=True)
        terms = dict(zip(names, jacobian.double() @ shared, strict=True))
        criterion(terms, shared=shared)
        weights = criterion.metrics(include=["weight"])
        criterion.step()
    assert np.isfinite(list(weights.values())).all()
    assert max(map(abs, weights.values())) < 1e4
