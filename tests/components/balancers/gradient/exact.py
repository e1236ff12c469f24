"""What small problems have for a solution, by trying every face, in 400 digits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Context, Decimal, localcontext
from itertools import combinations

import numpy as np

from tests.components.balancers.gradient.gramians import Array

Vector = list[Decimal]
Matrix = list[Vector]

DIGITS = Context(prec=400)
ZERO = Decimal("1e-300")  # what is smaller was 0, but for the last digits


def shortest(jacobian: Array) -> Array:
    """The vector nearest to 0 among the convex combinations of the rows."""
    largest = float(np.abs(jacobian).max()) or 1.0
    with localcontext(DIGITS):
        rows = _decimals(jacobian / largest)
        gramian = _gramian(rows)
        found: tuple[Decimal, Vector] | None = None
        for face in _faces(len(rows)):
            ones = [Decimal(1)] * len(face)
            bordered = [[gramian[i][j] for j in face] + [Decimal(-1)] for i in face]
            solved = solve(
                [*bordered, [*ones, Decimal(0)]], [Decimal(0)] * len(face) + [Decimal(1)]
            )
            if solved is None or min(solved[:-1]) < 0:
                continue
            if found is None or solved[-1] < found[0]:
                found = solved[-1], _combined(rows, face, solved)
        assert found is not None
        return largest * _floats(found[1])


def conflict_averse(jacobian: Array, radius: float) -> Array:
    """The vector within `radius` of the mean, relative to it, with the best worst product."""
    with localcontext(DIGITS):
        rows = _decimals(jacobian)
        gramian, terms = _gramian(rows), len(rows)
        mean = [sum(column) / terms for column in zip(*rows, strict=True)]
        slope = [_dot(row, mean) for row in rows]
        reach = Decimal(radius) ** 2 * _dot(mean, mean)
        for face in _faces(terms):
            part = [[gramian[i][j] for j in face] for i in face]
            ones = solve(part, [Decimal(1)] * len(face))
            slopes = solve(part, [slope[i] for i in face])
            if ones is None or slopes is None:
                continue
            # x = level * ones - slopes, with the level at which its combination has the length.
            a, b = sum(ones), sum(slopes)
            c = _dot(slopes, [slope[i] for i in face]) - reach
            if b * b < a * c:
                continue
            level = (b + (b * b - a * c).sqrt()) / a
            x = [level * one - s for one, s in zip(ones, slopes, strict=True)]
            d = [m + v for m, v in zip(mean, _combined(rows, face, x), strict=True)]
            worst = min(_dot(row, d) for row in rows)
            if min(x) >= 0 and worst >= level - ZERO * (abs(level) + 1):
                return _floats(d)
        raise AssertionError("no face holds the solution")


def least(matrix: Array, vector: Array) -> float:
    """The least value of x' Q x / 2 - c' x over x that are not negative."""
    with localcontext(DIGITS):
        quadratic, linear = _decimals(matrix), _decimals(vector[None])[0]
        values = [Decimal(0)]
        for face in _faces(len(linear)):
            x = solve([[quadratic[i][j] for j in face] for i in face], [linear[i] for i in face])
            if x is not None and min(x) >= 0:
                values.append(-_dot(x, [linear[i] for i in face]) / 2)
        return float(min(values))


def solve(matrix: Matrix, vector: Vector) -> Vector | None:
    """The solution of a linear system; None where it has none, or more than one."""
    rows = [[*row, value] for row, value in zip(matrix, vector, strict=True)]
    size = len(rows)
    for k in range(size):
        pivot = max(range(k, size), key=lambda i: abs(rows[i][k]))
        if abs(rows[pivot][k]) <= ZERO * max(abs(value) for value in matrix[k]):
            return None
        rows[k], rows[pivot] = rows[pivot], rows[k]
        for i in range(size):
            if i != k:
                factor = rows[i][k] / rows[k][k]
                rows[i] = [a - factor * b for a, b in zip(rows[i], rows[k], strict=True)]
    return [rows[k][size] / rows[k][k] for k in range(size)]


def _faces(terms: int) -> Iterator[tuple[int, ...]]:
    for size in range(1, terms + 1):
        yield from combinations(range(terms), size)


def _decimals(array: Array) -> Matrix:
    return [[Decimal(float(value)) for value in row] for row in array]


def _gramian(rows: Matrix) -> Matrix:
    return [[_dot(a, b) for b in rows] for a in rows]


def _combined(rows: Matrix, face: Sequence[int], weights: Vector) -> Vector:
    columns = range(len(rows[0]))
    return [
        sum((w * rows[i][k] for i, w in zip(face, weights, strict=False)), Decimal(0))
        for k in columns
    ]


def _dot(a: Vector, b: Vector) -> Decimal:
    return sum((x * y for x, y in zip(a, b, strict=True)), Decimal(0))


def _floats(vector: Vector) -> Array:
    return np.array([float(value) for value in vector])
