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
A second table has cases with two terms beside a loop by hand that does the same: a transform, a
reduction, an optional term that is absent, bfloat16 losses. Its last row is `step()` alone beside
`stack` and `dot`.

    python benchmarks/combine.py [--rounds 41] [--terms 2 4 16 64 256]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lossweights import Cyclical, Term, WeightedLoss
from timing import (
    Step,
    ceiling,
    hand_written,
    interleaved,
    leaf_losses,
    measure,
    ratio,
    table_of_weights,
)

STEPS = 1_000_000

Prepare: TypeAlias = Callable[[Tensor], Tensor]


def with_torchjd(losses: list[Tensor], weights: list[list[float]]) -> Step | None:
    try:
        from torchjd.scalarization import Constant  # noqa: PLC0415  # a peer, where it is installed
    except ImportError:
        return None
    scalarize = Constant(torch.tensor(weights[0]))
    return lambda _: scalarize(torch.stack(losses))


def ours(terms: dict[str, Any], given: dict[str, Tensor]) -> Step:
    criterion = WeightedLoss(terms=terms, total_steps=STEPS)

    def step(_: int) -> Tensor:
        total: Tensor = criterion(dict(given))
        criterion.step()
        return total

    return step


def measured(count: int, rounds: int) -> dict[str, list[float]]:
    """Microseconds a step by variant, one figure a round."""
    losses, weights = leaf_losses(count), table_of_weights(count)
    names = [f"term_{index}" for index in range(count)]
    terms = {name: Cyclical(cycles=4) if i % 2 else 1.0 for i, name in enumerate(names)}
    variants = {
        "hand-written": hand_written(losses, weights),
        "ceiling": ceiling(losses, weights),
        "torchjd Constant": with_torchjd(losses, weights),
        "lossweights": ours(terms, dict(zip(names, losses, strict=True))),
    }
    return measure({name: step for name, step in variants.items() if step}, losses, rounds)


def cases(rounds: int) -> dict[str, float]:
    """Ratios to a loop by hand that does the same, for two terms."""
    rows, cyclical = table_of_weights(2), Cyclical(cycles=4)

    def compared(losses: list[Tensor], terms: dict[str, Any], by_hand: Prepare) -> float:
        def hand(number: int) -> Tensor:
            first, second = rows[number % len(rows)]
            return first * by_hand(losses[0]) + second * by_hand(losses[1])

        step = ours(terms, {"a": losses[0], "b": losses[1]})
        found = measure({"hand-written": hand, "lossweights": step}, losses, rounds)
        return ratio(found, "lossweights")

    scalars, plain = leaf_losses(2), {"a": 1.0, "b": cyclical}
    capacity = {"transform": {"kind": "capacity", "capacity": 0.5}}
    mean: dict[str, Any] = {"reduction": "mean"}
    vectors = [torch.ones(8, requires_grad=True) for _ in range(2)]
    low = [torch.ones((), dtype=torch.bfloat16, requires_grad=True) for _ in range(2)]
    return {
        "a transform for each": compared(
            scalars,
            {"a": capacity, "b": {"schedule": cyclical, **capacity}},
            lambda loss: (loss - 0.5).abs(),
        ),
        "a reduction for each": compared(
            vectors, {"a": mean, "b": {"schedule": cyclical, **mean}}, torch.mean
        ),
        "an optional term absent": compared(
            scalars, {**plain, "c": Term(optional=True)}, lambda loss: loss
        ),
        "bfloat16 losses": compared(low, plain, Tensor.float),
    }


def step_alone(rounds: int) -> tuple[float, float]:
    """Microseconds of `step()`, and of `stack` and `dot`, the medians."""
    losses, row = leaf_losses(2), torch.ones(2)
    criterion = WeightedLoss({"a": 1.0, "b": Cyclical(cycles=4)}, total_steps=STEPS)

    def by_hand(_: int) -> None:
        torch.dot(torch.stack(losses), row)

    variants = {"step": lambda _: criterion.step(), "stack and dot": by_hand}
    found = interleaved(variants, 1_000, range(rounds + 1))
    return statistics.median(found["step"]), statistics.median(found["stack and dot"])


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
    title = f"Two terms, ratio to the same by hand (median of {options.rounds} rounds)"
    table = Table("", "ratio", title=title)
    for name, figure in cases(options.rounds).items():
        table.add_row(name, f"{figure:.2f}")
    step, by_hand = step_alone(options.rounds)
    table.caption = f"step() alone {step:.1f} us, stack and dot {by_hand:.1f} us"
    Console().print(table)


if __name__ == "__main__":
    main()
