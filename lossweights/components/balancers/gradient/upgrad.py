"""Unconflicting projection of each gradient."""

import numpy as np

from lossweights.components.balancers.gradient.base import Array
from lossweights.components.balancers.gradient.dual_cone import DualConeBalancer, projection_weights
from lossweights.components.context import State, StepContext


class UPGrad(DualConeBalancer, kind="upgrad"):
    r"""Projects each gradient onto the directions that conflict with none, then averages (UPGrad).

    Unconflicting projection of gradients: with $\pi$ the projection onto the dual cone of the $m$
    gradients,

    $$\sum_i b_i g_i = \frac{1}{m} \sum_i \pi(g_i).$$

    The direction conflicts with no term: a small step along it increases none. It is 0 only if the
    gradients allow nothing else. The contribution of a term grows with its gradient. Weights are at
    least $1 / m$; they are $1 / m$ if no two gradients conflict, and for a gradient of 0.

    P. Quinton, V. Rey, *Jacobian descent for multi-objective optimization*, 2024,
    arXiv 2406.16232. Solved to about 1e-10 of the largest gradient, at any scale, for terms in
    float64; with gradients within an angle $\theta$ of opposed, to about $10^{-16} / \theta^2$.
    torchjd's default `reg_eps` and `norm_eps` give up the promise if scales differ or gradients are
    small.

    >>> import torch
    >>> from lossweights import WeightedLoss
    >>> criterion = WeightedLoss(terms=["a", "b"], balancer="upgrad")
    >>> x = torch.zeros(2, requires_grad=True)
    >>> criterion({"a": 2 * x[0], "b": x[1] - x[0]}, shared=x).backward()
    >>> x.grad  # (1, 1) is the projection of (2, 0), and (0, 1) that of (-1, 1)
    tensor([0.5000, 1.0000])
    """

    def solve(self, gramian: Array, state: State, now: StepContext) -> Array:
        identity = np.eye(len(gramian))
        return np.asarray(projection_weights(gramian, identity / len(gramian)).sum(axis=0))
