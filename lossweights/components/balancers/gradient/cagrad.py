"""Conflict-averse gradient descent: near the mean gradient, the best for the worst term."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from lossweights.components.balancers.gradient.base import Array, GramianBalancer
from lossweights.components.balancers.gradient.gramian import cosines, inverse_norms
from lossweights.components.balancers.gradient.mgda import mgda_weights
from lossweights.components.balancers.gradient.nonnegative import nonnegative_minimum
from lossweights.components.context import State, StepContext
from lossweights.components.numerics import EPSILON


class CAGrad(GramianBalancer, kind="cagrad"):
    r"""Stays near the mean gradient, with the largest gain for the term that gains least (CAGrad).

    With the mean gradient $g_0$ of the $m$ terms

    $$d = \arg\max_d\, \min_i\, g_i \cdot d \quad \text{with} \quad
    \lVert d - g_0 \rVert \le c \lVert g_0 \rVert,$$

    which is $\sum_i b_i g_i$ for weights $b_i = 1 / m + \lambda w_i$, with $w \ge 0$ of sum 1 and
    $\lambda = c \lVert g_0 \rVert / \lVert \sum_i w_i g_i \rVert$. The weights sum to
    $1 + \lambda$; they are $1 / m$ if $g_0$ is 0.

    With $c = 0$ it is the plain mean. Below 1 it converges to a minimum of the mean; from 1 on $d$
    conflicts with no term, and above 1 it may converge to any Pareto-stationary point.

    Args:
        radius: $c$. The authors' code has 0.5; 0.4 for NYU-v2, and 0.4 or 0.6 for Cityscapes.
        rescale: Divisor of the weights: 1 as in the paper (0), $1 + c^2$ (1), or $1 + c$ (2). The
            authors' code for images and LibMTL have 1, torchjd 0.

    B. Liu et al., *Conflict-averse gradient descent for multi-task learning*, NeurIPS 2021, arXiv
    2110.14048. Solved exactly, at every scale. The authors' code for images also multiplies by $m$;
    torchjd has weights of 0 if all gradients are small.

    >>> import torch
    >>> from lossweights import WeightedLoss
    >>> criterion = WeightedLoss(terms=["a", "b"], balancer={"kind": "cagrad", "radius": 0.6})
    >>> x = torch.zeros(2, requires_grad=True)
    >>> criterion({"a": 6 * x[0], "b": 8 * x[1]}, shared=x).backward()
    >>> x.grad  # 3 away from the mean (3, 4), the radius, with the best of both products
    tensor([5.9626, 4.4720])
    """

    radius: Annotated[float, Field(ge=0)] = 0.5
    rescale: Literal[0, 1, 2] = 0

    def solve(self, gramian: Array, state: State, now: StepContext) -> Array:
        divisor = (1.0, 1 + self.radius**2, 1 + self.radius)[self.rescale]
        return conflict_averse_weights(gramian, self.radius) / divisor


def conflict_averse_weights(gramian: Array, radius: float) -> Array:
    r"""The weights of the direction within `radius` of the mean with the largest smallest product.

    For a level $t$ let $x(t) \ge 0$ be the smallest change of the mean, $\sum_i x_i g_i$, after
    which all products are at least $t$. Its length is convex in $t$, with the slope
    $\sum_i x_i / \lVert \sum_i x_i g_i \rVert$: Newton's method descends from a level that is too
    high to the one at which the length is the radius of the ball.
    """
    mean = np.full(len(gramian), 1 / len(gramian))
    reach = radius * _length(mean, gramian)
    if reach == 0:
        return mean
    products = gramian @ mean
    shortest = mgda_weights(gramian)
    # No level can exceed an average of upper bounds of the products.
    level = float(shortest @ products) + reach * _length(shortest, gramian)
    inverses = inverse_norms(gramian)
    unit = cosines(gramian, inverses)
    change = np.zeros_like(mean)  # rounding makes opposed pairs singular; without it they explode
    for _ in range(50):
        change = nonnegative_minimum(unit, (level - products) * inverses, change)
        length = float(np.sqrt(change @ unit @ change))
        if length <= reach * (1 + 8 * EPSILON):
            break
        level -= (length - reach) * length / float(change @ inverses)
    return mean + change * inverses


def _length(weights: Array, gramian: Array) -> float:
    """Length of the gradients' combination with these weights >= 0; 0 if it is only rounding."""
    square = float(weights @ gramian @ weights)
    largest = float(weights @ np.sqrt(gramian.diagonal()))
    return float(np.sqrt(square)) if square > 8 * len(weights) * EPSILON * largest**2 else 0.0
