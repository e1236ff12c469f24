"""Conflict-free inverse gradients: a direction at the same angle to every gradient."""

import numpy as np

from lossweights.components.balancers.gradient.base import Array, GramianBalancer
from lossweights.components.balancers.gradient.gramian import (
    ROUNDING,
    cosines,
    inverse_norms,
    spectrum,
)
from lossweights.components.context import State, StepContext


class ConFIG(GramianBalancer, kind="conflict-free"):
    r"""The direction at one angle to all gradients, as long as their projections on it (ConFIG).

    Conflict-free inverse gradients: with unit gradients $u_i = g_i / \lVert g_i \rVert$, their
    cosines $C_{ij} = u_i \cdot u_j$ and the pseudo-inverse $y = C^{+} \mathbf{1}$

    $$\hat d = \frac{\sum_i y_i u_i}{\lVert \sum_i y_i u_i \rVert}, \qquad
    d = \Big(\sum_i g_i \cdot \hat d\Big)\, \hat d, \qquad
    b_i = \frac{\sum_j g_j \cdot \hat d}{\lVert \sum_j y_j u_j \rVert}
    \frac{y_i}{\lVert g_i \rVert}.$$

    If the gradients are linearly independent, $u_i \cdot \hat d$ is the same for all terms, and
    above 0: $d$ conflicts with none. Otherwise it is as equal as possible, in least squares. The
    more the terms conflict, the shorter $d$ is, down to 0 for two opposed gradients. Gradients of
    one length that are equal or orthogonal have weights of 1; other weights may be negative. A
    gradient of 0 takes no part: its term has weight 1. Directions in which the unit gradients are
    less than about 1e-7 of their largest extent, the rounding of float32, are ignored.

    Q. Liu, M. Chu, N. Thuerey, *ConFIG: towards conflict-free training of physics informed neural
    networks*, ICLR 2025, arXiv 2408.11104. As the authors' `ConFIG_update` by default, and torchjd.

    >>> import torch
    >>> from lossweights import WeightedLoss
    >>> criterion = WeightedLoss(terms=["a", "b"], balancer="conflict-free")
    >>> x = torch.zeros(2, requires_grad=True)
    >>> criterion({"a": x[0], "b": 3 * x[1]}, shared=x).backward()
    >>> x.grad  # 45 degrees from both
    tensor([2., 2.])
    """

    def solve(self, gramian: Array, state: State, now: StepContext) -> Array:
        return conflict_free_weights(gramian)


def conflict_free_weights(gramian: Array) -> Array:
    """The weights for a Gramian of shape (m, m)."""
    inverses = inverse_norms(gramian)
    parts = inverses > 0
    weights = np.ones(len(gramian))
    if parts.any():
        inverses = inverses[parts]
        unit = cosines(gramian[parts][:, parts], inverses)
        values, vectors = spectrum(unit)
        solution = vectors @ (vectors.sum(axis=0) / values)
        square = float(solution.sum())  # of the combination's length
        reach = float(unit @ solution @ (1 / inverses))
        kept = square > len(unit) * ROUNDING
        weights[parts] = solution * inverses * (reach / square) if kept else 0.0
    return weights
