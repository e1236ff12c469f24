"""A weight of 0 is not the same as no term: `when_zero: keep` or `skip`, and dormant terms.

The first part is about AdamW. A term has a weight of 0 for ten steps, and only this term reaches
the head that is measured. With `keep` the head still gets gradients, all zeros, so AdamW decays it,
and moves it by old momentum if the term counted before. With `skip` it gets none and stays bit for
bit the same.

The second part is about DistributedDataParallel, which waits for a gradient of every parameter of
its module. If one is missing, the next forward fails. The program tries each setting.

    python examples/zero_weight.py                                      # in one process
    torchrun --standalone --nproc-per-node 2 examples/zero_weight.py    # in two
"""

import gc
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed.nn  # before the process group, which its defaults would keep alive
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from harness.options import Parser
from lossweights import Term, WeightedLoss

STEPS = 10


class Trunk(nn.Module):
    """Features, and the main term of the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(4, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The features of a batch, and the error of their head."""
        features = torch.tanh(self.layer(x))
        return features, (self.head(features) - x[:, :1]).square().mean()


class Head(nn.Module):
    """The head that only the extra term needs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 1)

    def forward(self, features: Tensor, x: Tensor) -> Tensor:
        """The extra term of the loss."""
        error: Tensor = self.layer(features) - x[:, 1:2]
        return error.square().mean()


class Both(nn.Module):
    """Both in one module."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = Trunk(), Head()

    def forward(self, x: Tensor, *, with_extra: bool) -> dict[str, Tensor]:
        """The terms of the loss."""
        features, main = self.trunk(x)
        return {"main": main, "extra": self.head(features, x)} if with_extra else {"main": main}


def steps_with_adamw(when_zero: str, weight_decay: float, before: int) -> tuple[str, float]:
    """The gradient of a head at a weight of 0, and how far ten such steps move the head.

    Args:
        when_zero: `keep` or `skip`.
        weight_decay: Weight decay of AdamW.
        before: Steps at a weight of 1 before these.
    """
    torch.manual_seed(0)
    model = Both()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=weight_decay)
    points = [["0 steps", 1.0], [f"{before} steps", 0.0]] if before else [["0 steps", 0.0]]
    schedule = {"kind": "piecewise", "shape": "hold", "points": points}
    criterion = WeightedLoss({"main": 1.0, "extra": {"schedule": schedule, "when_zero": when_zero}})
    criterion.follow(optimizer)

    parameter = model.head.layer.weight
    path = []
    for _ in range(before + STEPS):
        path.append(parameter.detach().clone())
        optimizer.zero_grad()
        criterion(model(torch.randn(16, 4), with_extra=True)).backward()
        optimizer.step()
    gradient = "none" if parameter.grad is None else f"{parameter.grad.abs().max().item():g}"
    return gradient, (parameter.detach() - path[before]).norm().item()


def train_together(extra: Term, **options: Any) -> None:
    """Train with everything in one DistributedDataParallel."""
    model = DistributedDataParallel(Both(), **options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    criterion = WeightedLoss({"main": 1.0, "extra": extra})
    criterion.follow(optimizer)
    for _ in range(STEPS):
        terms = model(torch.randn(16, 4), with_extra=criterion.is_active("extra"))
        criterion(terms).backward()
        optimizer.step()
        optimizer.zero_grad()


def train_apart(extra: Term) -> None:
    """Train with the extra head in its own DistributedDataParallel.

    That is not called while the term is dormant, so it waits for nothing.
    """
    trunk, head = DistributedDataParallel(Trunk()), DistributedDataParallel(Head())
    optimizer = torch.optim.AdamW([*trunk.parameters(), *head.parameters()], lr=1e-2)
    criterion = WeightedLoss({"main": 1.0, "extra": extra})
    criterion.follow(optimizer)
    for _ in range(STEPS):
        x = torch.randn(16, 4)
        features, main = trunk(x)
        terms = {"main": main}
        if criterion.is_active("extra"):
            terms["extra"] = head(features, x)
        criterion(terms).backward()
        optimizer.step()
        optimizer.zero_grad()


ZERO, ZERO_SKIPPED = Term(weight=0.0), Term(weight=0.0, when_zero="skip")
DORMANT = Term(after=f"{STEPS // 2} steps")
WAYS = {
    "weight 0, keep": partial(train_together, ZERO),
    "weight 0, skip": partial(train_together, ZERO_SKIPPED),
    "weight 0, skip, find_unused_parameters=True": partial(
        train_together, ZERO_SKIPPED, find_unused_parameters=True
    ),
    "dormant": partial(train_together, DORMANT),
    "dormant, in a separate module": partial(train_apart, DORMANT),
}


def outcome(train: Callable[[], None]) -> str:
    """Whether a setting trains."""
    torch.manual_seed(distributed.get_rank())  # each rank has different data
    try:
        train()
    except RuntimeError as error:
        return f"fails: {str(error).split(' in the prior')[0]}"
    return f"trains for {STEPS} steps"


def start() -> None:
    """Join the process group of torchrun, or make one of this process alone."""
    if distributed.is_torchelastic_launched():
        distributed.init_process_group("gloo")
    else:
        alone = distributed.HashStore()  # type: ignore[attr-defined]  # it is exported
        distributed.init_process_group("gloo", store=alone, rank=0, world_size=1)


def show(*lines: str) -> None:
    """Print lines on the first rank."""
    if distributed.get_rank() == 0:
        print(*lines, sep="\n", flush=True)


def main() -> None:
    """Try all settings."""
    Parser(__doc__ or "").parse_args()
    start()
    try:
        show(
            "AdamW: how far a head moves in ten steps at a weight of 0",
            "when_zero  gradient  weight_decay  from the start  after ten steps at 1",
        )
        for when_zero in ("keep", "skip"):
            for weight_decay in (0.0, 0.1):
                gradient, at_once = steps_with_adamw(when_zero, weight_decay, before=0)
                _, later = steps_with_adamw(when_zero, weight_decay, before=STEPS)
                show(f"{when_zero:9}{gradient:>10}{weight_decay:14}{at_once:16.6f}{later:24.6f}")
        show("", f"DistributedDataParallel, {distributed.get_world_size()} process(es)")
        for way, train in WAYS.items():
            show(f"{way:45}{outcome(train)}")
        distributed.barrier()  # no rank leaves while another still communicates
    finally:
        gc.collect()  # frees failed models before their process group ends
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
