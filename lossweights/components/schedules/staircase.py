"""Schedules that are held for an interval."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from lossweights.components.durations import Duration, Horizon
from lossweights.components.schedules.cycles import cycle_length, since_cycle_began
from lossweights.components.schedules.shapes import Values

if TYPE_CHECKING:
    from lossweights.components.schedules.base import Schedule, Steps

Method = TypeVar("Method", bound=Callable[..., Any])

_LAST_STEP = 2**62  # later steps are taken for this one, so that floats of them fit int64


class Staircase(NamedTuple):
    r"""A schedule $s$ that is evaluated at the start of each interval: $s(\lfloor c P \rfloor)$.

    Args:
        schedule: $s$, which is not held itself.
        every: $P$, the length of an interval. The first one begins when the schedule does.
    """

    schedule: Schedule
    every: Duration | str

    def values(self, steps: Steps, horizon: Horizon) -> Values:
        """The values at the starts of the intervals of each step."""
        period, begin = self._intervals(horizon)
        if period == 0:  # a percentage of a training without steps
            return self.schedule.values(steps, horizon)
        local = np.minimum(np.maximum(steps - begin, 0), _LAST_STEP)
        since = since_cycle_began(local, period, None).astype(np.int64)
        return self.schedule.values(np.minimum(steps, begin + local) - since, horizon)

    def ends(self, horizon: Horizon) -> float | None:
        """The start of the first interval in which the schedule no longer changes."""
        end = self.schedule.ends(horizon)
        period, begin = self._intervals(horizon)
        if end is None or not math.isfinite(end) or end <= begin or period == 0:
            return end
        return begin + math.floor(math.ceil(math.ceil(end - begin) / period) * period)

    def final(self, horizon: Horizon) -> float:
        """The value that is held when training ends; of cycles their last value."""
        final = self.schedule.final(horizon)
        if not horizon.is_bounded:
            return final  # it has settled there
        end = np.array([horizon.span], dtype=np.int64)
        if not math.isclose(float(self.schedule.values(end, horizon)[0]), final):
            return final  # of a cycle, which may be a different one
        return float(self.values(end, horizon)[0])

    def _intervals(self, horizon: Horizon) -> tuple[Fraction, int]:
        """The length of an interval, and the step at which the first one begins."""
        return cycle_length(self.every, None, horizon), self.schedule._begin(horizon)  # noqa: SLF001


def may_be_held(method: Method) -> Method:
    """The method `values`, `ends` or `final`, or that of the `Staircase` if `every` is given.

    The schedule in the staircase has no `every`, so its methods may call each other.
    """

    @functools.wraps(method)
    def held(self: Schedule, *args: Any, **kwargs: Any) -> Any:
        if self.every is None:
            return method(self, *args, **kwargs)
        staircase = Staircase(self.model_copy(update={"every": None}), self.every)
        return getattr(staircase, method.__name__)(*args, **kwargs)

    return held  # type: ignore[return-value]
