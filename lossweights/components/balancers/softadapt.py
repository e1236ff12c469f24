"""SoftAdapt: weights from the slope of each loss."""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lossweights.components.balancers.base import Balancer
from lossweights.components.context import State, StepContext
from lossweights.components.durations import Duration, epochs
from lossweights.components.numerics import LARGE, TINY, safe_log


class SoftAdapt(Balancer, kind="softadapt"):
    r"""Terms that decrease more slowly, or increase, weigh more (SoftAdapt).

    With $s_i$ the slope of a term, the change of its mean from one epoch to the next,

    $$b_i = \frac{f_i e^{\beta s_i}}{\sum_j f_j e^{\beta s_j}}.$$

    The weights sum to 1, and are $1 / n$ until there is a slope.

    Args:
        sharpness: $\beta$; 0 for equal weights, below 0 to favor the terms that decrease fastest.
        variant: `original`: $f = 1$; `normalized`: $f = 1$, and $s / \sum_j |s_j|$ in place of $s$,
            independent of the scale of the losses; or `loss_weighted`: $f_i$ is the mean of the
            term over the epochs from which its slope is taken.
        order: Order of accuracy of the slope: the derivative at the last point of the polynomial
            through the last `order` + 1 points. Above 1 it amplifies noise.
        every: Length of an epoch: losses are averaged over it, and weights are constant in it.

    A. Heydari, C. Thompson, A. Mehmood, *SoftAdapt: techniques for adaptive loss weighting of
    neural networks with multi-part loss functions*, 2019, arXiv 1912.12355. The authors' package
    (0.2.0) takes the slope at the oldest of the last `order` + 1 points, which with order 1 is the
    newest slope, as here. Its normalized variant divides by $\sum_j s_j$, which reverses the order
    of the weights when losses decrease. physicsnemo-sym weighs by ratios, see `dwa`.

    >>> from lossweights import WeightedLoss
    >>> balancer = SoftAdapt(every="1 steps", sharpness=1)
    >>> criterion = WeightedLoss(terms=["a", "b"], balancer=balancer)
    >>> for a in (5.0, 4.0):
    ...     _ = criterion({"a": torch.tensor(a), "b": torch.tensor(2.0)})
    ...     criterion.step()
    >>> {name: round(weight, 3) for name, weight in criterion.weights.items()}
    {'a': 0.269, 'b': 0.731}
    """

    sharpness: float = 0.1
    variant: Literal["original", "normalized", "loss_weighted"] = "original"
    order: Annotated[int, Field(ge=1, le=5)] = 1
    every: Duration | str = epochs(1)
    never_negative: ClassVar[tuple[str, ...]] = ("filled",)

    @property
    def interval(self) -> Duration:
        return Duration.parse(self.every)

    def init(self, n: int) -> State:
        return {
            "weights": torch.full((n,), 1 / n),
            "points": torch.zeros(self.order + 1, n),
            "filled": torch.zeros(n),
        }

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        return state["weights"]

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        points = torch.cat((state["points"][1:], observed.clamp(-LARGE, LARGE).unsqueeze(0)))
        filled = state["filled"] + 1
        known = filled > self.order
        slopes = torch.where(known, slopes_at_the_end(points), torch.zeros_like(observed))
        values = None
        if self.variant == "normalized":
            slopes = slopes / slopes.abs().sum().clamp(min=TINY)
        elif self.variant == "loss_weighted":
            values = points.sum(dim=0) / filled.clamp(max=self.order + 1)
        weights = softadapt_weights(slopes, self.sharpness, values)
        weights = torch.where(known.any(), weights, 1 / len(weights))
        state |= {"weights": weights, "points": points, "filled": filled}


def slopes_at_the_end(points: Tensor) -> Tensor:
    r"""The derivative, at the last row, of the polynomial through all: $\sum_k \nabla^k / k$.

    >>> slopes_at_the_end(torch.tensor([[0.0], [1.0], [4.0], [9.0]]))
    tensor([6.])
    """
    slopes = torch.zeros_like(points[-1])
    for k in range(1, len(points)):
        points = points.diff(dim=0)
        slopes = slopes + points[-1] / k
    return slopes


def softadapt_weights(slopes: Tensor, sharpness: float, values: Tensor | None = None) -> Tensor:
    r"""$f_i e^{\beta s_i} / \sum_j f_j e^{\beta s_j}$; $f$ is the absolute `values`, or 1."""
    logits = (sharpness * slopes).clamp(-LARGE, LARGE)
    if values is not None:
        logits = logits + safe_log(values.abs())
    return torch.softmax(logits, dim=-1)
