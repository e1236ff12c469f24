"""What the runs gave, as a table and as a file."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

from rich.table import Table

from harness.tables import Column, Rows, screen_table
from klein_gordon.problem import SIDE
from klein_gordon.run import Result, Run, by_config

COLUMNS = {
    "error": Column("relative\nL2 error", 3, min),
    "residual": Column("residual", ".1e"),
    "boundary": Column("boundary", ".1e"),
    "initial": Column("initial", ".1e"),
    "velocity": Column("velocity", ".1e"),
    "time": Column("time of\na step"),
}


def rows(results: Sequence[Result]) -> Rows:
    """By config, what was measured in each of its runs; times relative to the first config."""
    groups = by_config(results)
    usual = fmean(result.figures["seconds"] for result in next(iter(groups.values())))
    return {
        config: [result.figures | {"time": result.figures["seconds"] / usual} for result in group]
        for config, group in groups.items()
    }


def caption(run: Run) -> str:
    """How the figures came about and how to read them."""
    return (
        f"Relative L2 error against the exact solution on a grid of {SIDE} x {SIDE}: 1 is as far "
        "off as a function that is 0. Residual to velocity: the terms of the loss, unweighted, on "
        "points not trained on. Time: of the processor, relative to the first row. Each row has "
        f"the same network, {run.steps:,} steps of Adam and, seed by seed, initialisation and "
        "points; ± is the standard deviation over seeds."
    )


def table(results: Sequence[Result]) -> Table:
    """A row for each config: what was measured at the end."""
    title = "Ways to weigh the terms of a physics-informed network"
    return screen_table(title, caption(results[0].run), COLUMNS, rows(results))


def save(results: Sequence[Result], path: Path) -> Path:
    """Write every run's figures, errors and weights."""
    runs = [asdict(result) for result in results]
    for run in runs:
        del run["solution"]  # a picture shows it
    path.write_text(json.dumps({"runs": runs}) + "\n", encoding="utf-8")
    return path
