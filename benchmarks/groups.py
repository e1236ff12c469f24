"""What groups cost: G groups of M members, forward, backward to the members, and the clock.

Each variant combines G x M leaf losses with weights that change from step to step, goes backward to
them, and moves time. All run interleaved in one process on one thread; a figure is the median over
the rounds of the variant's time divided by the hand-written loops' in the same round.

- hand-written: two loops with Python floats from lists, a weight for each member and one for each
  group, as people write it.
- ceiling: `stack` and `dot` for each group, and `stack` and `dot` of these, with rows computed
  beforehand; no names, no checks, nothing kept.
- flat terms: a config without groups, whose G x M terms have the products as weights.
- nested: a config with groups, whose values are passed as nested mappings. Half of the groups and
  of the members have a cyclical schedule. Names are checked, values of groups and members kept for
  the report, `criterion.step()`. The mappings are built in each step.
- by full names: the same, with values passed by names such as `group_0/member_0`.
- uncertainty: nested, with a learned weight for each group.

    python benchmarks/groups.py [--rounds 41] [--groups 6] [--members 12]
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lossweights import Cyclical, WeightedLoss
from timing import Step, leaf_losses, measure, ratio, table_of_weights

STEPS = 1_000_000

Losses = list[list[Tensor]]


def hand_written(losses: Losses, weights: list[list[float]]) -> Step:
    """A weight for each group and for each member, in two loops."""

    def step(number: int) -> Tensor:
        row = weights[number % len(weights)]
        total: Any = 0.0
        for weight, members in zip(row, losses, strict=False):
            value: Any = 0.0
            for inside, loss in zip(row, members, strict=False):
                value = value + inside * loss
            total = total + weight * value
        return total  # type: ignore[no-any-return]

    return step


def ceiling(losses: Losses, weights: list[list[float]]) -> Step:
    """`dot` and `stack` alone, with rows computed beforehand."""
    table = torch.tensor(weights)
    inside = table[:, : len(losses[0])].contiguous().unbind()
    outside = table[:, : len(losses)].contiguous().unbind()

    def step(number: int) -> Tensor:
        index = number % len(inside)
        values = [torch.dot(torch.stack(members), inside[index]) for members in losses]
        return torch.dot(torch.stack(values), outside[index])

    return step


def ours(terms: dict[str, Any], given: dict[str, Any], **fields: Any) -> Step:
    criterion = WeightedLoss(terms, total_steps=STEPS, **fields)

    def step(_: int) -> Tensor:
        mapping = {n: dict(v) if type(v) is dict else v for n, v in given.items()}
        total: Tensor = criterion(mapping)
        criterion.step()
        return total

    return step


def measured(groups: int, members: int, rounds: int) -> dict[str, list[float]]:
    """Microseconds a step by variant, one figure a round."""
    leaves = leaf_losses(groups * members)
    losses = [leaves[start : start + members] for start in range(0, len(leaves), members)]
    weights, cyclical = table_of_weights(max(groups, members)), Cyclical(cycles=4)
    inside = {f"member_{i}": {"schedule": cyclical} if i % 2 else 0.5 for i in range(members)}
    whole: list[dict[str, Any]] = [{"terms": inside}, {"terms": inside, "schedule": cyclical}]
    terms = {f"group_{index}": whole[index % 2] for index in range(groups)}
    nested = {
        name: dict(zip(inside, given, strict=True))
        for name, given in zip(terms, losses, strict=True)
    }
    flat = {f"{name}/{key}": v for name, given in nested.items() for key, v in given.items()}
    plain = {name: cyclical if index % 2 else 0.5 for index, name in enumerate(flat)}
    variants = {
        "hand-written": hand_written(losses, weights),
        "ceiling": ceiling(losses, weights),
        "flat terms": ours(plain, flat),
        "nested": ours(terms, nested),
        "by full names": ours(terms, flat),
        "uncertainty": ours(terms, nested, balancer="uncertainty"),
    }
    return measure(variants, leaves, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--groups", type=int, default=6)
    parser.add_argument("--members", type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = measured(options.groups, options.members, options.rounds)
    title = (
        f"A step with {options.groups} groups of {options.members} members, "
        f"median of {options.rounds} rounds"
    )
    table = Table("", "us", "ratio to hand-written", title=title)
    for name, times in found.items():
        table.add_row(name, f"{statistics.median(times):.0f}", f"{ratio(found, name):.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
