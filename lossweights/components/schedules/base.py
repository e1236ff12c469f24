"""The base classes of schedules."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossweights.components.declaration import Component
from lossweights.components.durations import Duration, Horizon, steps
from lossweights.components.schedules.shapes import Values

Steps = NDArray[np.int64]

_BLOCK = 32768  # values that a curve computes at a time: call overhead hidden, malloc kept cheap


class Schedule(Component):
    """A weight as a pure function of the step.

    Step t is the number of optimizer steps already done: step 0 has the weight of the first
    update. A schedule answers for any step at all, and past its end it holds its last value.

    Anywhere a schedule is wanted a number stands for a constant one and, in Python, a function
    of the step for itself. A subclass implements `values`; one that stops moving at some step
    also says so in `ends`, which lets a run that is too short for it be reported.
    """

    @abstractmethod
    def values(self, steps: Steps, horizon: Horizon) -> Values:
        """The weight at each step, elementwise.

        Args:
            steps: int64, one axis, none below 0.
            horizon: What turns durations into steps: `horizon.steps(self.over)`.

        Returns:
            float64, one for each step.
        """

    def ends(self, horizon: Horizon) -> float | None:
        """The step from which the weight no longer changes; None where it never settles."""
        return None

    def final(self, horizon: Horizon) -> float:
        """Where the schedule ends up: its value when training ends.

        A cyclical or repeated schedule ends up at its `stop`, also when training ends within
        a cycle.

        Raises:
            HorizonError: For one that never settles, while the end of training is not known.
        """
        end = None if horizon.is_bounded else self.ends(horizon)
        step = horizon.span if end is None else int(np.ceil(end))
        return float(self.values(np.array([step], dtype=np.int64), horizon)[0])

    def __call__(self, steps: ArrayLike, horizon: Horizon | None = None) -> Values:
        """The weight at each step, with steps and values checked.

        Args:
            steps: Whole numbers of at least 0, any shape.
            horizon: Needed for percentages, epochs and cycles over the whole training.

        Raises:
            ValueError: For steps below 0 or not whole, and where `values` does not give one
                finite number for each.
            HorizonError: Where `horizon` does not say what a duration needs.
        """
        array = np.asarray(steps)
        if array.size and (array.dtype.kind not in "iu" or array.min() < 0):
            raise ValueError(f"steps are whole numbers of at least 0, found {steps!r}")
        line = array.astype(np.int64).reshape(-1)  # a copy: the steps may be for others too
        values = np.asarray(self.values(line, horizon or Horizon()), dtype=np.float64)
        if values.shape != line.shape:
            raise ValueError(
                f"{self!r}: values() gave shape {values.shape} for {line.size} steps; "
                "return one float for each"
            )
        # The sum is a quick look: only where it is not finite need each value be looked at.
        with np.errstate(over="ignore", invalid="ignore"):
            total = values.sum()
        if not np.isfinite(total) and not np.isfinite(values).all():
            step = line[~np.isfinite(values)][0]
            raise ValueError(f"{self!r} is not finite at step {step}")
        return values.reshape(array.shape)

    def at(
        self, step: int, *, total_steps: int | str | None = None, steps_per_epoch: int | None = None
    ) -> float:
        """The weight at one step.

        >>> from lossweights import Ramp
        >>> Ramp(start=0.0, stop=2.0, over="50%").at(25, total_steps=100)
        1.0
        """
        return float(self(np.array(step), Horizon(total_steps, steps_per_epoch)))

    def curve(self, total_steps: int | str, steps_per_epoch: int | None = None) -> Values:
        """The weight at every step of a training: an array of `total_steps` floats.

        >>> from lossweights import Ramp
        >>> Ramp(start=0.0, stop=1.0, over="4 steps").curve(total_steps=6)
        array([0.  , 0.25, 0.5 , 0.75, 1.  , 1.  ])
        """
        horizon = Horizon(total_steps, steps_per_epoch)
        total = horizon.span
        curve = np.empty(total)
        for start in range(0, total, _BLOCK):
            stop = min(start + _BLOCK, total)
            curve[start:stop] = self(np.arange(start, stop), horizon)
        return curve

    @classmethod
    def from_shorthand(cls, written: object) -> Self:
        """A number is a constant schedule, a function of the step is itself."""
        if isinstance(written, str) and written in cls.kinds():
            raise ValueError(f"a kind stands in a table: write {{kind: {written}}}")
        if isinstance(written, int | float | str | np.number) and not isinstance(written, bool):
            try:
                number = float(written)
            except ValueError:
                raise cls.not_a_member(written) from None
            return cls.of_kind("constant")(value=number)  # type: ignore[call-arg]
        if callable(written) and not isinstance(written, type):
            from lossweights.components.schedules.function import Function  # noqa: PLC0415

            return Function(function=written)  # type: ignore[return-value]
        if isinstance(written, type) and issubclass(written, cls):
            raise ValueError(f"{written.__name__} is a class: call it, {written.__name__}(...)")
        return super().from_shorthand(written)

    @classmethod
    def shorthand_json_schemas(cls) -> list[dict[str, Any]]:
        """A number is a constant schedule."""
        return [{"type": "number"}]


class DelayedSchedule(Schedule):
    """Base of schedules that may begin late: until then they hold their first value.

    Args:
        delay: How long to wait before the schedule begins.
    """

    delay: Duration | str = steps(0)

    def values(self, steps: Steps, horizon: Horizon) -> Values:
        wait = horizon.steps(self.delay)
        if wait == 0:
            return self.undelayed(steps, horizon)
        local = horizon.local(wait)
        values = self.undelayed(np.maximum(steps - wait, 0), local)
        return np.where(steps < wait, self.waiting(local), values)

    @abstractmethod
    def undelayed(self, steps: Steps, horizon: Horizon) -> Values:
        """The weight at each step since the delay; `horizon.span` ends with the training."""

    def waiting(self, horizon: Horizon) -> float:
        """The weight until the delay is over; one that jumps when it is over overrides this."""
        return float(self.undelayed(np.zeros(1, dtype=np.int64), horizon)[0])
