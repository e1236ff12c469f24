"""What the tests of controllers steer: small problems with known answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lossweights import Controller, Horizon, WeightedLoss
from lossweights.components.context import State, StepContext

Terms = Mapping[str, Tensor]


def moment(**fields: float) -> StepContext:
    """A moment with scheduled fields of these values."""
    values = {name: torch.tensor(value) for name, value in fields.items()}
    return StepContext(values, step=1, before=0, horizon=Horizon())


def fed(controller: Controller, observed: list[float], **fields: float) -> list[State]:
    """The states of a controller, at the start and after each of the values."""
    state = controller.init()
    states = [{key: tensor.clone() for key, tensor in state.items()}]
    for value in observed:
        controller.update(torch.tensor(value), state, moment(**fields))
        states.append({key: tensor.clone() for key, tensor in state.items()})
    return states


def column(states: list[State], name: str) -> Tensor:
    """One tensor of each state."""
    return torch.stack([state[name] for state in states])


def train(
    criterion: WeightedLoss,
    parameter: Tensor,
    terms: Callable[[Tensor], Terms],
    steps: int,
    learning_rate: float = 0.1,
) -> Terms:
    """Gradient descent on the weighted sum; the terms as they are at the end."""
    parameter.requires_grad_()
    optimizer = torch.optim.SGD([parameter], lr=learning_rate)
    criterion.follow(optimizer)
    for _ in range(steps):
        optimizer.zero_grad()
        criterion(terms(parameter)).backward()
        optimizer.step()
    with torch.no_grad():
        return terms(parameter)


def tradeoff(parameter: Tensor) -> Terms:
    """A likelihood that costs KL: with a weight w the optimum is 4 / (1 + w), its KL 8 / (1 + w)^2.

    So a KL of 2 is held by a weight of 1, and of 0.5 by a weight of 3.
    """
    return {"nll": 0.5 * (parameter - 4) ** 2, "kl": 0.5 * parameter**2}


def tradeoff_loss(controller: Any, **rest: Any) -> WeightedLoss:
    """The loss of `tradeoff`, its KL term under a controller."""
    return WeightedLoss(terms={"nll": 1.0, "kl": controller}, **rest)


def constrained(parameter: Tensor) -> Terms:
    """The squared distance from (2, 1), halved, and the sum of the parameters.

    Without a constraint the sum is 3. Held at another sum s, the optimum is (2, 1) less
    (3 - s) / 2 in each component, which is the multiplier.
    """
    return {
        "objective": 0.5 * ((parameter - torch.tensor([2.0, 1.0])) ** 2).sum(),
        "sum": parameter.sum(),
    }


def constrained_loss(controller: Any, **rest: Any) -> WeightedLoss:
    """The loss of `constrained`, its sum under a controller."""
    return WeightedLoss(terms={"objective": 1.0, "sum": controller}, **rest)
