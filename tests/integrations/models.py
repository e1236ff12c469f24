"""A small model with a criterion, its data, and what two trainings have in common."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lossweights import WeightedLoss

SCHEDULED: dict[str, Any] = {
    "terms": {
        "mse": 1.0,
        "l1": {"weight": 0.5, "schedule": {"kind": "warmup", "over": "50%"}},
        "size": 0.1,
    }
}
STEERED: dict[str, Any] = {
    "terms": {"mse": 1.0, "l1": {"kind": "pid", "target": 0.2, "response": "25%"}, "size": 0.1},
    "balancer": {"kind": "dwa", "every": "2 steps"},
}
LEARNED: dict[str, Any] = {
    "terms": {"mse": 1.0, "l1": {"kind": "warmup", "over": "1 epochs"}, "size": 0.1},
    "balancer": "uncertainty",
}
CONFIGS = {"scheduled": SCHEDULED, "steered": STEERED, "learned": LEARNED}


class Terms(nn.Module):
    """A layer, and the terms of its loss."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layer = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.layer(x)
        wanted = x.sum(dim=-1, keepdim=True)
        return {
            "mse": (y - wanted).square().mean(),
            "l1": y.abs().mean(),
            "size": self.layer.weight.square().mean(),
        }


class Model(Terms):
    """The same with a criterion, as a model of its own loss."""

    def __init__(self, config: dict[str, Any] = SCHEDULED) -> None:
        super().__init__()
        self.criterion = WeightedLoss(**config)


def batches(count: int = 10, size: int = 2) -> Tensor:
    """Batches along the first axis, the same each time and each another."""
    return torch.randn(count, size, 4, generator=torch.Generator().manual_seed(1))


def assert_same(found: nn.Module, wanted: nn.Module) -> None:
    """Two modules have the same state, to the last bit."""
    ours, theirs = found.state_dict(), wanted.state_dict()
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert torch.equal(torch.as_tensor(ours[key]), torch.as_tensor(theirs[key])), key


def steps_of(optimizer: torch.optim.Optimizer) -> int:
    """How many steps Adam has done, by its own count."""
    return int(next(iter(optimizer.state.values()))["step"])
