"""Relative loss balancing with random lookback: by progress since the last and the first step."""

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from lossweights.components.balancers.base import Balancer
from lossweights.components.context import State, StepContext
from lossweights.components.numerics import relative_weights
from lossweights.components.random import fraction


class ReLoBRaLo(Balancer, kind="relobralo"):
    r"""Terms that made less progress since the last step, or the first, weigh more (ReLoBRaLo).

    With $\beta(t, t') = n\,\mathrm{softmax}\big(L(t) / (T L(t'))\big)$,

    $$b(t) = \alpha \big(\rho\, b(t - 1) + (1 - \rho)\, \beta(t, 0)\big)
    + (1 - \alpha)\, \beta(t, t - 1).$$

    $\rho$ is 1 with probability `saudade`, else 0: a lookback, in which the weights forget their
    past and use the progress since the first step. The weights are 1 at the first step, and sum to
    $n$. A loss that was 0 counts as unchanged.

    Args:
        smoothing: $\alpha$; the weights move over about $1 / (1 - \alpha)$ steps.
        temperature: $T$; the higher, the more equal the weights.
        saudade: Probability of $\rho = 1$, a step without lookback.
        seed: Seed of the lookbacks, which are the same on every rank and after a restart.

    R. Bischof, M. Kraus, *Multi-objective loss balancing for physics-informed deep learning*, 2021,
    arXiv 2110.09813, where $b(t)$ weighs the losses of step $t$ itself, here those of step $t + 1$.
    `smoothing` and `temperature` are those of the paper's script; physicsnemo-sym: 0.95, 1, 0.99.

    >>> from lossweights import WeightedLoss
    >>> balancer = ReLoBRaLo(smoothing=0, saudade=1)
    >>> criterion = WeightedLoss(terms=["pde", "boundary"], balancer=balancer)
    >>> for pde in (4.0, 1.0):
    ...     _ = criterion({"pde": torch.tensor(pde), "boundary": torch.tensor(2.0)})
    ...     criterion.step()
    >>> {name: round(weight, 3) for name, weight in criterion.weights.items()}
    {'pde': 0.642, 'boundary': 1.358}
    """

    smoothing: Annotated[float, Field(ge=0, le=1)] = 0.999
    temperature: Annotated[float, Field(gt=0)] = 1.0
    saudade: Annotated[float, Field(ge=0, le=1)] = 0.99
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    never_negative: ClassVar[tuple[str, ...]] = ("seen",)

    def init(self, n: int) -> State:
        return {"weights": torch.ones(n)} | {k: torch.zeros(n) for k in ("first", "last", "seen")}

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        return state["weights"]

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        first = torch.where(state["seen"] > 0, state["first"], observed)
        since_last = relative_weights(observed, state["last"], self.temperature)
        since_first = None
        if fraction(self.seed, now.step) >= self.saudade:
            since_first = relative_weights(observed, first, self.temperature)
        weights = relobralo_weights(state["weights"], since_last, since_first, self.smoothing)
        state |= {"weights": weights, "first": first, "last": observed}
        state["seen"].fill_(1)


def relobralo_weights(
    weights: Tensor, since_last: Tensor, since_first: Tensor | None, smoothing: float
) -> Tensor:
    r"""$\alpha\, b + (1 - \alpha)\, \beta(t, t - 1)$; in a lookback, $\beta(t, 0)$ replaces $b$."""
    return torch.lerp(since_last, weights if since_first is None else since_first, smoothing)
