"""A training run: what it depends on, and what came out."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Run:
    """One training run: what its figures depend on.

    Args:
        config: A section of the file of configs.
        seed: Of the network and the points.
        steps: Of the optimizer.
        learning_rate: Of the first step; that of the last is a hundredth of it.
        points: Of a step, for each of the equation, the sides and the start.
    """

    config: str
    seed: int
    steps: int
    learning_rate: float = 1e-2
    points: int = 128

    @property
    def name(self) -> str:
        """What the run is called on the screen."""
        return f"{self.config}, seed {self.seed}"

    @property
    def interval(self) -> int:
        """Steps from one measurement to the next: there are about a hundred."""
        return max(10, self.steps // 100)


@dataclass(frozen=True)
class Result:
    """What a run gave.

    Args:
        run: What it depends on.
        figures: What was measured at the end.
        errors: Relative errors along the way, by the number of steps done, the last one included.
        weights: By term, the mean weight over each `run.interval` steps.
        solution: The values of u on the grid.
    """

    run: Run
    figures: dict[str, float]
    errors: dict[int, float]
    weights: dict[str, list[float]]
    solution: list[float]


def by_config(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The results of each config, in the order in which they come."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.run.config, []).append(result)
    return groups
