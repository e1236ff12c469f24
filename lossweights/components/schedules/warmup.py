"""Once from 0 to 1."""

from lossweights.components.durations import Duration, Horizon
from lossweights.components.schedules.base import DelayedSchedule, Steps, progress
from lossweights.components.schedules.shapes import LinearShape, Shape, Values, interpolate


class Warmup(DelayedSchedule, kind="warmup"):
    r"""From 0 to 1 along `shape`, then flat: $w(t) = f(\min(t / T, 1))$.

    The monotonic annealing of a KL term: Bowman et al. 2016 (K16-1002), who used a sigmoid.

    Args:
        over: Length $T$ of the warm-up; if it is 0, the weight is 1 from the first step.
        shape: $f$: linear, cosine, sigmoid, exponential, gaussian, power, hold, or one with
            options.

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
