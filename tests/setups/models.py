"""A small model of a trunk and two heads, and what is right for it: computed apart, in float64."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from lossweights import State, StepContext, WeightedLoss
from lossweights.components.balancers import GramianBalancer
from lossweights.components.balancers.gradient.base import Array
from lossweights.criterion.gradients.shared import SharedLike

Of: TypeAlias = Literal["features", "parameters"]
BASE = {"a": 1.0, "b": 2.0}


class InverseNorm(GramianBalancer, kind="test-setups"):
    """1 / |g|, and 1 where that is 0."""

    def solve(self, gramian: Array, state: State, now: StepContext) -> Array:
        norms = np.sqrt(np.diagonal(gramian))
        weights: Array = 1 / np.where(norms > 0, norms, 1.0)
        return weights


class Products(GramianBalancer, kind="test-setups-products"):
    """The gradient of the sum of all terms along that of each."""

    def solve(self, gramian: Array, state: State, now: StepContext) -> Array:
        weights: Array = gramian.sum(axis=1)
        return weights


def criterion(terms: Any = BASE, **fields: Any) -> WeightedLoss:
    """A criterion that weighs by `InverseNorm`."""
    return WeightedLoss(terms, balancer={"kind": "test-setups", **fields})


class Part(nn.Module):
    """Two layers; the last operation keeps nothing of its result."""

    def __init__(self, width: int, inner: int, outer: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, inner), nn.Linear(inner, outer)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(nn.functional.gelu(self.first(x)))
        return result


class Heads(nn.Module):
    """The terms, of which the second has gradients that are larger by far."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = Part(5, 7, 1), Part(5, 7, 1)

    def forward(self, features: Tensor, rows: Tensor) -> dict[str, Tensor]:
        first, second = self.a(features)[:, 0].float(), self.b(features)[:, 0].float()
        return {"a": (first - 1).square().mean(), "b": 30 * (second - rows[:, 0]).square().mean()}


class Model(nn.Module):
    """A trunk with its heads."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Part(6, 8, 5)
        self.heads = Heads()

    def forward(self, rows: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        features: Tensor = self.trunk(rows)
        return self.heads(features, rows), features

    def shared(self, features: Tensor, of: Of) -> SharedLike:
        return features if of == "features" else list(self.trunk.parameters())


def model() -> Model:
    """The same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Model()


def rows(seed: int = 0, count: int = 16) -> Tensor:
    """A batch."""
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


class Right(NamedTuple):
    """Weights by term, and the gradient of the weighted sum by parameter."""

    weights: dict[str, float]
    gradients: dict[str, Tensor]


def right(of_model: Model, batch: Tensor, of: Of) -> Right:
    """What is right, from a copy of the model in float64 that nothing is wrapped around."""
    exact = model().double()
    exact.load_state_dict(of_model.state_dict())
    terms, features = exact(batch.double())
    shared = [features] if of == "features" else list(exact.trunk.parameters())
    weights = {
        name: BASE[name] / norm(torch.autograd.grad(terms[name], shared, retain_graph=True))
        for name in BASE
    }
    total = sum(weights[name] * terms[name] for name in BASE)
    named = dict(exact.named_parameters())
    found = torch.autograd.grad(total, list(named.values()))
    return Right(weights, dict(zip(named, found, strict=True)))


def norm(parts: Iterable[Tensor]) -> float:
    """The length of all parts of a gradient together."""
    return float(torch.cat([part.double().reshape(-1) for part in parts]).norm())


def weights(of: WeightedLoss) -> dict[str, float]:
    """Those of the last forward pass."""
    return {name: of.metrics()[f"weight/{name}"] for name in of.config.terms}


def assert_right(
    found: WeightedLoss,
    trained: Model,
    wanted: Right,
    *,
    tolerance: float = 1e-5,
    gradients: Mapping[str, Tensor] | None = None,
) -> None:
    """The weights of the last forward pass, and the gradients that a backward pass has left."""
    torch.testing.assert_close(weights(found), wanted.weights, rtol=tolerance, atol=0)
    if gradients is None:
        gradients = {name: p.grad for name, p in trained.named_parameters() if p.grad is not None}
    close = copy.copy(wanted.gradients)
    torch.testing.assert_close(
        {name: gradient.double() for name, gradient in gradients.items()},
        close,
        rtol=tolerance,
        atol=tolerance,
    )
