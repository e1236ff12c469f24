"""The augmented Lagrangian: a multiplier, and a penalty on the current violation."""

from typing import Annotated, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from lossweights.components.context import State, StepContext
from lossweights.components.controllers.base import check_bounds
from lossweights.components.controllers.constraint import Constraint


class AugmentedLagrangian(Constraint, kind="augmented-lagrangian"):
    r"""A multiplier, with a penalty on the violation of the current forward pass (PHR).

    With the violation $g$ (`at_most`: $v - c$, `at_least`: $c - v$, `equal_to`: $v - c$) and the
    penalty coefficient $\rho$, the weight is the derivative of the augmented Lagrangian,

    $$w = \max(0, \lambda + \rho\, g) \quad\text{(for an equality } \lambda + \rho\, g),$$

    negated for `at_least`. So the gradient is that of the augmented Lagrangian of Powell, Hestenes
    and Rockafellar, while the total shows $w v$. Each optimizer step then does
    $\lambda \leftarrow \max(0, \lambda + \eta\, g)$, and if the constraint is still violated by
    more than `tolerance`, $\rho$ grows. The penalty damps the oscillations of `lagrangian`.

    Args:
        penalty: $\rho$ at the start, above 0.
        learning_rate: $\eta$; by default $\rho$, as in textbooks. These minimize fully between two
            updates: with one update per optimizer step, use less.
        growth: Factor by which $\rho$ grows, at least 1; 1 for a constant one.
        tolerance: The violation above which $\rho$ grows.
        highest_penalty: Upper bound of $\rho$.
        initial: $\lambda$ at the start.
        highest: Upper bound of $\lambda$ (for `equal_to`, of its absolute value).

    J. Nocedal, S. Wright, *Numerical optimization*, 2nd ed., 2006, chapter 17. As in Cooper 1.0
    (arXiv 2504.01212) the multiplier moves before the penalty grows; Cooper by default resets
    $\rho$ when an inequality is satisfied.

    >>> from lossweights import AugmentedLagrangian, WeightedLoss
    >>> kl = AugmentedLagrangian(at_most=1.5, learning_rate=0.1)
    >>> criterion = WeightedLoss(terms={"nll": 1.0, "kl": kl})
    >>> terms = {"nll": torch.tensor(9.0), "kl": torch.tensor(3.5)}
    >>> criterion.breakdown(terms).weight["kl"]  # 0 + 1 * (3.5 - 1.5)
    tensor(2.)
    """

    instant: ClassVar[bool] = True
    penalty: Annotated[float, Field(gt=0)] = 1.0
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    growth: Annotated[float, Field(ge=1)] = 1.0
    tolerance: Annotated[float, Field(ge=0)] = 1e-4
    highest_penalty: Annotated[float, Field(le=1e6)] = 1e6
    initial: float = 0.0
    highest: float = 1e6

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_bounds(self._lower, self.initial, self.highest)
        if self.penalty > self.highest_penalty:
            raise ValueError(
                f"penalty must be at most highest_penalty, found {self.penalty:g} and "
                f"{self.highest_penalty:g}"
            )
        if self.source is not None:
            raise ValueError(
                "the penalty reads the term's own value, not a metric: drop `source`, or write "
                "kind: lagrangian"
            )
        return self

    @property
    def _lower(self) -> float:
        return 0.0 if self.equal_to is None else -self.highest

    def init(self) -> State:
        return {
            "multiplier": torch.tensor(self.initial),
            "penalty": torch.tensor(self.penalty),
            "violation": torch.zeros(()),
        }

    def weigh(self, value: Tensor, state: State, now: StepContext) -> Tensor:
        violation, inequality = self.violation(value, now), self.equal_to is None
        multiplier, penalty = state["multiplier"], state["penalty"]
        weight = augmented_weight(multiplier, penalty, violation, inequality=inequality)
        return -weight if self.sign < 0 else weight

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        violation, penalty = self.violation(observed, now), state["penalty"]
        rate = penalty if self.learning_rate is None else self.learning_rate
        multiplier = (state["multiplier"] + rate * violation).clamp(self._lower, self.highest)
        amount = violation if self.equal_to is None else violation.abs()
        grown = (penalty * self.growth).clamp(max=self.highest_penalty)
        penalty = torch.where(amount > self.tolerance, grown, penalty)
        state |= {"multiplier": multiplier, "penalty": penalty, "violation": violation}


def augmented_weight(
    multiplier: Tensor, penalty: Tensor, violation: Tensor, *, inequality: bool
) -> Tensor:
    r"""$\lambda + \rho\, g$, for an inequality at least 0."""
    weight = multiplier + penalty * violation
    return weight.relu() if inequality else weight
