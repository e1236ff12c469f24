"""Exponential decay."""

from typing import Annotated, Self

import numpy as np
from pydantic import ConfigDict, Field, model_validator

from lossweights.components.durations import Duration, Horizon
from lossweights.components.json_schema import one_given
from lossweights.components.schedules.base import DelayedSchedule, Steps
from lossweights.components.schedules.shapes import Values


class Exponential(DelayedSchedule, kind="exponential"):
    """From `start` towards `stop`: $w(t) = b + (a - b) r^{t/n}$.

    It never reaches `stop`; for a ramp that arrives use `ramp` with `shape: exponential`.

    Args:
        start: Weight $a$ at step 0 and during the delay.
        stop: Limit $b$.
        rate: $r$, the fraction of the way that is left after each `per`; between 0 and 1.
        per: $n$, the time to which `rate` refers; 1 step by default.
        half_life: Time after which half of the way is left; instead of `rate` and `per`.

    >>> Exponential(start=1.0, half_life="10 steps")([0, 10, 20])
    array([1.  , 0.5 , 0.25])
    """

    model_config = ConfigDict(json_schema_extra=one_given("rate", "half_life"))
    start: float = 1.0
    stop: float = 0.0
    rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    per: Duration | str | None = None
    half_life: Duration | str | None = None

    @model_validator(mode="after")
    def _rate_or_half_life(self) -> Self:
        if (self.rate is None) == (self.half_life is None):
            raise ValueError("give the speed: either `rate: 0.99` or `half_life: 10 epochs`")
        if self.half_life is not None and self.per is not None:
            raise ValueError("`per` belongs to `rate`: drop it beside `half_life`")
        if self.rate is not None and self.per is None and self.every is not None:
            raise ValueError(
                f"`every: {self.every}` holds the weight: also write `per`, the time that "
                f"`rate` refers to, such as `per: {self.every}` or `per: 1 steps`"
            )
        for length in (self.per, self.half_life):
            if length is not None and Duration.parse(length).value == 0:
                raise ValueError("give `per` and `half_life` a length above 0")
        return self

    def undelayed(self, steps: Steps, horizon: Horizon) -> Values:
        rate = 0.5 if self.rate is None else self.rate
        length = horizon.length(self.per or self.half_life or "1 steps")
        if length == 0:  # a percentage of a training without steps
            return np.full(steps.shape, self.start)
        values = self.stop + (self.start - self.stop) * rate ** (steps / length)
        return np.where(steps == 0, self.start, values)

    def final(self, horizon: Horizon) -> float:
        return super().final(horizon) if horizon.is_bounded else self.stop
