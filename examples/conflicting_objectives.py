"""Two objectives that conflict, with balancers by gradients and some other methods.

A point moves in the plane. Both objectives are terms of a loss, and they share the point. From some
of the five starts a plain sum of the objectives stays in a narrow valley, in which each gradient
undoes what the other has done. Each method is a section of `conflicting_objectives.yaml`, next to
this program.

    python examples/conflicting_objectives.py               # all: 43 minutes on two busy cores
    python examples/conflicting_objectives.py --quick       # a few steps of each, in seconds
    python examples/conflicting_objectives.py --methods sum cagrad

`descend` is the part to read: a plain training loop that uses the library.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
import yaml
from rich.console import Console
from rich.table import Table

from harness.options import Parser
from harness.tables import empty_table
from harness.workers import Show, run_in_parallel, run_program
from lossweights import WeightedLoss
from two_objectives import pictures
from two_objectives.problem import STARTS, Front, objectives, pareto_front
from two_objectives.run import EVERY, Result, Run

METHODS = Path(__file__).with_suffix(".yaml")
TOLERANCE = 0.1  # points this close count as on the front, which is 28 long
QUICK_STEPS = 40


def descend(run: Run, show: Show) -> Result:
    """Move a point from a start, for the steps of the run."""
    point = torch.tensor(run.start, requires_grad=True)
    criterion = WeightedLoss.from_config(METHODS, at=run.method)
    learned = criterion.param_groups()  # for `uncertainty`; empty for the others
    optimizer = torch.optim.Adam([{"params": [point]}, *learned], lr=run.learning_rate, fused=True)
    criterion.follow(optimizer)

    path = []
    for step in range(run.steps):
        if step % EVERY == 0:
            path.append(point.detach().clone())
            show(step, run.steps, "from {:g}, {:g}".format(*run.start))
        loss = criterion(objectives(point), shared=point)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if run.method == "famo":  # it learns from the losses after the step
            criterion.observe_after(objectives(point))
    path.append(point.detach().clone())
    return Result(run, torch.stack(path).tolist())


def descend_all(runs: Sequence[Run], show: Show) -> list[Result]:
    """Call `descend` for one run after another."""
    return [
        descend(run, partial(show_as_one, show, index, len(runs))) for index, run in enumerate(runs)
    ]


def show_as_one(show: Show, index: int, count: int, done: int, total: int, note: str) -> None:
    """Show the progress of one run as a part of all runs."""
    show(index * total + done, count * total, note)


def table(results: Sequence[Result], front: Front) -> Table:
    """A row for each method: which starts lead to the front, to which point, and after how long."""
    run = results[0].run
    rows = empty_table(
        f"Where {run.steps:,} steps of Adam lead (learning rate {run.learning_rate:g})",
        "From top to bottom: f1 and f2 at the end, and the number of steps after which the point "
        f"stays within {TOLERANCE:g} of the Pareto front, in the plane of the objectives. A dash: "
        "it does not end there.",
        first="",
    )
    for heading in ("on the\nfront", *(f"{x:g},\n{y:g}" for x, y in STARTS)):
        rows.add_column(heading, justify="right", no_wrap=True)
    for method in dict.fromkeys(result.run.method for result in results):
        of_method = [result for result in results if result.run.method == method]
        reached = [result.reached(front, TOLERANCE) for result in of_method]
        count = sum(step is not None for step in reached)
        cells = map(cell, of_method, reached)
        rows.add_row(method, f"{count} of {len(of_method)}", *cells)
    return rows


def cell(result: Result, reached: int | None) -> str:
    """Both objectives at the end, and the number of steps to the front."""
    first, second = result.values()[-1].tolist()
    return f"{first:.2f}\n{second:.2f}\n{'-' if reached is None else f'{reached:,}'}"


def read_options(names: Sequence[str]) -> argparse.Namespace:
    """The options on the command line."""
    parser = Parser(__doc__ or "")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_STEPS} steps")
    parser.add_argument("--methods", nargs="+", choices=names, default=names, metavar="METHOD")
    parser.add_argument("--steps", type=int, default=15_000, help="steps from each start (15000)")
    parser.add_argument(
        "--learning-rate", type=float, default=4e-3, help="learning rate of Adam (4e-3)"
    )
    parser.add_argument("--workers", type=int, default=2, help="parallel processes (2)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/conflicting_objectives"),
        help="output folder (runs/conflicting_objectives)",
    )
    return parser.parse_args()


def main() -> None:
    """Run every method from every start, then show where the points end."""
    options = read_options(list(yaml.safe_load(METHODS.read_text("utf-8"))))
    steps = QUICK_STEPS if options.quick else options.steps
    jobs = {
        method: [Run(method, start, steps, options.learning_rate) for start in STARTS]
        for method in options.methods
    }
    by_method = run_in_parallel(descend_all, jobs, options.workers)
    results = [result for of_method in by_method for result in of_method]
    front = pareto_front()
    console = Console()
    console.print(table(results, front))
    options.out.mkdir(parents=True, exist_ok=True)
    for save, name in (
        (pictures.save_plane, "plane.png"),
        (pictures.save_objectives, "objectives.png"),
    ):
        console.print(save(results, front, options.out / name), soft_wrap=True)


if __name__ == "__main__":
    run_program(main)
