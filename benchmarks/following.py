"""What it costs to follow a training: a history and a monitor, beside a step without them.

A step combines K leaf losses, goes backward to them, and moves time. All variants run interleaved
in one process on one thread; a figure is the median over the rounds of a variant's time less that
of the bare step in the same round, and their ratio. A round is long enough for rows to be taken and
looked at. There is no model: the ratio is that to combining alone.

    python benchmarks/following.py [--rounds 15] [--terms 2 16] [--every 50]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from lossweights import History, WeightedLoss
from lossweights.analysis import Monitor
from timing import interleaved, leaf_losses

FOLLOWERS: dict[str, tuple[Callable[..., object], ...]] = {
    "bare": (),
    "history": (History,),
    "monitor": (Monitor,),
    "both": (History, Monitor),
}


def variant(
    followers: tuple[Callable[..., object], ...], count: int, every: str
) -> Callable[[int], None]:
    """A step that is followed."""
    losses = {f"term_{index}": loss for index, loss in enumerate(leaf_losses(count))}
    criterion = WeightedLoss(dict.fromkeys(losses, 1.0))
    for follower in followers:
        follower(criterion, every=every)

    def step(_: int) -> None:
        criterion(losses).backward()
        for loss in losses.values():
            loss.grad = None
        criterion.step()

    return step


def measured(count: int, every: int, rounds: int) -> dict[str, list[float]]:
    """Microseconds a step by variant, one figure a round: several windows of five rows each."""
    steps = {name: variant(them, count, f"{every} steps") for name, them in FOLLOWERS.items()}
    return interleaved(steps, 20 * every, range(rounds + 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--terms", type=int, nargs="+", default=[2, 16])
    parser.add_argument("--every", type=int, default=50)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = {
        count: measured(count, options.every, options.rounds)
        for count in track(options.terms, "measuring")
    }
    title = f"microseconds a step, a row every {options.every} steps"
    table = Table("", *(f"K={count}" for count in results), title=title)
    table.add_row(
        "bare", *(f"{statistics.median(found['bare']):.1f}" for found in results.values())
    )
    for name in list(FOLLOWERS)[1:]:
        cells = []
        for found in results.values():
            pairs = [*zip(found[name], found["bare"], strict=True)]
            more = statistics.median(followed - bare for followed, bare in pairs)
            ratio = statistics.median(followed / bare for followed, bare in pairs)
            cells.append(f"{more:.2f} ({ratio:.3f})")
        table.add_row(f"{name} adds", *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
