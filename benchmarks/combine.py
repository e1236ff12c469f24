"""What combining K terms costs: forward, backward to the terms, and the clock, for one step.

Each variant combines K leaf losses with weights that change from step to step, goes backward to
them, and moves time. All run interleaved in one process on one thread; a figure is the median
over the rounds of the variant's time divided by the hand-written loop's in the same round.

- hand-written: `total = w[0] * l[0] + w[1] * l[1] + ...` with Python floats from a list.
- ceiling: `torch.dot(torch.stack(losses), row)` with a row computed beforehand; no names, no
  checks, nothing kept.
- torchjd: `torchjd.scalarization.Constant`, where it is installed; a fixed weight, by position.
- lossweights: `criterion({name: loss, ...})` with cyclical schedules for half of the terms; names
  checked, values kept for the report, `criterion.step()`. The dict is built in each step.
- lossweights, long way: the same with one optional term absent, where each term is checked by
  itself.

    python benchmarks/combine.py [--rounds 41] [--terms 2 4 16 64 256]
"""

from __future__ import annotations

import argparse
import statistics

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lossweights import Cyclical, Schedule, Term, WeightedLoss
from timing import (
    Step,
    ceiling,
    hand_written,
    leaf_losses,
    measure,
    ratio,
    table_of_weights,
)

STEPS = 1_000_000


def with_torchjd(losses: list[Tensor], weights: list[list[float]]) -> Step | None:
    try:
        from torchjd.scalarization import Constant  # noqa: PLC0415  # a peer, where it is installed
    except ImportError:
        return None
    scalarize = Constant(torch.tensor(weights[0]))
    return lambda _: scalarize(torch.stack(losses))


def ours(losses: list[Tensor], *, absent: bool) -> Step:
    names = [f"term_{index}" for index in range(len(losses))]
    schedules: dict[str, Schedule | float | Term] = {
        name: Cyclical(cycles=4) if index % 2 else 1.0 for index, name in enumerate(names)
    }
    if absent:
        schedules["absent"] = Term(optional=True)
    criterion = WeightedLoss(terms=schedules, total_steps=STEPS)

    def step(_: int) -> Tensor:
        total: Tensor = criterion(dict(zip(names, losses, strict=True)))
        criterion.step()
        return total

    return step


def measured(count: int, rounds: int) -> dict[str, list[float]]:
    """Microseconds a step by variant, one figure a round."""
    losses, weights = leaf_losses(count), table_of_weights(count)
    variants = {
        "hand-written": hand_written(losses, weights),
        "ceiling": ceiling(losses, weights),
        "torchjd Constant": with_torchjd(losses, weights),
        "lossweights": ours(losses, absent=False),
        "lossweights, long way": ours(losses, absent=True),
    }
    return measure({name: step for name, step in variants.items() if step}, losses, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--terms", type=int, nargs="+", default=[2, 4, 16, 64, 256])
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = {count: measured(count, options.rounds) for count in options.terms}
    title = f"A step with K terms, ratio to hand-written (median of {options.rounds} rounds)"
    table = Table("", *(f"K={count}" for count in results), title=title)
    table.add_row(
        "hand-written, us",
        *(f"{statistics.median(found['hand-written']):.0f}" for found in results.values()),
    )
    for name in next(iter(results.values())):
        table.add_row(name, *(f"{ratio(found, name):.2f}" for found in results.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
