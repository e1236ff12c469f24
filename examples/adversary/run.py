"""A training: its settings and its result."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from harness.json_file import write_json

BATCH = 64
POINTS = 100  # points per curve
SHOWN = 8  # images in the picture


@dataclass(frozen=True)
class Run:
    """One config with one seed."""

    config: str
    seed: int
    steps: int

    @property
    def name(self) -> str:
        """The name of the run on the screen."""
        return f"{self.config}, seed {self.seed}"

    @property
    def every(self) -> int:
        """Steps between points of a curve."""
        return max(1, self.steps // POINTS)


@dataclass(frozen=True)
class Result:
    """The result of a run.

    Args:
        run: The run.
        figures: The figures of the table.
        history: For each point of the curves, the values by name; nan if there is none yet.
        reconstructions: Reconstructions of the first held-out images, shape (n, 8, 8).
    """

    run: Run
    figures: dict[str, float]
    history: list[dict[str, float]]
    reconstructions: list[list[list[float]]]


def times(seconds: Sequence[float]) -> dict[str, float]:
    """Total seconds, and the median milliseconds of a step in each half."""
    half = len(seconds) // 2
    return {
        "first_half": 1000 * median(seconds[:half]),
        "second_half": 1000 * median(seconds[half:]),
        "seconds": sum(seconds),
    }


def by_config(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The results of each config."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.run.config, []).append(result)
    return groups


def save_figures(results: Sequence[Result], path: Path) -> Path:
    """Write the figures of every run."""
    rows = [{**asdict(result.run), **result.figures} for result in results]
    return write_json(rows, path)
