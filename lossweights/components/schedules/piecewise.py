"""Interpolation between given points."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Self

import numpy as np
from pydantic import Field, model_validator

from lossweights.components.durations import Duration, Horizon
from lossweights.components.schedules.base import Schedule, Steps, progress
from lossweights.components.schedules.shapes import LinearShape, Shape, Values, interpolate


class Piecewise(Schedule, kind="piecewise"):
    """Through the given points: along `shape` between two of them, constant before and after.

    With `shape="hold"` the weight jumps at each point: milestones.

    Args:
        points: Pairs of a time and the weight at it, in rising order; at least one.
        shape: linear, cosine, sigmoid, exponential, power, hold, or one with options.

    Raises:
        ValueError: For times that do not rise; times in different units are compared once the
            horizon is known.

    >>> Piecewise(points=(("0 steps", 1.0), ("4 steps", 0.0), ("6 steps", 0.5)))([0, 2, 4, 5, 99])
    array([1.  , 0.5 , 0.  , 0.25, 0.5 ])
    >>> Piecewise(points=(("0 steps", 1.0), ("4 steps", 0.1)), shape="hold")([0, 3, 4])
    array([1. , 1. , 0.1])
    """

    points: Annotated[tuple[tuple[Duration | str, float], ...], Field(min_length=1)]
    shape: Shape | str = LinearShape()

    @model_validator(mode="after")
    def _rising(self) -> Self:
        times = [Duration.parse(time) for time, _ in self.points]
        for earlier, later in pairwise(times):
            if earlier.unit == later.unit and later.value <= earlier.value:
                raise ValueError(f"the times of `points` must rise, found {earlier} before {later}")
        return self

    def values(self, steps: Steps, horizon: Horizon) -> Values:
        times = self._times(horizon)
        values = np.full(steps.shape, self.points[0][1])
        for index, (begin, end) in enumerate(pairwise(times)):
            here = steps >= begin
            way = progress(steps[here] - begin, end - begin)
            before, after = self.points[index][1], self.points[index + 1][1]
            values[here] = interpolate(before, after, self.shape, way)
        return values

    def ends(self, horizon: Horizon) -> float:
        return self._times(horizon)[-1]

    def _times(self, horizon: Horizon) -> list[float]:
        times = [horizon.length(time) for time, _ in self.points]
        for index, (earlier, later) in enumerate(pairwise(times)):
            if later < earlier:
                raise ValueError(
                    f"the times of `points` must rise, but {self.points[index][0]} is step "
                    f"{earlier:g} and {self.points[index + 1][0]} is step {later:g}"
                )
        return times
