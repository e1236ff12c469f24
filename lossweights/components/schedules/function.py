"""A Python function as a schedule."""

from collections.abc import Callable
from typing import Annotated

import numpy as np
from pydantic import BaseModel, PlainSerializer

from lossweights.components.durations import Horizon
from lossweights.components.schedules.base import Schedule, Steps
from lossweights.components.schedules.shapes import Values


def _name(function: Callable[[int], float]) -> str:
    return str(getattr(function, "__qualname__", repr(function)))


def _cannot_be_saved(function: Callable[[int], float]) -> str:
    raise ValueError(
        f"the schedule {_name(function)} is a Python function, which a file cannot contain: "
        'make it a class, `class Mine(Schedule, kind="mine")`'
    )


class Function(Schedule):
    """A Python function of the step; it has no kind, since a file cannot contain it.

    In training it is called for one step at a time, when that step begins. If the length of
    training is known, it is not called for steps after its end.

    Args:
        function: From the step (an int) to the weight (a float).

    Raises:
        ValueError: If the function raises, naming the step.

    >>> Function(function=lambda step: 1 / (1 + step))([0, 1, 3])
    array([1.  , 0.5 , 0.25])
    """

    function: Annotated[Callable[[int], float], PlainSerializer(_cannot_be_saved)]

    def __str__(self) -> str:
        return f"the function {_name(self.function)}"

    def values(self, steps: Steps, horizon: Horizon) -> Values:
        if horizon.is_bounded:
            steps = np.minimum(steps, max(horizon.span - 1, 0))
        asked, places = np.unique(steps, return_inverse=True)
        return np.array([self._at(int(step)) for step in asked])[places]

    def _at(self, step: int) -> float:
        try:
            return float(self.function(step))
        except Exception as error:
            raise ValueError(f"{self} failed at step {step}: {error!r}") from error


def calls_function(part: object) -> bool:
    """Whether a schedule is a function, or has one inside."""
    return contains(part, Function)


def contains(part: object, wanted: type[Schedule]) -> bool:
    """Whether a part of a config is a schedule of a class, or has one inside."""
    if isinstance(part, wanted):
        return True
    if isinstance(part, BaseModel):
        part = list(vars(part).values())
    return isinstance(part, tuple | list) and any(contains(each, wanted) for each in part)
