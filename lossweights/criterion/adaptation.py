"""Weights that adapt: what controllers, transforms and the balancer learn from what was seen."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lossweights.components.balancers import Balancer, GradientBalancer
from lossweights.components.context import StepContext
from lossweights.components.controllers import Controller
from lossweights.components.transforms import Transform
from lossweights.config.loss_config import LossConfig
from lossweights.criterion.gradients.weights import GradientWeighing, Taken
from lossweights.criterion.memory import Memory
from lossweights.criterion.observations import Observations
from lossweights.criterion.ranks import Ranks
from lossweights.criterion.weighing import Moments, Weighing, picked
from lossweights.errors import did_you_mean, quoted

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
        by_gradients: What weighs by gradients; None where the balancer does not.
        awaits_after: Whether a step was done of which the losses after it are not told yet.
    """

    def __init__(self, config: LossConfig, memory: Memory, ranks: Ranks) -> None:
        super().__init__(config, memory)
        self._ranks = ranks
        self._balancer_learns = _overrides(config.balancer, "update") or self.learns_after
        self.observes = bool(self._controllers or memory.observations.raws or self._balancer_learns)
        self.by_gradients: GradientWeighing | None = None
        if isinstance(config.balancer, GradientBalancer):
            self.by_gradients = GradientWeighing(config, config.balancer, memory, ranks)
        self.awaits_after = False
        self._after = Observations(self._names, (), ())
        self._after.move(memory.device)
        self._steps = 0
        self._have_moved = False
        self._heard_of: set[str] = set()

    def known(self, weights: Tensor, moments: Moments, balance: Tensor | None = None) -> Tensor:
        if self.by_gradients is not None:
            balance = self.by_gradients.coming()
        return super().known(weights, moments, balance)

    def observe(self, values: Tensor, raws: Mapping[str, Tensor], given: Sequence[str]) -> None:
        """Adds up what a training forward has shown."""
        observations = self.memory.observations
        observations.add_terms(values.detach(), given)
        observations.add_raws(raws)

    def record(self, taken: Taken) -> None:
        """Adds up what a balancer that weighs by gradients has taken in a training forward."""
        if self.by_gradients is not None:
            self.by_gradients.record(taken)

    def observe_metrics(self, metrics: Mapping[str, Tensor | float]) -> None:
        """Adds values of metrics that controllers watch.

        Raises:
            ValueError: For a metric that none watches, and for a value that is no number.
        """
        known = self.memory.observations.metrics
        for name in metrics:
            if name not in known:
                what = "not watched"
                if name in self._names:
                    what = "a term (losses after a step are given as a dict, observe({...}))"
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
        if self.observes:
            self._tell_all(moments, dormant)
        if self.by_gradients is not None:
            self.by_gradients.step_done()

    def _tell_all(self, moments: Moments, dormant: Collection[str]) -> None:
        observations = self.memory.observations
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
            self._tell_balancer(self._of_balanced(values), self._of_balanced(valid), moments)

    def _tell(
        self,
        place: str,
        component: Controller | Transform,
        value: Tensor,
        valid: Tensor,
        now: StepContext,
    ) -> None:
        observed = torch.where(valid, value, self._one)
        self.memory.change(place, valid, lambda state: component.update(observed, state, now))

    def _tell_balancer(self, values: Tensor, seen: Tensor, moments: Moments) -> None:
        balancer, now, memory = self._the_balancer, moments["balancer"], self.memory
        if self.learns_after:
            memory.awaiting.copy_(seen)
            self.awaits_after = True
        if (interval := balancer.interval) is not None:
            sums, counts = memory.interval.unbind()
            sums += torch.where(seen, values, self._zero)
            counts += seen
            if not now.passed(interval):
                return
            values = sums / counts
            seen = (values - values).logical_not()  # 0 / 0 where nothing was seen
            memory.interval.zero_()
        torch.where(seen, values, memory.last_seen, out=memory.last_seen)
        if self.by_gradients is not None:
            if not self.by_gradients.has_taken:
                return
            gradients = self.by_gradients.held.observed()
            seen, now = seen & gradients.seen, now.with_gradients(gradients)
        memory.change("balancer", seen, lambda state: balancer.update(memory.last_seen, state, now))

    @property
    def learns_after(self) -> bool:
        """Whether the balancer learns from the losses after the step."""
        return self._balancer is not None and self._balancer.learns_after

    @torch.no_grad()
    def observe_after(self, losses: Mapping[str, Tensor], now: StepContext) -> None:
        """Tells the balancer the losses of the same batch after the step, sorted and detached.

        Raises:
            RuntimeError: Where no step was done since the last time.
        """
        if not self.awaits_after:
            raise RuntimeError(
                "criterion.observe(terms) is called once after each optimizer step, with the "
                "mean over micro-batches: no step was done since the last call"
            )
        self.awaits_after = False
        self._heard_of.add(_AFTER)
        if losses:
            values = torch.stack([loss.float() for loss in losses.values()])
            self._after.add_terms(values.to(self.memory.device), list(losses))
        values, valid = map(self._of_balanced, self._after.take(self._ranks))
        valid = valid & (self.memory.awaiting > 0)  # nothing to compare the others with
        self.memory.awaiting.zero_()
        observed = torch.where(valid, values, self.memory.last_seen)
        balancer = self._the_balancer
        self.memory.change(
            "balancer", valid, lambda state: balancer.update_after(observed, state, now)
        )

    def move(self, device: torch.device) -> None:
        super().move(device)
        self._after.move(device)

    def remember(self) -> None:
        """Called when the memory was loaded."""
        self.awaits_after = bool(self.memory.awaiting.any())
        if self.by_gradients is not None:
            self.by_gradients.remember()

    def forget(self) -> None:
        """Drops what was seen since the last step: the clock was set to another time."""
        self.memory.observations.drop()
        self.memory.awaiting.zero_()
        self.awaits_after = False
        self._steps = 0
        self._have_moved = False
        if self.by_gradients is not None:
            self.by_gradients.forget()

    def stuck(self, least: int) -> str:
        """What to say where learned weights have not moved in at least so many steps.

        It looks at them on the host.
        """
        if self._have_moved or self._steps < least:
            return ""
        start = self.memory.start
        for key, parameter in self.memory.named_parameters():
            if torch.equal(parameter.detach().cpu(), start[key].cpu()):
                return (
                    f"the learned weights of the balancer ({key}) have not moved in {self._steps} "
                    "steps: give them to the optimizer, as in Adam([{'params': "
                    "model.parameters()}, *criterion.param_groups(lr=1e-2)])"
                )
        self._have_moved = True
        return ""

    def findings(self) -> list[str]:
        """What looks wrong, a sentence each: learned weights that do not move, and the like."""
        if self._steps < _ENOUGH_STEPS:
            return []
        found = [note] if (note := self.stuck(_ENOUGH_STEPS)) else []
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
