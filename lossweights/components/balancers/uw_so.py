"""Analytic uncertainty: the softmax of inverse losses."""

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from lossweights.components.balancers.base import Balancer
from lossweights.components.context import State, StepContext
from lossweights.components.numerics import LARGE

_SMALLEST = 1e-8


class UWSO(Balancer, kind="uw-so"):
    r"""Small losses weigh more, by the softmax of their inverse (soft optimal uncertainty, UW-SO).

    $$b = \mathrm{softmax}(x / T), \qquad x_i = 1 / l_i,$$

    from the losses of the same forward pass, detached. For a loss $l$ that is weighed by a noise
    $\sigma$ as $l / \sigma + \log \sigma$, the best $\sigma$ is $l$: in place of learning it, as
    `uncertainty` does, this takes it as known. The weights sum to 1. Losses should be above 0: one
    that is not, or that is below 1e-8, counts as 1e-8 and takes nearly all the weight (`bounds`
    leave some to the others). A loss of inf has the least weight; one of nan makes all weights nan.

    Args:
        temperature: $T$, in units of $1 / l$; the higher, the more equal the weights. To be tuned:
            the paper searches it for each data set and gives no default; public code has 1.

    L. Kirchdorfer, C. Elich, S. Kutsche and others, *Analytical uncertainty-based loss weighting in
    multi-task learning*, GCPR 2024, arXiv 2408.07985.

    >>> from lossweights import WeightedLoss
    >>> criterion = WeightedLoss(terms=["a", "b"], balancer={"kind": "uw-so", "temperature": 2})
    >>> _ = criterion({"a": torch.tensor(1.0), "b": torch.tensor(0.25)})  # softmax of 0.5 and 2
    >>> {name: round(weight, 2) for name, weight in criterion.metrics(include=["weight"]).items()}
    {'weight/a': 0.18, 'weight/b': 0.82}
    """

    temperature: Annotated[float, Field(gt=0)] = 1.0
    instant: ClassVar[bool] = True

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        return uw_so_weights(losses, self.temperature)


def uw_so_weights(losses: Tensor, temperature: float) -> Tensor:
    r"""$\mathrm{softmax}(1 / (T l))$ for losses of at least 1e-8."""
    inverse = 1 / losses.clamp(min=_SMALLEST)
    return torch.softmax((inverse / temperature).clamp(max=LARGE), dim=-1)
