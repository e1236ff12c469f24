"""The base class of balancers."""

from abc import abstractmethod
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from pydantic import ValidatorFunctionWrapHandler, field_validator
from torch import Tensor

from lossweights.components.context import State, StepContext
from lossweights.components.declaration import Component
from lossweights.components.durations import Duration
from lossweights.errors import did_you_mean, quoted, shown

Normalize: TypeAlias = Literal["none", "mean", "sum"]


class Balancer(Component):
    """Weights for all balanced terms together, from their values.

    State is declared by `init` and owned by the criterion, which saves and moves it and keeps it
    equal over ranks. The weights are multiplied by the user's base weights and schedules. A field
    typed as `Schedule` reads a number or a schedule; its value is `now["field"]`. `now.terms` has
    the names of the balanced terms, sorted, so that a field can name one.

    The weights that a balancer finds are scaled as `normalize` says, then brought within `bounds`.
    It learns as it would without the two.

    Args:
        bounds: The lowest and the highest weight, before base weights and schedules; None for none.
        normalize: Whether the weights are scaled to a `mean` or a `sum` of 1. If some are negative,
            the mean or the sum of their sizes is 1.

    Attributes:
        instant: Whether `weigh` reads the losses of the forward pass that it weighs. Its weights
            are then those of a micro-batch and of a rank, not of a step.
        learns_after: Whether the class has an `update_after`.
        needs_positive: Why no term's weight may be negative, as the end of a sentence, or "".
    """

    instant: ClassVar[bool] = False
    learns_after: ClassVar[bool] = False
    needs_positive: ClassVar[str] = ""
    bounds: tuple[float, float] | None = None
    normalize: Normalize = "none"

    @classmethod
    def usage(cls, kind: str) -> str:
        return f"`balancer: {{kind: {kind}, ...}}` beside `terms`"

    @classmethod
    def __pydantic_init_subclass__(cls, kind: str = "", **kwargs: Any) -> None:
        if cls.update_after is not Balancer.update_after and not cls.learns_after:
            raise TypeError(
                f"{cls.__name__} has an update_after(), which would never be called: write "
                "`learns_after: ClassVar[bool] = True` in the class"
            )
        for name in ("bounds", "normalize"):
            if cls.model_fields[name].annotation != Balancer.model_fields[name].annotation:
                raise TypeError(
                    f"{cls.__name__} has a field {name!r} of its own, which every balancer has, "
                    "for the weights that it finds: give it another name"
                )
        super().__pydantic_init_subclass__(kind=kind, **kwargs)

    @field_validator("bounds", mode="wrap")
    @classmethod
    def _bounds_are_in_order(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        if value is None:
            return None
        if isinstance(value, list | tuple) and len(value) == 2:
            bounds: tuple[float, float] = handler(value)
            if bounds[0] < bounds[1] and bounds[1] > 0:
                return bounds
        raise ValueError(
            "the lowest and the highest weight are needed, the highest above 0, such as "
            f"[0.1, 10], found {shown(value)}"
        )

    @property
    def adjusts(self) -> bool:
        """Whether `bounds` or `normalize` may change the weights that it finds."""
        return self.bounds is not None or self.normalize != "none"

    def init(self, n: int) -> State:
        """The state at the start, for `n` terms, by name.

        Tensors are 0-dim or have the terms on their last axis. An `nn.Parameter` is learned by the
        user's optimizer; everything else is changed by `update`.
        """
        return {}

    @abstractmethod
    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        """The weights of the terms, shape (n,).

        Args:
            losses: The current values of the terms, detached, shape (n,); nan unless `instant`.
            state: The current state; not to be changed. If terms are absent from a forward pass, an
                `instant` or learned balancer receives the losses and the state of the others only.
            now: The values of scheduled fields; the step too, unless `instant` or learned.
        """

    def penalty(self, state: State, now: StepContext) -> Tensor | None:
        """The penalty of learned weights, added to the weighted values, shape (n,), or None."""
        return None

    def check_terms(self, names: tuple[str, ...]) -> None:
        """Raises ValueError if a field names a term that is not among the balanced ones, sorted."""

    @property
    def interval(self) -> Duration | None:
        """Time between two calls of `update`; None for one optimizer step."""
        return None

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        """Learns from one optimizer step, or from one interval.

        Args:
            observed: Mean of each term over the step, or over the steps of an interval, shape
                (n,); for a term that was not seen, its last finite mean (1 before the first).
            state: The state: change its tensors, or put new ones in their place. The criterion
                discards changes for terms that were not seen or not finite.
            now: The step, the horizon and the values of scheduled fields.
        """

    def update_after(self, observed: Tensor, state: State, now: StepContext) -> None:
        """Learns from the losses of the same batch after the optimizer step.

        They are passed to `criterion.observe_after(terms)`. The class has `learns_after = True`.
        """
        raise NotImplementedError


def adjusted_weights(
    found: Tensor, normalize: Normalize, bounds: tuple[float, float] | None
) -> Tensor:
    """The weights scaled to a mean or a sum of sizes of 1, then within the bounds.

    Weights that are all 0 are not scaled.

    >>> adjusted_weights(torch.tensor([0.0, 1.0, 8.0]), "mean", (0.5, 2.0))  # 0, 1/3 and 8/3
    tensor([0.5000, 0.5000, 2.0000])
    """
    if normalize != "none":
        sizes = found.abs()
        size = sizes.mean() if normalize == "mean" else sizes.sum()
        found = found / size.clamp(min=torch.finfo(found.dtype).tiny)
    return found if bounds is None else found.clamp(*bounds)


def refuse_unbalanced(field: str, name: str, names: tuple[str, ...]) -> None:
    """Raises ValueError for a field that names a term which is not among the balanced ones."""
    if name not in names:
        raise ValueError(
            f"{field} {name!r} is not a balanced term{did_you_mean(name, names)} (balanced: "
            f"{quoted(names)})"
        )
