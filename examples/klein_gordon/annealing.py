"""Learning-rate annealing as its authors' code has it: a balancer of one's own, as a plug-in."""

import torch
from torch import Tensor

from lossweights import GradientBalancer, Moment, State


class AnnealingOfTheCode(GradientBalancer, kind="lr-annealing-of-the-code"):
    r"""The gradients that are looked at have their weights on already.

    $$\hat b_i = \frac{\max |g_r|}{\overline{|b_i g_i|}},
    \qquad b_i \leftarrow \beta\, b_i + (1 - \beta)\, \hat b_i,$$

    by which $b_i$ settles at the square root of what it is without $b_i$ in the denominator, which
    is how the paper derives it and how `lr-annealing` of the library is.

    Args:
        reference: The term $r$, of weight 1.
        smoothing: $\beta$.

    S. Wang, Y. Teng, P. Perdikaris, 2021, arXiv 2001.04536, and
    PredictiveIntelligenceLab/GradientPathologiesPINNs.
    """

    reference: str
    smoothing: float = 0.9

    needs = ("max_abs", "mean_abs")

    def init(self, n: int) -> State:
        """The weights so far."""
        return {"weights": torch.ones(n)}

    def weigh(self, losses: Tensor, state: State, now: Moment) -> Tensor:
        """The weights of this step."""
        weights, gradients = state["weights"].double(), now.gradients
        reference = gradients.names.index(self.reference)
        found = gradients.max_abs[reference] / (weights * gradients.mean_abs)
        found[reference] = 1
        return torch.lerp(found, weights, self.smoothing)

    def update(self, observed: Tensor, state: State, now: Moment) -> None:
        """Keep them."""
        state["weights"].copy_(self.weigh(observed, state, now))
