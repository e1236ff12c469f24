"""Fair resource allocation: fair shares of the gain of a step."""

from typing import Annotated

import numpy as np
from pydantic import Field

from lossweights.components.balancers.gradient.base import Array, GramianBalancer
from lossweights.components.balancers.gradient.gramian import cosines, inverse_norms
from lossweights.components.context import State, StepContext
from lossweights.components.numerics import EPSILON

_REGULARIZATION = 1e-12


class FairGrad(GramianBalancer, kind="fairgrad"):
    r"""Shares the gain of a step among the terms, as fairly as `fairness` says (FairGrad).

    Of all directions of one length, the one with the largest utility
    $\sum_i (g_i \cdot d)^{1 - \alpha} / (1 - \alpha)$. With weights $b > 0$

    $$d = \sum_i b_i g_i, \qquad g_i \cdot d = b_i^{-1 / \alpha} \quad \text{for all } i,$$

    so $d$ conflicts with no term. As $\alpha$ goes to 0 it becomes the plain sum, with 1 it is that
    of `nash-mtl`, and the larger $\alpha$ is, the more the terms that gain little count.

    If no direction is down for all terms (Pareto-stationary) the equation has no solution, and near
    such a point weights grow without bound. So $10^{-12}$ is added to the squares of the gradients,
    relative to them: weights stay finite, and $d$ is about 0 relative to its summands. Such weights
    reach the heads: `heads: plain` is safer. The term of a gradient of 0 has weight 1.

    Args:
        fairness: $\alpha$, from 0.01 to 30. The authors' code has 1 by default, its script for
            CelebA has 2. Above 1, $d$ grows towards a minimum, which `max_norm` prevents. If a
            weight would be below 1e-308, the nearest $\alpha$ at which none is counts: with 30, for
            norms more than about $10^{10}$ apart.
        max_norm: The largest length of $d$: the weights of a longer one are scaled down. None, as
            in the paper, LibMTL and torchjd; the authors' code clips gradients at 1.

    H. Ban, K. Ji, *Fair resource allocation in multi-task learning*, ICML 2024, arXiv 2402.15638.
    Solved by Newton's method, in stages from $\alpha = 1$ to its value; the authors' code, LibMTL
    and torchjd minimize the squared residuals of the equation. The authors' code multiplies $d$ by
    $m$ before it clips.

    >>> import torch
    >>> from lossweights import WeightedLoss
    >>> criterion = WeightedLoss(terms=["a", "b"], balancer=FairGrad(fairness=2))
    >>> x = torch.zeros(2, requires_grad=True)
    >>> criterion({"a": x[0], "b": 8 * x[1]}, shared=x).backward()
    >>> x.grad  # the weights are 1 and 1/16, and the gains 1 and 4
    tensor([1.0000, 0.5000])
    """

    fairness: Annotated[float, Field(ge=0.01, le=30)] = 1.0
    max_norm: Annotated[float, Field(gt=0)] | None = None

    def solve(self, gramian: Array, state: State, now: StepContext) -> Array:
        return clipped(fair_weights(gramian, 1 / self.fairness), gramian, self.max_norm)


def fair_weights(gramian: Array, power: float) -> Array:
    r"""The $b > 0$ with $(G b)_i = b_i^{-p}$ for all $i$; 1 for a gradient of 0."""
    weights = np.ones(len(gramian))
    inverses = inverse_norms(gramian)
    parts = inverses > 0
    if parts.any():
        inverses = inverses[parts]
        unit = cosines(gramian[parts][:, parts], inverses)
        logs = -np.log(inverses)
        mean = logs.mean()
        found = _balanced(unit + _REGULARIZATION * np.eye(len(unit)), logs - mean, power)
        weights[parts] = found * np.exp(-2 / (1 + power) * mean)
    return weights


def _balanced(matrix: Array, logs: Array, power: float) -> Array:
    r"""The weights, from the cosines of the gradients and the logarithms of their norms.

    Newton's method needs few steps if $p$ is 1, and may fail if it is far from 1. So $p$ goes from
    1 to its value by factors of 2, or less after one that failed, each time along the tangent of
    $\log b$ as a function of $1 / p$. It ends before if a weight is too small for float64, which
    takes norms $10^{10}$ apart.
    """
    # In units of the weights of orthogonal gradients, $|g_i|^{-2 / (1 + p)}$.
    v = np.full(len(logs), np.sqrt(len(logs) / matrix.sum()))
    v, _ = _newton(matrix, logs, v, 1.0, 100)
    reached, factor = 1.0, 2.0
    for _ in range(60):
        if reached == power:
            break
        target = float(np.clip(power, reached / factor, reached * factor))
        sizes, pulls = _sizes_and_pulls(logs, v, reached)
        logarithms = np.log(v) - 2 / (1 + reached) * logs  # of b
        tangent = _step(matrix, sizes, reached * pulls, -sizes * pulls * logarithms)
        logarithms += reached * (1 - reached / target) * tangent
        with np.errstate(all="ignore"):
            start = np.exp(logarithms + 2 / (1 + target) * logs)
            found, converged = _newton(matrix, logs, start, target, 15)
        if converged:
            v, reached, factor = found, target, min(2.0, factor**2)
        else:
            factor = factor**0.5
    return v * np.exp(-2 / (1 + reached) * logs)


def _newton(matrix: Array, logs: Array, v: Array, power: float, limit: int) -> tuple[Array, bool]:
    r"""Minimizes the strictly convex function whose slope is $(G b)_i - b_i^{-p}$."""
    rounding = 8 * (len(v) + power) * EPSILON
    for _ in range(limit):
        sizes, pulls = _sizes_and_pulls(logs, v, power)
        missing = pulls - matrix @ sizes
        if not np.isfinite(missing).all():
            break
        if (np.abs(missing) <= rounding * sizes.sum()).all():
            return v, True
        step = _step(matrix, sizes, power * pulls, sizes * missing)
        v = v * (1 + step * min(1.0, 0.9 / max(float(-step.min()), 0.1)))  # stays above 0
    return v, False


def _sizes_and_pulls(logs: Array, v: Array, power: float) -> tuple[Array, Array]:
    r"""The lengths $b_i |g_i|$, and the products $b_i^{-p} / |g_i|$ of unit gradients and $d$."""
    lengths = np.exp((power - 1) / (power + 1) * logs)
    return lengths * v, lengths * v**-power


def _step(matrix: Array, sizes: Array, curvature: Array, slope: Array) -> Array:
    """The Newton step of `sizes`, relative to them; nan if the matrix is singular."""
    diagonal = sizes * curvature
    roots = np.sqrt(sizes * sizes + diagonal)
    scale = sizes / roots
    hessian = matrix * (scale[:, None] * scale) + np.diag(diagonal / (roots * roots))
    try:
        return np.asarray(np.linalg.solve(hessian, slope / roots) / roots)
    except np.linalg.LinAlgError:
        return np.full_like(sizes, np.nan)


def clipped(weights: Array, gramian: Array, max_norm: float | None) -> Array:
    """The weights, scaled down so that the direction has at most the length `max_norm`."""
    if max_norm is None:
        return weights
    length = float(np.sqrt(max(float(weights @ gramian @ weights), 0.0)))
    return weights * min(1.0, max_norm / length) if length > 0 else weights
