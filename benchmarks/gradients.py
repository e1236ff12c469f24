"""What weights from gradients cost: each method beside the same steps written by hand.

A step is the forward pass of the model, the criterion, the backward pass to all parameters, and
`criterion.step()`; the optimizer's own step, the same for all, is left out. The model is a trunk of
1.05M parameters (four layers of 512) with K heads of 33k each, a batch of 64. All variants run
interleaved in one process on one thread. A figure is the median over the rounds of the variant's
time divided by that of the floor in the same round.

- floor: one `torch.autograd.grad` for each term with respect to what is shared, their Gramian in
  float32, and a weighted backward pass. No method can do with less.
- features: `criterion(terms, shared=features)`; parameters: `shared=` those of the trunk. "ones" is
  a balancer that reads the Gramian and weighs all terms 1: the engine alone.
- history: constant weights, and a `History` that measures the gradients in each step; idle: the
  same, but between two measurements.
- plain: a backward pass of the plain sum of the losses.
- torchjd: `mtl_backward` and `jac_to_grad`, if that is installed (some methods need solvers).

The targets: with features at most 1.10 times the floor; with parameters no more than torchjd, which
takes gradients of parameters only. A * marks what is missed.

    python benchmarks/gradients.py [--rounds 31] [--terms 3 8] [--methods mgda cagrad]
                                   [--of features]
"""

from __future__ import annotations

import argparse
import importlib
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, get_args

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from lossweights import Balancer, History, State, StepContext, WeightedLoss
from lossweights.components.balancers import GradientBalancer, GramianBalancer
from lossweights.components.balancers.gradient.base import Array
from timing import interleaved, ratio

# A peer, where it is installed.
autojac: Any = importlib.import_module("torchjd.autojac") if find_spec("torchjd") else None
aggregation: Any = importlib.import_module("torchjd.aggregation") if find_spec("torchjd") else None

SIZE, BATCH, LAYERS = 512, 64, 4
STEPS = 2  # of each variant in a round: few, so that what else a machine does meets all alike
TARGET = 1.10  # with features, relative to the floor
SETTINGS: dict[str, dict[str, Any]] = {
    "gradient-similarity": {"primary": "term_0"},
    "lr-annealing": {"reference": "term_0"},
    "ntk": {"every": "1 steps"},
}
OF_PARAMETERS: dict[str, dict[str, Any]] = {"norm-balance": {"per_item": False}}
PEERS: dict[str, tuple[str, dict[str, Any]]] = {
    "aligned-mtl": ("AlignedMTL", {}),
    "cagrad": ("CAGrad", {"c": 0.5}),
    "conflict-free": ("ConFIG", {}),
    "dualproj": ("DualProj", {}),
    "fairgrad": ("FairGrad", {"alpha": 1.0}),
    "gradvac": ("GradVac", {}),
    "imtl-g": ("IMTLG", {}),
    "mgda": ("MGDA", {}),
    "nash-mtl": ("NashMTL", {}),
    "pcgrad": ("PCGrad", {}),
    "upgrad": ("UPGrad", {}),
}

MEASURES = {"history": "1 steps", "idle": "1000000 steps"}  # how often gradients are measured

Of = Literal["features", "parameters"]
Step = Callable[[int], None]


class Ones(GramianBalancer, kind="ones"):
    """Reads the Gramian, and weighs all terms 1."""

    def solve(self, gramian: Array, state: State, now: StepContext) -> Array:
        return np.ones(len(gramian))


@dataclass(frozen=True)
class Model:
    """A model whose terms depend on features.

    Args:
        trunk: From the inputs to the features.
        heads: From the features to the terms: what comes after the trunk.
        losses: The terms, for features.
        inputs: A batch.
    """

    trunk: nn.Module
    heads: nn.ModuleList
    losses: Callable[[Tensor], list[Tensor]]
    inputs: Tensor

    def step(self, backward: Callable[[Tensor, list[Tensor]], None]) -> Step:
        """A step, for what goes backward from features and losses."""
        parameters = [*self.trunk.parameters(), *self.heads.parameters()]

        def step(_: int) -> None:
            features = self.trunk(self.inputs)
            backward(features, self.losses(features))
            for parameter in parameters:
                parameter.grad = None

        return step

    def shared(self, of: Of, features: Tensor) -> list[Tensor]:
        """What the gradients are taken with respect to."""
        return [features] if of == "features" else list(self.trunk.parameters())


def layers(count: int) -> nn.Sequential:
    return nn.Sequential(
        *(part for _ in range(count) for part in (nn.Linear(SIZE, SIZE), nn.ReLU()))
    )


def separate_heads(count: int) -> Model:
    """A deep trunk, and a small head for each term."""
    heads = nn.ModuleList(
        nn.Sequential(nn.Linear(SIZE, 64), nn.ReLU(), nn.Linear(64, 10)) for _ in range(count)
    )
    targets = torch.randn(count, BATCH, 10).unbind()

    def losses(features: Tensor) -> list[Tensor]:
        return [
            (head(features) - target).square().mean()
            for head, target in zip(heads, targets, strict=True)
        ]

    return Model(layers(LAYERS), heads, losses, torch.randn(BATCH, SIZE))


def plain(model: Model) -> Step:
    return model.step(lambda _, losses: torch.stack(losses).sum().backward())  # type: ignore[no-untyped-call]


