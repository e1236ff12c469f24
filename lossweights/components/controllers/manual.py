"""A weight that is set by hand."""

from typing import Annotated, ClassVar, Self

import torch
from pydantic import WithJsonSchema, model_validator
from torch import Tensor

from lossweights.components.context import State, StepContext
from lossweights.components.controllers.base import Controller, check_bounds


class Manual(Controller, kind="manual"):
    """A weight that keeps its value until `criterion.set_weight` sets another one.

    The new weight counts from the next forward pass. It is saved in checkpoints and logged as
    `controller/<term>/weight`. On several ranks, set it on each.

    Args:
        initial: The weight at the start.
        lowest: The smallest weight that can be set.
        highest: The largest.

    >>> from lossweights import Manual, WeightedLoss
    >>> criterion = WeightedLoss(terms={"nll": 1.0, "kl": Manual(initial=0.1)})
    >>> criterion.set_weight("kl", 0.3)
    >>> round(criterion.weights["kl"], 4)
    0.3
    """

    initial: float = 1.0
    lowest: float = 0.0
    highest: float = 1e6
    source: Annotated[str | None, WithJsonSchema({"type": "null"})] = None
    observes: ClassVar[bool] = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_bounds(self.lowest, self.initial, self.highest)
        if self.source is not None:
            raise ValueError(
                f"a manual weight observes nothing, found source: {self.source}: remove it, and "
                "call criterion.set_weight(...)"
            )
        return self

    @property
    def sign(self) -> float:
        """The weight in evaluation: `initial`, so that the totals of one run compare."""
        return self.initial

    @property
    def stays_above_zero(self) -> bool:
        """Whether no weight below 0 can be set."""
        return self.lowest >= 0

    def init(self) -> State:
        return {"weight": torch.tensor(self.initial, dtype=torch.float32)}

    def weigh(self, value: Tensor, state: State, now: StepContext) -> Tensor:
        # A checkpoint may be of a config with other bounds.
        return state["weight"].clamp(self.lowest, self.highest)

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        pass  # only `set_weight` changes it
