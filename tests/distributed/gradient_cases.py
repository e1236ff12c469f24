"""What ranks do in the tests of single facts about gradients; terms are linear in features."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeAlias

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from lossweights import History, WeightedLoss
from lossweights.criterion import distributed as ranks
from tests.distributed.cases import Collectives
from tests.distributed.gradient_training import (
    Model,
    Of,
    Setup,
    average,
    rows,
    train_rank,
    wrapped,
)
from tests.distributed.training import synchronized
from tests.setups.models import Products

Rows: TypeAlias = Mapping[str, Sequence[float]]  # the gradients of a rank's terms
TERMS = {name: {"optional": True} for name in "abc"}


def criterion(balancer: Any = None, **options: Any) -> WeightedLoss:
    """One whose weights are sums of rows of the Gramian."""
    return WeightedLoss(TERMS, balancer=balancer or Products(), **options)


def forward(
    found: WeightedLoss, rows_of_rank: Rows, shared: nn.Parameter | None = None
) -> dict[str, float]:
    """The weights in a forward pass of a rank.

    Args:
        found: The criterion.
        rows_of_rank: The gradients of the terms.
        shared: A parameter; features as long as the rows where there is none.
    """
    width = max(map(len, rows_of_rank.values()), default=2)
    given = torch.zeros(width, requires_grad=True) * 1.0 if shared is None else shared
    terms = {name: (torch.tensor(row) * given).sum() for name, row in rows_of_rank.items()}
    found(terms, shared=given)
    return found.metrics(include=["weight"])


def weights(
    by_rank: Sequence[Rows], of: Of, options: Mapping[str, Any]
) -> tuple[dict[str, float], dict[str, float]]:
    """The weights of a forward pass, and those that stand after it."""
    mine = by_rank[distributed.get_rank()]
    parameter = nn.Parameter(torch.zeros(2)) if of == "parameters" else None
    found = criterion(**options)
    seen = forward(found, mine, parameter)
    found.step()
    with found.freeze():
        found({name: torch.tensor(1.0) for name in "abc"})
    return seen, found.metrics(include=["weight"])


def weights_with_an_inactive_term(balancer: str, term: Mapping[str, Any]) -> dict[str, float]:
    """The weights of two terms beside one that does not count; the same batch on all ranks."""
    found = WeightedLoss({"a": 1.0, "b": 1.0, "c": term}, balancer=balancer)
    seen = forward(found, {"a": [3.0, 4.0], "b": [2.0, -1.0], "c": [3.0, 1.0]})
    return {name: seen[f"weight/{name}"] for name in "ab"}


def in_half(by_rank: Sequence[Rows], of: Of) -> dict[str, float]:
    """The weights where the first rank alone meets float16, and after autocast is over."""
    rank = distributed.get_rank()
    leaf = torch.zeros(2, requires_grad=True)
    shared = leaf if of == "parameters" else leaf * 1.0
    given = shared.half().float() if rank == 0 else shared
    terms = {name: (torch.tensor(row) * given).sum() for name, row in by_rank[rank].items()}
    found = criterion()
    found(terms, shared=shared)
    found.step()
    with found.freeze():
        found({name: torch.tensor(1.0) for name in "abc"})
    return found.metrics(include=["weight"])


def in_subgroup(by_rank: Sequence[Rows]) -> dict[str, float]:
    """The first two ranks are a group, and the third stands alone."""
    group = distributed.new_group([0, 1])
    return forward(criterion(process_group=group), by_rank[distributed.get_rank()])


def count(
    balancer: Any, of: Of, given: Mapping[int, Sequence[str]], options: Mapping[str, Any]
) -> dict[str, list[list[int]]]:
    """The sizes of the collectives in the forward and backward passes, and steps, of three steps.

    Args:
        balancer: Of the criterion.
        of: What is shared: a parameter of 6 entries and one of 4, or as large features.
        given: The terms that a rank gives, by rank; all for those that are not named.
        options: More of the criterion's.
    """
    found = criterion(balancer, **options)
    leaves = [torch.ones(size, requires_grad=True) for size in (6, 4)]
    shared = leaves if of == "parameters" else [leaf * 1.0 for leaf in leaves]
    sizes: dict[str, list[list[int]]] = {"forward": [], "backward": [], "step": []}
    for _ in range(3):
        names = given.get(distributed.get_rank(), "abc")
        terms = {name: shared[0].sum() * (1 + ord(name)) + shared[1].sum() for name in names}
        with Collectives() as forward_pass:
            total = found(terms, shared=shared)
        with Collectives() as backward_pass:
            total.backward(retain_graph=True)
        with Collectives() as step:
            found.step()
        for moment, seen in zip(sizes, (forward_pass, backward_pass, step), strict=True):
            sizes[moment].append(seen.sizes)
    return sizes


def refusal(setup: Setup) -> str:
    """The error of a training."""
    try:
        train_rank(setup)
    except (RuntimeError, ValueError) as error:
        return str(error)
    return ""


def fully_sharded(*, inside: bool) -> list[dict[str, float]] | str:
    """The weights of a training in the older way of sharding, or the error."""
    warnings.simplefilter("ignore")  # it is deprecated
    torch.manual_seed(0)
    model, found = Model("features"), Setup().criterion()
    outer = FullyShardedDataParallel(
        found.wrap(model) if inside else model,
        use_orig_params=True,
        device_id=torch.device("cpu"),
    )
    optimizer = torch.optim.SGD(outer.parameters(), lr=0.01, momentum=0.9)
    found.follow(optimizer)
    seen = []
    for step in range(Setup.steps):
        made = outer(rows(step, 0, distributed.get_rank()))
        try:
            total = made if inside else found(*made)
        except RuntimeError as error:
            return str(error)
        seen.append(found.metrics(include=["weight"]))
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
    return seen


def in_low_precision(precision: torch.dtype, of_output: torch.dtype) -> dict[str, float]:
    """The weights of tiny terms, where FSDP2 computes in low precision."""
    torch.manual_seed(0)
    model, found = Model("features"), Setup().criterion()
    policy = MixedPrecisionPolicy(param_dtype=precision, output_dtype=of_output)
    for part in (model.trunk, model.a, model.b, model.c, model):
        fully_shard(part, mp_policy=policy)
    terms, features = model(rows(0, 0, distributed.get_rank()))
    assert features.dtype is of_output
    found({name: 1e-6 * term.float() for name, term in terms.items()}, features).backward()
    return found.metrics(include=["weight"])


def compiled() -> dict[str, Tensor]:
    """Gradients of a model whose parts are compiled within DistributedDataParallel."""
    import torch._functorch.config

    warnings.simplefilter("ignore")
    torch._dynamo.reset()
    torch.manual_seed(0)
    model, found = Model("features"), Setup().criterion()
    with torch._functorch.config.patch(donated_buffer=False):
        for part in (model.trunk, model.a, model.b, model.c):
            part.compile(backend="aot_eager")
        outer = DistributedDataParallel(model)
        found(*outer(rows(0, 0, distributed.get_rank()))).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def plain() -> dict[str, Tensor]:
    """The same gradients, with nothing around the model."""
    torch.manual_seed(0)
    model, found = Model("features"), Setup().criterion()
    found(*model(rows(0, 0, distributed.get_rank()))).backward()
    average(model)
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def sparse(number: int) -> tuple[dict[str, float], Tensor]:
    """Weights, and the gradient of a table whose gradients are sparse, of so many ranks or one."""
    torch.manual_seed(0)
    table = nn.Embedding(20, 5, sparse=True)
    own = range(number) if number > 1 else [distributed.get_rank()]
    words = [table(torch.arange(4) + 3 * rank) for rank in own]
    terms = {
        "a": torch.stack([each.square().sum() for each in words]).mean(),
        "b": torch.stack([7 * each[:, 0].sum() for each in words]).mean(),
    }
    found = WeightedLoss(["a", "b"], balancer="imtl-g")
    found(terms, shared=table.weight).backward()
    gradient = table.weight.grad
    assert gradient is not None
    return found.metrics(include=["weight"]), gradient.to_dense()


def measured_rank(setup: Setup) -> list[dict[str, float]]:
    """The gradients that a history measures on a rank."""
    return _measured(setup, [distributed.get_rank()], setup.wrap)


def measured_alone(setup: Setup, ranks: int) -> list[dict[str, float]]:
    """Those in one process, whose batch is that of all ranks together."""
    return _measured(setup, range(ranks), "alone")


def _measured(setup: Setup, ranks: Sequence[int] | range, wrap: str) -> list[dict[str, float]]:
    torch.manual_seed(0)
    model = Model(setup.of)
    found = WeightedLoss({"a": 1.0, "b": 2.0, "c": {"optional": True, "weight": 0.5}})
    outer = model if wrap == "alone" else wrapped(setup, model, found)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    found.follow(optimizer)
    history = History(found, "1 steps", gradients="2 steps")
    for step in range(4):
        for micro in range(setup.micro_batches):
            with synchronized(outer, last=micro == setup.micro_batches - 1):
                batch = torch.cat([rows(step, micro, rank) for rank in ranks])
                terms = outer(batch)
                total = found(*terms) if isinstance(terms, tuple) else terms
                (total / setup.micro_batches).backward()
        optimizer.step()
        optimizer.zero_grad()
    return [{k: x for k, x in row.items() if k.startswith("gradient")} for row in history.rows]


def measured_on_some_ranks() -> list[str]:
    """What a history on the first rank alone warns of, in a training of all."""
    before, ranks._PATIENCE = ranks._PATIENCE, timedelta(seconds=1)
    found = WeightedLoss(["a", "b"])
    if distributed.get_rank() == 0:
        History(found, "1 steps", gradients="1 steps")
    with warnings.catch_warnings(record=True, action="always") as caught:
        for _ in range(3):
            shared = torch.ones(2, requires_grad=True) * 1.0
            found({"a": shared.sum(), "b": shared[0]}, shared=shared)
            distributed.barrier()
            found.step()
    ranks._PATIENCE = before
    return [str(each.message) for each in caught]


def measured_of_absent_terms() -> tuple[dict[str, float], list[str]]:
    """A row of two terms, of which each rank lacks one, and then a batch of one rank alone."""
    terms: dict[str, Any] = {"a": {"optional": True}, "b": {"optional": True, "weight": -2.0}}
    found = WeightedLoss(terms)
    history = History(found, "1 steps", gradients="1 steps")
    rank = distributed.get_rank()
    with warnings.catch_warnings(record=True, action="always") as caught:
        for lacks in ("ba"[rank], "ab" * rank):
            shared = torch.ones(2, requires_grad=True) * 1.0
            given = {"a": shared.sum(), "b": 3 * shared[0]}
            found({k: x for k, x in given.items() if k not in lacks}, shared=shared)
            found.step()
    row = {k: x for k, x in history.rows[-1].items() if k.startswith("gradient")}
    both = {k: x for k, x in history.rows[0].items() if k.startswith("gradient")}
    return both | {f"alone/{k}": x for k, x in row.items()}, [str(each.message) for each in caught]


def measured_by_two() -> list[float]:
    """Norms in two histories of two criteria."""
    pair = [WeightedLoss(["a", "b"]), WeightedLoss(["a", "b"])]
    histories = [History(found, "1 steps", gradients="1 steps") for found in pair]
    for found in pair:
        shared = torch.ones(2, requires_grad=True) * 1.0
        found({"a": shared.sum(), "b": shared[0]}, shared=shared)
        found.step()
    return [history["gradient/norm/b"][0] for history in histories]
