"""Small components that adapt, for the tests of what calls them."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from lossweights import Balancer, Controller, Schedule, State, StepContext, Transform

NOTHING = Schedule.read(0.0)
ONE = Schedule.read(1.0)


def leaf(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """A loss."""
    return torch.tensor(value, dtype=dtype, requires_grad=True)


def losses(**values: float) -> dict[str, Tensor]:
    """Losses by name."""
    return {name: leaf(value) for name, value in values.items()}


class Recording(Balancer, kind="test-recording"):
    """Notes what it is told; its weights are 1 and grow by `speed` at each update."""

    speed: Schedule = ONE

    def init(self, n: int) -> State:
        return {
            "weights": torch.ones(n),
            "observed": torch.zeros(n),
            "step": torch.zeros(()),
            "updates": torch.zeros((), dtype=torch.int64),
        }

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        return state["weights"]

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        state["weights"] += now["speed"]
        state["observed"].copy_(observed)
        state["step"].fill_(now.step)
        state["updates"] += 1


class Shares(Balancer, kind="test-shares"):
    """By the share in the sum of the losses, as they are now."""

    scale: Schedule = ONE
    instant: ClassVar[bool] = True

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        return now["scale"] * losses / losses.sum()


class Priced(Balancer, kind="test-priced"):
    """Hands out what is learned as it is, at a price."""

    price: Schedule = ONE
    initial: float = 1.0

    def init(self, n: int) -> State:
        return {"learned": nn.Parameter(torch.full((n,), self.initial)), "updates": torch.zeros(n)}

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        return state["learned"]

    def penalty(self, state: State, now: StepContext) -> Tensor:
        return now["price"] * state["learned"].square()

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        state["updates"] += 1


class Comparing(Balancer, kind="test-comparing"):
    """Notes the losses after the step, and that alone."""

    speed: Schedule = ONE

    learns_after: ClassVar[bool] = True

    def init(self, n: int) -> State:
        return {"weights": torch.ones(n), "after": torch.zeros(n)}

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        return state["weights"]

    def update_after(self, observed: Tensor, state: State, now: StepContext) -> None:
        state["weights"] += now["speed"]
        state["after"].copy_(observed)


class Counting(Controller, kind="test-counting"):
    """Notes what it is told; its weight is 1, and 1 more after each update."""

    target: Schedule = NOTHING

    def init(self) -> State:
        return {
            "coefficient": torch.ones(()),
            "observed": torch.zeros(()),
            "target": torch.zeros(()),
            "step": torch.zeros((), dtype=torch.int64),
        }

    def weigh(self, value: Tensor, state: State, now: StepContext) -> Tensor:
        return state["coefficient"]

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        state["coefficient"] += 1
        state["observed"].copy_(observed)
        state["target"].copy_(now["target"])
        state["step"].fill_(now.step)


class Following(Controller, kind="test-following"):
    """The value as it is now, and the target, are the weight."""

    target: Schedule = NOTHING
    instant: ClassVar[bool] = True

    def init(self) -> State:
        return {}

    def weigh(self, value: Tensor, state: State, now: StepContext) -> Tensor:
        return value + now["target"]

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        """Learns nothing."""


class Offset(Transform, kind="test-offset"):
    """The value less a scheduled offset."""

    offset: Schedule = ONE

    def apply(self, value: Tensor, state: State, now: StepContext) -> Tensor:
        return value - now["offset"]


class Centred(Transform, kind="test-centred"):
    """The value less what it was over the step before."""

    def init(self) -> State:
        return {"last": torch.zeros(()), "step": torch.zeros(())}

    def apply(self, value: Tensor, state: State, now: StepContext) -> Tensor:
        return value - state["last"]

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        state["last"].copy_(observed)
        state["step"].fill_(now.step)
