"""The results of the runs, as a table and as a file."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

from rich.table import Table

from digit_tasks.data import SPLITS
from digit_tasks.measures import delta_m, mean_ranks
from digit_tasks.run import Result, Run
from digit_tasks.tasks import TASKS
from harness import tables
from harness.json_file import write_json
from harness.tables import Column, Rows

SINGLE = {task: f"single-{task}" for task in TASKS}  # the configs of one task
_ALONE = "single tasks"  # the name of their common row
_DIGITS = {"digit": 1, "position": 3, "ink": 2, "scene": 2, "photo": 1}
_COLUMNS = {
    name: Column(
        f"{name}\n{task.unit} {'↑' if task.higher_is_better else '↓'}",
        _DIGITS[name],
        max if task.higher_is_better else min,
    )
    for name, task in TASKS.items()
} | {
    "delta_m": Column("Δm\n% ↓", 1, min),
    "mean_rank": Column("MR\n↓", 1, min),
    "time": Column("time\nof a step", 2),
}


def rows(results: Sequence[Result], rounds: Sequence[Mapping[str, float]]) -> Rows:
    """The figures of each config and seed; the first row is that of the single tasks.

    Args:
        results: Results of all runs.
        rounds: For each seed, the seconds of a step of each config.
    """
    by_config: dict[str, list[dict[str, float]]] = {}
    for result in results:
        by_config.setdefault(result.run.config, []).append(dict(result.figures))
    alone = {task: by_config.pop(config) for task, config in SINGLE.items()}
    found = {
        _ALONE: [{task: alone[task][seed][task] for task in TASKS} for seed in range(len(rounds))],
        **by_config,
    }
    single = {task: fmean(figures[task] for figures in found[_ALONE]) for task in TASKS}
    for seed, seconds in enumerate(rounds):
        ranks = mean_ranks({name: of_seeds[seed] for name, of_seeds in found.items()})
        times = {_ALONE: sum(seconds[config] for config in SINGLE.values()), **seconds}
        for name, of_seeds in found.items():
            of_seeds[seed] |= {
                "delta_m": delta_m(of_seeds[seed], single),
                "mean_rank": ranks[name],
                "time": times[name] / seconds["equal"],
            }
    return found


def table(found: Rows, run: Run) -> Table:
    """A row for each config, with the measures after the last step."""
    caption = (
        f"Measured on {SPLITS[run.split].images:,} {run.split} images of other digits and other "
        f"parts of the photographs, after {run.steps:,} steps at a learning rate of "
        f"{run.learning_rate:g}. ± is the standard deviation over seeds. digit, photo: accuracy. "
        "position: mean distance in pixels. ink: mean error in percentage points of the area. "
        "scene: root mean squared error of gray levels.\n"
        "Δm: how much worse the metrics of the five tasks are than those of single tasks, on "
        "average; negative is better. MR: mean rank among all rows. Time: relative to equal, "
        "medians over steps in turn, one round per seed; for single tasks the sum."
    )
    return tables.screen_table("Five tasks, one trunk", caption, _COLUMNS, found)


def save_markdown(found: Rows, path: Path) -> Path:
    """Write the table in Markdown."""
    return tables.save_markdown(_COLUMNS, found, path)


def save_figures(results: Sequence[Result], found: Rows, path: Path) -> Path:
    """Write the figures and shares of every run, and the rows of the table seed by seed."""
    return write_json({"runs": [asdict(result) for result in results], "rows": found}, path)
