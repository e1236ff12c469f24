"""What a component that adapts is told of the time, and where its state lives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from torch import Tensor

from lossweights.durations import Duration, Horizon

State: TypeAlias = dict[str, Tensor]


class Moment:
    """When something happens, with the values of a component's scheduled fields then.

    `now["target"]` is the value of the field `target` at this step, a 0-dim float32 tensor. What
    runs inside a forward pass is told the values of its fields and nothing else: a compiled
    graph must not depend on the number of the step.

    Args:
        fields: Values of the fields that are schedules, by name.
        step: Optimizer steps done; None inside a forward pass.
        horizon: The length of training, as far as it is known.
        before: Steps that were done when the clock last stood still.
    """

    def __init__(
        self,
        fields: Mapping[str, Tensor] | None = None,
        step: int | None = None,
        horizon: Horizon | None = None,
        before: int = 0,
    ) -> None:
        self._fields = fields or {}
        self._step = step
        self._before = before
        self.horizon = horizon or Horizon()

    def __getitem__(self, field: str) -> Tensor:
        return self._fields[field]

    @property
    def step(self) -> int:
        """Optimizer steps done so far.

        Raises:
            RuntimeError: Inside a forward pass.
        """
        if self._step is None:
            raise RuntimeError(
                "the step is not known inside a forward pass: keep what you need of it in the "
                "state, in update(), or make the field a Schedule and read now['field']"
            )
        return self._step

    def passed(self, every: Duration | str) -> bool:
        """Whether a multiple of `every` was reached by the move of the clock to `step`.

        Raises:
            HorizonError: Where the horizon does not say what `every` needs.
        """
        length = max(1, self.horizon.steps(every))
        return self.step // length > self._before // length
