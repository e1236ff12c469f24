"""What weights that adapt cost: each method beside the same method of torchjd, for one step.

A step combines K leaf losses, goes backward to them (and to learned weights), and moves time: it
includes what a method learns from the step. Learned weights get their gradient, and no optimizer
moves them. All variants run interleaved in one process on one thread; a figure is the median over
the rounds of the variant's time divided by the hand-written loop's in the same round.

The target is at most half of the peer's overhead over the hand-written loop; where the peer is
faster than the loop, it is the peer's figure. physicsnemo-sym is not on the package index: its
figures are recorded ones (its aggregators of March 2025, on another machine).

    python benchmarks/adaptive.py [--rounds 15] [--terms 2 4 16 64 256] [--methods dwa famo]
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from lossweights import Balancer, WeightedLoss
from timing import Step, ceiling, hand_written, leaf_losses, measure, ratio, table_of_weights

# A peer, where it is installed.
scalarization: Any = (
    importlib.import_module("torchjd.scalarization") if find_spec("torchjd") else None
)

PHYSICSNEMO = {
    "softadapt": {2: 3.7, 4: 3.4, 16: 2.7, 64: 2.6, 256: 2.3},
    "relobralo": {2: 5.9, 4: 5.1, 16: 4.1, 64: 3.8, 256: 3.3},
}
EPOCH = 1  # steps: each of them is the end of an epoch, the dearest case


class Variant(NamedTuple):
    """A method to time.

    Args:
        step: The forward pass.
        after: What belongs to a step after its backward pass.
    """

    step: Step
    after: Callable[[], None] | None = None


def ours(kind: str, losses: list[Tensor]) -> Variant:
    """Our balancer of that kind, with its defaults."""
    names = [f"term_{index}" for index in range(len(losses))]
    criterion = WeightedLoss(
        terms=names, balancer=kind, total_steps=1_000_000, steps_per_epoch=EPOCH
    )
    learned = list(criterion.parameters())
    after_losses = {name: loss.detach() * 0.99 for name, loss in zip(names, losses, strict=True)}
    learns_after = Balancer.of_kind(kind).learns_after

    def step(_: int) -> Tensor:
        total: Tensor = criterion(dict(zip(names, losses, strict=True)))
        return total

    def after() -> None:
        for parameter in learned:
            parameter.grad = None
        criterion.step()
        if learns_after:
            criterion.observe(after_losses)

    return Variant(step, after)


def torchjds(kind: str, losses: list[Tensor]) -> Variant | None:
    """Torchjd's scalarizer of that method, if it has one."""
    if scalarization is None:
        return None
    count = len(losses)
    build: dict[str, Any] = {
        "uncertainty": partial(scalarization.UW, count),
        "imtl-l": partial(scalarization.IMTLL, count),
        "dwa": scalarization.DWA,
        "famo": partial(scalarization.FAMO, count),
        "stch": partial(scalarization.STCH, mu=1.0),
        "geometric": scalarization.GeometricMean,
        "random": scalarization.Random,
    }
    if kind not in build:
        return None
    method = build[kind]()
    learned = list(method.parameters())
    after_losses = torch.stack(losses).detach() * 0.99

    def after() -> None:
        for parameter in learned:
            parameter.grad = None
        if kind == "dwa":
            method.step()
        elif kind == "famo":
            method.update(after_losses)

    return Variant(lambda _: method(torch.stack(losses)), after)


def measured(kinds: list[str], count: int, rounds: int) -> dict[str, list[float]]:
    """Microseconds a step by variant, one figure a round."""
    losses, weights = leaf_losses(count), table_of_weights(count)
    variants = {
        "hand-written": Variant(hand_written(losses, weights)),
        "ceiling": Variant(ceiling(losses, weights)),
    }
    for kind in kinds:
        variants[f"ours {kind}"] = ours(kind, losses)
        if (theirs := torchjds(kind, losses)) is not None:
            variants[f"torchjd {kind}"] = theirs
    return measure(
        {name: variant.step for name, variant in variants.items()},
        losses,
        rounds,
        {name: variant.after for name, variant in variants.items() if variant.after},
    )


def target(peer: float) -> float:
    """Half of the peer's overhead over the hand-written loop, or the peer's own figure."""
    return 1 + (peer - 1) / 2 if peer > 1 else peer


def cell(kind: str, count: int, found: dict[str, list[float]]) -> str:
    """Our ratio, the peer's, and whether the target is reached."""
    own = ratio(found, f"ours {kind}")
    peer = PHYSICSNEMO.get(kind, {}).get(count)
    if f"torchjd {kind}" in found:
        peer = ratio(found, f"torchjd {kind}")
    if peer is None:
        return f"{own:.2f}"
    reached = "" if round(own, 2) <= round(target(peer), 2) else " *"
    return f"{own:.2f} / {peer:.2f}{reached}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--terms", type=int, nargs="+", default=[2, 4, 16, 64, 256])
    parser.add_argument("--methods", nargs="+", default=list(Balancer.kinds()))
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = {
        count: measured(options.methods, count, options.rounds)
        for count in track(options.terms, "measuring")
    }
    title = f"ours / the peer, ratio to hand-written (median of {options.rounds} rounds)"
    table = Table("", *(f"K={count}" for count in results), title=title)
    table.add_row("ceiling", *(f"{ratio(found, 'ceiling'):.2f}" for found in results.values()))
    for kind in options.methods:
        table.add_row(kind, *(cell(kind, count, found) for count, found in results.items()))
    table.caption = (
        "The peer is torchjd; for softadapt and relobralo physicsnemo, as recorded.\n"
        "* more than half of the peer's overhead"
    )
    Console().print(table)


if __name__ == "__main__":
    main()
