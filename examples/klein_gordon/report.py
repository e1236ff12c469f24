"""The results of the runs, as a table and as a file."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

from rich.table import Table

from harness.json_file import write_json
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
    """The measures of each run, by config; times are relative to the first config."""
    groups = by_config(results)
    usual = fmean(result.figures["seconds"] for result in next(iter(groups.values())))
    return {
        config: [result.figures | {"time": result.figures["seconds"] / usual} for result in group]
        for config, group in groups.items()
    }


def caption(run: Run) -> str:
    """How the figures were measured and how to read them."""
    return (
        f"Relative L2 error against the exact solution on a grid of {SIDE} x {SIDE}; a function "
        "that is 0 has an error of 1. Residual to velocity: the unweighted terms of the loss on "
        "held-out points. Time: processor time relative to the first row. Each row has the same "
        f"network, {run.steps:,} steps of Adam and, for each seed, initialization and points. "
        "± is the standard deviation over seeds."
    )


def table(results: Sequence[Result]) -> Table:
    """A row for each config, with the measures after training."""
    title = "Weights for the terms of a physics-informed network"
    return screen_table(title, caption(results[0].run), COLUMNS, rows(results))


def save(results: Sequence[Result], path: Path) -> Path:
    """Write the figures, errors and weights of every run."""
    runs = [asdict(result) for result in results]
    for run in runs:
        del run["solution"]  # a picture shows it
    return write_json({"runs": runs}, path)
