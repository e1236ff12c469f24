"""Learning-rate annealing: gradients near the size of one term's gradient."""

from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from lossweights.components.balancers.base import refuse_unbalanced
from lossweights.components.balancers.gradient.base import GradientBalancer
from lossweights.components.context import State, Statistic, StepContext
from lossweights.components.numerics import nan_for_inf


class LRAnnealing(GradientBalancer, kind="lr-annealing"):
    r"""Brings all gradients towards the size of the reference's (learning-rate annealing).

    $$\hat b_i = \frac{\max |g_r|}{\mathrm{mean}\, |b_i g_i|},
    \qquad b_i \leftarrow \beta\, b_i + (1 - \beta)\, \hat b_i.$$

    The reference $r$ has weight 1, as have all terms at first. Since $b_i$ is in the denominator
    too, it settles at the square root of $\max |g_r| / \mathrm{mean}\, |g_i|$; without smoothing it
    would oscillate forever, which is refused. A term whose gradient is 0 keeps its weight; all
    terms do if the reference is absent or its gradient is 0.

    Args:
        reference: The term $r$; for a physics-informed network the residual of the equation.
        smoothing: $\beta$; the weights move over about $1 / (1 - \beta)$ steps.
        statistic: What others are compared to: the largest entry (`max`) or the mean of $|g_r|$.
        compared: Whether the gradients of the others are compared `weighted`, as above, or
            `plain`, $\mathrm{mean}\, |g_i|$: then $b_i$ settles at the quotient itself.
        highest: Upper bound of $\hat b$.

    S. Wang, Y. Teng, P. Perdikaris, *Understanding and mitigating gradient flow pathologies in
    physics-informed neural networks*, SIAM Journal on Scientific Computing 2021, arXiv 2001.04536,
    for all weights of the network, every 10 steps. The paper has $1 - \beta = 0.1$, the preprint
    0.9. `weighted` is the algorithm as the journal prints it, and the authors' code; `plain` is the
    one that the paper derives. physicsnemo-sym has `plain`, `mean`, and $1 - \beta = 0.01$.

    >>> from lossweights import WeightedLoss
    >>> balancer = LRAnnealing(reference="residual")
    >>> criterion = WeightedLoss(terms=["residual", "boundary"], balancer=balancer)
    >>> weights = torch.tensor([3.0, 4.0], requires_grad=True)
    >>> terms = {"residual": weights.square().sum() / 2, "boundary": weights.sum() / 10}
    >>> _ = criterion(terms, shared=weights)  # 0.9 of the first weight, and 0.1 of 4 / 0.1
    >>> {name: round(weight, 2) for name, weight in criterion.metrics(include=["weight"]).items()}
    {'weight/residual': 1.0, 'weight/boundary': 4.9}
    """

    reference: Annotated[str, Field(min_length=1)]
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.9
    statistic: Literal["max", "mean"] = "max"
    compared: Literal["weighted", "plain"] = "weighted"
    highest: Annotated[float, Field(gt=0, le=1e30)] = 1e6
    needs: ClassVar[tuple[Statistic, ...]] = ("max_abs", "mean_abs")

    @model_validator(mode="after")
    def _settles(self) -> Self:
        if self.compared == "weighted" and self.smoothing == 0:
            raise ValueError(
                "with smoothing: 0 and compared: weighted, each weight is divided by itself and "
                "oscillates forever: write smoothing: 0.9, or compared: plain"
            )
        return self

    def check_terms(self, names: tuple[str, ...]) -> None:
        """Raises ValueError for a reference that is not a balanced term."""
        refuse_unbalanced("reference", self.reference, names)

    def init(self, n: int) -> State:
        return {"weights": torch.ones(n)}

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        weights, gradients = state["weights"].double(), now.gradients
        if self.reference not in gradients.names:
            return weights
        index = gradients.names.index(self.reference)
        means = nan_for_inf(gradients.mean_abs)
        sizes = nan_for_inf(gradients.max_abs) if self.statistic == "max" else means
        others = means * weights if self.compared == "weighted" else means
        found = annealed_ratios(sizes[index], others, weights, self.highest)
        found[index] = 1
        return torch.lerp(found, weights, self.smoothing)

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        state["weights"].copy_(self.weigh(observed, state, now))


def annealed_ratios(size: Tensor, means: Tensor, weights: Tensor, highest: float) -> Tensor:
    r"""$\hat b$, `size` of the reference by `means`; the current weights for a gradient of 0."""
    known = (size != 0) & (means != 0)
    return torch.where(known, (size / means).clamp(max=highest), weights)
