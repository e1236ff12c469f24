"""Once from one weight to another."""

from lossweights.components.durations import Duration, Horizon
from lossweights.components.schedules.base import DelayedSchedule, Steps, progress
from lossweights.components.schedules.shapes import LinearShape, Shape, Values, interpolate


class Ramp(DelayedSchedule, kind="ramp"):
    r"""From `start` to `stop` along `shape`, then flat: $w(t) = a + (b - a) f(\min(t / T, 1))$.

    Args:
        start: Weight $a$ at step 0 and during the delay.
        stop: Weight $b$ from step $T$ on (after the delay).
        over: Length $T$ of the ramp; if it is 0, the weight is `stop` from the first step.
        shape: $f$: linear, cosine, sigmoid, exponential, gaussian, power, hold, or one with
            options.

    >>> Ramp(start=0.0, stop=1.0, over="4 steps")([0, 1, 3, 4, 99])
    array([0.  , 0.25, 0.75, 1.  , 1.  ])
    """

    start: float
    stop: float
    over: Duration | str
    shape: Shape | str = LinearShape()

    def undelayed(self, steps: Steps, horizon: Horizon) -> Values:
        way = progress(steps, horizon.length(self.over))
        return interpolate(self.start, self.stop, self.shape, way)

    def waiting(self, horizon: Horizon) -> float:
        return self.start

    def ends(self, horizon: Horizon) -> float:
        return horizon.steps(self.delay) + horizon.length(self.over)
