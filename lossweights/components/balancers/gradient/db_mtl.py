"""Dual balancing: logarithms of the losses, and gradients of one norm."""

from typing import ClassVar

import torch
from torch import Tensor

from lossweights.components.balancers.gradient.base import GradientBalancer
from lossweights.components.context import State, Statistic, StepContext
from lossweights.components.numerics import LARGE, nan_for_inf

_EPSILON = 1e-8


class DBMTL(GradientBalancer, kind="db-mtl"):
    r"""Gives the gradients of all terms one norm: the largest of those of the logarithms (DB-MTL).

    The gradient of $\log l_i$ is $u_i = g_i / l_i$. All are scaled to the largest of their norms,
    and $\max_j \lVert u_j \rVert\, u_i / \lVert u_i \rVert$ is $b_i g_i$ with

    $$b_i = \frac{\max_j \lVert g_j \rVert / l_j}{\lVert g_i \rVert}.$$

    Losses should be above 0: 1e-8 is added. A loss that is not is ignored in the maximum; if none
    is above 0, the maximum is that of $\lVert g_j \rVert$. A term whose gradient is 0 has weight 1.

    B. Lin, W. Jiang, F. Ye and others, *Dual-balancing for multi-task learning*, 2023, arXiv
    2308.12029. The paper has a moving average of the vectors $u_i$, and all parameters that terms
    share; other tensors follow $\log l_i$ there, $b_i l_i$ or $l_i$ here (`heads`).

    >>> from lossweights import WeightedLoss
    >>> criterion = WeightedLoss(terms=["a", "b"], balancer="db-mtl")
    >>> features = torch.tensor([3.0, 4.0], requires_grad=True) + 0.0
    >>> terms = {"a": features.square().sum() / 2, "b": 10 * features[1]}
    >>> _ = criterion(terms, shared=features)  # norms of 5 and 10, of the logarithms 0.4 and 0.25
    >>> {name: round(weight, 2) for name, weight in criterion.metrics(include=["weight"]).items()}
    {'weight/a': 0.08, 'weight/b': 0.04}
    """

    needs: ClassVar[tuple[Statistic, ...]] = ("norms",)

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        return dual_balancing_weights(nan_for_inf(losses), now.gradients.norms)


def dual_balancing_weights(losses: Tensor, norms: Tensor) -> Tensor:
    r"""$\max_j (\lVert g_j \rVert / l_j) / \lVert g_i \rVert$; 1 for a gradient of 0."""
    of_logarithms = torch.where(losses <= 0, 0.0, norms / (losses + _EPSILON))
    largest = of_logarithms.max()
    largest = torch.where(largest == 0, norms.max(), largest)
    return torch.where(norms == 0, 1.0, (largest / norms).clamp(max=LARGE))
