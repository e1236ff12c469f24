"""Cycles of a ramp and a plateau."""

from typing import Annotated, Self

import numpy as np
from pydantic import Field, model_validator

from lossweights.components.durations import Duration, Horizon
from lossweights.components.schedules.base import DelayedSchedule, Steps, progress
from lossweights.components.schedules.cycles import check_period, cycle_length, since_cycle_began
from lossweights.components.schedules.shapes import LinearShape, Shape, Values, interpolate


class Cyclical(DelayedSchedule, kind="cyclical"):
    r"""Cycles of a ramp from `start` to `stop` and a plateau at `stop`.

    Step $t$ is in cycle $c$, the last one with $\lfloor c P \rfloor \le t$, and

    $$w(t) = a + (b - a)\, f(\min(\tau / (R P), 1)), \qquad \tau = t - \lfloor c P \rfloor.$$

    After the last cycle the weight stays at `stop`.

    Args:
        cycles: $M$; without `period` they divide the training (after the delay) evenly, with
            $P = T / M$. 4 if neither is given.
        period: $P$, the length of a cycle; without `cycles` they go on forever.
        ratio: $R$, the fraction of a cycle that the ramp takes; above 0, at most 1.
        shape: $f$: linear, cosine, sigmoid, exponential, gaussian, power, hold, or one with
            options.
        start: Weight $a$ at the first step of a cycle, and during the delay.
        stop: Weight $b$ from the end of the ramp on.

    Cyclical annealing of the KL term of a VAE: Fu et al., NAACL 2019, N19-1021, with 4 cycles over
    the whole training and $R = 0.5$. In the paper's code `start` and `stop` are in the argument of
    the sigmoid or cosine, and some lengths of training raise IndexError.

    >>> Cyclical(cycles=2, ratio=0.5).curve(total_steps=8)
    array([0. , 0.5, 1. , 1. , 0. , 0.5, 1. , 1. ])
    """

    cycles: Annotated[int, Field(ge=1)] | None = None
    period: Duration | str | None = None
    ratio: Annotated[float, Field(gt=0, le=1)] = 0.5
    shape: Shape | str = LinearShape()
    start: float = 0.0
    stop: float = 1.0

    @model_validator(mode="after")
    def _period_above_zero(self) -> Self:
        check_period(self.period)
        return self

    def undelayed(self, steps: Steps, horizon: Horizon) -> Values:
        cycles = 4 if self.cycles is None and self.period is None else self.cycles
        period = cycle_length(self.period, cycles, horizon)
        if period == 0:
            return np.full(steps.shape, self.stop)
        local = since_cycle_began(steps, period, cycles)
        way = progress(local, self.ratio * float(period))
        return interpolate(self.start, self.stop, self.shape, way)

    def waiting(self, horizon: Horizon) -> float:
        return self.start

    def ends(self, horizon: Horizon) -> float | None:
        if self.period is None or self.cycles is None:
            return None  # the cycles last as long as the training
        length = (self.cycles - 1 + self.ratio) * horizon.length(self.period)
        return horizon.steps(self.delay) + length

    def final(self, horizon: Horizon) -> float:
        return self.stop
