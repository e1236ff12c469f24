"""Each term relative to a moving average of its own value."""

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from lossweights.components.balancers.base import Balancer
from lossweights.components.context import State, StepContext


class MovingAverage(Balancer, kind="moving-average"):
    r"""Divides each term by a moving average of its absolute value.

    After step $t$

    $$m_i = \frac{(1 - \beta) \sum_{k \le t} \beta^{t - k} |l_i(k)|}{1 - \beta^t},
    \qquad b_i = 1 / m_i :$$

    every weighted term is about 1, and the weights of the config are the ratio in which terms
    count. The denominator makes it an average from the first step on (bias correction, as in Adam).
    At the first step, and for a term that was always 0, the weight is 1. From no paper.

    Args:
        smoothing: $\beta$, below 1; an average over about $1 / (1 - \beta)$ steps.
        highest: Upper bound of the weights, for a term that goes to 0.

    >>> from lossweights import WeightedLoss
    >>> criterion = WeightedLoss(terms=["a", "b"], balancer="moving-average")
    >>> _ = criterion({"a": torch.tensor(50.0), "b": torch.tensor(0.5)})
    >>> criterion.step()
    >>> {name: round(weight, 4) for name, weight in criterion.weights.items()}
    {'a': 0.02, 'b': 2.0}
    """

    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.99
    highest: Annotated[float, Field(gt=0, le=1e30)] = 1e6
    never_negative: ClassVar[tuple[str, ...]] = ("sum", "norm")

    def init(self, n: int) -> State:
        return {"sum": torch.zeros(n), "norm": torch.zeros(n)}

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        return moving_average_weights(state["sum"], state["norm"], self.highest)

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        state["sum"].mul_(self.smoothing).add_(observed.abs(), alpha=1 - self.smoothing)
        state["norm"].mul_(self.smoothing).add_(1 - self.smoothing)


def moving_average_weights(total: Tensor, norm: Tensor, highest: float) -> Tensor:
    """`norm` / `total`, decaying sums of ones and of absolute values; 1 if all values were 0."""
    return torch.where(total == 0, 1.0, norm / total).clamp(max=highest)
