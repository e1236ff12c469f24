"""A constant weight."""

import numpy as np

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

    def __str__(self) -> str:
        return written(self.value)

    def values(self, steps: Steps, horizon: Horizon) -> Values:
        return np.full(steps.shape, self.value)

    def ends(self, horizon: Horizon) -> float:
        return 0
