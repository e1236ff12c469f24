"""Homoscedastic uncertainty: weights that are learned."""

from __future__ import annotations

import math
from typing import Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from lossweights.balancers.base import Balancer
from lossweights.moment import Moment, State


class UncertaintyWeighting(Balancer, kind="uncertainty"):
    r"""Learned weights, from the noise that each task is taken to have (UW).

    With a learned log-variance $s_i$ a term becomes $\tfrac12 e^{-s_i} l_i + \tfrac12 s_i$: its
    weight is $b_i = \tfrac12 e^{-s_i}$, its penalty $p_i = \tfrac12 s_i$. The penalty is unbounded
    below, so that the total may become negative; with `penalty: log1p` it is
    $\tfrac12 \log(1 + e^{s_i})$, which never does.

    The log-variances belong to the optimizer: `criterion.param_groups()`.

    Args:
        regularizer: `log`, $\tfrac12 s$; or `log1p`, $\tfrac12 \log(1 + e^s)$.
        initial: Log-variance of each term at the start.
        lowest: Lower bound of the log-variances, so an upper bound of the weights; None for none.
        highest: Upper bound of the log-variances; None for none.

    A. Kendall, Y. Gal, R. Cipolla, *Multi-task learning using uncertainty to weigh losses*, CVPR
    2018, arXiv 1705.07115. `log1p`: L. Liebel, M. Koerner, *Auxiliary tasks in multi-task
    learning*, 2018, arXiv 1805.06334.

    >>> from lossweights import WeightedLoss
    >>> criterion = WeightedLoss(terms=["depth", "normals"], balancer="uncertainty")
    >>> criterion.weights
    {'depth': 0.5, 'normals': 0.5}
    """

    regularizer: Literal["log", "log1p"] = "log"
    initial: float = 0.0
    lowest: float | None = None
    highest: float | None = None

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        low = -math.inf if self.lowest is None else self.lowest
        high = math.inf if self.highest is None else self.highest
        if not low < high or not low <= self.initial <= high:
            raise ValueError(
                f"lowest < highest with initial between them is needed, found lowest {self.lowest}, "
                f"highest {self.highest}, initial {self.initial}"
            )
        return self

    def init(self, n: int) -> State:
        return {"log_variance": nn.Parameter(torch.full((n,), self.initial))}

    def weigh(self, losses: Tensor, state: State, now: Moment) -> Tensor:
        return uncertainty_weights(self._bounded(state["log_variance"]))

    def penalty(self, state: State, now: Moment) -> Tensor:
        log_variance = self._bounded(state["log_variance"])
        if self.regularizer == "log1p":
            return 0.5 * torch.nn.functional.softplus(log_variance)
        return 0.5 * log_variance

    def _bounded(self, log_variance: Tensor) -> Tensor:
        if self.lowest is None and self.highest is None:
            return log_variance
        return log_variance.clamp(self.lowest, self.highest)


def uncertainty_weights(log_variance: Tensor) -> Tensor:
    r"""$\tfrac12 e^{-s}$, elementwise."""
    return torch.exp(-math.log(2) - log_variance)
