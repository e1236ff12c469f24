"""Weights that adapt: what follows from the state of controllers, transforms and the balancer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from lossweights.components.balancers import Balancer, GradientBalancer, GramianBalancer
from lossweights.components.context import State, StepContext, orthonormal
from lossweights.components.controllers import Controller
from lossweights.config.loss_config import LossConfig
from lossweights.criterion.memory import Memory
from lossweights.errors import ConfigError

Moments = Mapping[str, StepContext]  # by the place of a component
_TIMELESS = StepContext({})


class Weighing:
    """Calls the components of a config for what they transform and weigh; changes no state.

    Args:
        config: The declaration.
        memory: Where their state lives.

    Attributes:
        weighs_in_forward: Whether weights are learned, or read the losses that they weigh.
    """

    def __init__(self, config: LossConfig, memory: Memory) -> None:
        self.memory = memory
        self._names = tuple(sorted(config.terms))
        terms = {name: config.terms[name] for name in self._names}
        self._controllers = {n: t.controller for n, t in terms.items() if t.controller is not None}
        self._instant = {n: c for n, c in self._controllers.items() if c.instant}
        self._transforms = {n: t.transform for n, t in terms.items() if t.transform is not None}
        self._balancer = config.balancer
        self._balanced = config.balanced_names if config.balancer else ()
        self._where_balanced = [self._names.index(name) for name in self._balanced]
        self._balances_in_forward = config.balancer is not None and (
            config.balancer.instant or memory.is_learned
        )
        self._balances_all = len(self._balanced) == len(self._names) and not self._controllers
        self.weighs_in_forward = self._balances_in_forward or bool(self._instant)
        self._lie_on(memory.device)

    def _lie_on(self, device: torch.device) -> None:
        with torch.inference_mode(mode=False):
            self._zero = torch.zeros((), dtype=torch.float32, device=device)
            self._one, self._nan = self._zero + 1, self._zero + torch.nan
            self._unread = self._nan.repeat(len(self._balanced))

    def level_of(self, name: str) -> str | None:
        """At which level a term's transform acts; None where there is none."""
        transform = self._transforms.get(name)
        return None if transform is None else transform.level

    def transformed(self, name: str, value: Tensor, moments: Moments, *, frozen: bool) -> Tensor:
        """A term's value through its transform.

        Args:
            name: The term.
            value: What there is at the level at which the transform acts.
            moments: The values of scheduled fields.
            frozen: Whether a transform that adapts is left out: a yardstick does not move.
        """
        place = f"terms.{name}.transform"
        if frozen and self.memory.adapts(place):
            return value
        # Copies, since the clock may move before the backward pass, and the state with it.
        state = {key: tensor.clone() for key, tensor in self.memory.state(place).items()}
        now = moments.get(place, _TIMELESS)
        home = value.to(self.memory.device)  # elsewhere only in an evaluation elsewhere
        return self._transforms[name].apply(home, state, now).to(value.device)

    def weigh(
        self,
        values: Tensor,
        given: Sequence[str],
        moments: Moments,
        balance: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """What depends on the losses of a forward pass, or is learned.

        Args:
            values: The values of the terms that were given, shape (m,).
            given: Their names, sorted.
            moments: The values of scheduled fields.
            balance: The weights of the balanced terms among those, where they are known.

        Returns:
            Factors, beside those of `factors`, and penalties if there are any; shape (m,) each.
        """
        values = values.detach()
        where, is_whole = self._where_balanced, len(given) == len(self._names)
        if is_whole and self._balances_all and self._balances_in_forward:
            if balance is not None:
                return balance, None
            balancer, state = self._the_balancer, self.memory.state("balancer")
            return _weighed(balancer, values, state, moments.get("balancer", _TIMELESS))
        penalty = None
        if self._balances_in_forward:
            if not is_whole:
                where = [index for index, name in enumerate(given) if name in self._balanced]
            if where and balance is None:
                balance, penalty = self._balance(values, given, where, moments)
        factors = [self._one] * len(given)
        prices = [self._zero] * len(given)
        if balance is not None:
            factors = placed(balance, where, factors)
        if penalty is not None:
            prices = placed(penalty, where, prices)
        for name, controller in self._instant.items():
            if name in given:
                index, place = given.index(name), f"terms.{name}.controller"
                state, now = self.memory.state(place), moments.get(place, _TIMELESS)
                weight = controller.weigh(values[index], state, now)
                factors[index], prices[index] = factors[index] * weight, prices[index] * weight
        return torch.stack(factors), None if penalty is None else torch.stack(prices)

    def _balance(
        self, values: Tensor, given: Sequence[str], where: Sequence[int], moments: Moments
    ) -> tuple[Tensor, Tensor | None]:
        """Weights and penalties of the balanced terms among those that were given."""
        balancer, state = self._the_balancer, self.memory.state("balancer")
        if len(where) < len(given):
            values = picked(values, where)
        if len(where) < len(self._balanced):
            places = [self._balanced.index(given[index]) for index in where]
            state = {k: t if t.ndim == 0 else picked(t, places) for k, t in state.items()}
        return _weighed(balancer, values, state, moments.get("balancer", _TIMELESS))

    def anchor(self, given: Collection[str]) -> Tensor | None:
        """A 0 in whose graph the learned weights are, where `given` has none of the balanced terms.

        A rank without a gradient would leave the others waiting for their mean, as it would in
        DistributedDataParallel.
        """
        learned = list(self.memory.parameters())
        if not learned or any(name in given for name in self._balanced):
            return None
        return torch.stack([0 * parameter.sum() for parameter in learned]).sum()

    def factors(self, moments: Moments) -> Tensor | None:
        """What all terms' weights are multiplied by until time moves; None where by nothing.

        Args:
            moments: The step now, and scheduled fields as they are in it.
        """
        if self._balances_in_forward and not self._controllers:
            return None
        factors: list[Tensor] = [self._one] * len(self._names)
        balance = None
        if self._balancer is not None and not self._balances_in_forward:
            state = self.memory.state("balancer")
            balance = self._balancer.weigh(self._unread, state, moments["balancer"])
            if self._balances_all:
                return balance
            factors = placed(balance, self._where_balanced, factors)
        for name, controller in self._controllers.items():
            if name not in self._instant:
                place, index = f"terms.{name}.controller", self._names.index(name)
                weight = controller.weigh(self._nan, self.memory.state(place), moments[place])
                factors[index] = factors[index] * weight
        is_one = balance is None and len(self._instant) == len(self._controllers)
        return None if is_one else torch.stack(factors)

    def check(self, moments: Moments) -> None:
        """Refuses components whose weights are no numbers, or not as many as there are terms.

        Raises:
            ConfigError: Naming the component and what to change.
        """
        n = len(self._balanced)
        with torch.no_grad():
            for name, controller in self._controllers.items():
                place = f"terms.{name}.controller"
                value = self._one if controller.instant else self._nan
                weight = controller.weigh(value, self.memory.state(place), moments[place])
                _check_weights(place, controller, weight, ())
            if self._balancer is not None:
                state = self.memory.state("balancer")
                losses = torch.ones_like(self._unread) if self._balancer.instant else self._unread
                now = moments["balancer"]
                if isinstance(self._balancer, GradientBalancer):
                    gramian = isinstance(self._balancer, GramianBalancer)
                    home = torch.device("cpu") if gramian else self.memory.device
                    now = now.with_gradients(orthonormal(self._balanced, home))
                    losses = torch.ones(n, device=home)
                    state = {key: tensor.to(home) for key, tensor in state.items()}
                weights = self._balancer.weigh(losses, state, now)
                _check_weights("balancer", self._balancer, weights, (n,))
                penalty = self._balancer.penalty(state, now)
                if penalty is not None:
                    _check_weights("balancer", self._balancer, penalty, (n,), "penalty")

    @torch.no_grad()
    def known(self, weights: Tensor, moments: Moments, balance: Tensor | None = None) -> Tensor:
        """The weights with what is learned; nan for those that read the coming losses."""
        if not self.weighs_in_forward:
            return weights
        unread = torch.full_like(weights, torch.nan)
        return weights * self.weigh(unread, self._names, moments, balance)[0]

    def move(self, device: torch.device) -> None:
        """To another device."""
        self.memory.move(device)
        self._lie_on(device)

    @property
    def _the_balancer(self) -> Balancer:
        if self._balancer is None:
            raise RuntimeError("this loss has no balancer")
        return self._balancer


def _weighed(
    balancer: Balancer, values: Tensor, state: State, now: StepContext
) -> tuple[Tensor, Tensor | None]:
    """Weights and penalties, none of which is a tensor of the state: that may move on."""
    weights, penalty = balancer.weigh(values, state, now), balancer.penalty(state, now)
    if weights.is_leaf:
        weights = weights.clone()
    if penalty is not None and penalty.is_leaf:
        penalty = penalty.clone()
    return weights, penalty


def picked(values: Tensor, indexes: Sequence[int]) -> Tensor:
    """Some of the last axis, one by one: an index tensor would be uploaded, and waited for."""
    return torch.stack([values.select(-1, index) for index in indexes], dim=-1)


def placed(values: Tensor, where: Sequence[int], among: Sequence[Tensor]) -> list[Tensor]:
    """The entries of `values` at their places, and those of `among` elsewhere."""
    placed = list(among)
    for index, value in zip(where, values.unbind(), strict=True):
        placed[index] = value
    return placed


def _check_weights(
    place: str,
    component: Controller | Balancer,
    weights: Tensor,
    shape: tuple[int, ...],
    method: str = "weigh",
) -> None:
    kind = type(component).__name__
    if not isinstance(weights, Tensor):
        raise ConfigError(f"{place}: {method}() of {kind} gives a tensor, found {weights!r}")
    if tuple(weights.shape) != shape:
        raise ConfigError(
            f"{place}: {method}() of {kind} gives shape {tuple(weights.shape)}, {shape} is "
            f"needed: {'one number for each term' if shape else 'one number'}"
        )
    if not weights.is_meta and not weights.isfinite().all():
        hint = (
            ""
            if component.instant or method != "weigh"
            else ": weigh() reads the losses only in a class that says `instant = True`"
        )
        raise ConfigError(f"{place}: {method}() of {kind} gives {weights.tolist()}{hint}")
