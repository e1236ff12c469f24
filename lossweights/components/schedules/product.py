"""Several schedules multiplied."""

from typing import Annotated

import numpy as np
from pydantic import Field

from lossweights.components.durations import Horizon
from lossweights.components.schedules.base import Schedule, Steps
from lossweights.components.schedules.shapes import Values


class Product(Schedule, kind="product"):
    """Several schedules multiplied, such as cycles under an envelope that decays.

    Args:
        factors: The schedules; at least one.

    >>> from lossweights import Exponential
    >>> Product(factors=(2.0, Exponential(half_life="1 steps")))([0, 1, 2])
    array([2. , 1. , 0.5])
    """

    factors: Annotated[tuple[Schedule, ...], Field(min_length=1)]

    def values(self, steps: Steps, horizon: Horizon) -> Values:
        values = np.ones(steps.shape)
        for factor in self.factors:
            values = values * factor(steps, horizon)
        return values

    def ends(self, horizon: Horizon) -> float | None:
        ends = [factor.ends(horizon) for factor in self.factors]
        return None if None in ends else max(end for end in ends if end is not None)

    def final(self, horizon: Horizon) -> float:
        return float(np.prod([factor.final(horizon) for factor in self.factors]))
