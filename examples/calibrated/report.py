"""The results of the runs, as tables and as a file."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from calibrated.problems import Problem
from harness.json_file import write_json
from harness.tables import Rows, save_markdown, screen_table


@dataclass(frozen=True)
class Job:
    """A training of a problem.

    Args:
        problem: Name of the problem.
        way: A config of the problem, or how its weights are proposed.
        seed: Seed of the model, the batches and the probe.
        steps: Optimizer steps; None for those of the problem.
    """

    problem: str
    way: str
    seed: int
    steps: int | None = None

    @property
    def name(self) -> str:
        """The name of the run on the screen."""
        return f"{self.problem}, {self.way}, seed {self.seed}"


@dataclass(frozen=True)
class Result:
    """The result of a training.

    Args:
        job: The training.
        figures: The measures after training.
        weights: The base weights of the terms.
        verdict: The verdict of `calibrate`, if it was called.
    """

    job: Job
    figures: dict[str, float]
    weights: dict[str, float]
    verdict: tuple[str, ...]


def rows(results: Sequence[Result]) -> Rows:
    """The figures of each seed, by way."""
    found: dict[str, list[dict[str, float]]] = {}
    for result in results:
        found.setdefault(result.job.way, []).append(result.figures)
    return found


def table(results: Sequence[Result], problem: Problem) -> Table:
    """A row for each weighting of a problem."""
    caption = "Measured after the last step. ± is the standard deviation over seeds."
    return screen_table(results[0].job.problem, caption, problem.columns, rows(results))


def verdicts(results: Sequence[Result]) -> str:
    """The weights that each probe proposed, and the verdict of `calibrate`."""
    lines = []
    for result in results:
        if result.verdict:
            weights = ", ".join(f"{name} {weight:g}" for name, weight in result.weights.items())
            lines += [f"{result.job.name}: {weights}", *(f"  * {each}" for each in result.verdict)]
    return "\n".join(lines)


def save_table(results: Sequence[Result], problem: Problem, path: Path) -> Path:
    """Write the table in Markdown."""
    return save_markdown(problem.columns, rows(results), path)


def save_figures(results: Sequence[Result], path: Path) -> Path:
    """Write the figures, weights and verdicts of every run."""
    return write_json({"runs": [asdict(result) for result in results]}, path)
