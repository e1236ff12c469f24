"""The base class of balancers."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from lossweights.components.context import State, StepContext
from lossweights.components.declaration import Component
from lossweights.components.durations import Duration


class Balancer(Component):
    """Weights for all balanced terms together, from their values.

    A balancer is a frozen declaration. Its state is declared by `init`, owned by the criterion,
    and saved, moved and kept equal over ranks there. The weights that it returns are multiplied by
    the user's base weights and schedules.

    A field typed as `Schedule` may be a number or a schedule, and is read as `now["field"]`.

    Attributes:
        instant: Whether `weigh` reads the losses of the forward pass that it weighs. Its weights
            are then those of a micro-batch and of a rank, not of a step.
        learns_after: Whether `update_after` is called.
        needs_positive: Why the weight of a term must not be negative, as the end of a sentence;
            empty if it may be.
    """

    instant: ClassVar[bool] = False
    learns_after: ClassVar[bool] = False
    needs_positive: ClassVar[str] = ""

    def init(self, n: int) -> State:
        """The state at the start, for `n` terms, by name.

        Tensors are 0-dim or have the terms on their last axis. An `nn.Parameter` is learned by the
        user's optimizer; everything else is changed by `update`.
        """
        return {}

    @abstractmethod
    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        """The weights of the terms.

        Args:
            losses: The current values of the terms, detached, shape (n,); nan unless `instant`.
            state: The current state; not to be changed. If terms are absent from a forward pass, an
                `instant` or learned balancer receives the losses and the state of the others only.
            now: The values of scheduled fields; the step too, unless `instant` or learned.

        Returns:
            The weights, shape (n,).
        """

    def penalty(self, state: State, now: StepContext) -> Tensor | None:
        """The penalty of learned weights, added to the weighted values, shape (n,), or None."""
        return None

    def check_terms(self, names: tuple[str, ...]) -> None:
        """Refuses the terms of a config if a field names one that is not among them.

        Args:
            names: The balanced terms, sorted.

        Raises:
            ValueError: With the field and what to write.
        """

    @property
    def interval(self) -> Duration | None:
        """Time between two calls of `update`; None for one optimizer step."""
        return None

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        """Learns from one optimizer step, or from one interval.

        It changes the tensors of `state` or puts new ones in their place. The criterion discards
        changes for terms that were not seen or not finite.

        Args:
            observed: Mean of each term over the step, or over the steps of an interval, shape
                (n,); for a term that was not seen, its last finite mean (1 before the first).
            state: The current state.
            now: The step, the horizon and the values of scheduled fields.
        """

    def update_after(self, observed: Tensor, state: State, now: StepContext) -> None:
        """Learns from the losses after the step, as passed to `criterion.observe(terms)`.

        It is called only if the class has `learns_after = True`.

        Args:
            observed: As in `update`, for the same batch after the optimizer step.
            state: The current state.
            now: As in `update`.
        """
        raise NotImplementedError
