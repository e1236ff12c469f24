"""What a term's value goes through before it is weighted."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal, TypeAlias

from torch import Tensor

from lossweights.components import Component
from lossweights.moment import Moment, State

Level: TypeAlias = Literal["element", "dimension", "value"]


class Transform(Component):
    """A function of a term's value, applied before it is weighted.

    A transform is a frozen declaration. What changes in training, if anything, is declared by
    `init` and lives in the criterion. A field typed `Schedule` may be a number or a schedule, and
    is read as `now["field"]`.
    """

    @property
    def level(self) -> Level:
        """What `apply` is given.

        `value`: the reduced scalar. `element`: the value as it came, before its reduction.
        `dimension`: its mean over the first axis, the batch, before the rest of the reduction.
        """
        return "value"

    def init(self) -> State:
        """What changes during training: 0-dim tensors by name, as they are at the start."""
        return {}

    @abstractmethod
    def apply(self, value: Tensor, state: State, now: Moment) -> Tensor:
        """The transformed value, of the same shape; differentiable.

        Args:
            value: What `level` says.
            state: What `init` declared, as it is now; not to be changed.
            now: The values of scheduled fields.
        """

    def update(self, observed: Tensor, state: State, now: Moment) -> None:
        """Learns from one optimizer step: changes the tensors of `state` in place.

        Args:
            observed: The reduced value before the transform, its mean over the step; 0-dim,
                finite. Where nothing finite was seen, `update` is not heard.
            state: What `init` declared.
            now: When: the step, the horizon, and the values of scheduled fields.
        """
