"""The base class of controllers."""

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from lossweights.components.context import State, StepContext
from lossweights.components.declaration import Component


class Controller(Component):
    """One term's weight, adjusted by feedback from the term's own value or from a metric.

    State is declared by `init` and owned by the criterion, which saves and moves it and keeps it
    equal over ranks. Once per optimizer step `update` is called with the mean of the values seen
    since the last one; if no finite value was seen, its changes are discarded. A field typed as
    `Schedule` reads a number or a schedule; its value is `now["field"]`. `now.terms` has the term's
    name.

    Args:
        source: Watched in place of the term itself: another term, or a metric that is passed to
            `criterion.observe(<source>=value)`.

    Attributes:
        instant: Whether `weigh` reads the value of the forward pass that it weighs. Its weights
            are then those of a micro-batch and of a rank, not of a step.
        observes: Whether `update` learns from observed values.
    """

    instant: ClassVar[bool] = False
    observes: ClassVar[bool] = True
    source: str | None = None

    @property
    def sign(self) -> float:
        """The weight in evaluation, where controllers do not count: -1 if it holds its term up."""
        return 1

    @property
    def stays_above_zero(self) -> bool:
        """Whether its weights are never negative."""
        return self.sign > 0

    @abstractmethod
    def init(self) -> State:
        """The state at the start: 0-dim tensors by name, reported as `controller/<term>/<name>`."""

    @abstractmethod
    def weigh(self, value: Tensor, state: State, now: StepContext) -> Tensor:
        """The weight, a 0-dim tensor.

        Args:
            value: The term's current value, detached; nan unless the class is `instant`.
            state: The current state; not to be changed.
            now: The values of scheduled fields.
        """

    @abstractmethod
    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        """Learns from one optimizer step.

        Args:
            observed: Mean of the watched value over the step; 0-dim, finite.
            state: The state: change its tensors, or put new ones in their place.
            now: The step, the horizon and the values of scheduled fields.
        """


_WIDEST = 1e12


def check_bounds(lowest: float, initial: float, highest: float) -> None:
    """Raises ValueError for bounds that are out of order, equal, or beyond 1e12."""
    if not -_WIDEST <= lowest <= initial <= highest <= _WIDEST or lowest == highest:
        raise ValueError(
            "lowest < highest with initial between them is needed, and none beyond 1e12, found "
            f"lowest {lowest:g}, highest {highest:g}, initial {initial:g}"
        )
