"""A constant weight."""

import numpy as np
from pydantic import field_validator

from lossweights.components.declaration import written
from lossweights.components.durations import Horizon
from lossweights.components.schedules.base import Schedule, Steps
from lossweights.components.schedules.shapes import Values


class Constant(Schedule, kind="constant"):
    """The same weight at every step.

    Args:
        value: The weight.

    >>> Constant(value=0.5)([0, 1, 1000])
    array([0.5, 0.5, 0.5])
    """

    value: float
    every: None = None

    @field_validator("every", mode="before")
    @classmethod
    def _has_nothing_to_hold(cls, every: object) -> object:
        if every is not None:
            raise ValueError("a constant is the same at every step: remove `every`")
        return every

    def __str__(self) -> str:
        return written(self.value)

    def values(self, steps: Steps, horizon: Horizon) -> Values:
        return np.full(steps.shape, self.value)

    def ends(self, horizon: Horizon) -> float:
        return 0
