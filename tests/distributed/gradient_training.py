"""One small training under a balancer that weighs by gradients, on a rank or with all data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from lossweights import WeightedLoss
from tests.distributed.training import Record, full, synchronized

Of: TypeAlias = Literal["features", "parameters"]
ROWS = 4  # of a rank, in a forward pass
BALANCERS: dict[str, Any] = {  # of each statistic one, with a state and without
    "imtl-g": "imtl-g",
    "norm-balance": {"kind": "norm-balance", "smoothing": 0.5},
    "lr-annealing": {"kind": "lr-annealing", "reference": "a"},
    "gradnorm": {"kind": "gradnorm", "learning_rate": 0.1},
    "db-mtl": "db-mtl",
}
WRAPS: dict[str, dict[str, Any]] = {  # what DistributedDataParallel is told
    "ddp": {},
    "ddp, views": {"gradient_as_bucket_view": True},
    "ddp, unused": {"find_unused_parameters": True},
    "ddp, static": {"static_graph": True},
}


@dataclass(frozen=True)
class Setup:
    """How a training goes.

    Args:
        balancer: One of `BALANCERS`.
        of: What is given as shared.
        wrap: One of `WRAPS`, `plain` or `fsdp`.
        inside: Whether the criterion is within what is wrapped.
        heads: Which weights what is not shared sees.
        micro_batches: Forward passes of a step.
        absent: On which ranks term `c` is absent, every other step: `none`, `first` or `all`.
        options: More of the criterion's.
    """

    balancer: str = "imtl-g"
    of: Of = "features"
    wrap: str = "ddp"
    inside: bool = False
    heads: str = "weighted"
    micro_batches: int = 1
    absent: str = "none"
    steps: int = 4
    options: Mapping[str, Any] = field(default_factory=dict)

    def criterion(self) -> WeightedLoss:
        named = BALANCERS[self.balancer]
        fields = {"kind": named} if isinstance(named, str) else named
        fields = {**fields, "heads": self.heads}
        if self.of == "parameters" and self.balancer == "norm-balance":
            fields["per_item"] = False
        terms = {"a": 1.0, "b": 2.0, "c": {"optional": True}}
        return WeightedLoss(**{"terms": terms, "balancer": fields, **self.options})


class Seen(NamedTuple):
    """What came of it: weights of each forward pass, and all tensors at the end."""

    weights: list[dict[str, float]]
    record: Record


class Layer(nn.Module):
    """A module of its own, so that FSDP2 shards it."""

    def __init__(self, width: int, outer: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, outer)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.linear(x))


class Model(nn.Module):
    """A trunk with three heads; returns the terms and what they share."""

    def __init__(self, of: Of) -> None:
        super().__init__()
        self.of = of
        self.trunk, self.a, self.b, self.c = Layer(6, 5), Layer(5, 3), Layer(5, 3), Layer(5, 3)

    def forward(self, rows: Tensor, has_c: bool = True) -> Any:
        features = self.trunk(rows)
        terms = {
            "a": (self.a(features) - 1).square().mean(),
            "b": 30 * (self.b(features) - rows[:, :3]).square().mean(),
            "c": (3 * self.c(features) + rows[:, 3:]).square().mean(),
        }
        if not has_c:
            del terms["c"]
        return terms, features if self.of == "features" else list(self.trunk.parameters())


def rows(step: int, micro: int, rank: int) -> Tensor:
    """The data of a rank in a forward pass."""
    seed = torch.Generator().manual_seed(1000 * step + 100 * micro + rank)
    return torch.randn(ROWS, 6, generator=seed)


def train_rank(setup: Setup) -> Seen:
    """The training of a rank."""
    return _train(setup, [distributed.get_rank()], setup.wrap)


def train_alone(setup: Setup, ranks: int) -> Seen:
    """That of one process, whose batch is that of all ranks together."""
    return _train(setup, range(ranks), "alone")


def wrapped(setup: Setup, model: Model, criterion: WeightedLoss) -> nn.Module:
    """The model as a user wraps it, with the criterion or without."""
    whole = criterion.wrap(model) if setup.inside else model
    if setup.wrap == "fsdp":
        for part in (model.trunk, model.a, model.b, model.c):
            fully_shard(part)
        fully_shard(whole)
    if setup.wrap in WRAPS:
        return DistributedDataParallel(whole, **WRAPS[setup.wrap])
    return whole


def _train(setup: Setup, ranks: Iterable[int], wrap: str) -> Seen:
    torch.manual_seed(0)
    model, criterion = Model(setup.of), setup.criterion()
    outer = model if wrap == "alone" else wrapped(setup, model, criterion)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    criterion.follow(optimizer)
    weights = []
    for step in range(setup.steps):
        for micro in range(setup.micro_batches):
            with synchronized(outer, last=micro == setup.micro_batches - 1):
                batch = torch.cat([rows(step, micro, rank) for rank in ranks])
                gone = setup.absent == "all" or (setup.absent == "first" and 0 in ranks)
                found = outer(batch, has_c=not (gone and step % 2 == 1))
                total = criterion(*found) if isinstance(found, tuple) else found
                weights.append(criterion.metrics(include=["weight"]))
                (total / setup.micro_batches).backward()
        if wrap == "plain":
            average(model)
        optimizer.step()
        optimizer.zero_grad()
    named = {name: full(p) for name, p in model.named_parameters()}
    return Seen(weights, Record([], criterion.state_dict(), named))


def average(model: nn.Module) -> None:
    """The gradients that DistributedDataParallel would leave."""
    for parameter in model.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        distributed.all_reduce(parameter.grad)
        parameter.grad.div_(distributed.get_world_size())
