"""What a balancer is: weights for all terms at once."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from lossweights.components.context import State, StepContext
from lossweights.components.declaration import Component
from lossweights.components.durations import Duration


class Balancer(Component):
    """Weights for all balanced terms at once, from their values.

    A balancer is a frozen declaration. What changes in training is declared by `init`, lives in
    the criterion, and is saved, moved and kept equal over ranks there. The user's base weights and
    schedules multiply what it gives.

    A field typed `Schedule` may be a number or a schedule, and is read as `now["field"]`.

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
        """What changes during training, by name, for `n` terms, as it is at the start.

        Tensors are 0-dim or have the terms on their last axis. An `nn.Parameter` is learned by
        the user's optimizer; everything else is changed by `update`.
        """
        return {}

    @abstractmethod
    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        """The weights of the terms.

        Args:
            losses: The values of the terms now, detached, shape (n,); nan unless `instant`.
            state: What `init` declared, as it is now, not to be changed. Where terms are
                absent from a forward pass, an `instant` or learned balancer is given the losses
                and the state of those that are there.
            now: The values of scheduled fields; the step too, unless `instant` or learned.

        Returns:
            The weights, shape (n,).
        """

    def penalty(self, state: State, now: StepContext) -> Tensor | None:
        """What is added to the weighted values, shape (n,): the price of learned weights."""
        return None

    def check_terms(self, names: tuple[str, ...]) -> None:
        """Refuses the terms of a config, where a field names one that is not among them.

        Args:
            names: The terms that are balanced, sorted.

        Raises:
            ValueError: Naming the field and what to write.
        """

    @property
    def interval(self) -> Duration | None:
        """How often `update` is called: once for so long, or where it is None each step."""
        return None

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        """Learns from one optimizer step, or from one interval.

        It changes the tensors of `state` or puts new ones in their place. Changes for terms that
        were not seen, or not finite, are discarded by the criterion.

        Args:
            observed: The mean of each term over the step, or the mean of the steps of an
                interval, shape (n,); the last finite one for a term that was not seen (1 before
                the first).
            state: What `init` declared.
            now: When: the step, the horizon, and the values of scheduled fields.
        """

    def update_after(self, observed: Tensor, state: State, now: StepContext) -> None:
        """Learns from the losses after the step, as passed to `criterion.observe(terms)`.

        It is called only if the class has `learns_after = True`.

        Args:
            observed: As in `update`, of the same batch after the optimizer step.
            state: What `init` declared.
            now: As in `update`.
        """
        raise NotImplementedError
