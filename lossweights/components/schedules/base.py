"""The base classes of schedules."""

import inspect
from abc import abstractmethod
from numbers import Real
from types import NoneType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import field_validator

from lossweights.components.declaration import Component
from lossweights.components.durations import Duration, Horizon, steps
from lossweights.components.json_schema import NUMBER
from lossweights.components.schedules.shapes import Values
from lossweights.components.schedules.staircase import may_be_held

Steps = NDArray[np.int64]

_BLOCK = 32768  # steps per call of `curve`: few calls, small arrays


class Schedule(Component):
    """A weight as a pure function of the step.

    Step t is the number of optimizer steps already done: step 0 has the weight of the first
    update. A schedule has a value at every step, and after its end it keeps its last one.

    A field typed as `Schedule` also reads a number, which is a constant schedule, and in Python a
    function of the step. A subclass implements `values`, and `ends` if it stops changing at some
    step, so that a training that is too short for it is reported. It need not know of `every`.

    Args:
        every: Interval for which the weight is held: it has the value of the interval's first step.
            By default it changes at each step.

    Raises:
        TypeError: At the definition of a class that has another field `every`.

    >>> from lossweights import Ramp
    >>> Ramp(start=0.0, stop=1.0, over="4 steps", every="2 steps")([0, 1, 2, 3, 4])
    array([0. , 0. , 0.5, 0.5, 1. ])
    """

    _in_float32 = False  # numpy computes it in float64
    every: Duration | str | None = None

    def __init_subclass__(cls, kind: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(kind=kind, **kwargs)
        for name in ("values", "ends", "final"):
            owner = next(base for base in cls.__mro__ if name in vars(base))
            if owner is cls or not issubclass(owner, Schedule):
                setattr(cls, name, may_be_held(getattr(cls, name)))

    @classmethod
    def __pydantic_init_subclass__(cls, kind: str = "", **kwargs: Any) -> None:
        owner = next(base for base in cls.__mro__ if "every" in inspect.get_annotations(base))
        if owner is not Schedule and cls.model_fields["every"].annotation is not NoneType:
            raise TypeError(
                f"{cls.__name__}: `every` is a field of all schedules, the interval for which the "
                "weight is held: give this field another name, such as `per`"
            )
        super().__pydantic_init_subclass__(kind=kind, **kwargs)

    @field_validator("every")
    @classmethod
    def _every_above_zero(cls, every: Duration | str | None) -> Duration | str | None:
        if every is not None and Duration.parse(every).value == 0:
            raise ValueError("give `every` a length above 0")
        return every

    @abstractmethod
    def values(self, steps: Steps, horizon: Horizon) -> Values:
        """The weight at each step, elementwise: float64, of the shape of `steps`.

        Args:
            steps: int64, one axis, at least 0.
            horizon: Converts durations into steps: `horizon.steps(self.over)`.
        """

    def ends(self, horizon: Horizon) -> float | None:
        """The step from which the weight no longer changes; None if it never settles."""
        return None

    @may_be_held
    def final(self, horizon: Horizon) -> float:
        """The value when training ends; of cycles the last value, even if it ends within a cycle.

        Raises:
            HorizonError: If the schedule never settles and the end of training is unknown.
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
            ValueError: For steps below 0 or not whole, and if `values` does not return one finite
                number for each.
            HorizonError: If `horizon` lacks what a duration needs.
            TypeError: If `horizon` is a number.
        """
        if isinstance(horizon, int):
            raise TypeError(
                f"the second argument is a Horizon: write Horizon(total_steps={horizon}), "
                f"or call schedule.at(step, total_steps={horizon})"
            )
        array = np.asarray(steps)
        if array.size and (array.dtype.kind not in "iu" or array.min() < 0):
            raise ValueError(f"steps must be whole numbers of at least 0, found {steps!r}")
        line = array.astype(np.int64).reshape(-1)  # a copy, which `values` may change
        values = np.asarray(self.values(line, horizon or Horizon()), dtype=np.float64)
        if values.shape != line.shape:
            raise ValueError(
                f"{self}: values() returned shape {values.shape} for {line.size} steps; "
                "return one float for each"
            )
        if not (finite := np.isfinite(values)).all():
            raise ValueError(f"{self} is not finite at step {line[~finite][0]}")
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
        curve = np.empty(horizon.span)
        for start in range(0, len(curve), _BLOCK):
            stop = min(start + _BLOCK, len(curve))
            curve[start:stop] = self(np.arange(start, stop), horizon)
        return curve

    def _begin(self, horizon: Horizon) -> int:
        """The step at which the first interval of `every` begins."""
        return 0

    def __str__(self) -> str:
        text = super().__str__()
        return f"{{kind: {text}}}" if text == self.kind else text  # a bare kind is not read

    @classmethod
    def from_shorthand(cls, written: object) -> Self:
        """Reads a number as a constant schedule, and a function of the step as itself."""
        if isinstance(written, str):
            try:
                float(written)
            except ValueError:
                fields = cls.of_kind(written).model_fields  # an unknown kind is an error
                needed = "".join(f", {n}: ..." for n, each in fields.items() if each.is_required())
                problem = f"a kind belongs in a table: write {{kind: {written}{needed}}}"
                raise ValueError(problem) from None
        if isinstance(written, Real | str) and not isinstance(written, bool):
            return cls.of_kind("constant")(value=written)  # type: ignore[call-arg]
        if callable(written) and not isinstance(written, type):
            from lossweights.components.schedules.function import Function  # noqa: PLC0415

            return Function(function=written)  # type: ignore[return-value]
        if isinstance(written, type):
            raise ValueError(f"{written.__name__} is a class: call it, {written.__name__}(...)")
        return super().from_shorthand(written)

    @classmethod
    def shorthand_json_schemas(cls) -> list[dict[str, Any]]:
        """A number is a constant schedule."""
        return [NUMBER]


class DelayedSchedule(Schedule):
    """Base of schedules that can begin late; until then they keep their first value.

    Args:
        delay: Time before the schedule begins.
    """

    delay: Duration | str = steps(0)

    def values(self, steps: Steps, horizon: Horizon) -> Values:
        wait = horizon.steps(self.delay)
        if wait == 0:
            return self.undelayed(steps, horizon)
        local = horizon.local(wait)
        values = self.undelayed(np.maximum(steps - wait, 0), local)
        return np.where(steps < wait, self.waiting(local), values)

    def _begin(self, horizon: Horizon) -> int:
        return horizon.steps(self.delay)

    @abstractmethod
    def undelayed(self, steps: Steps, horizon: Horizon) -> Values:
        """The weight at each step since the delay; `horizon` ends with the training."""

    def waiting(self, horizon: Horizon) -> float:
        """The weight during the delay; override it if the weight jumps at its end."""
        return float(self.undelayed(np.zeros(1, dtype=np.int64), horizon)[0])


def progress(steps: NDArray[Any], length: float) -> Values:
    """Each step as a fraction of `length`: 0 at step 0, 1 at the end; 1 if `length` is 0."""
    return steps / length if length else np.ones(steps.shape)
