"""Each term relative to a moving average of its own value."""

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from lossweights.components.balancers.base import Balancer, refuse_unbalanced
from lossweights.components.context import State, StepContext


class MovingAverage(Balancer, kind="moving-average"):
    r"""Divides each term by a moving average of its absolute value.

    After step $t$

    $$m_i = \frac{(1 - \beta) \sum_{k \le t} \beta^{t - k} |l_i(k)|}{1 - \beta^t},
    \qquad b_i = 1 / m_i :$$

    every weighted term is about 1, and the weights of the config are the ratio in which terms
    count. The denominator makes it an average from the first step on (bias correction, as in Adam).
    At the first step, and for a term that was always 0, the weight is 1. From no paper.

    With a `reference` $r$ the others are brought to its size: $b_i = m_r / m_i$, and its own weight
    stays 1. All weights are 1 until the reference was seen with a value other than 0.

    Args:
        smoothing: $\beta$, below 1; an average over about $1 / (1 - \beta)$ steps.
        highest: Upper bound of the weights, for a term that goes to 0.
        reference: The term $r$; None to bring all terms to 1.

    >>> from lossweights import WeightedLoss
    >>> criterion = WeightedLoss(terms=["a", "b"], balancer="moving-average")
    >>> _ = criterion({"a": torch.tensor(50.0), "b": torch.tensor(0.5)})
    >>> criterion.step()
    >>> {name: round(weight, 4) for name, weight in criterion.weights.items()}
    {'a': 0.02, 'b': 2.0}
    """

    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.99
    highest: Annotated[float, Field(gt=0, le=1e30)] = 1e6
    reference: Annotated[str, Field(min_length=1)] | None = None
    never_negative: ClassVar[tuple[str, ...]] = ("sum", "norm")

    def check_terms(self, names: tuple[str, ...]) -> None:
        """Raises ValueError for a reference that is not a balanced term."""
        if self.reference is not None:
            refuse_unbalanced("reference", self.reference, names)

    def init(self, n: int) -> State:
        return {"sum": torch.zeros(n), "norm": torch.zeros(n)}

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        reference = None if self.reference is None else now.terms.index(self.reference)
        return moving_average_weights(state["sum"], state["norm"], self.highest, reference)

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        state["sum"].mul_(self.smoothing).add_(observed.abs(), alpha=1 - self.smoothing)
        state["norm"].mul_(self.smoothing).add_(1 - self.smoothing)


def moving_average_weights(
    total: Tensor, norm: Tensor, highest: float, reference: int | None = None
) -> Tensor:
    """1 or the mean of the `reference` by the mean of each term; 1 for a mean of 0.

    Means are `total` / `norm`, decaying sums of absolute values and of ones.
    """
    unknown = total == 0
    if reference is None:
        return torch.where(unknown, 1.0, norm / total).clamp(max=highest)
    mean = total / norm
    unknown = unknown | unknown[reference]
    return torch.where(unknown, 1.0, mean[reference] / mean).clamp(max=highest)
