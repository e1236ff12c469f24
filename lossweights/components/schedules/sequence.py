"""One schedule after the other."""

from typing import Annotated, Self

import numpy as np
from pydantic import Field, model_validator

from lossweights.components.declaration import Declaration
from lossweights.components.durations import Duration, Horizon
from lossweights.components.schedules.base import Schedule, Steps
from lossweights.components.schedules.shapes import Values


class Stage(Declaration):
    """A part of a `Sequence`.

    Args:
        schedule: The schedule of the stage, called with the steps since the stage began.
        over: Length of the stage; only the last one may omit it, to take the rest of training.
    """

    schedule: Schedule
    over: Duration | str | None = None


class Sequence(Schedule, kind="sequence"):
    """One schedule after the other, each in its own time.

    A stage begins at its own step 0, and cycles that divide the training divide their stage, but a
    percentage is still of the whole training. After the last stage the weight keeps the value at
    which that stage ends.

    Args:
        stages: Tables of `schedule` and `over`; all but the last need their length.

    >>> from lossweights import Ramp
    >>> ramp = Stage(schedule=Ramp(start=0.0, stop=1.0, over="2 steps"), over="3 steps")
    >>> Sequence(stages=(ramp, Stage(schedule=0.5)))([0, 1, 2, 3, 99])
    array([0. , 0.5, 1. , 0.5, 0.5])
    """

    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _lengths(self) -> Self:
        for number, stage in enumerate(self.stages[:-1]):
            if stage.over is None:
                raise ValueError(f"stage {number} is not the last: give it a length, `over`")
        return self

    def values(self, steps: Steps, horizon: Horizon) -> Values:
        values = np.empty(steps.shape)
        for stage, begin, local in self._timetable(horizon):
            here = steps >= begin
            if stage.over is not None:
                here &= steps < begin + local.span
            values[here] = stage.schedule(steps[here] - begin, local)
        if stage.over is not None:
            values[steps >= begin + local.span] = stage.schedule.final(local)
        return values

    def ends(self, horizon: Horizon) -> float | None:
        stage, begin, local = self._timetable(horizon)[-1]
        end = stage.schedule.ends(local)
        if stage.over is not None:
            end = local.span if end is None else min(end, local.span)
        return None if end is None else begin + end

    def final(self, horizon: Horizon) -> float:
        timetable = self._timetable(horizon)
        if horizon.is_bounded:
            timetable = [row for row in timetable if row[1] < horizon.span] or timetable[:1]
        stage, begin, local = timetable[-1]
        if stage.over is not None and horizon.is_bounded and horizon.span < begin + local.span:
            return super().final(horizon)  # training ends within the stage
        return stage.schedule.final(local)

    def _timetable(self, horizon: Horizon) -> list[tuple[Stage, int, Horizon]]:
        """Each stage with its first step and its own horizon."""
        timetable, begin = [], 0
        for stage in self.stages:
            length = None if stage.over is None else horizon.steps(stage.over)
            timetable.append((stage, begin, horizon.local(begin, length)))
            begin += length or 0
        return timetable
