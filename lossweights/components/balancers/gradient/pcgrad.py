"""Projecting conflicting gradients (gradient surgery)."""

from typing import Annotated

import numpy as np
from pydantic import Field

from lossweights.components.balancers.gradient.base import Array, GramianBalancer
from lossweights.components.context import State, StepContext
from lossweights.components.random import Orders, orders


class PCGrad(GramianBalancer, kind="pcgrad"):
    r"""Removes from each gradient its conflicts with others, then sums (PCGrad, gradient surgery).

    Each gradient, $g_i' = g_i$, is compared with those of all other terms, in random order, and if
    $g_i' \cdot g_j < 0$

    $$g_i' \leftarrow g_i' - \frac{g_i' \cdot g_j}{\lVert g_j \rVert^2}\, g_j,
    \qquad \sum_i b_i g_i = \sum_i g_i'.$$

    For two terms the direction conflicts with neither, and is 0 if they are opposed. For more, a
    later projection may bring back a conflict that an earlier one removed (`upgrad` never does).
    Weights are at least 1, and 1 without conflicts: a sum of the terms, not their mean.

    Args:
        seed: Seed of the orders, which are the same on every rank and after a restart.

    T. Yu et al., *Gradient surgery for multi-task learning*, NeurIPS 2020, arXiv 2001.06782. The
    authors' code takes the others as given; torchjd and LibMTL draw from a global generator.

    >>> import torch
    >>> from lossweights import WeightedLoss
    >>> criterion = WeightedLoss(terms=["a", "b"], balancer="pcgrad")
    >>> x = torch.zeros(2, requires_grad=True)
    >>> criterion({"a": 2 * x[0], "b": x[1] - x[0]}, shared=x).backward()
    >>> x.grad  # (2, 0) becomes (1, 1), and (-1, 1) becomes (0, 1)
    tensor([1., 2.])
    """

    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0

    def solve(self, gramian: Array, state: State, now: StepContext) -> Array:
        if gramian.min() >= 0:  # no conflict
            return np.ones(len(gramian))
        return pcgrad_weights(gramian, orders(self.seed, now.step, len(gramian)))


def pcgrad_weights(gramian: Array, order: Orders) -> Array:
    """The weights for a Gramian, with the other terms in `order`, a row for each term."""
    squares = np.where(gramian.diagonal() > 0, gramian.diagonal(), 1.0)
    kept = np.eye(len(gramian))  # a row per term: the coefficients of g_i'
    rows = np.arange(len(gramian))
    for others in order.T:  # all terms at once: they are independent
        products = (kept * gramian[others]).sum(axis=1)
        kept[rows, others] -= np.minimum(products, 0.0) / squares[others]
    return np.asarray(kept.sum(axis=0))
