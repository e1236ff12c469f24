"""What controllers share that hold a term, or a metric, to a bound."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator
from torch import Tensor

from lossweights.components.context import StepContext
from lossweights.components.controllers.base import Controller
from lossweights.components.numerics import LARGE
from lossweights.components.schedules import Schedule
from lossweights.errors import quoted

_BOUNDS = ("at_most", "at_least", "equal_to")


class Constraint(Controller):
    """Base of controllers that keep a constraint; exactly one bound is given.

    Args:
        at_most: The value is to be this or less; a number or a schedule.
        at_least: The value is to be this or more.
        equal_to: The value is to be this.
    """

    at_most: Schedule | None = None
    at_least: Schedule | None = None
    equal_to: Schedule | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        given = [name for name in _BOUNDS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"one bound is needed, found {quoted(given) if given else 'none'}: "
                "write `at_most: 1.5`, `at_least: 1.5` or `equal_to: 1.5`"
            )
        return self

    @property
    def bound(self) -> str:
        """The field that was given: `at_most`, `at_least` or `equal_to`."""
        return next(name for name in _BOUNDS if getattr(self, name) is not None)

    @property
    def sign(self) -> int:
        """-1 where the term is held up."""
        return -1 if self.bound == "at_least" else 1

    @property
    def stays_above_zero(self) -> bool:
        """Not where the term is held up, or from both sides."""
        return self.sign > 0 and self.bound != "equal_to"

    def violation(self, value: Tensor, now: StepContext) -> Tensor:
        """By how much the constraint is broken; below 0 where there is room left."""
        excess = (value - now[self.bound]).clamp(-LARGE, LARGE)
        return -excess if self.bound == "at_least" else excess
