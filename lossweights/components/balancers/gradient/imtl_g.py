"""Impartial multi-task learning, balancing gradients: one projection on all of them."""

import numpy as np

from lossweights.components.balancers.gradient.base import Array, GramianBalancer
from lossweights.components.balancers.gradient.gramian import cosines, inverse_norms, spectrum
from lossweights.components.context import State, StepContext

_STATIONARY = 1e-10  # of the length of the sum of unit gradients; less is rounding
_LARGEST = 1e3


class IMTLG(GramianBalancer, kind="imtl-g"):
    r"""The direction with the same projection on every term's gradient (IMTL-G).

    With unit gradients $u_i = g_i / \lVert g_i \rVert$, their Gramian $C$ and its pseudo-inverse,

    $$b_i = \frac{v_i}{\sum_j v_j}, \qquad v_i = \frac{(C^+ \mathbf{1})_i}{\lVert g_i \rVert},$$

    so that $d = \sum_i b_i g_i$ has one $d \cdot u_i$ for all terms, whatever their scales. It
    conflicts with no term if gradients are linearly independent; if they are not, projections are
    as equal as possible (least squares). Weights sum to 1, and some may be negative.

    Unlike in the paper, if $\sum_j v_j$ is negative the weights sum to -1, since otherwise the
    direction would climb on every term; if it is so near to 0 that weights explode, they sum to
    less, and $\sum_i |b_i|$ is 1000. If the unit gradients cancel ($C \mathbf{1} = 0$) the
    direction is 0, with $v_i = 1 / \lVert g_i \rVert$. A term whose gradient is 0 has weight 0; if
    all are 0 the weights are $1 / m$.

    L. Liu et al., *Towards impartial multi-task learning*, ICLR 2021, whose balancing of losses is
    `imtl-l`. Quinton and Rey (arXiv 2406.16232) and torchjd take the pseudo-inverse of the Gramian
    itself, which differs for collinear gradients.

    >>> import torch
    >>> from lossweights import WeightedLoss
    >>> criterion = WeightedLoss(terms=["a", "b"], balancer="imtl-g")
    >>> x = torch.zeros(2, requires_grad=True)
    >>> criterion({"a": 3 * x[0], "b": x[1]}, shared=x).backward()
    >>> x.grad
    tensor([0.7500, 0.7500])
    """

    def solve(self, gramian: Array, state: State, now: StepContext) -> Array:
        return impartial_gradient_weights(gramian)


def impartial_gradient_weights(gramian: Array) -> Array:
    """The weights for a Gramian of shape (m, m)."""
    inverses = inverse_norms(gramian)
    if not inverses.any():
        return np.full(len(gramian), 1 / len(gramian))
    ones = (inverses > 0).astype(np.float64)
    eigenvalues, vectors = spectrum(cosines(gramian, inverses))
    equal = vectors @ (ones @ vectors / eigenvalues)
    if equal.sum() < _STATIONARY:
        equal = ones
    # The norms may be 1e30 or 1e-30; only their ratios matter.
    values = equal * (inverses / inverses.max())
    return np.asarray(values / max(abs(values.sum()), np.abs(values).sum() / _LARGEST))
