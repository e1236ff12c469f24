"""What ranks do in the tests of single facts: no model, values of the terms as they are given."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.fsdp import fully_shard
from torch.utils._python_dispatch import TorchDispatchMode

from lossweights import WeightedLoss
from tests.distributed.training import Model, Record, Setup, Trained

Values = Mapping[str, float]  # of the terms, in a forward pass
Table = Sequence[Sequence[Sequence[Values]]]  # by step, then rank, then forward pass


def feed_rank(setup: Setup, table: Table) -> Record:
    """A rank is given its part of the table."""
    rank = distributed.get_rank()
    return _feed(setup.criterion(), [step[rank] for step in table])


def feed_alone(setup: Setup, table: Table) -> Record:
    """One process is given all of it, as micro-batches."""
    return _feed(setup.criterion(), [[v for rank in step for v in rank] for step in table])


def _feed(criterion: WeightedLoss, steps: Sequence[Sequence[Values]]) -> Record:
    learned = list(criterion.parameters())
    optimizer = torch.optim.Adam(learned, lr=0.1) if learned else None
    weights = []
    for forwards in steps:
        weights.append(criterion.weights)
        for values in forwards:
            given = {name: torch.tensor(v, requires_grad=True) for name, v in values.items()}
            (criterion(given) / len(forwards)).backward()
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()
        criterion.step()
    return Record([*weights, criterion.weights], criterion.state_dict(), {})


def in_subgroup(setup: Setup, table: Table) -> Record:
    """The first two ranks are a group; the others stand alone, and are given the same."""
    group = distributed.new_group([0, 1])
    criterion = setup.criterion(process_group=group)
    rank = distributed.get_rank()
    return _feed(copy.deepcopy(criterion), [step[rank] for step in table])


class Collectives(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The sizes of all tensors that go through a collective, in order."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            self.sizes += [tensor.numel() for tensor in args[0]]
        return func(*args, **kwargs or {})


def count(setup: Setup) -> dict[str, list[int]]:
    """The collectives of three forward passes, three backward passes and the step after them."""
    criterion = setup.criterion()
    found = {}
    for moment in ("forward", "backward", "step"):
        found[moment] = Collectives()
    for number in range(3):
        with found["forward"]:
            values = {"a": 1.0, "b": 2.0, "c": 3.0} if number else {"a": 1.0}
            total = criterion({n: torch.tensor(v, requires_grad=True) for n, v in values.items()})
        with found["backward"]:
            total.backward()
    with found["step"]:
        criterion.step()
    return {moment: collectives.sizes for moment, collectives in found.items()}


def resume(setup: Setup, folder: str) -> tuple[Record, Record]:
    """Four steps, and two steps, a checkpoint and two more."""
    straight = Trained(setup).go(4)
    first = Trained(setup)
    first.go(2)
    model, optimizer = get_state_dict(first.inner, first.optimizer)
    save({"model": model, "optimizer": optimizer}, checkpoint_id=Path(folder))
    second = Trained(setup)
    with torch.no_grad():
        for parameter in second.model.parameters():
            parameter.add_(1)  # nothing is right yet
    model, optimizer = get_state_dict(second.inner, second.optimizer)
    load({"model": model, "optimizer": optimizer}, checkpoint_id=Path(folder))
    set_state_dict(
        second.inner, second.optimizer, model_state_dict=model, optim_state_dict=optimizer
    )
    return straight, second.go(2)


def shard(config: str) -> str:
    """The error of sharding a criterion with its model."""
    model = Model(Setup(config).criterion())
    try:
        fully_shard(model)
    except RuntimeError as error:
        return str(error)
    return ""


def lose_group() -> str:
    """The error of a criterion that came through a pickle without its process group."""
    group = distributed.new_group([0, 1])
    criterion = Setup("dwa").criterion(process_group=group)
    lost = pickle.loads(pickle.dumps(criterion))
    lost({"a": torch.tensor(1.0), "b": torch.tensor(1.0)})
    try:
        lost.step()
    except RuntimeError as error:
        return str(error)
    return ""
