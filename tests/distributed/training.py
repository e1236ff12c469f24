"""One small training, as each rank of a group runs it or as a single process that has all data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from lossweights import WeightedLoss
from tests.distributed import components

assert components  # a worker knows their kinds by importing them

ROWS = 4  # of a rank, in a forward pass
CONFIGS: dict[str, dict[str, Any]] = {
    "uncertainty": {"balancer": "uncertainty"},
    "dwa": {"balancer": {"kind": "dwa", "every": "1 steps"}},
    "controller": {"terms": {"a": 1.0, "b": {"kind": "test-integral"}, "c": {"optional": True}}},
    "inverse average": {"balancer": {"kind": "test-inverse-average"}},
    "learned over average": {"balancer": {"kind": "test-learned-over-average"}},
    "uncertainty and controller": {
        "terms": {"a": 1.0, "b": {"kind": "test-integral"}, "c": {"optional": True}},
        "balancer": "uncertainty",
    },
}
LEARNED = ("uncertainty", "learned over average", "uncertainty and controller")
WRAPS = (
    "plain",
    "ddp",
    "ddp inside",
    "ddp inside, views",
    "ddp inside, static graph",
    "fsdp",
    "fsdp inside",
)


@dataclass(frozen=True)
class Setup:
    """How a training goes.

    Args:
        config: One of `CONFIGS`.
        wrap: One of `WRAPS`: how the model is wrapped, and where the criterion is.
        optimizer: `adam` or `sgd`.
        micro_batches: Forward passes of a step.
        absent: On which ranks term `c` is absent, every other step: `none`, `first` or `all`.
        broken: Whether term `b` of the first rank is nan in the second step.
        options: More of the criterion's.
    """

    config: str
    wrap: str = "plain"
    optimizer: str = "adam"
    micro_batches: int = 1
    absent: str = "none"
    broken: bool = False
    steps: int = 4
    options: Mapping[str, Any] = field(default_factory=dict)

    def criterion(self, **more: Any) -> WeightedLoss:
        terms = {"a": 1.0, "b": 2.0, "c": {"optional": True}}
        return WeightedLoss(**{"terms": terms} | CONFIGS[self.config] | {**self.options, **more})


@dataclass
class Record:
    """What came of it: weights before each step and at the end, and all tensors at the end."""

    weights: list[dict[str, float]]
    criterion: dict[str, Tensor]
    model: dict[str, Tensor]


class Model(nn.Module):
    """A trunk with three heads, and perhaps the criterion."""

    def __init__(self, criterion: WeightedLoss | None = None) -> None:
        super().__init__()
        self.trunk = nn.Linear(6, 5)
        self.heads = nn.Linear(5, 3)
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(1))  # so that DDP has a buffer to broadcast
        self.criterion = criterion

    def forward(self, rows: Tensor, has_c: bool, breaks: bool) -> Any:
        a, b, c = self.heads(torch.tanh(self.trunk(rows))).unbind(dim=-1)
        terms = {
            "a": (a - 1).square().mean() * self.scale.mean(),
            "b": (b - rows[:, 0]).abs().mean() * (torch.nan if breaks else 1.0),
            "c": (3 * c + rows[:, 1]).square().mean(),
        }
        if not has_c:
            del terms["c"]
        return terms if self.criterion is None else self.criterion(terms)


def rows(setup: Setup, step: int, micro: int, rank: int) -> Tensor:
    """The data of a rank in a forward pass."""
    seed = torch.Generator().manual_seed(1000 * step + 100 * micro + rank)
    return torch.randn(ROWS, 6, generator=seed)


def pieces(
    setup: Setup, step: int, micro: int, ranks: range, whole: bool
) -> Iterator[tuple[Tensor, bool, bool]]:
    """What a process passes through its model: a batch of its own, or those of all ranks."""
    if whole:
        batch = torch.cat([rows(setup, step, micro, rank) for rank in ranks])
        yield batch, True, False
        return
    for rank in ranks:
        gone = step % 2 == 1 and (setup.absent == "all" or (setup.absent == "first" and rank == 0))
        breaks = setup.broken and step == 1 and rank == 0
        yield rows(setup, step, micro, rank), not gone, breaks


def train_rank(setup: Setup) -> Record:
    """The training of a rank."""
    return Trained(setup).go(setup.steps)


def train_alone(setup: Setup, ranks: int, *, whole: bool) -> Record:
    """The same in one process, which is given the whole batch or that of each rank in turn."""
    return Trained(setup, range(ranks), whole=whole).go(setup.steps)


class Trained:
    """A training, as far as it went.

    Args:
        setup: How it goes.
        ranks: Whose data this process has: its own, or those of all ranks that there would be.
        whole: Whether it has them in one batch.
    """

    def __init__(self, setup: Setup, ranks: range | None = None, *, whole: bool = False) -> None:
        if ranks is None:
            self.wrap, rank = setup.wrap, distributed.get_rank()
            ranks = range(rank, rank + 1)
        else:
            self.wrap = "alone"
        self.setup, self.ranks, self.whole = setup, ranks, whole
        torch.manual_seed(0)
        self.criterion = setup.criterion()
        self.inner = Model(self.criterion if "inside" in setup.wrap else None)
        self.model = wrapped(self.inner, self.criterion, self.wrap)
        # In groups of their own, since FSDP2 makes DTensors of the model's, and `foreach`, which
        # is the default on GPUs, takes no mixture.
        groups = [{"params": [*self.weights_of_model().values()]}, *self.criterion.param_groups()]
        if setup.optimizer == "adam":
            self.optimizer: torch.optim.Optimizer = torch.optim.Adam(groups, lr=0.05, foreach=True)
        else:
            self.optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9, foreach=True)
        self.criterion.follow(self.optimizer)

    def go(self, steps: int) -> Record:
        """Goes on for some steps."""
        weights = []
        for _ in range(steps):
            weights.append(self.criterion.weights)
            for micro in range(self.setup.micro_batches):
                with synchronized(self.model, last=micro == self.setup.micro_batches - 1):
                    self._accumulate(micro)
            if self.wrap == "plain":
                for parameter in self.weights_of_model().values():
                    assert parameter.grad is not None
                    distributed.all_reduce(parameter.grad)
                    parameter.grad.div_(distributed.get_world_size())
            self.optimizer.step()
            self.optimizer.zero_grad()
        weights.append(self.criterion.weights)
        named = self.weights_of_model()
        return Record(
            weights, self.criterion.state_dict(), {name: full(p) for name, p in named.items()}
        )

    def weights_of_model(self) -> dict[str, nn.Parameter]:
        """Its parameters but for those of the criterion."""
        learned = {id(parameter) for parameter in self.criterion.parameters()}
        named = self.inner.named_parameters()
        return {name: parameter for name, parameter in named if id(parameter) not in learned}

    def _accumulate(self, micro: int) -> None:
        step = self.criterion.current_step
        batches = list(pieces(self.setup, step, micro, self.ranks, self.whole))
        for batch in batches:
            found = self.model(*batch)
            total = self.criterion(found) if isinstance(found, dict) else found
            (total / self.setup.micro_batches / len(batches)).backward()


def wrapped(model: Model, criterion: WeightedLoss, wrap: str) -> nn.Module:
    """The model as a user wraps it."""
    if wrap.startswith("fsdp"):
        fully_shard(model.trunk)
        fully_shard(model, ignored_params=set(criterion.parameters()))
    if wrap.startswith("ddp"):
        if "compiled" in wrap:
            model.compile(backend="eager", fullgraph=True)
        return DistributedDataParallel(
            model,
            gradient_as_bucket_view="views" in wrap,
            static_graph="static" in wrap,
            find_unused_parameters=False,
        )
    return model


def synchronized(model: nn.Module, *, last: bool) -> AbstractContextManager[None]:
    """Where gradients of micro-batches are added up, only the last is averaged over ranks."""
    if isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
    return nullcontext()


def full(parameter: Tensor) -> Tensor:
    """All of a parameter that may be sharded."""
    if isinstance(parameter, DTensor):
        parameter = parameter.full_tensor()
    return parameter.detach().clone()
