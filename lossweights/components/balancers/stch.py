"""The smooth maximum of the losses, as weights."""

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from lossweights.components.balancers.base import Balancer
from lossweights.components.context import State, StepContext
from lossweights.components.numerics import LARGE


class STCH(Balancer, kind="stch"):
    r"""Minimizes a smooth maximum of the losses instead of their sum (smooth Tchebycheff).

    With $f(l) = \mu \log \sum_i \exp(l_i / (n \mu))$ the weights are its derivatives,
    $b = \mathrm{softmax}(l / (n \mu)) / n$: the gradient is that of $f$, while the reported total
    is $\sum_i b_i l_i$. The weights sum to $1 / n$.

    Args:
        temperature: $\mu$; the closer to 0, the more the largest loss alone counts; the larger, the
            more equal the weights. In units of the losses: the paper tries 0.01 to 1.

    Bring terms of different scales to one first, with the transform `relative`. The paper's
    $\lambda_i (f_i - z_i^*)$ has preferences $\lambda$, here $1 / n$, and an ideal point $z^*$,
    here 0: for others, scale and shift the values.

    X. Lin, X. Zhang, Z. Yang and others, *Smooth Tchebycheff scalarization for multi-objective
    optimization*, ICML 2024, arXiv 2402.19078. LibMTL and the authors' code for multi-task learning
    use $\log l$ relative to an early epoch in place of $l$, and multiply by $n$.

    >>> from lossweights import WeightedLoss
    >>> criterion = WeightedLoss(terms=["a", "b"], balancer="stch")
    >>> _ = criterion({"a": torch.tensor(1.0), "b": torch.tensor(1.0)})
    >>> criterion.metrics(include=["weight"])
    {'weight/a': 0.25, 'weight/b': 0.25}
    """

    temperature: Annotated[float, Field(gt=0)] = 0.1
    instant: ClassVar[bool] = True

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        return stch_weights(losses, self.temperature)


def stch_weights(losses: Tensor, temperature: float) -> Tensor:
    r"""$\mathrm{softmax}(l / (n \mu)) / n$."""
    n = len(losses)
    return torch.softmax((losses / (n * temperature)).clamp(-LARGE, LARGE), dim=-1) / n