def floor(model: Model, of: Of) -> Step:
    def backward(features: Tensor, losses: list[Tensor]) -> None:
        shared = model.shared(of, features)
        rows = [torch.autograd.grad(loss, shared, retain_graph=True) for loss in losses]
        gramian = torch.zeros(len(losses), len(losses))
        for parts in zip(*rows, strict=True):
            jacobian = torch.stack([part.reshape(-1) for part in parts])
            gramian += jacobian @ jacobian.T
        weights = torch.ones_like(gramian[0])
        torch.dot(torch.stack(losses), weights).backward()  # type: ignore[no-untyped-call]

    return model.step(backward)


def ours(model: Model, kind: str, count: int, of: Of) -> Step:
    """Our balancer of that kind, with its defaults, or a history."""
    names = [f"term_{index}" for index in range(count)]
    if kind in MEASURES:
        criterion = WeightedLoss(terms=names, total_steps=1_000_000)
        History(criterion, "100 steps", gradients=MEASURES[kind])
    else:
        balancer = {"kind": kind, **SETTINGS.get(kind, {})}
        if of == "parameters":
            balancer |= OF_PARAMETERS.get(kind, {})
        criterion = WeightedLoss(terms=names, balancer=balancer, total_steps=1_000_000)

    def backward(features: Tensor, losses: list[Tensor]) -> None:
        terms = dict(zip(names, losses, strict=True))
        criterion(terms, shared=model.shared(of, features)).backward()
        criterion.step()

    return model.step(backward)


def torchjds(model: Model, kind: str, count: int) -> Step | None:
    """Torchjd's aggregator of that method, if it has one and what that needs is installed."""
    if aggregation is None or kind not in PEERS:
        return None
    name, settings = PEERS[kind]
    if name == "NashMTL":
        settings = {"n_tasks": count}
    try:
        aggregate = getattr(aggregation, name)(**settings)
    except ImportError:
        return None
    shared = list(model.trunk.parameters())
    heads = [list(head.parameters()) for head in model.heads]

    def backward(features: Tensor, losses: list[Tensor]) -> None:
        autojac.mtl_backward(losses, features, tasks_params=heads, shared_params=shared)
        autojac.jac_to_grad(shared, aggregate)

    return model.step(backward)


def measured(
    kinds: Sequence[str], count: int, of: Sequence[Of], rounds: int
) -> dict[str, list[float]]:
    """Microseconds a step by variant, one figure a round."""
    model = separate_heads(count)
    variants = {"plain": plain(model)}
    for shared in of:
        variants[f"floor, {shared}"] = floor(model, shared)
        for kind in kinds:
            variants[f"{kind}, {shared}"] = ours(model, kind, count, shared)
    for kind in kinds if "parameters" in of else ():
        if (theirs := torchjds(model, kind, count)) is not None:
            variants[f"{kind}, torchjd"] = theirs
    return interleaved(variants, STEPS, track(range(rounds + 1), f"{count} terms"))


def cells(kind: str, of: Sequence[Of], found: dict[str, list[float]]) -> list[str]:
    """The ratios of a method to the floor, and of the peer; a * marks a missed target."""
    shown = []
    for shared in of:
        mine = ratio(found, f"{kind}, {shared}" if kind != "plain" else kind, f"floor, {shared}")
        limit, peer = TARGET, ""
        if shared == "parameters":
            limit = mine
            if f"{kind}, torchjd" in found:
                limit = ratio(found, f"{kind}, torchjd", "floor, parameters")
                peer = f"{limit:.2f}"
        shown.append(f"{mine:.2f}{' *' if round(mine, 2) > round(limit, 2) else ''}")
        if shared == "parameters":
            shown.append(peer)
    return shown


def show(
    results: dict[int, dict[str, list[float]]], kinds: Sequence[str], of: Sequence[Of], rounds: int
) -> Table:
    table = Table("", title=f"ratio to the floor (median of {rounds} rounds)")
    for count in results:
        columns = [*of, "torchjd"] if "parameters" in of else of
        for index, column in enumerate(columns):
            table.add_column(
                f"K={count}\n{column}" if index == 0 else f"\n{column}", justify="right"
            )
    milliseconds = []
    for found in results.values():
        milliseconds += [f"{statistics.median(found[f'floor, {o}']) / 1000:.2f} ms" for o in of]
        milliseconds += [""] if "parameters" in of else []
    table.add_row("floor", *milliseconds, end_section=True)
    for kind in ("plain", *kinds):
        table.add_row(kind, *(c for found in results.values() for c in cells(kind, of, found)))
    table.caption = f"* more than {TARGET:.2f}, or than torchjd"
    return table


def main() -> None:
    kinds = [k for k in Balancer.kinds() if issubclass(Balancer.of_kind(k), GradientBalancer)]
    kinds = [*MEASURES, *kinds]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--terms", type=int, nargs="+", default=[3, 8])
    parser.add_argument("--methods", nargs="+", default=kinds, choices=kinds)
    parser.add_argument("--of", nargs="+", default=list(get_args(Of)), choices=get_args(Of))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    of, methods, rounds = options.of, options.methods, options.rounds
    results = {count: measured(methods, count, of, rounds) for count in options.terms}
    Console().print(show(results, methods, of, rounds))


if __name__ == "__main__":
    main()
