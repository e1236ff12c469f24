"""The geometric mean of the losses, as weights."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from lossweights.components.balancers.base import Balancer
from lossweights.components.context import State, StepContext


class GeometricMean(Balancer, kind="geometric"):
    r"""Minimizes the geometric mean of the losses instead of their sum (GLS).

    With $f(l) = \left(\prod_i l_i\right)^{1/n}$ the weights are its derivatives,
    $b_i = \partial f / \partial l_i = f(l) / (n\, l_i)$: the gradient is that of $f$, and the total
    is $\sum_i b_i l_i = f(l)$. The scale of a loss does not matter. Losses should be above 0; one
    below 1e-12 counts as 1e-12.

    S. Chennupati, G. Sistu, S. Yogamani, S. Rawashdeh, *MultiNet++: multi-stream feature
    aggregation and geometric loss strategy for multi-task learning*, CVPR workshops 2019, arXiv
    1904.08492. LibMTL takes the root of the product, which overflows.

    >>> from lossweights import WeightedLoss
    >>> criterion = WeightedLoss(terms=["a", "b"], balancer="geometric")
    >>> criterion({"a": torch.tensor(8.0), "b": torch.tensor(2.0)})  # weights of 0.25 and 1
    tensor(4.)
    """

    instant: ClassVar[bool] = True

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        return geometric_weights(losses)


def geometric_weights(losses: Tensor) -> Tensor:
    r"""$\exp(\overline{\log l} - \log l_i) / n$."""
    logs = losses.clamp(min=1e-12).log()
    return torch.exp(logs.mean() - math.log(len(losses)) - logs)
