"""What balancers with learned weights share: a log-scale for each term, within bounds."""

from __future__ import annotations

import math
from typing import ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from lossweights.components.balancers.base import Balancer

_LARGEST = 69.0  # about 1e30, which a term that is always 0 would pass


class LearnedBalancer(Balancer):
    """A balancer of which the user's optimizer learns a log-scale for each term.

    Args:
        initial: Log-scale of each term at the start.
        lowest: Lower bound of the log-scales; None for none.
        highest: Upper bound of the log-scales; None for none.
    """

    initial: float = 0.0
    lowest: float | None = None
    highest: float | None = None

    needs_positive: ClassVar[str] = "under which a weight that the balancer learns grows for ever"

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        low = -math.inf if self.lowest is None else self.lowest
        high = math.inf if self.highest is None else self.highest
        if not low < high or not low <= self.initial <= high:
            raise ValueError(
                "lowest < highest with initial between them is needed, found lowest "
                f"{self.lowest}, highest {self.highest}, initial {self.initial}"
            )
        return self

    def _bounded(self, value: Tensor, drawn: Literal["up", "down"]) -> Tensor:
        """`value` within the bounds, for a part of the loss that draws it up, or down.

        Past a bound, only the part that draws back is felt. With a plain clamp neither is, and a
        parameter that once crossed a bound would stay there for good; with both it would go ever
        further, and need as long to come back.
        """
        low, high = self.lowest, self.highest
        if drawn == "up":
            value = value if high is None else value.clamp(max=high)
            return value if low is None else _still_felt(value.clamp(min=low), value)
        value = value if low is None else value.clamp(min=low)
        return value if high is None else _still_felt(value.clamp(max=high), value)


def _still_felt(bounded: Tensor, value: Tensor) -> Tensor:
    """The value of `bounded`, with the gradient of `value`."""
    return value + (bounded - value).detach()


def bounded_exp(log_scale: Tensor) -> Tensor:
    """The exponential, and something very large where it would be inf."""
    return torch.exp(log_scale.clamp(max=_LARGEST))
