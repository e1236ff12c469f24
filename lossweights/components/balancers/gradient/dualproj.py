"""Dual-cone projection of the mean gradient."""

import numpy as np

from lossweights.components.balancers.gradient.base import Array
from lossweights.components.balancers.gradient.dual_cone import DualConeBalancer, projection_weights
from lossweights.components.context import State, StepContext


class DualProj(DualConeBalancer, kind="dualproj"):
    r"""Projects the mean gradient onto the directions that conflict with no term (DualProj).

    With $\pi$ the projection onto the dual cone of the $m$ gradients,

    $$\sum_i b_i g_i = \pi\Big(\frac{1}{m} \sum_i g_i\Big):$$

    the nearest to the mean gradient among all directions that conflict with no term. Weights are at
    least $1 / m$, and exactly that for a term whose gradient is 0. Small gradients that conflict
    with a large one gain no more than the absence of conflict; `upgrad` gives them a share.

    D. Lopez-Paz, M. Ranzato, *Gradient episodic memory for continual learning*, NeurIPS 2017,
    arXiv 1706.08840, equation 11, with the mean for the gradient of the current task. The authors'
    code adds a margin of 0.5 on the multipliers. Named by Quinton and Rey (arXiv 2406.16232).

    >>> import torch
    >>> from lossweights import WeightedLoss
    >>> criterion = WeightedLoss(terms=["a", "b"], balancer="dualproj")
    >>> x = torch.zeros(2, requires_grad=True)
    >>> criterion({"a": x[0], "b": x[1] - 3 * x[0]}, shared=x).backward()
    >>> x.grad  # the mean is (-1, 0.5), against a
    tensor([0.0000, 0.5000])
    """

    def solve(self, gramian: Array, state: State, now: StepContext) -> Array:
        mean = np.full((1, len(gramian)), 1 / len(gramian))
        return np.asarray(projection_weights(gramian, mean)[0])
