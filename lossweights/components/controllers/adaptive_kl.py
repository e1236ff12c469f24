"""The adaptive KL coefficient of fine-tuning by reinforcement learning."""

from typing import Annotated, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from lossweights.components.context import State, StepContext
from lossweights.components.controllers.base import Controller, check_bounds
from lossweights.components.numerics import TINY
from lossweights.components.schedules import Constant, Schedule


class AdaptiveKL(Controller, kind="adaptive-kl"):
    r"""A KL coefficient that is multiplied up or down to hold the KL at a target.

    With $e = \mathrm{clip}(v / v^* - 1, -c, c)$ each update does $w \leftarrow w\,(1 + K e)$.

    Args:
        target: $v^*$, above 0; a number or a schedule.
        initial: $w$ at the start, above 0.
        gain: $K$, the paper's $K_\beta$; above 0, and below 1 / `clip`.
        clip: $c$, above 0.
        lowest: Lower bound of $w$; above 0, which $w$ could never leave. Policy and reference start
            out equal, with a KL of 0: until they differ, every step lowers $w$ by the maximum.
        highest: Upper bound of $w$.
        source: The watched value: the term itself, or a metric such as the KL of whole rollouts.

    D. Ziegler et al., *Fine-tuning language models from human preferences*, 2019, arXiv
    1909.08593, section 2.2, with $K = 0.1$ and $c = 0.2$. `initial` is the default of TRL. TRL,
    OpenRLHF, verl and the authors' code write $K$ as `n_steps / horizon`, such as 256 / 10000;
    above $1/c$ the coefficient would change its sign, which is refused here.

    >>> from lossweights import AdaptiveKL, WeightedLoss
    >>> criterion = WeightedLoss(terms={"reward": 1.0, "kl": AdaptiveKL(target=6.0)})
    >>> _ = criterion({"reward": torch.tensor(0.5), "kl": torch.tensor(12.0)})
    >>> criterion.step()
    >>> round(criterion.weights["kl"], 4)  # 0.2 * (1 + 0.1 * 0.2)
    0.204
    """

    target: Schedule
    initial: Annotated[float, Field(gt=0)] = 0.2
    gain: Annotated[float, Field(gt=0)] = 0.1
    clip: Annotated[float, Field(gt=0)] = 0.2
    lowest: Annotated[float, Field(gt=0)] = 1e-6
    highest: float = 1e6

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_bounds(self.lowest, self.initial, self.highest)
        if isinstance(self.target, Constant) and self.target.value <= 0:
            raise ValueError(f"the target of a KL must be above 0, found {self.target.value:g}")
        if self.gain * self.clip >= 1:
            raise ValueError(
                f"a gain of {self.gain:g} would multiply the coefficient by "
                f"{1 - self.gain * self.clip:g} when the KL is far below its target, and reverse "
                f"its sign: write a gain below 1 / clip = {1 / self.clip:g}, such as 0.1 (in "
                "other libraries it is n_steps / horizon: use a longer horizon)"
            )
        return self

    def init(self) -> State:
        return {"error": torch.zeros(()), "coefficient": torch.tensor(self.initial)}

    def weigh(self, value: Tensor, state: State, now: StepContext) -> Tensor:
        # A checkpoint may be of a config with other bounds.
        return state["coefficient"].clamp(self.lowest, self.highest)

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        state["error"] = relative_error(observed, now["target"], self.clip)
        grown = state["coefficient"] * (1 + self.gain * state["error"])
        state["coefficient"] = grown.clamp(self.lowest, self.highest)


def relative_error(value: Tensor, target: Tensor, clip: float) -> Tensor:
    r"""$\mathrm{clip}(v / v^* - 1, -c, c)$, even if a scheduled target decreases to 0."""
    return (value / target.clamp(min=TINY) - 1).clamp(-clip, clip)
