"""Dynamic weight average: by how fast each loss went down from epoch to epoch."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from lossweights.balancers.base import Balancer
from lossweights.durations import Duration, epochs
from lossweights.moment import Moment, State


LARGE = 1e30


class DynamicWeightAverage(Balancer, kind="dwa"):
    r"""Terms that went down less in the last epoch weigh more (DWA).

    With $L_i$ the mean of a term over an epoch, $w_i = L_i(e - 1) / L_i(e - 2)$ and
    $b = n\,\mathrm{softmax}(w / T)$. All weights are 1 in the first two epochs.

    Args:
        temperature: $T$; the higher, the more equal the weights.
        every: How long an epoch is: over which losses are averaged and weights stand still.

    S. Liu, E. Johns, A. J. Davison, *End-to-end multi-task learning with attention*, CVPR 2019,
    arXiv 1803.10704.

    >>> from lossweights import WeightedLoss
    >>> criterion = WeightedLoss(
    ...     terms=["a", "b"], balancer={"kind": "dwa", "every": "100 steps"}
    ... )
    >>> criterion.weights
    {'a': 1.0, 'b': 1.0}
    """

    temperature: Annotated[float, Field(gt=0)] = 2.0
    every: Duration | str = epochs(1)

    def init(self, n: int) -> State:
        return {
            "weights": torch.ones(n),
            "sum": torch.zeros(n),
            "count": torch.zeros(n),
            "last": torch.zeros(n),
        }

    def weigh(self, losses: Tensor, state: State, now: Moment) -> Tensor:
        return state["weights"]

    def update(self, observed: Tensor, state: State, now: Moment) -> None:
        state["sum"] += observed
        state["count"] += 1
        if now.passed(self.every):
            # A term that was not there all epoch has no mean of it, and counts as unchanged.
            mean = torch.where(state["count"] > 0, state["sum"] / state["count"], state["last"])
            state["weights"].copy_(dwa_weights(mean, state["last"], self.temperature))
            state["last"].copy_(mean)
            state["sum"].zero_()
            state["count"].zero_()


def dwa_weights(last: Tensor, before: Tensor, temperature: float) -> Tensor:
    r"""$n\,\mathrm{softmax}(L(e-1) / L(e-2) / T)$; a loss that was 0 counts as unchanged."""
    ratio = torch.where(before == 0, torch.ones_like(last), last / before)
    bounded = (ratio / temperature).clamp(-LARGE, LARGE)  # softmax of inf is nan
    return len(last) * torch.softmax(bounded, dim=-1)
