"""Fast adaptive multitask optimization: all losses decrease at the same rate."""

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from lossweights.components.adam import adam_step
from lossweights.components.balancers.base import Balancer
from lossweights.components.context import State, StepContext

_EPSILON = 1e-8


class FAMO(Balancer, kind="famo"):
    r"""Makes the logarithms of all losses decrease at the same rate, from values alone (FAMO).

    With logits $\xi$ and $z = \mathrm{softmax}(\xi)$ the weights are those of
    $\sum_i z_i \log l_i$, scaled to sum to 1:

    $$b_i = \frac{z_i / l_i}{\sum_j z_j / l_j}.$$

    After the optimizer's step, `criterion.observe_after(terms)` passes the losses $l'$ of the same
    batch. A step of Adam then moves $\xi$ along the gradient of
    $\sum_i z_i (\log l_i - \log l_i')$: terms that decreased more than the others lose weight.
    Losses should be above 0: 1e-8 is added, and anything below counts as that.

    Args:
        learning_rate: Learning rate of Adam, for the logits.
        weight_decay: $\gamma$, added to the gradient as $\gamma \xi$, as in Adam, not AdamW.

    B. Liu, Y. Feng, P. Stone, Q. Liu, *FAMO: fast adaptive multitask optimization*, NeurIPS 2023,
    arXiv 2306.03792. The authors' code has decays of 1e-2, 1e-5 and 1e-3; torchjd and LibMTL 1e-3.

    >>> from lossweights import WeightedLoss
    >>> criterion = WeightedLoss(terms=["a", "b"], balancer="famo")
    >>> _ = criterion({"a": torch.tensor(3.0), "b": torch.tensor(1.0)})
    >>> {name: round(weight, 4) for name, weight in criterion.metrics(include=["weight"]).items()}
    {'weight/a': 0.25, 'weight/b': 0.75}
    """

    learning_rate: Annotated[float, Field(gt=0)] = 0.025
    weight_decay: Annotated[float, Field(ge=0)] = 1e-3
    instant: ClassVar[bool] = True
    learns_after: ClassVar[bool] = True
    never_negative: ClassVar[tuple[str, ...]] = ("second_moment", "count")

    def init(self, n: int) -> State:
        zeros = {key: torch.zeros(n) for key in ("logits", "first_moment", "second_moment")}
        return {**zeros, "before": torch.ones(n), "count": torch.zeros(())}

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        return famo_weights(losses, state["logits"])

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        state["before"] = observed

    def update_after(self, observed: Tensor, state: State, now: StepContext) -> None:
        logits = state["logits"]
        gradient = famo_gradient(state["before"], observed, logits)
        step = adam_step(gradient + self.weight_decay * logits, state)
        logits.sub_(step, alpha=self.learning_rate)


def famo_weights(losses: Tensor, logits: Tensor) -> Tensor:
    r"""$z_i / l_i$, scaled to sum to 1: $\mathrm{softmax}(\xi - \log l)$."""
    return torch.softmax(logits - _log(losses), dim=-1)


def famo_gradient(before: Tensor, after: Tensor, logits: Tensor) -> Tensor:
    r"""The gradient of $\sum_i z_i \delta_i$ in $\xi$, with $\delta = \log l - \log l'$."""
    gain = _log(before) - _log(after)
    shares = torch.softmax(logits, dim=-1)
    return shares * (gain - (shares * gain).sum())


def _log(losses: Tensor) -> Tensor:
    return (losses + _EPSILON).clamp(min=_EPSILON).log()
