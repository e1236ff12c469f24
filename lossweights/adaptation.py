"""Weights that adapt: what controllers, transforms and the balancer learn from what was seen."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lossweights.balancers import Balancer
from lossweights.config import LossConfig
from lossweights.controllers import Controller
from lossweights.errors import did_you_mean, quoted
from lossweights.memory import Memory
from lossweights.moment import Moment
from lossweights.observations import Observations
from lossweights.ranks import Ranks
from lossweights.transforms import Transform
from lossweights.weighing import Moments, Weighing, picked

_ENOUGH_STEPS = 2  # of a warm-up the first has a learning rate of 0
_AFTER = "the losses after the step"  # no metric is called so


class Adaptation(Weighing):
    """What weighs, and learns once a step.

    Args:
        config: The declaration.
        memory: Where their state lives.
        ranks: The processes over which observations are averaged.

    Attributes:
        observes: Whether anything learns from what forward passes show.
    """

    def __init__(self, config: LossConfig, memory: Memory, ranks: Ranks) -> None:
        super().__init__(config, memory)
        self._ranks = ranks
        self._balancer_learns = _overrides(config.balancer, "update") or self.learns_after
        self.observes = bool(self._controllers or memory.observations.raws or self._balancer_learns)
        self._seen_in_step: Tensor | None = None  # until the losses after the step are told
        self._after = Observations(self._names, (), ())
        self._after.move(memory.device)
        self._steps = 0
        self._heard_of: set[str] = set()

    def observe(self, values: Tensor, raws: Mapping[str, Tensor], given: Sequence[str]) -> None:
        """Adds up what a training forward has shown."""
        observations = self.memory.observations
        observations.add_terms(values.detach(), given)
        observations.add_raws(raws)

    def observe_metrics(self, metrics: Mapping[str, Tensor | float]) -> None:
        """Adds values of metrics that controllers watch.

        Raises:
            ValueError: For a metric that none watches, and for a value that is no number.
        """
        known = self.memory.observations.metrics
        for name in metrics:
            if name not in known:
                what = "a term, which is watched anyway" if name in self._names else "not watched"
                raise ValueError(
                    f"{name!r} is {what}{did_you_mean(name, known)} (watched metrics: "
                    f"{quoted(known)}); a controller watches what its source: names"
                )
        numbers = {name: self._number(name, value) for name, value in metrics.items()}
        for name, number in numbers.items():
            self.memory.observations.add_metric(name, number)
            self._heard_of.add(name)

    def _number(self, metric: str, value: Any) -> Tensor | float:
        if isinstance(value, Real) and not isinstance(value, bool):
            return float(value)
        if not isinstance(value, Tensor | np.ndarray):
            raise ValueError(f"metric {metric!r} is a number or a scalar tensor, found {value!r}")
        tensor = torch.as_tensor(value)
        if tensor.numel() != 1 or tensor.is_complex() or tensor.dtype is torch.bool:
            raise ValueError(
                f"metric {metric!r} is a number or a scalar tensor, found one of shape "
                f"{tuple(tensor.shape)} and {tensor.dtype}"
            )
        tensor = tensor.detach().reshape(())
        # A scalar on the host may be added anywhere, without waiting for the device.
        return tensor if tensor.device.type == "cpu" else tensor.to(self.memory.device)

    # Between forward passes

    def step_done(self, moments: Moments, dormant: Collection[str] = ()) -> None:
        """Tells all components what was seen since the last step, as means over the ranks.

        Args:
            moments: The step that is done, and scheduled fields as they were in it.
            dormant: Terms that did not count in it: their controllers could steer nothing.
        """
        self._steps += 1
        if not self.observes:
            return
        observations, memory = self.memory.observations, self.memory
        values, valid = observations.take(self._ranks)
        for name, controller in self._controllers.items():
            if name in dormant:
                continue
            source = controller.source or name
            place = f"terms.{name}.controller"
            channel = observations.channel(source)
            self._tell(place, controller, values[channel], valid[channel], moments[place])
        for name in observations.raws:
            place, channel = f"terms.{name}.transform", observations.channel_of_raw(name)
            transform = self._transforms[name]
            self._tell(place, transform, values[channel], valid[channel], moments[place])
        if self._balancer_learns:
            balancer, now = self._the_balancer, moments["balancer"]
            seen = self._of_balanced(valid)
            torch.where(seen, self._of_balanced(values), memory.last_seen, out=memory.last_seen)
            memory.change(
                "balancer", seen, lambda state: balancer.update(memory.last_seen, state, now)
            )
            self._seen_in_step = seen

    def _tell(
        self,
        place: str,
        component: Controller | Transform,
        value: Tensor,
        valid: Tensor,
        now: Moment,
    ) -> None:
        observed = torch.where(valid, value, self._one)
        self.memory.change(place, valid, lambda state: component.update(observed, state, now))

    @property
    def learns_after(self) -> bool:
        """Whether the balancer learns from the losses after the step."""
        return _overrides(self._balancer, "update_after")

    @property
    def awaits_after(self) -> bool:
        """Whether a step was done of which the losses after it are not told yet."""
        return self._seen_in_step is not None

    @torch.no_grad()
    def observe_after(self, losses: Mapping[str, Tensor], now: Moment) -> None:
        """Tells the balancer the losses of the same batch after the step, sorted and detached.

        Raises:
            RuntimeError: Where no step was done since the last time.
        """
        if self._seen_in_step is None:
            raise RuntimeError(
                "criterion.observe(terms) is called once after each optimizer step, with the "
                "mean over micro-batches: no step was done since the last call"
            )
        seen, self._seen_in_step = self._seen_in_step.to(self.memory.device), None
        self._heard_of.add(_AFTER)
        if losses:
            values = torch.stack([loss.float() for loss in losses.values()])
            self._after.add_terms(values, list(losses))
        values, valid = map(self._of_balanced, self._after.take(self._ranks))
        valid = valid & seen  # there is nothing to compare the others with
        observed = torch.where(valid, values, self.memory.last_seen)
        balancer = self._the_balancer
        self.memory.change(
            "balancer", valid, lambda state: balancer.update_after(observed, state, now)
        )

    def move(self, device: torch.device) -> None:
        super().move(device)
        self._after.move(device)

    def forget(self) -> None:
        """Drops what was seen since the last step: the clock was set to another time."""
        self.memory.observations.drop()
        self._seen_in_step = None
        self._steps = 0

    def findings(self) -> list[str]:
        """What looks wrong, a sentence each: learned weights that do not move, and the like."""
        steps = self._steps
        if steps < _ENOUGH_STEPS:
            return []
        found = [
            f"the learned weights of the balancer ({key}) have not moved in {steps} steps: "
            "give them to the optimizer, as in Adam([{'params': model.parameters()}, "
            "*criterion.param_groups(lr=1e-2)])"
            for key, parameter in self.memory.named_parameters()
            if torch.equal(parameter.detach().cpu(), self.memory.start[key].cpu())
        ]
        found += [
            f"metric {metric!r} was never given to the controller that watches it: call "
            f"criterion.observe({metric}=...) before the optimizer step"
            for metric in self.memory.observations.metrics
            if metric not in self._heard_of
        ]
        if self.learns_after and _AFTER not in self._heard_of:
            found.append(
                f"the balancer {self._the_balancer.kind!r} learns from the losses after the step "
                "and was never told them: call criterion.observe(terms) after each optimizer step"
            )
        return found

    def reported(self) -> dict[str, Tensor]:
        """The state of all controllers, as `controller/<term>/<name>`."""
        return {
            f"controller/{name}/{key}": tensor.detach().clone()
            for name in self._controllers
            for key, tensor in self.memory.state(f"terms.{name}.controller").items()
        }

    def _of_balanced(self, values: Tensor) -> Tensor:
        if self._balanced == self.memory.observations.names:
            return values
        return picked(values, self._where_balanced)


def _overrides(balancer: Balancer | None, method: str) -> bool:
    return balancer is not None and getattr(type(balancer), method) is not getattr(Balancer, method)
