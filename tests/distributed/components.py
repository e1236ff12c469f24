"""A controller and balancers that adapt in every way that there is, in a few lines each."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lossweights.components.balancers import Balancer
from lossweights.components.context import State, StepContext
from lossweights.components.controllers import Controller


class Integral(Controller, kind="test-integral"):
    """The weight grows by how far the term is above its target, step by step."""

    target: float = 0.5

    def init(self) -> State:
        return {"sum": torch.tensor(1.0)}

    def weigh(self, value: Tensor, state: State, now: StepContext) -> Tensor:
        return state["sum"]

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        state["sum"] += 0.1 * (observed - self.target)


class InverseAverage(Balancer, kind="test-inverse-average"):
    """Each term over its running mean."""

    def init(self, n: int) -> State:
        return {"mean": torch.ones(n)}

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        return 1 / state["mean"]

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        state["mean"].lerp_(observed, 0.5)


class LearnedOverAverage(Balancer, kind="test-learned-over-average"):
    """Learned weights and a shared temperature, over running means: two parameters and a state."""

    def init(self, n: int) -> State:
        return {
            "mean": torch.ones(n),
            "logits": nn.Parameter(torch.zeros(n)),
            "temperature": nn.Parameter(torch.tensor(1.0)),
        }

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        return (state["logits"] * state["temperature"]).exp() / state["mean"]

    def penalty(self, state: State, now: StepContext) -> Tensor:
        return -state["logits"] + 0.1 * state["temperature"].square()

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        state["mean"].lerp_(observed, 0.5)
