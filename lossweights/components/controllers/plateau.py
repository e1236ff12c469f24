"""A weight that changes when progress stops."""

from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from lossweights.components.context import State, StepContext
from lossweights.components.controllers.base import Controller, check_bounds


class Plateau(Controller, kind="plateau"):
    r"""A weight that is multiplied by a factor whenever the watched value stops improving.

    Observations count, one for each optimizer step in which the value was seen: with
    `source: val_loss`, the steps before which `criterion.observe(val_loss=...)` was called. After
    more than `patience` of them in a row without a new best, $w \leftarrow f w$. As torch's
    `ReduceLROnPlateau`, which takes worse values for better ones if the best is below 0.

    Args:
        mode: Whether smaller values are better (`min`) or larger ones (`max`).
        factor: $f$; at least 0 and not 1. Above 1 the weight grows; 0 cuts it off for good.
        patience: Number of observations without improvement that change nothing.
        threshold: By how much a new best must be better than the last, at least 0.
        threshold_mode: `relative` to the last best's absolute value, or `absolute`.
        cooldown: Number of observations after a change that are not counted.
        initial: $w$ at the start.
        lowest: Lower bound of $w$.
        highest: Upper bound of $w$.
        source: The watched value, required: a metric, of which `patience` counts the observations,
            or a term (the controlled one too), of which it counts optimizer steps.

    >>> from lossweights import Plateau, WeightedLoss
    >>> plateau = Plateau(source="val_loss", factor=0.5, patience=2)
    >>> criterion = WeightedLoss(terms={"nll": 1.0, "aux": plateau})
    >>> for val_loss in (3.0, 2.0, 2.0, 2.0, 2.0):  # the second is the last that is better
    ...     criterion.observe(val_loss=val_loss)
    ...     criterion.step()
    >>> criterion.weights["aux"]
    0.5
    """

    mode: Literal["min", "max"] = "min"
    factor: Annotated[float, Field(ge=0)] = 0.1
    patience: Annotated[int, Field(ge=0)] = 10
    threshold: Annotated[float, Field(ge=0)] = 1e-4
    threshold_mode: Literal["relative", "absolute"] = "relative"
    cooldown: Annotated[int, Field(ge=0)] = 0
    initial: float = 1.0
    lowest: float = 0.0
    highest: float = 1e6
    never_negative: ClassVar[tuple[str, ...]] = ("waited", "cooling", "seen")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.source is None:
            raise ValueError(
                "a plateau needs a source: write source: val_loss and call "
                "criterion.observe(val_loss=...), or write the name of a term, whose value is "
                "watched at each step"
            )
        check_bounds(self.lowest, self.initial, self.highest)
        if self.factor == 1:
            raise ValueError("a factor of 1 changes nothing: write 0.5 to halve, 2 to double")
        if min(max(self.initial * self.factor, self.lowest), self.highest) == self.initial:
            raise ValueError(
                f"the weight would never move: {self.initial:g} times {self.factor:g}, between "
                f"{self.lowest:g} and {self.highest:g}, is {self.initial:g}; change `initial` or "
                "a bound"
            )
        return self

    @property
    def stays_above_zero(self) -> bool:
        """Whether the lower bound is at least 0."""
        return self.lowest >= 0

    def init(self) -> State:
        zeros = {key: torch.zeros(()) for key in ("best", "waited", "cooling", "seen")}
        return {"coefficient": torch.tensor(self.initial)} | zeros

    def weigh(self, value: Tensor, state: State, now: StepContext) -> Tensor:
        # A checkpoint may be of a config with other bounds.
        return state["coefficient"].clamp(self.lowest, self.highest)

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        coefficient, best, cooling = state["coefficient"], state["best"], state["cooling"]
        relative = self.threshold_mode == "relative"
        margin = self.threshold * best.abs() if relative else self.threshold
        better = is_better(observed, best, margin, largest=self.mode == "max")
        better |= state["seen"] == 0
        waited = torch.where(better | (cooling > 0), 0.0, state["waited"] + 1)
        due = waited > self.patience
        changed = (coefficient * self.factor).clamp(self.lowest, self.highest)
        state["coefficient"] = torch.where(due, changed, coefficient)
        state["best"] = torch.where(better, observed, best)
        state["cooling"] = torch.where(due, float(self.cooldown), (cooling - 1).clamp(min=0))
        state["waited"] = torch.where(due, 0.0, waited)
        state["seen"].fill_(1.0)


def is_better(value: Tensor, best: Tensor, margin: Tensor | float, *, largest: bool) -> Tensor:
    """Whether a value is better than the best one so far by more than a margin."""
    return value > best + margin if largest else value < best - margin
