"""What a controller is: feedback that steers one term's weight."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from lossweights.components.context import State, StepContext
from lossweights.components.declaration import Component


class Controller(Component):
    """One term's weight, steered by the term's own value or by a metric.

    A controller is a frozen declaration. What changes in training is declared by `init`, lives in
    the criterion, and is saved, moved and kept equal over ranks there. Once per optimizer step
    `update` is told the mean of what was seen since the last; where nothing was, or nothing
    finite, it is not heard and the state stays as it was.

    A field typed `Schedule` may be a number or a schedule, and is read as `now["field"]`.

    Args:
        source: What to watch in place of the term itself: another term, or the metric that
            `criterion.observe(<source>=value)` gives.

    Attributes:
        instant: Whether `weigh` reads the value of the forward pass that it weighs. Its weights
            are then those of a micro-batch and of a rank, not of a step.
    """

    instant: ClassVar[bool] = False

    source: str | None = None

    @property
    def sign(self) -> int:
        """What the weight counts as in evaluation, where controllers stand still: 1, or -1.

        It is -1 for a controller whose weights are below 0, because it holds its term up.
        """
        return 1

    @property
    def stays_above_zero(self) -> bool:
        """Whether its weights are never below 0."""
        return self.sign > 0

    @abstractmethod
    def init(self) -> State:
        """What changes during training: 0-dim tensors by name, as they are at the start.

        All of them are reported, as `controller/<term>/<name>`.
        """

    @abstractmethod
    def weigh(self, value: Tensor, state: State, now: StepContext) -> Tensor:
        """The weight that the state stands for, a 0-dim tensor.

        Args:
            value: The term's value now, detached; nan unless the class is `instant`.
            state: What `init` declared, as it is now; not to be changed.
            now: The values of scheduled fields.
        """

    @abstractmethod
    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        """Learns from one optimizer step.

        It changes the tensors of `state` or puts new ones in their place.

        Args:
            observed: What is watched, its mean over the step; 0-dim, finite.
            state: What `init` declared.
            now: When: the step, the horizon, and the values of scheduled fields.
        """


_WIDEST = 1e12


def check_bounds(lowest: float, initial: float, highest: float) -> None:
    """Refuses bounds that leave no room or leave out the start.

    Raises:
        ValueError: Saying what was found.
    """
    if not -_WIDEST <= lowest <= initial <= highest <= _WIDEST or lowest == highest:
        raise ValueError(
            "lowest < highest with initial between them is needed, and neither beyond 1e12, "
            f"found lowest {lowest:g}, highest {highest:g}, initial {initial:g}"
        )
