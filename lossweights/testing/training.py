"""A small reproducible training, in which the properties of components are tested."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor

from lossweights.components.balancers import Balancer
from lossweights.components.controllers import Controller
from lossweights.components.transforms import Transform
from lossweights.config.term import Term
from lossweights.criterion.weighted_loss import WeightedLoss

Adaptive: TypeAlias = Balancer | Controller | Transform

NAMES = ("alpha", "beta", "gamma")
# The factors of each term for features of 1. They sum to 1, so a term has the requested value, and
# some of the gradients agree and some conflict.
_DIRECTIONS = {
    "alpha": torch.tensor([1.0, 0.5, -0.5, 0.0], dtype=torch.float32),
    "beta": torch.tensor([-0.5, 1.0, 0.25, 0.25], dtype=torch.float32),
    "gamma": torch.tensor([0.25, 0.25, -1.0, 1.5], dtype=torch.float32),
}
_HALVES = ("left", "right")  # the members of a group
STEPS = 24  # of a training, in four epochs
TOKENS = 24_000  # of the same training, by another clock


class Training:
    """A small training of three terms with a component.

    Args:
        component: A balancer of the loss, or a controller or transform of its first term.
        names: The terms, in the order of their declaration and of the given losses.
        per_step: By how much each optimizer step moves the clock, in turn; by default the clock
            counts steps. Otherwise it counts tokens, of which a training has `TOKENS`.
        grouped: Whether each term is a group of two halves: members of weight 0.5 that both have
            its value, and its transform.
    """

    def __init__(
        self,
        component: Adaptive,
        names: Sequence[str] = NAMES,
        per_step: Sequence[int] = (),
        *,
        grouped: bool = False,
    ) -> None:
        self.names, self._is_grouped, self._per_step = names, grouped, tuple(per_step)
        self._has_batch = isinstance(component, Transform) and component.level != "value"
        terms = {name: self._declared(name, component) for name in names}
        self._learns_after = isinstance(component, Balancer) and component.learns_after
        self._source = getattr(component, "source", None)
        self.criterion = WeightedLoss(
            terms=terms,
            balancer=component if isinstance(component, Balancer) else None,
            total=f"{TOKENS} tokens" if per_step else f"{STEPS} steps",
            steps_per_epoch=None if per_step else STEPS // 4,
        )
        self.call: Callable[..., Tensor] = self.criterion
        self.parameter = torch.ones(4, dtype=torch.float32, requires_grad=True)
        learned = self.criterion.param_groups(lr=0.1)
        self.optimizer = torch.optim.Adam(learned) if learned else None
        draws = torch.Generator().manual_seed(0)
        powers, sizes = torch.tensor([[0.5, 1.0, 2.0], [1.0, 5.0, 0.3]], dtype=torch.float32)
        trend = torch.linspace(1.0, 0.2, STEPS, dtype=torch.float32)[:, None] ** powers
        noise = torch.rand(STEPS, len(NAMES), generator=draws, dtype=torch.float32)
        self._losses = trend * (1 + 0.1 * noise) * sizes

    def _declared(self, name: str, component: Adaptive) -> Term:
        """A term, of which the first has the component if it is no balancer."""
        is_first = name == NAMES[0]
        whole: dict[str, Any] = {"optional": True}
        inside: dict[str, Any] = {}
        if is_first and isinstance(component, Controller):
            whole["controller"] = component
        if is_first and isinstance(component, Transform):
            inside = {"transform": component, "reduction": "mean" if self._has_batch else None}
        if not self._is_grouped:
            return Term(**whole, **inside)
        return Term(**whole, terms=dict.fromkeys(_HALVES, Term(weight=0.5, **inside)))

    def terms(self, step: int, factor: float = 1.0) -> dict[str, Any]:
        """The losses of a step, times a factor."""
        return self.given(dict(zip(NAMES, (self._losses[step] * factor).unbind(), strict=True)))

    def given(self, values: Mapping[str, Tensor | float]) -> dict[str, Any]:
        """Losses with these values, in the shape that the component takes."""
        self.features = self.parameter.repeat(2, 1)  # a batch of two, shared by the terms
        mean = self.features.mean(dim=0)
        terms = {
            name: torch.as_tensor(values[name]) * (mean * _DIRECTIONS[name]).sum()
            for name in self.names
        }
        if self._has_batch:
            terms[NAMES[0]] = terms[NAMES[0]].expand(4, 2)
        if self._is_grouped:
            return {name: dict.fromkeys(_HALVES, value) for name, value in terms.items()}
        return terms

    def total(self, terms: Mapping[str, Any]) -> Tensor:
        """The total of the terms that `terms` or `given` returned last."""
        return self.call(terms, self.features)

    def forward(self, step: int, factor: float = 1.0, share: float = 1.0) -> None:
        """A forward and backward pass; the total is multiplied by `share`."""
        total = self.total(self.terms(step, factor))
        if total.requires_grad:
            (total * share).backward()  # type: ignore[no-untyped-call]

    def step(self, step: int) -> None:
        """An optimizer step, with the observations of metrics and of losses after the step."""
        if self._source not in (None, *NAMES):
            self.criterion.observe(**{self._source: float(self._losses[step, 0])})
        if self.optimizer is not None:
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.parameter.grad = None
        self.count(step)
        if self._learns_after:
            # The next losses, not one factor for all: gains that differ by rounding are noise.
            self.criterion.observe_after(self.terms((step + 1) % STEPS))

    def count(self, step: int) -> None:
        """Moves the clock by an optimizer step."""
        taken = self._per_step
        self.criterion.step(taken[step % len(taken)] if taken else None)

    def run(self, steps: Iterable[int]) -> Self:
        """A forward pass and a step for each of `steps`; returns the training."""
        for step in steps:
            self.forward(step)
            self.step(step)
        return self

    def state_dict(self) -> dict[str, Any]:
        """The content of a checkpoint."""
        learned = {} if self.optimizer is None else {"optimizer": self.optimizer.state_dict()}
        return {"criterion": self.criterion.state_dict(), **learned}

    def load(self, state: Mapping[str, Any]) -> None:
        """Loads a checkpoint."""
        self.criterion.load_state_dict(state["criterion"])
        if self.optimizer is not None:
            self.optimizer.load_state_dict(state["optimizer"])

    def state(self) -> dict[str, Tensor]:
        """The adaptive state, without learned parameters and observations of the current step."""
        skipped = {*dict(self.criterion.named_parameters()), "adaptive.observed.totals"}
        return {
            key.removeprefix("adaptive."): tensor
            for key, tensor in self.criterion.state_dict().items()
            if key.startswith("adaptive.") and key not in skipped
        }

    def assert_finite(self, when: str) -> None:
        """Raises `AssertionError` unless the state and all known weights are finite."""
        for key, tensor in self.state().items():
            assert tensor.isfinite().all(), f"{when}, {key!r} is {tensor}"
        for name, weight in self.criterion.metrics(include=["weight"]).items():
            assert math.isfinite(weight), f"{when}, {name!r} is not finite"
