"""How many values of a schedule are computed in a second, and how long a large config takes.

python benchmarks/schedules.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from lossweights import (
    Cyclical,
    Exponential,
    Piecewise,
    Ramp,
    Schedule,
    WeightedLoss,
)

STEPS = 10_000_000
SCHEDULES: dict[str, Schedule] = {
    "cyclical, linear": Cyclical(cycles=4),
    "cyclical, linear, 1,000 cycles": Cyclical(cycles=1_000),
    "cyclical, cosine": Cyclical(cycles=4, shape="cosine"),
    "cyclical, sigmoid": Cyclical(cycles=4, shape="sigmoid"),
    "ramp": Ramp(start=0.0, stop=1.0, over="50%"),
    "piecewise": Piecewise(points=(("0%", 0.0), ("50%", 1.0), ("100%", 0.1))),
    "exponential": Exponential(half_life="10%"),
}


def best_of(times: int, work: Callable[[], object]) -> float:
    """Seconds of the fastest of several calls."""
    found = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        found.append(time.perf_counter() - begin)
    return min(found)


def main() -> None:
    table = Table("schedule", "values a second", title=f"schedule.curve(total_steps={STEPS:_})")
    for name, schedule in SCHEDULES.items():
        seconds = best_of(5, lambda schedule=schedule: schedule.curve(total_steps=STEPS))  # type: ignore[misc]
        table.add_row(name, f"{STEPS / seconds:.2g}")
    names = [f"term_{index}" for index in range(10_000)]
    builds = Table("config", "seconds to build", title="WeightedLoss of 10,000 terms")
    for text, make in {
        "numbers": lambda index: 1.0 + index,
        "one cyclical schedule": lambda _: {"kind": "cyclical", "cycles": 4},
        "10,000 different ramps": lambda index: {
            "kind": "ramp",
            "start": 0.0,
            "stop": 1.0 + index,
            "over": "500 steps",
        },
    }.items():
        terms = {name: make(index) for index, name in enumerate(names)}  # type: ignore[no-untyped-call]
        seconds = best_of(3, lambda terms=terms: WeightedLoss(terms=terms, total_steps=10_000))  # type: ignore[misc]
        builds.add_row(text, f"{seconds:.2f}")
    console = Console()
    console.print(table)
    console.print(builds)


if __name__ == "__main__":
    main()
