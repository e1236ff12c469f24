"""The multiple-gradient descent algorithm: the shortest combination of the gradients."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lossweights.components.balancers.gradient.base import Array, GramianBalancer
from lossweights.components.balancers.gradient.nonnegative import nonnegative_minimum
from lossweights.components.context import Gradients, State, StepContext
from lossweights.components.numerics import EPSILON, TINY


class MGDA(GramianBalancer, kind="mgda"):
    r"""Steps along the shortest convex combination of the gradients (MGDA).

    $$b = \arg\min_{b \ge 0,\ \sum_i b_i = 1} \left\lVert \sum_i b_i g_i \right\rVert^2.$$

    The direction $d = \sum_i b_i g_i$ has $g_i \cdot d \ge \lVert d \rVert^2$ for every term: it
    conflicts with none, and is 0 only if no direction is down for all (Pareto-stationary). The
    weights sum to 1, and many may be 0: long gradients count less than short ones, equal ones the
    same, and a term whose gradient is 0 has all the weight: the shared tensors do not move.

    Args:
        divide_by: Divisor of each gradient: `none`, as published, its length (`norm`), its loss
            (`loss`, which makes it the gradient of $\log l_i$; 0 counts as very small), or both
            (`loss+`). The weights are those of the original gradients, scaled to sum to 1, so that
            $d$ still conflicts with none.

    J.-A. Désidéri, *Multiple-gradient descent algorithm (MGDA) for multiobjective optimization*,
    Comptes Rendus Mathématique 350, 2012, doi 10.1016/j.crma.2012.03.014. O. Sener, V. Koltun,
    *Multi-task learning as multi-objective optimization*, NeurIPS 2018, arXiv 1810.04650: for
    features it is the paper's MGDA-UB. Solved exactly; the authors' code, LibMTL and torchjd stop a
    few percent away from $d$, and the first gives the weights of divided gradients to the losses.

    >>> import torch
    >>> from lossweights import WeightedLoss
    >>> criterion = WeightedLoss(terms=["a", "b"], balancer="mgda")
    >>> x = torch.zeros(2, requires_grad=True)
    >>> criterion({"a": x[0], "b": 2 * x[1]}, shared=x).backward()
    >>> x.grad  # the weights are 0.8 and 0.2
    tensor([0.8000, 0.4000])
    """

    divide_by: Literal["none", "norm", "loss", "loss+"] = "none"

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        if self.divide_by == "none":
            return super().weigh(losses, state, now)
        found, losses = now.gradients, losses.cpu()
        gramian = found.gramian.cpu()
        sizes = self._sizes(gramian, losses)
        scaled = gramian / torch.outer(sizes, sizes)
        gradients = Gradients(found.names, {"gramian": scaled}, found.seen)
        weights = super().weigh(losses, state, now.with_gradients(gradients)) / sizes
        return weights / weights.sum()

    def solve(self, gramian: Array, state: State, now: StepContext) -> Array:
        return mgda_weights(gramian)

    def _sizes(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """The divisors of the gradients, shape (m,); 1 for a gradient of 0."""
        sizes = torch.ones_like(gramian[0])
        if self.divide_by != "loss":
            sizes = gramian.diagonal().sqrt()
        if self.divide_by != "norm":
            sizes = sizes * losses.to(gramian).abs().clamp(min=TINY)
        return torch.where(sizes == 0, 1.0, sizes)


def mgda_weights(gramian: Array) -> Array:
    r"""The weights of the point nearest to 0 in the convex hull of the gradients; they sum to 1.

    With $b = x / \sum_j x_j$, $x \ge 0$ minimizes
    $\frac{1}{2} x^\top (G + s 1 1^\top) x - s \sum_i x_i$, for every $s > 0$.
    """
    squares = gramian.diagonal()
    shortest, least = squares.min(), 1e-200 * squares.max()
    if shortest <= least:
        zero = squares <= least
        return np.asarray(zero / zero.sum(), np.float64)
    # In units of the shortest gradient, with every gradient scaled to length 1.
    scale = np.sqrt(shortest / squares)
    unit = gramian / shortest * (scale[:, None] * scale)
    # If long gradients cancel, and a short one would not, a sum with `scale` rounds that away. Then
    # the unit gradients cancel with the same sums.
    ones = np.ones_like(scale)
    found = [nonnegative_minimum(unit + np.outer(of, of), of) for of in (scale, ones)]
    nearest = min(found, key=lambda x: max(float(x @ unit @ x), 0.0) / float(x @ scale) ** 2)
    weights = nearest * scale
    sums = squares[:, None] + squares
    equal = sums - 2 * gramian <= 8 * EPSILON * sums
    if np.count_nonzero(equal) > len(squares):
        weights = equal @ (weights / equal.sum(axis=0))
    return np.asarray(weights / weights.sum(), np.float64)
