"""Homoscedastic uncertainty: learned weights."""

from typing import Literal

import torch
from torch import Tensor, nn

from lossweights.components.balancers.learned import LearnedBalancer, bounded_exp
from lossweights.components.context import State, StepContext


class UncertaintyWeighting(LearnedBalancer, kind="uncertainty"):
    r"""Learned weights, from an assumed noise of each task (UW).

    With a learned log-variance $s_i$ a term becomes $\tfrac12 e^{-s_i} l_i + \tfrac12 s_i$: its
    weight is $b_i = \tfrac12 e^{-s_i}$, its penalty $p_i = \tfrac12 s_i$. With `factor: full` the
    weight is $b_i = e^{-s_i}$. Code that learns $\sigma$ has $s = \log \sigma^2$.

    Args:
        factor: What multiplies $e^{-s} l$: `half`, for a squared error; or `full`, 1, as the paper
            has it for a cross entropy.
        regularizer: The penalty: `log`, $s / 2$; `log_variance`, $s$; or `log1p`,
            $\log(1 + e^s)$. Only the last is always positive; with the others the total may become
            negative.
        initial: Log-variance of each term at the start. (LibMTL starts at -0.5.)
        lowest: Lower bound of the log-variances, and so an upper one of the weights; None for none.
            Set one if a loss may be 0 or below, which lets its weight grow without bound.
        highest: Upper bound of the log-variances; None for none.

    A. Kendall, Y. Gal, R. Cipolla, *Multi-task learning using uncertainty to weigh losses*, CVPR
    2018, arXiv 1705.07115. `log1p`: L. Liebel, M. Koerner, *Auxiliary tasks in multi-task
    learning*, 2018, arXiv 1805.06334. `full` and `log_variance` together are twice the default, as
    in the example code of the first paper's authors.

    >>> from lossweights import WeightedLoss
    >>> WeightedLoss(terms=["depth", "normals"], balancer="uncertainty").weights
    {'depth': 0.5, 'normals': 0.5}
    """

    factor: Literal["half", "full"] = "half"
    regularizer: Literal["log", "log_variance", "log1p"] = "log"

    def init(self, n: int) -> State:
        return {"log_variance": nn.Parameter(torch.full((n,), self.initial))}

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        log_variance = self._bounded(state["log_variance"], moved="up")
        return uncertainty_weights(log_variance, 0.5 if self.factor == "half" else 1.0)

    def penalty(self, state: State, now: StepContext) -> Tensor:
        log_variance = self._bounded(state["log_variance"], moved="down")
        if self.regularizer == "log1p":
            return torch.nn.functional.softplus(log_variance)
        return 0.5 * log_variance if self.regularizer == "log" else log_variance


def uncertainty_weights(log_variance: Tensor, factor: float = 0.5) -> Tensor:
    r"""$f e^{-s}$ with the factor $f$, elementwise."""
    return factor * bounded_exp(-log_variance)
