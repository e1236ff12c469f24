"""A training run: its settings and its result."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Run:
    """One training run: the settings that its figures depend on.

    Args:
        config: A section of the file of configs.
        seed: Seed of the network and the points.
        steps: Optimizer steps.
        learning_rate: Learning rate of the first step; it decays to a hundredth of it.
        points: Points per step, for each of the equation, the sides and the start.
    """

    config: str
    seed: int
    steps: int
    learning_rate: float = 1e-2
    points: int = 128

    @property
    def name(self) -> str:
        """The name of the run on the screen."""
        return f"{self.config}, seed {self.seed}"

    @property
    def interval(self) -> int:
        """Steps between measurements, of which there are about a hundred."""
        return max(10, self.steps // 100)


@dataclass(frozen=True)
class Result:
    """The result of a run.

    Args:
        run: The run.
        figures: The measures after training.
        errors: Relative errors during training, by the number of steps, including the last one.
        weights: For each term, the mean weight over each `run.interval` steps.
        solution: The values of u on the grid.
    """

    run: Run
    figures: dict[str, float]
    errors: dict[int, float]
    weights: dict[str, list[float]]
    solution: list[float]


def by_config(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The results of each config, in the given order."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.run.config, []).append(result)
    return groups
