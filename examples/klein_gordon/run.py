"""A training run: what it depends on, and what came out."""

from collections.abc import Sequence
from dataclasses import dataclass

History = dict[str, list[float]]  # by name, the values at the steps that are looked at


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

    def is_looked_at(self, step: int) -> bool:
        """Whether the error is measured after that step: about a hundred times, and at the end."""
        return step % max(10, self.steps // 100) == 0 or step == self.steps - 1


@dataclass(frozen=True)
class Result:
    """What a run gave.

    Args:
        run: What it depends on.
        figures: What was measured at the end.
        history: Steps, errors and weights along the way.
        solution: The values of u on the grid.
    """

    run: Run
    figures: dict[str, float]
    history: History
    solution: list[float]


def by_config(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The results of each config, in the order in which they come."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.run.config, []).append(result)
    return groups
