"""Interpolation between given points."""

from itertools import pairwise
from typing import Annotated, Self

import numpy as np
from pydantic import Field, model_validator

from lossweights.components.durations import Duration, Horizon
from lossweights.components.schedules.base import Schedule, Steps, progress
from lossweights.components.schedules.shapes import LinearShape, Shape, Values, interpolate


class Piecewise(Schedule, kind="piecewise"):
    """Through the given points: along `shape` between two of them, constant before and after.

    Args:
        points: Pairs of a time and the weight at it, in rising order; at least one.
        shape: linear, cosine, sigmoid, exponential, gaussian, power, one with options, or hold,
            with which the weight jumps at each point: milestones.

    Raises:
        ValueError: For times that do not rise; times in different units are compared once the
            horizon is known.

    >>> Piecewise(points=(("0 steps", 1.0), ("4 steps", 0.0), ("6 steps", 0.5)))([0, 2, 4, 5, 99])
    array([1.  , 0.5 , 0.  , 0.25, 0.5 ])
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
        values = np.full(steps.shape, self.points[0][1])
        points = zip(self._times(horizon), (weight for _, weight in self.points), strict=True)
        for (begin, before), (end, after) in pairwise(points):
            here = steps >= begin
            way = progress(steps[here] - begin, end - begin)
            values[here] = interpolate(before, after, self.shape, way)
        return values

    def ends(self, horizon: Horizon) -> float:
        return self._times(horizon)[-1]

    def _times(self, horizon: Horizon) -> list[float]:
        times = [(time, horizon.length(time)) for time, _ in self.points]
        for (earlier, begin), (later, end) in pairwise(times):
            if end < begin:
                raise ValueError(
                    f"the times of `points` must rise, but {earlier} is {horizon.at(begin)} and "
                    f"{later} is {horizon.at(end)}"
                )
        return [step for _, step in times]
