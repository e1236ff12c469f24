"""Projections onto the dual cone of the gradients: directions that conflict with no term."""

from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import model_validator

from lossweights.components.balancers.gradient.base import Array, GramianBalancer
from lossweights.components.balancers.gradient.gramian import cosines, inverse_norms
from lossweights.components.balancers.gradient.nonnegative import nonnegative_minimum

_ACCURATE = 1e-12
_GUESSES = 3


class DualConeBalancer(GramianBalancer):
    r"""Weights from projections onto the dual cone, $\{d : g_i \cdot d \ge 0 \text{ for all } i\}$.

    Raises:
        ValueError: If scipy, which has the solver of least squares, is not installed.
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
    r"""Projects sums $\sum_i u_i g_i$ onto the dual cone, a row $u \ge 0$ each, shape (k, m).

    The projection is $\sum_i v_i g_i$ with the smallest norm among all $v \ge u$. It is computed in
    units of unit gradients, in which no term is small.
    """
    if gramian.min() >= 0:  # no conflict
        return vectors
    inverses = inverse_norms(gramian)
    parts = np.flatnonzero(inverses)  # a zero gradient constrains nothing
    inverses = inverses[parts]
    unit = cosines(gramian[parts[:, None], parts], inverses)
    scaled = vectors[:, parts] / inverses
    sizes = scaled.max(axis=1, keepdims=True)
    sizes = np.where(sizes > 0, sizes, 1.0)
    projected = vectors.copy()
    projected[:, parts] += sizes * _least_changes(unit, scaled / sizes) * inverses
    return projected


def _least_changes(unit: Array, vectors: Array) -> Array:
    r"""The $x \ge 0$ that minimizes $(u + x)^\top C (u + x)$, for each row $u$."""
    # Guessed active sets solve most problems, all rows at once. The others go to a solver in C,
    # many times faster than `nonnegative_minimum`, which stays exact for dependent gradients.
    changes = np.zeros_like(vectors)
    slopes = vectors @ unit
    conflicting = np.flatnonzero(slopes.min(axis=1) < 0)
    if not len(conflicting):
        return changes
    guessed = _guessed_changes(unit, slopes[conflicting])
    exact = _are_minima(guessed, slopes[conflicting] + guessed @ unit)
    changes[conflicting] = guessed
    if exact.all():
        return changes
    eigenvalues, axes = np.linalg.eigh(unit)
    root = np.sqrt(np.maximum(eigenvalues, 0.0))[:, None] * axes.T  # C = A' A
    solve = _solver()
    for row in conflicting[~exact]:
        vector = vectors[row]
        try:
            change = solve(root, -root @ vector)[0]
        except RuntimeError:  # too many iterations
            change = np.full_like(vector, np.nan)
        if not _are_minima(change, unit @ (vector + change)).all():
            change = nonnegative_minimum(unit, -unit @ vector, np.zeros_like(vector))
        changes[row] = change
    return changes


def _guessed_changes(unit: Array, slopes: Array) -> Array:
    """A candidate for each row of $C u$: variables of negative slope are changed until it is 0."""
    active, identity = slopes < 0, np.eye(len(unit))
    changes = np.zeros_like(slopes)
    for _ in range(_GUESSES):
        pairs = active[:, :, None] & active[:, None]
        wanted = np.where(active, -slopes, 0.0)
        try:
            changes = np.linalg.solve(np.where(pairs, unit, identity), wanted[:, :, None])[:, :, 0]
        except np.linalg.LinAlgError:
            break
        rising = slopes + changes @ unit < -_ACCURATE
        falling = changes < 0
        if not (rising | falling).any():
            break
        active = (active | rising) & ~falling
    return np.asarray(changes, np.float64)


def _are_minima(changes: Array, slopes: Array) -> npt.NDArray[np.bool_]:
    """Whether changes and slopes are not negative, and one of each pair is 0; for each row."""
    bounds = (changes.min(axis=-1) >= 0) & (slopes.min(axis=-1) >= -_ACCURATE)
    return np.asarray(bounds & (np.abs(changes * slopes).max(axis=-1) <= _ACCURATE))


def _solver() -> Any:
    """Imports the solver when it is needed, so that everything else works without it."""
    from scipy.optimize import nnls  # noqa: PLC0415

    return nnls
