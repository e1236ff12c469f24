"""What weights from gradients cost: each method with features and with parameters, for one step.

A step is the forward pass of the model, the criterion, the backward pass to all parameters, and
what moves time; the optimizer's own step, the same for all, is left out. The model is a trunk of
1.05M parameters (four layers of 512) with K heads of 33k each, a batch of 64. All variants run
interleaved in one process on one thread; a figure is the median over the rounds of the variant's
time divided by that of a plain sum of the losses in the same round.

- ours, features: `criterion(terms, shared=features)`; ours, parameters: `shared=` those of the
  trunk. "ones" is a balancer that reads the Gramian and weighs all terms 1: the engine alone.
- floor: the gradients by hand, their Gramian in float32, and a weighted backward pass.
- torchjd: `mtl_backward` and `jac_to_grad`, where that is installed (some methods need solvers).

The targets: with features at most 1.2 times a plain sum for 3 terms and 1.3 for 8; with parameters
no more than torchjd, which knows parameters only. A * marks what is missed.

A second table has `batched: true` beside false, for the heads above and for terms that are all
computed from the one output of a decoder: there the trunk is small, and the four layers come after
the features.

    python benchmarks/gradients.py [--rounds 31] [--terms 3 8] [--methods mgda cagrad]
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

from lossweights import Balancer, State, StepContext, WeightedLoss
from lossweights.components.balancers import GradientBalancer, GramianBalancer
from lossweights.components.balancers.gradient.base import Array
from timing import interleaved, ratio

# A peer, where it is installed.
autojac: Any = importlib.import_module("torchjd.autojac") if find_spec("torchjd") else None
aggregation: Any = importlib.import_module("torchjd.aggregation") if find_spec("torchjd") else None

SIZE, BATCH, LAYERS = 512, 64, 4
STEPS = 2  # of each variant in a round: few, so that what else a machine does meets all alike
TARGETS = {3: 1.2, 8: 1.3}  # with features, relative to a plain sum
SETTINGS: dict[str, dict[str, Any]] = {"lr-annealing": {"reference": "term_0"}}
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


def one_decoder(count: int) -> Model:
    """A shallow trunk, and a deep decoder of whose output all terms are computed."""
    decoder = layers(LAYERS)
    targets = torch.randn(count, BATCH, SIZE).unbind()

    def losses(features: Tensor) -> list[Tensor]:
        output = decoder(features)
        return [(output - target).abs().mean() for target in targets]

    return Model(layers(1), nn.ModuleList([decoder]), losses, torch.randn(BATCH, SIZE))


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


def ours(model: Model, kind: str, count: int, of: Of, *, batched: bool = False) -> Step:
    """Our balancer of that kind, with its defaults."""
    names = [f"term_{index}" for index in range(count)]
    balancer = {"kind": kind, "batched": batched, **SETTINGS.get(kind, {})}
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


def measured(kinds: Sequence[str], count: int, rounds: int) -> dict[str, list[float]]:
    """Microseconds a step by variant, one figure a round."""
    model = separate_heads(count)
    variants = {
        "plain": plain(model),
        "floor, features": floor(model, "features"),
        "floor, parameters": floor(model, "parameters"),
    }
    for kind in kinds:
        variants[f"{kind}, features"] = ours(model, kind, count, "features")
        variants[f"{kind}, parameters"] = ours(model, kind, count, "parameters")
        if (theirs := torchjds(model, kind, count)) is not None:
            variants[f"{kind}, torchjd"] = theirs
    return interleaved(variants, STEPS, track(range(rounds + 1), f"{count} terms"))


def measured_batched(count: int, rounds: int) -> dict[str, list[float]]:
    """The same of the engine alone, for both models, one by one and in one vectorised pass."""
    variants = {}
    for name, model in {
        "separate heads": separate_heads(count),
        "one decoder": one_decoder(count),
    }.items():
        variants[name] = plain(model)
        of: Of
        for of in ("features", "parameters"):
            for batched in (False, True):
                step = ours(model, "ones", count, of, batched=batched)
                variants[f"{name}, {of}, {batched}"] = step
    return interleaved(variants, STEPS, track(range(rounds + 1), f"{count} terms, batched"))


def cells(kind: str, count: int, found: dict[str, list[float]]) -> list[str]:
    """With features, with parameters, and the peer; a * where a target is missed."""
    features, parameters = (ratio(found, f"{kind}, {of}", "plain") for of in get_args(Of))
    missed = kind != "floor" and round(features, 2) > TARGETS.get(count, features)
    shown = [f"{features:.2f}{' *' if missed else ''}"]
    if f"{kind}, torchjd" not in found:
        return [*shown, f"{parameters:.2f}", ""]
    peer = ratio(found, f"{kind}, torchjd", "plain")
    missed = round(parameters, 2) > round(peer, 2)
    return [*shown, f"{parameters:.2f}{' *' if missed else ''}", f"{peer:.2f}"]


def show(results: dict[int, dict[str, list[float]]], kinds: Sequence[str], rounds: int) -> Table:
    table = Table("", title=f"ratio to a plain sum (median of {rounds} rounds)")
    for count in results:
        for column in (f"K={count}\nfeatures", "\nparameters", "\ntorchjd"):
            table.add_column(column, justify="right")
    for kind in ("floor", *kinds):
        row = [cell for count, found in results.items() for cell in cells(kind, count, found)]
        table.add_row(kind, *row)
    times = [statistics.median(found["plain"]) / 1000 for found in results.values()]
    table.caption = (
        f"A plain sum takes {' and '.join(f'{time:.1f}' for time in times)} ms.\n"
        "* more than the target: 1.2 for 3 terms, 1.3 for 8; or than torchjd"
    )
    return table


def show_batched(results: dict[int, dict[str, list[float]]]) -> Table:
    table = Table("batched: false / true", *(f"K={count}" for count in results))
    for name in ("separate heads", "one decoder"):
        for of in ("features", "parameters"):
            row = [
                " / ".join(f"{ratio(found, f'{name}, {of}, {b}', name):.2f}" for b in (False, True))
                for found in results.values()
            ]
            table.add_row(f"{name}, {of}", *row)
    return table


def main() -> None:
    kinds = [k for k in Balancer.kinds() if issubclass(Balancer.of_kind(k), GradientBalancer)]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--terms", type=int, nargs="+", default=[3, 8])
    parser.add_argument("--methods", nargs="+", default=kinds, choices=kinds)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rounds, counts = options.rounds, options.terms
    results = {count: measured(options.methods, count, rounds) for count in counts}
    Console().print(show(results, options.methods, rounds))
    Console().print(show_batched({count: measured_batched(count, rounds) for count in counts}))


if __name__ == "__main__":
    main()
