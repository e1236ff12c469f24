"""A weight that moves by fixed steps."""

from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from lossweights.components.context import State, StepContext
from lossweights.components.controllers.base import Controller, check_bounds
from lossweights.components.numerics import LARGE
from lossweights.components.schedules import Schedule


class Increment(Controller, kind="increment"):
    r"""A weight that goes up or down by a fixed step, to hold a value at a target.

    With the error $e = v - v^*$ each optimizer step does

    $$c \leftarrow c + \Delta\,\mathrm{sign}(e) \text{ if } |e| > \tau,$$

    within bounds: up while the value is above its target, down while it is below. The weight is
    $c$. The size of the error does not matter, so the step needs no scale of the value.

    Args:
        target: $v^*$; a number or a schedule.
        step_size: $\Delta$, above 0.
        tolerance: $\tau$, the dead zone: errors up to it change nothing; at least 0.
        gated: Whether the weight counts only while $e \ge 0$ at the last observation, and is 0
            otherwise; $c$ moves in either case.
        lowest: Lower bound of $c$.
        highest: Upper bound of $c$.
        initial: $c$ at the start; by default `lowest`.
        source: The watched value: the term itself, or a metric.
        direction: Whether a larger $c$ lowers the watched value (`same`), or raises it
            (`opposite`), which reverses the sign of $e$. For the term itself `opposite` also
            reverses the sign of the weight, which holds it up: an entropy.

    Adaptive entropy control: J. He et al., *Skywork open reasoner 1 technical report*, 2025, arXiv
    2505.22312, is `direction: opposite` with `gated: true` on the entropy, a target of 0.2 nats
    and a step of 0.005. TRL has the same rule and defaults; the authors' scripts have a step of
    1e-4 and bounds of 0 and 0.005. If the value is exactly at its target, $c$ keeps its value;
    there TRL takes a step up, and the authors' code one down.

    >>> from lossweights import Increment, WeightedLoss
    >>> entropy = Increment(target=0.2, direction="opposite", gated=True)
    >>> criterion = WeightedLoss(terms={"policy": 1.0, "entropy": entropy})
    >>> for value in (0.15, 0.1, 0.3):  # below the target twice, then above it
    ...     _ = criterion({"policy": torch.tensor(1.0), "entropy": torch.tensor(value)})
    ...     criterion.step()
    ...     print(round(criterion.weights["entropy"], 4))
    -0.005
    -0.01
    0.0
    """

    target: Schedule
    step_size: Annotated[float, Field(gt=0)] = 0.005
    tolerance: Annotated[float, Field(ge=0)] = 0.0
    gated: bool = False
    lowest: float = 0.0
    highest: float = 1.0
    initial: float | None = None
    direction: Literal["same", "opposite"] = "same"

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_bounds(self.lowest, self._start, self.highest)
        return self

    @property
    def _start(self) -> float:
        return self.lowest if self.initial is None else self.initial

    @property
    def sign(self) -> float:
        """-1 for `opposite` without a `source`, which holds the term up."""
        return -1 if self.direction == "opposite" and self.source is None else 1

    @property
    def stays_above_zero(self) -> bool:
        """Not with a `sign` of -1, nor with a lower bound below 0."""
        return self.sign > 0 and self.lowest >= 0

    def init(self) -> State:
        return {"error": torch.zeros(()), "coefficient": torch.tensor(self._start)}

    def weigh(self, value: Tensor, state: State, now: StepContext) -> Tensor:
        # A checkpoint may be of a config with other bounds.
        weight = state["coefficient"].clamp(self.lowest, self.highest)
        if self.gated:
            weight = torch.where(state["error"] < 0, 0.0, weight)
        return 0.0 - weight if self.sign < 0 else weight

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        error = (observed - now["target"]).clamp(-LARGE, LARGE)
        error = -error if self.direction == "opposite" else error
        moved = incremented(state["coefficient"], error, self.step_size, self.tolerance)
        state["error"], state["coefficient"] = error, moved.clamp(self.lowest, self.highest)


def incremented(coefficient: Tensor, error: Tensor, step_size: float, tolerance: float) -> Tensor:
    r"""$c + \Delta\,\mathrm{sign}(e)$, or $c$ if $|e| \le \tau$."""
    moved = coefficient + step_size * error.sign()
    return torch.where(error.abs() > tolerance, moved, coefficient)
