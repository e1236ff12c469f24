"""Two objectives of a point in the plane, and the Pareto front between them.

The problem is from B. Liu, X. Liu, X. Jin, P. Stone, Q. Liu, *Conflict-averse gradient descent for
multi-task learning*, NeurIPS 2021, arXiv 2110.14048, section 5.1, in the form of the authors' code:
there the second hyperbolic tangent is added, in the paper it is subtracted.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

STARTS = ((-8.5, 7.5), (-8.5, 5.0), (0.0, 0.0), (9.0, 9.0), (10.0, -8.0))
EXTENT = 12.0  # the plane is shown from -12 to 12 in both directions
_LOWEST = 0.000005  # smallest argument of the logarithm
_SIDES = torch.tensor([1.0, -1.0])  # f2 is the mirror image of f1


def objectives(point: Tensor) -> dict[str, Tensor]:
    """Both objectives at a point, shape (2,)."""
    f1, f2 = values(point).unbind()
    return {"f1": f1, "f2": f2}


def values(points: Tensor) -> Tensor:
    """Both objectives at points, shape (..., 2), as one tensor of that shape.

    In the upper half of the plane each is a narrow valley with logarithmic walls, in which
    gradients are large and opposed. In the lower half each is a bowl.
    """
    x, y = points[..., :1], points[..., 1:]
    valleys = 0.5 * x + _SIDES * (3.5 - torch.tanh(y))
    valleys = valleys.abs().clamp(min=_LOWEST).log() + 6
    bowls = ((x - 7 * _SIDES) ** 2 + 0.1 * (y + 8) ** 2) / 10 - 20
    half = torch.tanh(0.5 * y)
    return half.clamp(min=0) * valleys + (-half).clamp(min=0) * bowls


@dataclass(frozen=True)
class Front:
    """The Pareto front: points at which no objective can improve without harm to the other.

    Args:
        points: Points of the plane, shape (n, 2), from the lowest `f1` to the lowest `f2`.
        values: Values of the objectives there, shape (n, 2).
    """

    points: Tensor
    values: Tensor

    def distances(self, found: Tensor) -> Tensor:
        """Distances of values of the objectives, shape (m, 2), from the front, shape (m,)."""
        return torch.cdist(found.double(), self.values).amin(dim=1)


def pareto_front(count: int = 1201) -> Front:
    """The points of a grid over the plane that no other point of the grid dominates.

    Args:
        count: Points of the grid in each direction.
    """
    axis = torch.linspace(-EXTENT, EXTENT, count, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    found = values(points)
    # Sort by f1, then by f2. A point is on the front if its f2 is below that of all before it.
    order = found[:, 1].argsort()
    order = order[found[order, 0].argsort(stable=True)]
    second = found[order, 1]
    before = second.cummin(dim=0).values.roll(1)
    before[0] = torch.inf
    chosen = order[second < before]
    return Front(points[chosen], found[chosen])
