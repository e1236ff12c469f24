"""A training: what it depends on, and what came out."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

BATCH = 64
POINTS = 100  # of a curve over a training
SHOWN = 8  # images of the picture


@dataclass(frozen=True)
class Run:
    """One config with one seed."""

    config: str
    seed: int
    steps: int

    @property
    def name(self) -> str:
        """What it is called where several run at a time."""
        return f"{self.config}, seed {self.seed}"

    @property
    def every(self) -> int:
        """Steps from one point of a curve to the next."""
        return max(1, self.steps // POINTS)


@dataclass(frozen=True)
class Result:
    """What a run gave.

    Args:
        run: What it depends on.
        figures: Those of the table.
        history: For each point of the curves, the values by name; nan where there is none yet.
        reconstructions: Of the first images that were held out, shape (n, 8, 8).
    """

    run: Run
    figures: dict[str, float]
    history: list[dict[str, float]]
    reconstructions: list[list[list[float]]]


def times(seconds: Sequence[float]) -> dict[str, float]:
    """Seconds of all steps together, and the median of a step in both halves in milliseconds."""
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
    path.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return path
