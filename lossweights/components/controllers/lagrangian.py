"""Dual ascent: the weight is the multiplier of a constraint."""

from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from lossweights.components.adam import adam_step
from lossweights.components.context import State, StepContext
from lossweights.components.controllers.base import check_bounds
from lossweights.components.controllers.constraint import Constraint

_SMALLEST = 1e-6


class Lagrangian(Constraint, kind="lagrangian"):
    r"""A multiplier that grows while a constraint is violated (dual ascent; GECO).

    With the violation $g$ (`at_most`: $v - c$, `at_least`: $c - v$, `equal_to`: $v - c$) each
    optimizer step does

    $$\lambda \leftarrow \lambda + \eta\, g \quad\text{(additive), or}\quad
    \lambda \leftarrow \lambda\, e^{\eta\, g} \quad\text{(exponential)},$$

    within bounds, so that $\lambda \ge 0$ for an inequality. The weight of the term is $\lambda$,
    and $-\lambda$ for `at_least`. With `optimizer: adam` the step of Adam replaces $g$, whose scale
    then does not matter; exponential ascent is Adam on $\log \lambda$. The total omits the constant
    $\mp\lambda c$ of the Lagrangian, which has no gradient. GECO is `ascent: exponential` with
    `smoothing: 0.99` on a reconstruction error. If the multiplier oscillates, lower
    `learning_rate`, or use `augmented-lagrangian`.

    Args:
        learning_rate: $\eta$, above 0; per unit of the value, so mind the scale of $g$. With
            `adam`, about the largest change of $\lambda$, or of $\log \lambda$, in a step.
        ascent: `additive`, or `exponential`, which keeps its sign and is not for `equal_to`.
        optimizer: `sgd`, as in the formula, or `adam`, with decays of 0.9 and 0.999.
        initial: $\lambda$ at the start; by default 0, and 1 for `exponential`.
        smoothing: $\alpha$ of the moving average $\bar g \leftarrow \alpha \bar g + (1 - \alpha) g$
            that replaces $g$ and begins with the first one seen; below 1, 0 for none.
        lowest: Lower bound of $\lambda$; by default 0, for `exponential` 1e-6 (it could never
            leave 0), for `equal_to` minus `highest`.
        highest: Upper bound of $\lambda$.
        source: The watched value: the term itself, or a metric.
        direction: Whether a metric rises with the term (`same`, the default) or falls as the term
            rises (`opposite`: an accuracy and its loss), which reverses the sign of the weight.
            Required for `at_least` with a `source`.

    Additive: J. Gallego-Posada et al., *Cooper: a library for constrained optimization in deep
    learning*, 2025, arXiv 2504.01212. GECO: D. J. Rezende, F. Viola, *Taming VAEs*, 2018, arXiv
    1810.00597. Some implementations move the inverse, a weight of the KL term; the authors' Sonnet
    ascends through the square of a softplus. Temperature of soft actor-critic: T. Haarnoja et al.,
    *Soft actor-critic algorithms and applications*, 2018, arXiv 1812.05905, section 5, is
    `ascent: exponential` with `optimizer: adam` and a learning rate of 3e-4, `at_least` the target
    entropy. The gradient is that of $\log \alpha\,(H - \bar H)$, as in Stable-Baselines3 and
    CleanRL; the paper's has the factor $\alpha$ more, which Adam mostly cancels.

    >>> from lossweights import Lagrangian, WeightedLoss
    >>> kl = Lagrangian(at_most=1.5, learning_rate=0.1)
    >>> criterion = WeightedLoss(terms={"nll": 1.0, "kl": kl})
    >>> for kl in (3.5, 2.5):  # violations of 2 and 1
    ...     _ = criterion({"nll": torch.tensor(9.0), "kl": torch.tensor(kl)})
    ...     criterion.step()
    >>> round(criterion.weights["kl"], 4)
    0.3
    """

    learning_rate: Annotated[float, Field(gt=0)] = 0.01
    ascent: Literal["additive", "exponential"] = "additive"
    optimizer: Literal["sgd", "adam"] = "sgd"
    initial: float | None = None
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    lowest: float | None = None
    highest: float = 1e6
    direction: Literal["same", "opposite"] | None = None
    never_negative: ClassVar[tuple[str, ...]] = ("seen", "second_moment", "count")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.ascent == "exponential" and self.equal_to is not None:
            raise ValueError(
                "a multiplier of exponential ascent keeps its sign, but an equality may need "
                "both signs: write at_most or at_least, or ascent: additive"
            )
        if self.lowest is not None and self.lowest < 0 and self.equal_to is None:
            raise ValueError(
                f"the multiplier of {self.bound} must be at least 0, found lowest {self.lowest:g}"
            )
        if self.ascent == "exponential" and self._lower <= 0:
            raise ValueError(
                "a multiplier of exponential ascent cannot leave 0: give `lowest` a value above "
                f"0, such as {_SMALLEST:g}"
            )
        check_bounds(self._lower, self._start, self.highest)
        if self.source is None and self.direction == "opposite":
            raise ValueError("direction is for a metric: name it in `source`")
        if self.source is not None and self.at_least is not None and self.direction is None:
            raise ValueError(
                f"if {self.source!r} falls as this term rises, as an accuracy does with its loss, "
                "write direction: opposite; if both rise together, write direction: same"
            )
        return self

    @property
    def _lower(self) -> float:
        default = _SMALLEST if self.ascent == "exponential" else 0.0
        default = default if self.equal_to is None else -self.highest
        return default if self.lowest is None else self.lowest

    @property
    def _start(self) -> float:
        default = 1.0 if self.ascent == "exponential" else 0.0
        return default if self.initial is None else self.initial

    @property
    def sign(self) -> int:
        """-1 if the watched value is held up, unless it falls as the term rises."""
        return -super().sign if self.direction == "opposite" else super().sign

    def init(self) -> State:
        state = {"multiplier": torch.tensor(self._start), "violation": torch.zeros(())}
        names = ["seen"] * (self.smoothing > 0)
        names += ["first_moment", "second_moment", "count"] * (self.optimizer == "adam")
        return state | {name: torch.zeros(()) for name in names}

    def weigh(self, value: Tensor, state: State, now: StepContext) -> Tensor:
        return -state["multiplier"] if self.sign < 0 else state["multiplier"]

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        violation = self.violation(observed, now)
        if self.smoothing:
            average = torch.lerp(violation, state["violation"], self.smoothing)
            violation = torch.where(state["seen"] > 0, average, violation)
            state["seen"].fill_(1.0)
        ascend = ascend_exponentially if self.ascent == "exponential" else ascend_additively
        gradient = adam_step(violation, state) if self.optimizer == "adam" else violation
        moved = ascend(state["multiplier"], gradient, self.learning_rate)
        state["violation"], state["multiplier"] = violation, moved.clamp(self._lower, self.highest)


def ascend_additively(multiplier: Tensor, violation: Tensor, learning_rate: float) -> Tensor:
    r"""$\lambda + \eta\, g$."""
    return multiplier + learning_rate * violation


def ascend_exponentially(multiplier: Tensor, violation: Tensor, learning_rate: float) -> Tensor:
    r"""$\lambda\, e^{\eta\, g}$, for $\lambda > 0$; inf if that is too large."""
    return multiplier * torch.exp(learning_rate * violation)
