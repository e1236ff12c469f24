"""Ramps: once from here to there."""

from __future__ import annotations

from lossweights.components.durations import Duration, Horizon
from lossweights.components.schedules.base import (
    DelayedSchedule,
    Steps,
    interpolate,
    progress,
)
from lossweights.components.schedules.shapes import LinearShape, Shape, Values


class Ramp(DelayedSchedule, kind="ramp"):
    r"""From `start` to `stop` along `shape`, then flat: $w(t) = a + (b - a) f(\min(t / T, 1))$.

    Args:
        start: Weight $a$ at step 0 and until the delay is over.
        stop: Weight $b$ from step $T$ on (after the delay).
        over: Length $T$ of the ramp; of 0, the weight is `stop` from the first step.
        shape: $f$: linear, cosine, sigmoid, exponential, power, hold, or one with options.
        delay: How long to wait before the ramp begins.

    >>> Ramp(start=0.0, stop=1.0, over="4 steps")([0, 1, 3, 4, 99])
    array([0.  , 0.25, 0.75, 1.  , 1.  ])
    """

    start: float
    stop: float
    over: Duration | str
    shape: Shape | str = LinearShape()

    def undelayed(self, steps: Steps, horizon: Horizon) -> Values:
        return interpolate(
            self.start, self.stop, self.shape, progress(steps, horizon.length(self.over))
        )

    def waiting(self, horizon: Horizon) -> float:
        return self.start

    def ends(self, horizon: Horizon) -> float:
        return horizon.steps(self.delay) + horizon.length(self.over)


class Warmup(DelayedSchedule, kind="warmup"):
    r"""From 0 to 1 along `shape`, then flat: $w(t) = f(\min(t / T, 1))$.

    Linear over the first part of training this is the monotonic annealing of the KL term of
    Bowman et al. 2016 (K16-1002), who used a sigmoid.

    Args:
        over: Length $T$ of the warm-up; of 0, the weight is 1 from the first step.
        shape: $f$: linear, cosine, sigmoid, exponential, power, hold, or one with options.
        delay: How long to stay at 0 before.

    >>> Warmup(over="4 steps", delay="2 steps")([0, 2, 3, 6, 99])
    array([0.  , 0.  , 0.25, 1.  , 1.  ])
    """

    over: Duration | str
    shape: Shape | str = LinearShape()

    def undelayed(self, steps: Steps, horizon: Horizon) -> Values:
        return interpolate(0.0, 1.0, self.shape, progress(steps, horizon.length(self.over)))

    def waiting(self, horizon: Horizon) -> float:
        return 0.0

    def ends(self, horizon: Horizon) -> float:
        return horizon.steps(self.delay) + horizon.length(self.over)
