"""Directions that conflict with no term: projections onto the dual cone of the gradients."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import model_validator

from lossweights.components.balancers.gradient.base import Array, GramianBalancer
from lossweights.components.balancers.gradient.gramian import cosines, inverse_norms
from lossweights.components.balancers.gradient.nonnegative import nonnegative_minimum
from lossweights.components.context import State, StepContext

_ACCURATE = 1e-12
_GUESSES = 3


class DualConeBalancer(GramianBalancer):
    r"""Weights from projections onto the dual cone, $\{d : g_i \cdot d \ge 0 \text{ for all } i\}$.

    Raises:
        ValueError: Where the solver of least squares is not installed.
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


class UnconflictingProjection(DualConeBalancer, kind="upgrad"):
    r"""Projects each gradient on the directions that conflict with none, then averages (UPGrad).

    With $\pi$ the projection onto the dual cone of the $m$ gradients,

    $$\sum_i b_i g_i = \frac{1}{m} \sum_i \pi(g_i).$$

    The direction conflicts with no term, whatever the gradients are: a small step along it
    increases none. It is 0 where the gradients allow nothing else. What a term contributes grows
    with its gradient. Weights are at least $1 / m$, and that is what they are where no two
    gradients conflict, where all are 0, and for a term whose gradient is 0.

    The promise is of the terms as they are balanced: base weights and schedules multiply the
    weights afterwards, and unequal ones may bring a conflict back.

    P. Quinton, V. Rey, *Jacobian descent for multi-objective optimization*, 2024,
    arXiv 2406.16232. Solved to about 1e-10 of the largest gradient, whatever the scales are.
    (torchjd's default `reg_eps` loses the promise where scales differ: by a factor of 100 the
    direction is off by up to 7% of the largest gradient; below a norm of 0.01 its default
    `norm_eps` gives the mean.)

    >>> import torch
    >>> from lossweights import WeightedLoss
    >>> criterion = WeightedLoss(terms=["a", "b"], balancer="upgrad")
    >>> x = torch.zeros(2, requires_grad=True)
    >>> criterion({"a": 2 * x[0], "b": x[1] - x[0]}, shared=x).backward()
    >>> x.grad  # (1, 1) is the projection of (2, 0), and (0, 1) that of (-1, 1)
    tensor([0.5000, 1.0000])
    """

    def solve(self, gramian: Array, state: State, now: StepContext) -> Array:
        terms = len(gramian)
        weights: Array = projection_weights(gramian, np.eye(terms) / terms).sum(axis=0)
        return weights


class DualConeProjection(DualConeBalancer, kind="dualproj"):
    r"""Projects the mean of the gradients on the directions that conflict with none (DualProj).

    With $\pi$ the projection onto the dual cone of the $m$ gradients,

    $$\sum_i b_i g_i = \pi\Big(\frac{1}{m} \sum_i g_i\Big):$$

    of all directions that conflict with no term it is the nearest to that of plain averaging, and
    it is that of plain averaging wherever this conflicts with no term. Weights are at least
    $1 / m$; they are $1 / m$ also where all gradients are 0, and for a term whose gradient is 0.

    The promise is of the terms as they are balanced: base weights and schedules multiply the
    weights afterwards, and unequal ones may bring a conflict back. Small gradients that conflict
    with a large one are left with no more than no conflict; `upgrad` gives them a share.

    D. Lopez-Paz, M. Ranzato, *Gradient episodic memory for continual learning*, NeurIPS 2017,
    arXiv 1706.08840, equation 11, with the mean for the gradient of the current task. (The authors'
    code asks for more than no conflict, by a margin of 0.5 on the multipliers.) Quinton and Rey
    (arXiv 2406.16232) gave it its name.

    >>> import torch
    >>> from lossweights import WeightedLoss
    >>> criterion = WeightedLoss(terms=["a", "b"], balancer="dualproj")
    >>> x = torch.zeros(2, requires_grad=True)
    >>> criterion({"a": x[0], "b": x[1] - 3 * x[0]}, shared=x).backward()
    >>> x.grad  # the mean is (-1, 0.5), against a
    tensor([0.0000, 0.5000])
    """

    def solve(self, gramian: Array, state: State, now: StepContext) -> Array:
        terms = len(gramian)
        weights: Array = projection_weights(gramian, np.full((1, terms), 1 / terms))[0]
        return weights


def projection_weights(gramian: Array, vectors: Array) -> Array:
    r"""Projects weighted sums of the gradients onto the dual cone of the gradients.

    The projection of $\sum_i u_i g_i$ is $\sum_i v_i g_i$ with the least norm among all
    $v \ge u$. It is looked for in units of unit gradients, in which no term is small.

    Args:
        gramian: Of the gradients, shape (m, m).
        vectors: $u$, not below 0, a row each, shape (k, m).

    Returns:
        $v$, shape (k, m).
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
    r"""The $x \ge 0$ for which $(u + x)^\top C (u + x)$ is least, for each row $u$.

    Guessed active sets solve most problems, all rows at once. The others go to a solver in C, which
    is many times faster than `nonnegative_minimum`; that stays exact also for gradients that are
    opposed, or depend on others, but for rounding.
    """
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
        except RuntimeError:  # it gave up
            change = np.full_like(vector, np.nan)
        if not _are_minima(change, unit @ (vector + change)).all():
            change = nonnegative_minimum(unit, -unit @ vector, np.zeros_like(vector))
        changes[row] = change
    return changes


def _guessed_changes(unit: Array, slopes: Array) -> Array:
    """A candidate for each row: variables with a negative slope are changed until it is 0.

    Args:
        unit: $C$.
        slopes: $C u$, a row each.
    """
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
    """Whether changes and slopes are not negative, and one of each pair is 0.

    Args:
        changes: A row each, or one.
        slopes: Of the same shape.
    """
    bounds = (changes.min(axis=-1) >= 0) & (slopes.min(axis=-1) >= -_ACCURATE)
    return np.asarray(bounds & (np.abs(changes * slopes).max(axis=-1) <= _ACCURATE))


def _solver() -> Any:
    """Imported here, so that all else works without it."""
    from scipy.optimize import nnls  # noqa: PLC0415

    return nnls
