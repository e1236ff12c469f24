"""A descent: what it depends on, and what came out."""

from dataclasses import dataclass

import torch
from torch import Tensor

from two_objectives import problem
from two_objectives.problem import Front

EVERY = 10  # steps from one point of a path to the next


@dataclass(frozen=True)
class Run:
    """One method from one start."""

    method: str
    start: tuple[float, float]
    steps: int
    learning_rate: float


@dataclass(frozen=True)
class Result:
    """What a run gave.

    Args:
        run: What it depends on.
        path: Points of the plane: every so many steps, and at the end.
    """

    run: Run
    path: list[list[float]]

    def points(self) -> Tensor:
        """The path, shape (n, 2)."""
        return torch.tensor(self.path)

    def values(self) -> Tensor:
        """The objectives along it, shape (n, 2)."""
        return problem.values(self.points())

    def reached(self, front: Front, tolerance: float) -> int | None:
        """After how many steps it stays within a distance of the front; None for never."""
        outside = front.distances(self.values()) > tolerance
        if outside[-1]:
            return None
        last = outside.nonzero()
        return min(EVERY * (int(last[-1]) + 1), self.run.steps) if len(last) else 0
