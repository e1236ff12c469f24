"""Impartial multi-task learning, balancing losses: learned weights."""

import torch
from torch import Tensor, nn

from lossweights.components.balancers.learned import LearnedBalancer, bounded_exp
from lossweights.components.context import State, StepContext


class IMTLL(LearnedBalancer, kind="imtl-l"):
    """Learned weights that bring every weighted loss to 1 (IMTL-L).

    With a learned $s_i$ a term becomes $e^{s_i} l_i - s_i$, which is smallest when
    $e^{s_i} l_i = 1$: its weight is $b_i = e^{s_i}$, its penalty $p_i = -s_i$. That is twice
    `uncertainty` at $-s$. The part of the method that balances gradients is `imtl-g`.

    Args:
        initial: $s$ of each term at the start.
        lowest: Lower bound of $s$; None for none.
        highest: Upper bound of $s$, and so of the weights; None for none. Set one if a loss may be
            0 or below, which lets its weight grow without bound.

    L. Liu, Y. Li, Z. Kuang and others, *Towards impartial multi-task learning*, ICLR 2021.

    >>> from lossweights import WeightedLoss
    >>> WeightedLoss(terms=["depth", "normals"], balancer="imtl-l").weights
    {'depth': 1.0, 'normals': 1.0}
    """

    def init(self, n: int) -> State:
        return {"log_scale": nn.Parameter(torch.full((n,), self.initial))}

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        return bounded_exp(self._bounded(state["log_scale"], moved="down"))

    def penalty(self, state: State, now: StepContext) -> Tensor:
        return -self._bounded(state["log_scale"], moved="up")
