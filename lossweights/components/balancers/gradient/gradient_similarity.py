"""Auxiliary terms that count as far as their gradients agree with the primary term's."""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lossweights.components.balancers.base import refuse_unbalanced
from lossweights.components.balancers.gradient.base import GradientBalancer
from lossweights.components.context import State, Statistic, StepContext


class GradientSimilarity(GradientBalancer, kind="gradient-similarity"):
    r"""Lets auxiliary terms count as far as their gradients agree with the primary term's.

    $$b_i = \max(0, \cos(g_p, g_i)), \qquad b_p = 1.$$

    So the direction never conflicts with the primary term $p$, and training ends where that term
    alone has a minimum. Where its gradient is 0, all others have weight 0. If it is absent from a
    forward pass, all terms keep the weights of the last step, 1 at first.

    Args:
        primary: The term $p$.
        counting: How the others count: `weighted` by the cosine, or `gated`, 1 where it is above 0
            and else 0.

    Y. Du, W. Czarnecki, S. Jayakumar, M. Farajtabar, R. Pascanu, B. Lakshminarayanan, *Adapting
    auxiliary losses using gradient similarity*, 2018, arXiv 1812.02224, for the parameters that
    terms share. The other parameters have the plain gradients of their terms: `heads: plain`.

    >>> from lossweights import WeightedLoss
    >>> balancer = GradientSimilarity(primary="task")
    >>> criterion = WeightedLoss(terms=["task", "near", "against"], balancer=balancer)
    >>> x = torch.zeros(2, requires_grad=True)
    >>> terms = {"task": x[0], "near": 3 * x[0] + 4 * x[1], "against": x[1] - x[0]}
    >>> _ = criterion(terms, shared=x)
    >>> {name: round(weight, 2) for name, weight in criterion.metrics(include=["weight"]).items()}
    {'weight/task': 1.0, 'weight/near': 0.6, 'weight/against': 0.0}
    """

    primary: Annotated[str, Field(min_length=1)]
    counting: Literal["weighted", "gated"] = "weighted"
    needs: ClassVar[tuple[Statistic, ...]] = ("gramian",)
    needs_positive: ClassVar[str] = (
        "so the balancer would mistake its agreement with other terms for conflict"
    )

    def check_terms(self, names: tuple[str, ...]) -> None:
        """Raises ValueError for a primary term that is not a balanced one."""
        refuse_unbalanced("primary", self.primary, names)

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        names, gramian = now.gradients.names, now.gradients.gramian
        if self.primary not in names:
            return torch.full_like(gramian[0], torch.nan)
        index = names.index(self.primary)
        found = cosines_with(gramian, index).clamp(0, 1)
        if self.counting == "gated":
            found = found.ceil()
        found[index] = 1
        return found


def cosines_with(gramian: Tensor, index: int) -> Tensor:
    """The cosines of all gradients with that of one term; 0 for a gradient of 0."""
    norms = gramian.diagonal().sqrt()
    inverses = torch.where(norms == 0, 0.0, 1 / norms)
    return gramian[index] * inverses[index] * inverses
