"""A small training in which every step is reproducible, to hold components to their properties."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lossweights.components.balancers import Balancer
from lossweights.components.controllers import Controller
from lossweights.components.transforms import Transform
from lossweights.config.term import Term
from lossweights.criterion.weighted_loss import WeightedLoss

Adaptive: TypeAlias = Balancer | Controller | Transform

NAMES = ("alpha", "beta", "gamma")
# How each term depends on features of 1, so that it has the value that is asked for: with
# gradients of which some agree and some are opposed.
_DIRECTIONS = {
    "alpha": torch.tensor([1.0, 0.5, -0.5, 0.0]),
    "beta": torch.tensor([-0.5, 1.0, 0.25, 0.25]),
    "gamma": torch.tensor([0.25, 0.25, -1.0, 1.5]),
}
STEPS = 24  # of a training, in four epochs


class Training:
    """A small training of three terms under a component.

    Args:
        component: Of the loss (a balancer) or of its first term.
        names: The terms, in the order in which they are declared and given.
    """

    def __init__(self, component: Adaptive, names: Sequence[str] = NAMES) -> None:
        self.names = names
        terms = {name: Term(optional=True) for name in names}
        if isinstance(component, Controller):
            terms[NAMES[0]] = Term(optional=True, controller=component)
        if isinstance(component, Transform):
            reduction = None if component.level == "value" else "mean"
            terms[NAMES[0]] = Term(optional=True, transform=component, reduction=reduction)
        self._has_batch = isinstance(component, Transform) and component.level != "value"
        self._learns_after = isinstance(component, Balancer) and component.learns_after
        self._source = getattr(component, "source", None)
        self.criterion = WeightedLoss(
            terms=terms,
            balancer=component if isinstance(component, Balancer) else None,
            total_steps=STEPS,
            steps_per_epoch=STEPS // 4,
        )
        self.call: Callable[..., Tensor] = self.criterion
        self.parameter = torch.ones(4, requires_grad=True)
        self.features = self._features()
        learned = self.criterion.param_groups(lr=0.1)
        self.optimizer = torch.optim.Adam(learned) if learned else None
        draws = torch.Generator().manual_seed(0)
        trend = torch.linspace(1.0, 0.2, STEPS)[:, None] ** torch.tensor([0.5, 1.0, 2.0])
        noise = 1 + 0.1 * torch.rand(STEPS, len(NAMES), generator=draws)
        self._losses = trend * noise * torch.tensor([1.0, 5.0, 0.3])

    def _features(self) -> Tensor:
        """What the terms share: a batch of two, from the parameter."""
        return self.parameter * torch.ones(2, 1)

    def terms(self, step: int, factor: float = 1.0) -> dict[str, Tensor]:
        """The losses of a step."""
        return self.given(dict(zip(NAMES, (self._losses[step] * factor).unbind(), strict=True)))

    def given(self, values: Mapping[str, Tensor | float]) -> dict[str, Tensor]:
        """Losses of these values, in the form in which the component takes them."""
        self.features = self._features()
        mean = self.features.mean(dim=0)
        terms = {
            name: torch.as_tensor(values[name]) * (mean * _DIRECTIONS[name]).sum()
            for name in self.names
        }
        if self._has_batch:
            terms[NAMES[0]] = terms[NAMES[0]].expand(4, 2)
        return terms

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The total of terms that were given last."""
        return self.call(terms, self.features)

    def forward(self, step: int, factor: float = 1.0, share: float = 1.0) -> None:
        """A forward and backward pass."""
        total = self.total(self.terms(step, factor))
        if total.requires_grad:
            (total * share).backward()  # type: ignore[no-untyped-call]

    def step(self, step: int) -> None:
        """An optimizer step, and what belongs to it."""
        if self._source not in (None, *NAMES):
            self.criterion.observe(**{self._source: float(self._losses[step, 0])})
        if self.optimizer is not None:
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.parameter.grad = None
        self.criterion.step()
        if self._learns_after:
            # Not one factor for all: gains that differ by rounding alone would be noise.
            self.criterion.observe_after(self.terms((step + 1) % STEPS))

    def run(self, steps: Iterable[int]) -> None:
        """Forward passes and steps."""
        for step in steps:
            self.forward(step)
            self.step(step)

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint holds."""
        learned = {} if self.optimizer is None else {"optimizer": self.optimizer.state_dict()}
        return {"criterion": self.criterion.state_dict(), **learned}

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes on from there."""
        self.criterion.load_state_dict(state["criterion"])
        if self.optimizer is not None:
            self.optimizer.load_state_dict(state["optimizer"])

    def memory(self) -> dict[str, Tensor]:
        """What adapts, without what is learned and what waits for the step to be done."""
        skipped = {*dict(self.criterion.named_parameters()), "adaptive.observed.totals"}
        state = self.criterion.state_dict()
        return {
            key.removeprefix("adaptive."): tensor
            for key, tensor in state.items()
            if key.startswith("adaptive.") and key not in skipped
        }

    def assert_finite(self, where: str) -> None:
        """All weights that are known and all state are finite."""
        for key, tensor in self.memory().items():
            assert tensor.isfinite().all(), f"{where}, {key!r} is {tensor}"
        for name, weight in self.criterion.metrics(include=["weight"]).items():
            assert math.isfinite(weight), f"{where}, {name!r} is not finite"
