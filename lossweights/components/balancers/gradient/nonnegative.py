"""Convex quadratic programs with nonnegative variables, small and dense, in numpy."""

import numpy as np
import numpy.typing as npt

from lossweights.components.balancers.gradient.base import Array
from lossweights.components.numerics import EPSILON

_SMALLEST = float(np.finfo(np.float64).tiny)


def nonnegative_minimum(matrix: Array, vector: Array, start: Array | None = None) -> Array:
    r"""The $x \ge 0$ that minimizes $\frac{1}{2} x^\top Q x - c^\top x$.

    The active-set method of C. L. Lawson, R. J. Hanson, *Solving least squares problems*, 1974,
    chapter 23: it minimizes over the free variables, drops those that would turn negative, then
    frees the variable with the steepest slope, until no slope leads down. It terminates even if $Q$
    is singular, with a minimum that is exact up to rounding.

    Args:
        matrix: $Q$, symmetric and positive semidefinite, shape (m, m), with a diagonal of about 1:
            scale the variables if it is not.
        vector: $c$, shape (m,). If $Q$ is singular, a minimum must exist.
        start: Starting point, shape (m,), not negative: the result of a similar problem; by default
            the positive part of the minimum without bounds.

    >>> nonnegative_minimum(np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([2.0, -1.0]))
    array([1., 0.])
    """
    if start is None:
        start = _solution(matrix, vector)
        if start.min() > 0:
            return start
    size = len(vector)
    rounding = 8 * size * EPSILON
    largest = float(np.abs(vector).max())
    best, lowest = np.zeros(size), 0.0
    entering: int | None = None
    point = np.maximum(start, 0.0)
    for _ in range(10 * size + 10):
        point = _minimum_of_face(matrix, vector, point)
        value = -0.5 * float(vector @ point)
        if value <= (1 - rounding) * lowest:
            best, lowest = point, value
        elif entering is not None:
            break  # the gain is rounding
        slope = vector - matrix @ best
        slope[best > 0] = 0.0
        entering = int(slope.argmax())
        if slope[entering] <= rounding * max(largest, best.max()):
            break
        point = _freed(matrix, best, entering, float(slope[entering]), rounding)
    return best


def _minimum_of_face(matrix: Array, vector: Array, point: Array) -> Array:
    """The minimum over the variables above 0, without those that would be negative."""
    free = point > 0
    while free.any():
        target = _solution(_face(matrix, free), np.where(free, vector, 0.0))
        falling = np.flatnonzero(free & (target <= 0))
        if not len(falling):
            return target
        # Towards the target until the first variable is 0.
        reach = point[falling] / np.maximum(point[falling] - target[falling], _SMALLEST)
        point = point + reach.min() * (target - point)
        free[falling[reach <= reach.min()]] = False
    return np.zeros(len(vector))


def _freed(matrix: Array, point: Array, entering: int, slope: float, rounding: float) -> Array:
    """The next point down from the minimum of a face, with one more free variable."""
    # The others move with it, so that they stay optimal, as far as none becomes negative. If the
    # new variable depends on them, no linear system has this solution.
    free = point > 0
    along = -_solution(_face(matrix, free), np.where(free, matrix[entering], 0.0))
    along[entering] = 1.0
    length = slope / max(float(matrix[entering] @ along), rounding)
    falling = np.flatnonzero(along < 0)
    reach = point[falling] / -along[falling]
    length = min(length, float(reach.min(initial=np.inf)))
    moved = np.maximum(point + length * along, 0.0)
    moved[falling[reach <= length]] = 0.0
    return moved


def _face(matrix: Array, free: npt.NDArray[np.bool_]) -> Array:
    """The matrix, with rows and columns of an identity for the variables that are not free."""
    return np.where(free[:, None] & free, matrix, np.eye(len(free)))


def _solution(matrix: Array, vector: Array) -> Array:
    """The solution of a linear system; 0 if it is singular."""
    try:
        return np.asarray(np.linalg.solve(matrix, vector), np.float64)
    except np.linalg.LinAlgError:
        return np.zeros(len(vector))
