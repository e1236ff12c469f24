"""Each term's gradient divided by a moving average of its norm."""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, field_validator
from torch import Tensor

from lossweights.components.balancers.gradient.base import GradientBalancer
from lossweights.components.context import State, Statistic, StepContext
from lossweights.components.numerics import LARGE, nan_for_inf
from lossweights.errors import shown

_EPSILON = 1e-12


class NormBalance(GradientBalancer, kind="norm-balance"):
    r"""Makes the weights the fraction of the gradient that comes from each term.

    $$b_i = \frac{N}{\epsilon + m_i}, \qquad m_i = \langle \lVert g_i \rVert \rangle_\beta,$$

    with the moving average $m_i$ of the norm, the current step included, and $\epsilon$ of 1e-12.
    Each balanced gradient has a norm of about $N$; the weights of the config are then the ratio in
    which terms count. The average begins with the first gradient that is not 0; until then the
    weight is 1, and the term is left out of the mean and the sum of the norms.

    Args:
        total: A number $R$ that the norms of the balanced gradients sum to: $N = R / n$ with $n$
            terms in this forward pass. Or $N$ itself: the `mean` or the `sum` of all $m_j$.
        smoothing: $\beta$; an average over about $1 / (1 - \beta)$ steps, from the first step on
            (bias correction, as in Adam).
        per_item: Whether the norm is the mean over the batch of the norm of each item's gradient,
            or that of the whole gradient.

    A. Défossez, J. Copet, G. Synnaeve, Y. Adi, *High fidelity neural audio compression*, TMLR 2023,
    arXiv 2210.13438, where the output of the model is shared, and $1 / n$ is
    $\lambda_i / \sum_j \lambda_j$ with the weights $\lambda$ of the config. For physics-informed
    networks: S. Wang, S. Sankaran, H. Wang, P. Perdikaris, *An expert's guide to training
    physics-informed neural networks*, 2023, arXiv 2308.08468, with all parameters
    (`per_item: false`), `total: sum` and `every: 1000 steps`. It averages the weights, not the
    norms; its code, jaxpi, has `total: mean`. PINA has `total: sum` and no average.

    >>> from lossweights import WeightedLoss
    >>> criterion = WeightedLoss(terms=["a", "b"], balancer="norm-balance")
    >>> outputs = torch.tensor([[3.0, 4.0], [0.0, 5.0]], requires_grad=True) + 0.0
    >>> terms = {"a": outputs.square().sum() / 2, "b": outputs[:, 0].sum() / 10}
    >>> _ = criterion(terms, shared=outputs)  # gradients of norm 5 and 0.1 for each item
    >>> {name: round(weight, 2) for name, weight in criterion.metrics(include=["weight"]).items()}
    {'weight/a': 0.1, 'weight/b': 5.0}
    """

    total: Literal["mean", "sum"] | Annotated[float, Field(gt=0, le=1e15)] = 1.0
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.999
    per_item: bool = True
    needs: ClassVar[tuple[Statistic, ...]] = ("norms", "item_norms")
    never_negative: ClassVar[tuple[str, ...]] = ("sum", "norm")

    @field_validator("total", mode="wrap")
    @classmethod
    def _one_message(cls, written: object, read: ValidatorFunctionWrapHandler) -> object:
        try:
            return read(written)
        except ValidationError:
            raise ValueError(
                f"mean, sum or a number above 0 and up to 1e15 is needed, found {shown(written)}"
            ) from None

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """The one of `needs` that is read."""
        return ("item_norms",) if self.per_item else ("norms",)

    def init(self, n: int) -> State:
        return {"sum": torch.zeros(n), "norm": torch.zeros(n)}

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        total, norm = self._averaged(state, now)
        return norm_balance_weights(total, norm, self.total)

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        total, norm = self._averaged(state, now)
        state["sum"].copy_(total)
        state["norm"].copy_(norm)

    def _averaged(self, state: State, now: StepContext) -> tuple[Tensor, Tensor]:
        """Decaying sums of norms, and of ones since the first norm above 0."""
        norms = now.gradients.item_norms if self.per_item else now.gradients.norms
        present = nan_for_inf(norms).clamp(max=LARGE)
        total = torch.lerp(present, state["sum"].double(), self.smoothing)
        norm = torch.lerp(torch.ones_like(total), state["norm"].double(), self.smoothing)
        return total, torch.where(total == 0, 0.0, norm)


def norm_balance_weights(sums: Tensor, counts: Tensor, total: str | float) -> Tensor:
    r"""$N / (\epsilon + m)$ with $m$ = `sums` / `counts`, mean norms; 1 if all norms were 0."""
    known = counts > 0
    means = torch.where(known, sums / counts, 0.0)
    whole = means.sum() if isinstance(total, str) else total
    parts = 1 if total == "sum" else known.sum() if total == "mean" else len(means)
    weights = (whole / (parts * (_EPSILON + means))).clamp(max=LARGE)
    return torch.where(known, weights, 1.0)
