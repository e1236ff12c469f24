"""The base class of controllers that keep a term or a metric within a bound."""

from typing import Self

from pydantic import ConfigDict, model_validator
from torch import Tensor

from lossweights.components.context import StepContext
from lossweights.components.controllers.base import Controller
from lossweights.components.json_schema import one_given
from lossweights.components.numerics import LARGE
from lossweights.components.schedules import Schedule
from lossweights.errors import quoted

_BOUNDS = ("at_most", "at_least", "equal_to")


class Constraint(Controller):
    r"""Base of controllers that keep a constraint; exactly one bound is given.

    Args:
        at_most: The bound $c$ for $v \le c$; a number or a schedule. One of the three is given.
        at_least: The bound for $v \ge c$.
        equal_to: The bound for $v = c$, with a multiplier of either sign.
    """

    model_config = ConfigDict(json_schema_extra=one_given(*_BOUNDS))
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
        """-1 for `at_least`, which holds the term up."""
        return -1 if self.bound == "at_least" else 1

    @property
    def stays_above_zero(self) -> bool:
        """Not for `equal_to`, nor with a `sign` of -1."""
        return self.sign > 0 and self.bound != "equal_to"

    def violation(self, value: Tensor, now: StepContext) -> Tensor:
        """By how much the constraint is violated; below 0 if it is satisfied with room to spare."""
        excess = (value - now[self.bound]).clamp(-LARGE, LARGE)
        return -excess if self.bound == "at_least" else excess
