"""A schedule that begins again in each cycle."""

import math
from typing import Annotated, Self

import numpy as np
from pydantic import Field, model_validator

from lossweights.components.durations import Duration, Horizon
from lossweights.components.schedules.base import Schedule, Steps
from lossweights.components.schedules.cycles import check_period, cycle_length, since_cycle_began
from lossweights.components.schedules.shapes import Values


class Repeat(Schedule, kind="repeat"):
    r"""A schedule that begins again in each cycle: $w(t) = s(t - \lfloor c P \rfloor)$.

    After the last cycle the weight keeps the value at which `schedule` ends.

    Args:
        schedule: $s$, called with the steps since the cycle began.
        cycles: $M$; without `period` they divide the training evenly.
        period: $P$, the length of a cycle; without `cycles` they go on forever.

    >>> from lossweights import Cyclical
    >>> Repeat(schedule=Cyclical(period="2 steps", ratio=1), period="3 steps")([0, 1, 2, 3, 4])
    array([0. , 0.5, 0. , 0. , 0.5])
    """

    schedule: Schedule
    cycles: Annotated[int, Field(ge=1)] | None = None
    period: Duration | str | None = None

    @model_validator(mode="after")
    def _period_above_zero(self) -> Self:
        if self.cycles is None and self.period is None:
            raise ValueError("give `period: 10 epochs`, `cycles: 4`, or both")
        check_period(self.period)
        return self

    def values(self, steps: Steps, horizon: Horizon) -> Values:
        period = cycle_length(self.period, self.cycles, horizon)
        if period == 0:
            return np.full(steps.shape, self.final(horizon))
        end = 2**62 if self.cycles is None else min(math.ceil(period * self.cycles), 2**62)
        local = since_cycle_began(np.minimum(steps, end), period, self.cycles).astype(np.int64)
        values = self.schedule(local, horizon.local(0, math.ceil(period)))
        if self.cycles is not None:
            over = steps >= end
            values = np.where(over, self.final(horizon), values) if over.any() else values
        return values

    def ends(self, horizon: Horizon) -> float | None:
        if self.period is None or self.cycles is None:
            return None
        return self.cycles * horizon.length(self.period)

    def final(self, horizon: Horizon) -> float:
        period = cycle_length(self.period, self.cycles, horizon)
        return self.schedule.final(horizon.local(0, math.ceil(period)))
