"""The base class of balancers with learned weights."""

import math
from typing import ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from lossweights.components.balancers.base import Balancer

_LARGEST = 69.0  # about 1e30; a term that is always 0 would exceed it


class LearnedBalancer(Balancer):
    """A balancer with a log-scale for each term: a parameter, see `criterion.param_groups()`.

    Args:
        initial: Log-scale of each term at the start.
        lowest: Lower bound of the log-scales; None for none.
        highest: Upper bound of the log-scales; None for none.
    """

    initial: float = 0.0
    lowest: float | None = None
    highest: float | None = None
    needs_positive: ClassVar[str] = "so its learned weight would grow without bound"

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

    def _bounded(self, value: Tensor, moved: Literal["up", "down"]) -> Tensor:
        """`value` within the bounds, for a part of the loss that moves it up, or down."""
        # Beyond a bound, only the gradient that moves it back counts. With a plain clamp neither
        # does, and a parameter that once crossed a bound stays there for good.
        low, high = self.lowest, self.highest
        if moved == "up":
            value = value if high is None else value.clamp(max=high)
            return value if low is None else _with_gradient(value.clamp(min=low), value)
        value = value if low is None else value.clamp(min=low)
        return value if high is None else _with_gradient(value.clamp(max=high), value)


def _with_gradient(bounded: Tensor, value: Tensor) -> Tensor:
    """The value of `bounded`, with the gradient of `value`."""
    return value + (bounded - value).detach()


def bounded_exp(log_scale: Tensor) -> Tensor:
    """The exponential, bounded to something very large instead of inf."""
    return torch.exp(log_scale.clamp(max=_LARGEST))
