"""Relative loss balancing with random lookback: by progress since the last and the first step."""

from __future__ import annotations

from typing import Annotated

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
    past and use the progress since the first step. It is drawn from `seed` and the step, the same
    on every rank and after a restart. The weights are 1 at the first step, and sum to $n$.

    Args:
        smoothing: $\alpha$; the weights move over about $1 / (1 - \alpha)$ steps.
        temperature: $T$; the higher, the more equal the weights.
        saudade: Probability of $\rho = 1$, a step without lookback.
        seed: Seed of the lookbacks.

    $b(t)$ weighs the losses of step $t + 1$, in the paper those of step $t$ itself: so it is an
    average over micro-batches and ranks. A loss that was 0 counts as unchanged.

    R. Bischof, M. Kraus, *Multi-objective loss balancing for physics-informed deep learning*, 2021,
    arXiv 2110.09813. The paper tunes all three for each equation; `smoothing` and `temperature` are
    the defaults of its training script, whose second step takes $\alpha = 0$. physicsnemo-sym has
    0.95, 1 and 0.99.

    >>> import torch
    >>> from lossweights import WeightedLoss
    >>> criterion = WeightedLoss(
    ...     terms=["pde", "boundary"], balancer={"kind": "relobralo", "smoothing": 0, "saudade": 1}
    ... )
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

    def init(self, n: int) -> State:
        return {
            "weights": torch.ones(n),
            "first": torch.zeros(n),
            "last": torch.zeros(n),
            "seen": torch.zeros(n),
        }

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        return state["weights"]

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        first, last = state["first"], state["last"]
        torch.where(state["seen"] > 0, first, observed, out=first)
        state["weights"].copy_(
            relobralo_weights(
                state["weights"],
                relative_weights(observed, last, self.temperature),
                relative_weights(observed, first, self.temperature)
                if fraction(self.seed, now.step) >= self.saudade
                else None,
                self.smoothing,
            )
        )
        last.copy_(observed)
        state["seen"].fill_(1)


def relobralo_weights(
    weights: Tensor, since_last: Tensor, since_first: Tensor | None, smoothing: float
) -> Tensor:
    r"""$\alpha\, b + (1 - \alpha)\, \beta(t, t - 1)$; in a lookback, $\beta(t, 0)$ replaces $b$.

    Args:
        weights: $b$, the weights so far.
        since_last: $\beta(t, t - 1)$.
        since_first: $\beta(t, 0)$ in a lookback, else None.
        smoothing: $\alpha$.
    """
    return torch.lerp(since_last, weights if since_first is None else since_first, smoothing)
