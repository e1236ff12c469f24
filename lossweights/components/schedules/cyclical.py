"""Cycles: the same again and again, as a ramp with a plateau or as any schedule repeated."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Annotated, Self

import numpy as np
from pydantic import Field, model_validator

from lossweights.components.durations import Duration, Horizon
from lossweights.components.schedules.base import (
    DelayedSchedule,
    Schedule,
    Steps,
    interpolate,
    progress,
)
from lossweights.components.schedules.shapes import LinearShape, Shape, Values


class Cyclical(DelayedSchedule, kind="cyclical"):
    r"""Cycles of a ramp from `start` to `stop` and a plateau at `stop`.

    Step $t$ lies in cycle $c$, the last one with $\lfloor c P \rfloor \le t$, and

    $$w(t) = a + (b - a)\, f(\min(\tau / (R P), 1)), \qquad \tau = t - \lfloor c P \rfloor.$$

    Cyclical annealing of the KL term of a VAE: Fu et al., NAACL 2019, N19-1021, whose $M = 4$
    cycles over the whole training and $R = 0.5$ are the defaults. After the last cycle the
    weight stays at `stop`.

    Args:
        cycles: $M$; without `period` they share the training (after the delay) evenly, with
            $P = T / M$. 4 where neither is given.
        period: $P$, the length of a cycle; without `cycles` there is no last one.
        ratio: $R$, the part of a cycle that the ramp takes; above 0, at most 1.
        shape: $f$: linear, cosine, sigmoid, exponential, power, hold, or one with options.
        start: Weight $a$ at the first step of a cycle.
        stop: Weight $b$ from the end of the ramp on.
        delay: How long to hold `start` before the first cycle begins.

    In the paper's code `start` and `stop` lie in the argument of sigmoid and cosine, its sigmoid
    runs from 0.0025 to 0.9975, and some lengths of training raise IndexError; here they are the
    weights themselves, both ends are exact, and every length works.

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
    def _check_period(self) -> Self:
        _refuse_empty(self.period)
        return self

    def undelayed(self, steps: Steps, horizon: Horizon) -> Values:
        cycles = 4 if self.cycles is None and self.period is None else self.cycles
        period = _period(self.period, cycles, horizon)
        if period == 0:
            return np.full(steps.shape, self.stop)
        local = since_cycle_began(steps, period, cycles)
        return interpolate(
            self.start, self.stop, self.shape, progress(local, self.ratio * float(period))
        )

    def waiting(self, horizon: Horizon) -> float:
        return self.start

    def ends(self, horizon: Horizon) -> float | None:
        if self.period is None or self.cycles is None:
            return None  # as long as the training, however long that is
        cycles = self.cycles - 1 + self.ratio
        return horizon.steps(self.delay) + cycles * horizon.length(self.period)

    def final(self, horizon: Horizon) -> float:
        return self.stop


class Repeat(Schedule, kind="repeat"):
    r"""A schedule begun anew each cycle: $w(t) = s(t - \lfloor c P \rfloor)$.

    Args:
        schedule: $s$, which sees the steps since its cycle began.
        cycles: $M$; without `period` they share the training evenly.
        period: $P$, the length of a cycle; without `cycles` there is no last one.

    After the last cycle the weight stays where `schedule` ends up.

    >>> Repeat(schedule=Cyclical(period="2 steps", ratio=1), period="3 steps")([0, 1, 2, 3, 4])
    array([0. , 0.5, 0. , 0. , 0.5])
    """

    schedule: Schedule
    cycles: Annotated[int, Field(ge=1)] | None = None
    period: Duration | str | None = None

    @model_validator(mode="after")
    def _check_period(self) -> Self:
        if self.cycles is None and self.period is None:
            raise ValueError("say how often: `period: 10 epochs`, `cycles: 4`, or both")
        _refuse_empty(self.period)
        return self

    def values(self, steps: Steps, horizon: Horizon) -> Values:
        period = _period(self.period, self.cycles, horizon)
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
        period = _period(self.period, self.cycles, horizon)
        return self.schedule.final(horizon.local(0, math.ceil(period)))


def since_cycle_began(steps: Steps, period: Fraction, cycles: int | None) -> Values:
    r"""For each step the whole steps since its cycle began: $t - \lfloor c P \rfloor$.

    Args:
        steps: int64, none below 0.
        period: $P$, above 0; a fraction, so that the floors are those of exact arithmetic.
        cycles: How many there are: in the last one the steps count on without end.

    >>> since_cycle_began(np.arange(7), Fraction(5, 2), None)
    array([0., 1., 0., 1., 2., 0., 1.])
    """
    # In float64: sums and products of whole numbers are exact, and one division is rounded too
    # little to cross a whole number as long as (t + 1) * denominator stays under 2**53.
    above, below = float(period.numerator), float(period.denominator)
    time = steps.astype(np.float64)
    cycle = time * below
    cycle += below - 1.0
    cycle /= above
    np.floor(cycle, out=cycle)
    if cycles is not None:
        np.minimum(cycle, cycles - 1.0, out=cycle)
    cycle *= above
    if below != 1.0:
        cycle /= below
        np.floor(cycle, out=cycle)
    time -= cycle
    return np.maximum(time, 0.0, out=time)  # which rounding of steps beyond 2**53 may cross


def _period(period: Duration | str | None, cycles: int | None, horizon: Horizon) -> Fraction:
    if period is None:
        return Fraction(horizon.span, cycles or 1)
    return Fraction(horizon.length(period)).limit_denominator(10_000)


def _refuse_empty(period: Duration | str | None) -> None:
    if period is not None and Duration.parse(period).value == 0:
        raise ValueError("a cycle takes time: give `period` a length above 0")
