"""Nash bargaining between the terms."""

from typing import Annotated

from pydantic import Field

from lossweights.components.balancers.gradient.base import Array, GramianBalancer
from lossweights.components.balancers.gradient.fairgrad import clipped, fair_weights
from lossweights.components.context import State, StepContext


class NashMTL(GramianBalancer, kind="nash-mtl"):
    r"""The direction on which the terms would agree if they bargained for it (Nash-MTL).

    Of all directions of one length, the one with the largest product of gains
    $\prod_i g_i \cdot d$. With weights $b > 0$

    $$d = \sum_i b_i g_i, \qquad g_i \cdot d = 1 / b_i \quad \text{for all } i,$$

    so $d$ conflicts with no term, and has the length $\sqrt{m}$. Only the directions of the
    gradients count: a term with a gradient twice as long has half the weight. Near a point at which
    no direction is down for all terms (Pareto-stationary) a term has up to about $10^6$ times the
    weight that it would have alone, by the same rule as in `fairgrad`, and $d$ is about 0.
    `heads: plain` is safer there. A gradient of 0 takes no part: its term has weight 1.

    Args:
        max_norm: The length of $d$ to which weights are scaled down; None for that of the equation.

    A. Navon et al., *Multi-task learning as a bargaining game*, ICML 2022, arXiv 2202.01017. Solved
    by Newton's method; the authors' code, LibMTL and torchjd solve a sequence of convex programs,
    to about 1e-3. Like theirs, `max_norm` is 1; the authors' code clips the gradients of the shared
    parameters instead of the weights. Their `update_weights_every` is `every`.

    >>> import torch
    >>> from lossweights import WeightedLoss
    >>> criterion = WeightedLoss(terms=["a", "b"], balancer=NashMTL(max_norm=None))
    >>> x = torch.zeros(2, requires_grad=True)
    >>> criterion({"a": x[0], "b": 1000 * x[1]}, shared=x).backward()
    >>> x.grad
    tensor([1., 1.])
    """

    max_norm: Annotated[float, Field(gt=0)] | None = 1.0

    def solve(self, gramian: Array, state: State, now: StepContext) -> Array:
        return clipped(fair_weights(gramian, 1.0), gramian, self.max_norm)
