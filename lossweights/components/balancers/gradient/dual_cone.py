"""Projections onto the dual cone of the gradients: directions that conflict with no term."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from pydantic import model_validator

from lossweights.components.balancers.gradient.base import Array, GramianBalancer
from lossweights.components.balancers.gradient.gramian import cosines, inverse_norms
from lossweights.components.balancers.gradient.nonnegative import nonnegative_minimum

_ACCURATE = 1e-12


class DualConeBalancer(GramianBalancer):
    r"""Weights from projections onto the dual cone, $\{d : g_i \cdot d \ge 0 \text{ for all } i\}$.

    Raises:
        ValueError: If the solver of least squares is not installed.
    """

    @model_validator(mode="after")
    def _has_solver(self) -> Self:
        try:
            _solver()
        except ImportError as error:
            raise ValueError(
                f"the balancer {self.kind!r} needs the package scipy: "
                'pip install "lossweights[gradients]"'
            ) from error
        return self


def projection_weights(gramian: Array, vectors: Array) -> Array:
    r"""Projects weighted sums of the gradients onto the dual cone of the gradients.

    The projection of $\sum_i u_i g_i$ is $\sum_i v_i g_i$ with the smallest norm among all
    $v \ge u$. It is computed in units of unit gradients, in which no term is small.

    Args:
        gramian: Gramian of the gradients, shape (m, m).
        vectors: $u$, not negative, a row each, shape (k, m).

    Returns:
        $v$, shape (k, m).
    """
    inverses = inverse_norms(gramian)
    parts = inverses > 0  # a zero gradient constrains nothing
    projected = vectors.copy()
    if parts.any():
        inverses = inverses[parts]
        unit = cosines(gramian[parts][:, parts], inverses)
        scaled = vectors[:, parts] / inverses
        sizes = scaled.max(axis=1, keepdims=True)
        sizes = np.where(sizes > 0, sizes, 1.0)
        projected[:, parts] += sizes * _least_changes(unit, scaled / sizes) * inverses
    return projected


def _least_changes(unit: Array, vectors: Array) -> Array:
    r"""The $x \ge 0$ that minimizes $(u + x)^\top C (u + x)$, for each row $u$.

    The solver in C is many times faster than `nonnegative_minimum`, which stays exact up to
    rounding for opposed or dependent gradients.
    """
    changes = np.zeros_like(vectors)
    conflicting = np.flatnonzero((vectors @ unit).min(axis=1) < 0)
    if not len(conflicting):
        return changes
    eigenvalues, axes = np.linalg.eigh(unit)
    root = np.sqrt(np.maximum(eigenvalues, 0.0))[:, None] * axes.T  # C = A' A
    solve = _solver()
    for row in conflicting:
        vector = vectors[row]
        try:
            change = solve(root, -root @ vector)[0]
        except RuntimeError:  # too many iterations
            change = np.full_like(vector, np.nan)
        slope = unit @ (vector + change)  # at least 0, and 0 where x > 0
        if not (slope.min() >= -_ACCURATE and np.abs(change * slope).max() <= _ACCURATE):
            change = nonnegative_minimum(unit, -unit @ vector, np.zeros_like(vector))
        changes[row] = change
    return changes


def _solver() -> Any:
    """Imports the solver when it is needed, so that everything else works without it."""
    from scipy.optimize import nnls  # noqa: PLC0415

    return nnls
