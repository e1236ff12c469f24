"""What a component that adapts is told of the time, and where its state lives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from lossweights.components.durations import Duration, Horizon
from lossweights.components.gradients import Gradients

State: TypeAlias = dict[str, Tensor]


@dataclass
class When:
    """Where the clock stands.

    Args:
        horizon: The length of training, as far as it is known.
        step: Optimizer steps done.
        before: Steps that were done before the clock last moved.
    """

    horizon: Horizon
    step: int = 0
    before: int = 0


class Moment:
    """When something happens, with the values of a component's scheduled fields then.

    `now["target"]` is the value of the field `target` at this step, a 0-dim float32 tensor. What
    runs inside a forward pass is told the values of its fields and nothing else: a compiled
    graph must not depend on the number of the step. A balancer that weighs by gradients, which is
    never compiled, is told those and the step too.

    Args:
        fields: Values of the fields that are schedules, by name.
        when: Where the clock stands; None inside a forward pass.
        gradients: Of the terms, with respect to what they share; None where nobody asked.
    """

    __slots__ = ("_gradients", "_when", "fields")

    def __init__(
        self,
        fields: Mapping[str, Tensor],
        when: When | None = None,
        gradients: Gradients | None = None,
    ) -> None:
        self.fields = fields
        self._when = when
        self._gradients = gradients

    def __getitem__(self, field: str) -> Tensor:
        if field not in self.fields:
            raise ValueError(
                f"{field!r} is no scheduled field: type it Schedule (numbers may still be given), "
                f"or read it as self.{field}"
            )
        # A forward pass gets a copy: the clock may move, and write over it, before the backward.
        return self.fields[field].clone() if self._when is None else self.fields[field]

    @property
    def gradients(self) -> Gradients:
        """What is known of the terms' gradients.

        Raises:
            RuntimeError: In a component that does not weigh by gradients.
        """
        if self._gradients is None:
            raise RuntimeError("gradients are known to a GradientBalancer only: derive from that")
        return self._gradients

    def with_gradients(self, gradients: Gradients) -> Moment:
        """The same moment, with what is known of the terms' gradients."""
        return Moment(self.fields, self._when, gradients)

    @property
    def step(self) -> int:
        """Optimizer steps done so far.

        Raises:
            RuntimeError: Inside a forward pass.
        """
        return self._known().step

    @property
    def horizon(self) -> Horizon:
        """The length of training, as far as it is known.

        Raises:
            RuntimeError: Inside a forward pass.
        """
        return self._known().horizon

    def passed(self, every: Duration | str) -> bool:
        """Whether the clock has just reached, or gone past, a multiple of `every`.

        Raises:
            HorizonError: Where the horizon does not say what `every` needs.
            RuntimeError: Inside a forward pass.
        """
        when = self._known()
        length = max(1, when.horizon.steps(every))
        return when.step // length > when.before // length

    def _known(self) -> When:
        if self._when is None:
            raise RuntimeError(
                "the step is not known inside a forward pass: keep what you need of it in the "
                "state, in update(), or make the field a Schedule and read now['field']"
            )
        return self._when
