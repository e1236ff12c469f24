"""A descent: its settings and its result."""

from dataclasses import dataclass

import torch
from torch import Tensor

from two_objectives import problem
from two_objectives.problem import Front

EVERY = 10  # steps between points of a path


@dataclass(frozen=True)
class Run:
    """One method from one start."""

    method: str
    start: tuple[float, float]
    steps: int
    learning_rate: float


@dataclass(frozen=True)
class Result:
    """The result of a run.

    Args:
        run: The run.
        path: Points of the plane, after each `EVERY` steps and at the end.
    """

    run: Run
    path: list[list[float]]

    def points(self) -> Tensor:
        """The path, shape (n, 2)."""
        return torch.tensor(self.path)

    def values(self) -> Tensor:
        """The objectives along the path, shape (n, 2)."""
        return problem.values(self.points())

    def reached(self, front: Front, tolerance: float) -> int | None:
        """The step from which the path stays within a distance of the front; None for never."""
        outside = front.distances(self.values()) > tolerance
        if outside[-1]:
            return None
        last = outside.nonzero()
        return min(EVERY * (int(last[-1]) + 1), self.run.steps) if len(last) else 0
