"""Proportional-integral control: the weight that holds a value at a target."""

from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from lossweights.components.context import State, StepContext
from lossweights.components.controllers.base import Controller, check_bounds
from lossweights.components.durations import Duration
from lossweights.components.numerics import LARGE, TINY
from lossweights.components.schedules import Schedule

_PAPERS_INTEGRAL = 1e-4


class PID(Controller, kind="pid"):
    r"""The weight that holds a value at a target, by proportional-integral control (ControlVAE).

    With the error $e(t) = v^* - v(t)$ the weight of the next step is

    $$w = w_{\min} + \frac{K_p}{1 + e^{e(t)}} + I(t), \qquad I(t) = I(t - 1) - K_i\, e(t),$$

    bounded to $[w_{\min}, w_{\max}]$. A value above its target makes the weight grow. The integral
    stops when the weight is at a bound, and moves back as soon as the error changes its sign.

    Args:
        target: $v^*$; a number or a schedule.
        proportional: $K_p$, at least 0.
        integral: $K_i$ per optimizer step and unit of the value, at least 0; by default the paper's
            1e-4, at which an error of 1 takes 10,000 steps to move the weight from 0 to 1.
        response: Better than `integral`, as a fraction of the training: the time that an error as
            large as the target (or larger) takes to move the weight from `lowest` to `highest`,
            such as `5%` or `500 steps`.
        lowest: $w_{\min}$.
        highest: $w_{\max}$.
        initial: The weight before any observation; by default `lowest`.
        source: The watched value: the term itself, or a metric.
        direction: Whether a larger weight lowers the watched value, as it does the term itself
            (`same`), or raises it (`opposite`: an accuracy).

    H. Shao et al., *ControlVAE: controllable variational autoencoder*, ICML 2020, arXiv
    2004.05988, with $K_p = 0.01$, $K_i = 10^{-4}$ and $w \in [0, 1]$ for text. The paper's integral
    stops whenever the last weight was out of bounds, whatever the sign of the error.

    >>> from lossweights import PID, WeightedLoss
    >>> control = PID(target=3.0, response="100 steps", proportional=0.0)
    >>> criterion = WeightedLoss(terms={"nll": 1.0, "kl": control})
    >>> for _ in range(2):
    ...     _ = criterion({"nll": torch.tensor(90.0), "kl": torch.tensor(4.5)})
    ...     criterion.step()
    >>> round(criterion.weights["kl"], 4)  # an error of half the target: half of 2 / 100
    0.01
    """

    target: Schedule
    proportional: Annotated[float, Field(ge=0)] = 0.01
    integral: Annotated[float, Field(ge=0)] | None = None
    response: Duration | str | None = None
    lowest: float = 0.0
    highest: float = 1.0
    initial: float | None = None
    direction: Literal["same", "opposite"] = "same"

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_bounds(self.lowest, self._start, self.highest)
        if self.integral is not None and self.response is not None:
            raise ValueError("integral and response both set the gain: drop one of them")
        if self.proportional == 0 and self.integral == 0:
            raise ValueError(
                "proportional and integral are both 0, so the weight would never move: write "
                "integral: 0.001"
            )
        if self.source is None and self.direction == "opposite":
            raise ValueError("direction is for a metric: name it in `source`")
        if self.response is not None and Duration.parse(self.response).value == 0:
            raise ValueError("give `response` a length above 0")
        return self

    @property
    def _start(self) -> float:
        return self.lowest if self.initial is None else self.initial

    @property
    def stays_above_zero(self) -> bool:
        """Whether the lower bound is at least 0."""
        return self.lowest >= 0

    def init(self) -> State:
        return {
            "error": torch.zeros(()),
            "integral": torch.tensor(self._start - self.lowest),
            "coefficient": torch.tensor(self._start),
        }

    def weigh(self, value: Tensor, state: State, now: StepContext) -> Tensor:
        # A checkpoint may be of a config with other bounds.
        return state["coefficient"].clamp(self.lowest, self.highest)

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        target = now["target"]
        error = (target - observed).clamp(-LARGE, LARGE)
        error = -error if self.direction == "opposite" else error
        if self.response is None:
            change = (_PAPERS_INTEGRAL if self.integral is None else self.integral) * error
        else:
            speed = (self.highest - self.lowest) / max(1, now.horizon.steps(self.response))
            relative = (error / target.abs().clamp(min=TINY)).clamp(-1, 1)
            change = speed * now.elapsed * relative
        bounds = self.proportional, self.lowest, self.highest
        weight, integral = pi_control(error, state["integral"], change, *bounds)
        state |= {"error": error, "integral": integral, "coefficient": weight}


def pi_control(
    error: Tensor,
    integral: Tensor,
    change: Tensor,
    proportional: float,
    lowest: float,
    highest: float,
) -> tuple[Tensor, Tensor]:
    r"""The weight and the integral after a step with the error $e$ and the change $K_i\, e$."""
    quick = proportional * torch.sigmoid(-error)
    integral = torch.clamp(integral - change, min=-quick, max=highest - lowest - quick)
    return (lowest + quick + integral).clamp(lowest, highest), integral
