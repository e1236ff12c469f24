"""A small model with a criterion, its data, and what two trainings have in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from lossweights import WeightedLoss

SCHEDULED: dict[str, Any] = {
    "terms": {
        "mse": 1.0,
        "l1": {"weight": 0.5, "schedule": {"kind": "warmup", "over": "50%"}},
        "size": 0.1,
    },
    "scheduled": {"temperature": {"kind": "ramp", "start": 4.0, "stop": 1.0, "over": "50%"}},
}
STEERED: dict[str, Any] = {
    "terms": {"mse": 1.0, "l1": {"kind": "pid", "target": 0.2, "response": "25%"}, "size": 0.1},
    "balancer": {"kind": "dwa", "every": "2 steps"},
}
LEARNED: dict[str, Any] = {
    "terms": {"mse": 1.0, "l1": {"kind": "warmup", "over": "1 epochs"}, "size": 0.1},
    "balancer": "uncertainty",
}
SUMS: dict[str, Any] = {"terms": {"mse": {"accumulates": "sum"}, "l1": 0.5, "size": 0.1}}
TOKENS: dict[str, Any] = {
    "terms": {
        "mse": 1.0,
        "l1": {"weight": 0.5, "schedule": {"kind": "warmup", "over": "10000 tokens"}},
        "size": {"kind": "pid", "target": 0.2, "response": "25%"},
    },
    "total": "20000 tokens",
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


class Parts(Terms):
    """Each forward pass gives a part of `mse`, a mean over the batches of its window.

    Args:
        lengths: The number of batches of the window of each forward pass.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        super().__init__()
        self.lengths = iter(lengths)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        terms = super().forward(x)
        return {**terms, "mse": terms["mse"] / next(self.lengths)}


def layer_of_windows(data: Iterable[Tensor], windows: Iterable[tuple[int, int]]) -> Tensor:
    """The layer after SGD with the weights of `SUMS`, by hand.

    Args:
        data: The batches.
        windows: For each, the number of its batches, and by what terms that are means are divided.
    """
    model, rest = Terms(), iter(data)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for length, divisor in windows:
        for x in islice(rest, length):
            terms = model(x)
            means = 0.5 * terms["l1"] + 0.1 * terms["size"]
            (terms["mse"] / length + means / divisor).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.layer.weight


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
