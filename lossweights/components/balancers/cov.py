"""Coefficient of variation: terms that still vary weigh more."""

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from lossweights.components.balancers.base import Balancer
from lossweights.components.context import State, StepContext
from lossweights.components.numerics import relative

_EPSILON = 1e-8  # added to the variance, as in the authors' code
_LARGEST_RATIO = 1e15  # float32 can represent its square


class CoVWeighting(Balancer, kind="cov"):
    r"""Terms whose relative value varies more weigh more (CoV-weighting).

    With $\mu_{L_i}$ the mean of a term so far, $r_i(t) = L_i(t) / \mu_{L_i}(t - 1)$ its value
    relative to that, and mean and standard deviation of $r_i$ so far,

    $$b_i = \frac{c_i}{\sum_j c_j}, \qquad c_i = \frac{\sigma_{r_i}}{\mu_{r_i}}.$$

    The weights sum to 1. The weight of a term that was not yet seen twice is $1 / n$.

    Args:
        smoothing: $\beta$; 1 for means over all of training, below 1 for moving averages over
            about $1 / (1 - \beta)$ steps, which are plain means for as long at the start.

    R. Groenendijk, S. Karaoglu, T. Gevers, T. Mensink, *Multi-loss weighting with coefficient of
    variations*, WACV 2021, arXiv 2009.01717. With decaying means, the authors' code lets the sum of
    squares keep growing; here the variance decays like the means.

    >>> from lossweights import WeightedLoss
    >>> criterion = WeightedLoss(terms=["still", "moving"], balancer="cov")
    >>> for step in range(3):
    ...     _ = criterion({"still": torch.tensor(50.0), "moving": torch.tensor(3.0 - step)})
    ...     criterion.step()
    >>> {name: round(weight, 3) for name, weight in criterion.weights.items()}
    {'still': 0.0, 'moving': 1.0}
    """

    smoothing: Annotated[float, Field(gt=0, le=1)] = 1.0
    never_negative: ClassVar[tuple[str, ...]] = ("count",)

    def init(self, n: int) -> State:
        return {k: torch.zeros(n) for k in ("count", "mean", "ratio_mean", "ratio_variance")}

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        return cov_weights(state["ratio_mean"], state["ratio_variance"], state["count"] > 1)

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        count, mean, ratio_mean = state["count"], state["mean"], state["ratio_mean"]
        count += 1
        ratio = torch.where(count == 1, torch.ones_like(mean), relative(observed, mean))
        ratio.clamp_(-_LARGEST_RATIO, _LARGEST_RATIO)
        rate = (1 / count).clamp_(min=1 - self.smoothing)
        away = ratio - ratio_mean
        ratio_mean += rate * away
        # Welford's update; with a rate of 1 / count it is the variance over all steps.
        state["ratio_variance"].add_(rate * away * away).mul_(1 - rate)
        mean += rate * (observed - mean)


def cov_weights(mean: Tensor, variance: Tensor, known: Tensor) -> Tensor:
    r"""$c / \sum c$ with $c = \sigma / |\mu|$; $1 / n$ for a term that is not `known`."""
    variation = torch.sqrt(variance + _EPSILON) / mean.abs().clamp(min=_EPSILON)
    variation = torch.where(known, variation, torch.zeros_like(variation))
    share = variation / variation.sum().clamp(min=_EPSILON * _EPSILON)
    return torch.where(known, share * known.float().mean(), 1 / len(mean))
