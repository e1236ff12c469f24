"""Timing for the benchmarks: variants interleaved in one process, ratios round by round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

Step = Callable[[int], Tensor]

WEIGHTS_IN_A_ROW = 64  # after so many steps the weights of the hand-written loop begin anew


def leaf_losses(count: int) -> list[Tensor]:
    """So many losses that are leaves of the graph."""
    return [torch.tensor(float(index + 1), requires_grad=True) for index in range(count)]


def table_of_weights(count: int) -> list[list[float]]:
    """Weights that change from step to step."""
    return [[0.5 + 0.1 * ((i + j) % 7) for i in range(count)] for j in range(WEIGHTS_IN_A_ROW)]


def hand_written(losses: list[Tensor], weights: list[list[float]]) -> Step:
    """`total = w[0] * l[0] + w[1] * l[1] + ...` with Python floats from a list."""

    def step(number: int) -> Tensor:
        row = weights[number % len(weights)]
        total = row[0] * losses[0]
        for weight, loss in zip(row[1:], losses[1:], strict=True):
            total = total + weight * loss
        return total

    return step


def ceiling(losses: list[Tensor], weights: list[list[float]]) -> Step:
    """`torch.dot(torch.stack(losses), row)` with a row computed beforehand: nothing else."""
    rows = torch.tensor(weights).unbind()

    def step(number: int) -> Tensor:
        return torch.dot(torch.stack(losses), rows[number % len(rows)])

    return step


def measure(
    variants: Mapping[str, Step],
    losses: list[Tensor],
    rounds: int,
    after: Mapping[str, Callable[[], None]] | None = None,
) -> dict[str, list[float]]:
    """Microseconds a step by variant, one figure a round, of the thread's own time.

    What else the machine does is not counted in, though it is felt. A step is the forward pass,
    the backward pass to the losses, and what moves time.

    Args:
        variants: What to time, by name.
        losses: What they combine.
        rounds: How many figures; one more round warms up.
        after: What belongs to a step after its backward pass, by variant.
    """
    finish = after or {}

    def whole(name: str, step: Step) -> Callable[[int], None]:
        def run(number: int) -> None:
            step(number).backward()  # type: ignore[no-untyped-call]
            for loss in losses:
                loss.grad = None
            if name in finish:
                finish[name]()

        return run

    steps = {name: whole(name, step) for name, step in variants.items()}
    return interleaved(steps, max(20, 2_000 // len(losses)), range(rounds + 1))


def interleaved(
    variants: Mapping[str, Callable[[int], None]], steps: int, rounds: Iterable[int]
) -> dict[str, list[float]]:
    """Microseconds a step by variant, one figure a round, of the thread's own time.

    Args:
        variants: A whole step of each, given its number, by name.
        steps: How many a round has of each.
        rounds: Their numbers; round 0 warms up.
    """
    found: dict[str, list[float]] = {name: [] for name in variants}
    for round_ in rounds:
        for name, step in variants.items():
            begin = time.thread_time()
            for number in range(steps):
                step(number)
            if round_ > 0:
                found[name].append((time.thread_time() - begin) / steps * 1e6)
    return found


def ratio(found: Mapping[str, list[float]], name: str, to: str = "hand-written") -> float:
    """The median over the rounds of a variant's time divided by another's in the same round."""
    return statistics.median(a / b for a, b in zip(found[name], found[to], strict=True))
