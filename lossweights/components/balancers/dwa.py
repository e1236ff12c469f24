"""Dynamic weight average: weights from how much each loss changes between epochs."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from lossweights.components.balancers.base import Balancer
from lossweights.components.context import State, StepContext
from lossweights.components.durations import Duration, epochs
from lossweights.components.numerics import relative_weights


class DWA(Balancer, kind="dwa"):
    r"""Terms that decreased less in the last epoch weigh more (dynamic weight average).

    With $L_i$ the mean of a term over an epoch, $w_i = L_i(e - 1) / L_i(e - 2)$ (1 if a loss was 0)
    and $b = n\,\mathrm{softmax}(w / T)$. Weights are 1 in the first two epochs; they sum to $n$.

    Args:
        temperature: $T$; the higher, the more equal the weights.
        every: Length of an epoch: losses are averaged over it, and weights are constant in it.

    S. Liu, E. Johns, A. J. Davison, *End-to-end multi-task learning with attention*, CVPR 2019,
    arXiv 1803.10704. With `temperature: 1` and `every: 1 steps` it is what physicsnemo-sym and
    neuraloperator call SoftAdapt, one step later.

    >>> from lossweights import WeightedLoss
    >>> balancer = DWA(every="100 steps")
    >>> WeightedLoss(terms=["a", "b"], balancer=balancer).weights
    {'a': 1.0, 'b': 1.0}
    """

    temperature: Annotated[float, Field(gt=0)] = 2.0
    every: Duration | str = epochs(1)

    @property
    def interval(self) -> Duration:
        return Duration.parse(self.every)

    def init(self, n: int) -> State:
        return {"weights": torch.ones(n), "last": torch.zeros(n)}

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        return state["weights"]

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        state["weights"] = relative_weights(observed, state["last"], self.temperature)
        state["last"] = observed
