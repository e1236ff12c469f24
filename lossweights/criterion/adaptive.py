"""The components of a criterion: they weigh in a forward pass and learn in a step."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lossweights.components.balancers import Balancer, GradientBalancer
from lossweights.components.context import State
from lossweights.components.controllers import Controller
from lossweights.components.durations import Duration, Horizon
from lossweights.components.transforms import Transform
from lossweights.config.loss_config import LossConfig, Part
from lossweights.criterion.distributed import ProcessGroup
from lossweights.criterion.gradients.shared import SharedLike
from lossweights.criterion.gradients.weights import GradientStep, GradientWeights
from lossweights.criterion.indexing import is_finite, take
from lossweights.criterion.observations import Observations
from lossweights.criterion.reader import Values
from lossweights.criterion.slots import Slot, initial_state
from lossweights.criterion.state import AdaptiveState, Checked
from lossweights.errors import ConfigError

_ENOUGH_STEPS = 2  # the first step of a warm-up has a learning rate of 0
_NEGATIVE_LEARNED = "so its learned weight would grow without bound"


class Factors(NamedTuple):
    """What multiplies the weights in a forward pass.

    Args:
        factors: One for each term present, shape (m,).
        penalties: Added to the weighted values, in the same measure; None if there are none. They
            count once a step, so they are divided by `passes`.
        gradients: What was computed from gradients; None if nothing was.
        plain: `factors` without the balancer, for `heads: plain`; None otherwise.
        passes: How many forward passes the step is expected to have, for each term present that
            accumulates a sum, and 1 for the others; None if all are 1.
        found: `factors` with the weights that the balancer found, before `normalize` and `bounds`;
            nan if it found none, None if it has neither.
    """

    factors: Tensor
    penalties: Tensor | None = None
    gradients: GradientStep | None = None
    plain: Tensor | None = None
    passes: Tensor | None = None
    found: Tensor | None = None

    def to(self, device: torch.device) -> Factors:
        """The same on another device, for an evaluation."""
        penalties = None if self.penalties is None else self.penalties.to(device)
        found = None if self.found is None else self.found.to(device)
        return self._replace(factors=self.factors.to(device), penalties=penalties, found=found)


class Adaptive(AdaptiveState):
    """The controllers, transforms and the balancer of a config, with their state.

    Args:
        config: The declaration.
        group: The processes over which observations are averaged.

    Attributes:
        slots: The components by place.
        transforms: The slots of transforms, by term.
        skippable: Terms with a controller and `when_zero: skip`, with their places among all.
        summed: Terms with `accumulates: sum`.
        compared: Terms that the balancer compares in one forward pass.
        estimates: Whether it weighs parts of sums, and estimates the sums.
        weighs_inside: Whether weights are learned, or depend on the losses that they weigh.
        observes: Whether anything learns from the values of forward passes.
        learns_after: Whether the balancer learns from the losses after the step.
        weights_from_gradients: For a balancer by gradients; None for others.
    """

    def __init__(self, config: LossConfig, group: ProcessGroup) -> None:
        terms = tuple(sorted(config.terms))
        balanced = config.balanced_names if config.balancer else ()
        parts = config.adaptive_parts()
        # On the CPU, whatever the default device is; it moves to the device of the first losses.
        with torch.inference_mode(mode=False), torch.device("cpu"), _float32():
            states = [initial_state(part, len(balanced)) for part in parts]
            both = list(zip(parts, states, strict=True))
            raws = [
                str(p.term) for p, state in both if isinstance(p.component, Transform) and state
            ]
            self.summed = frozenset(n for n, t in config.terms.items() if t.accumulates == "sum")
            observations = Observations(terms, raws, _metrics_of(config), self.summed)
            super().__init__(balanced, observations.names, group)
            self.observations, self._after = observations, Observations(terms)
            self._config, self._term_names, self._balanced = config, terms, balanced
            # Every attribute is here before the slots: no learned tensor may be called like one.
            self.slots: dict[str, Slot] = {}
            self.transforms: dict[str, Slot] = {}
            self.skippable: dict[str, int] = {}
            self.controllers: dict[str, Slot] = {}
            self._instant: dict[str, Slot] = {}
            self._steered: dict[str, Slot] = {}
            self.balancer_slot: Slot | None = None
            self.weights_from_gradients: GradientWeights | None = None
            self.weighs_inside = self.observes = self.learns_after = self.estimates = False
            self._balances_inside = self._balances_all = self._learns = False
            self._where_balanced = [terms.index(name) for name in balanced]
            self._interval: Duration | None = None
            self._last: State = {}
            self._progress = _Progress()
            self._refresh()
            for part, state in both:
                self._add_slot(part, state)
            self.weighs_inside = self._balances_inside or bool(self._instant)
            self.estimates = self.weighs_inside and bool(self.summed)
            if self.estimates:
                observations.keep_passes()
            if self.slots:
                self.declare("observed", observations.state)
            if self.balancer_slot is not None:
                self._declare_balancer(self.balancer_slot)
            self._balances_all = len(balanced) == len(terms) and not self.controllers
            self.compared = frozenset(balanced) if _compares(config.balancer) else frozenset()
            observing = any(_observes(slot) for slot in self.controllers.values())
            self.observes = bool(observing or raws or self._learns or self.estimates)
        self.average_gradients()
        self._check_signs()
        self.after_load()

    def _add_slot(self, part: Part, declared: State) -> None:
        place, component = part.place, part.component
        for key, tensor in declared.items():
            if isinstance(tensor, nn.Parameter) and (not key.isidentifier() or hasattr(self, key)):
                raise ConfigError(f"{place}: nothing learned can be called {key!r} here")
        terms = self._balanced if part.term is None else (part.term,)
        group = f"{place}.{component.kind or type(component).__name__}"
        pairs, never_negative = getattr(component, "pairs", ()), component.never_negative
        self.declare(group, declared, pairs, never_negative)
        learned = self._parameters if part.term is None else {}
        slot = self.slots[place] = Slot(place, component, terms, declared, learned)
        if isinstance(component, Transform):
            self.transforms[terms[0]] = slot
        elif isinstance(component, Controller):
            self.controllers[terms[0]] = slot
            (self._instant if component.instant else self._steered)[terms[0]] = slot
            if self._config.terms[terms[0]].when_zero == "skip":
                self.skippable[terms[0]] = self._term_names.index(terms[0])
        else:
            self.balancer_slot = slot
            self._balances_inside = self.is_learned or component.instant

    def _declare_balancer(self, slot: Slot) -> None:
        """Declares what is kept for the balancer beside its own state."""
        balancer, n = self._config.balancer, len(self._balanced)
        if balancer is None:
            return
        self.learns_after, self._interval = balancer.learns_after, balancer.interval
        self._learns = slot.learns or self.learns_after
        if isinstance(balancer, GradientBalancer):
            may_lack = self._config.on_nonfinite == "skip_term" or any(
                self._config.terms[name].optional for name in self._balanced
            )
            self.weights_from_gradients = GradientWeights(slot, self._group, may_lack=may_lack)
            self.declare("gradients", self.weights_from_gradients.tensors, ("gramian", "pairs"))
        if self._learns:
            self._last["values"] = torch.ones(n, dtype=torch.float32)
            if self._interval is not None:
                self._last["interval"] = torch.zeros(2, n, dtype=torch.float32)
            if self.learns_after:
                self._last["awaited"] = torch.zeros(n, dtype=torch.float32)
            self.declare("last_observed", self._last)

    @property
    def awaits_after(self) -> bool:
        """Whether a step was done whose losses after it were not observed yet."""
        return self._progress.awaits_after

    def _check_signs(self) -> None:
        """Refuses negative weights where the balancer can make no sense of them."""
        for name in self._balanced if self.why_positive else ():
            term = self._config.terms[name]
            falls = term.controller is not None and not term.controller.stays_above_zero
            if term.weight < 0 or falls:
                what = "a controller that may go below 0" if falls else "a negative weight"
                raise ConfigError(
                    f"term {name!r} has {what}, {self.why_positive}: write balanced: false at "
                    f"terms.{name}, or flip the term's sign"
                )

    @property
    def why_positive(self) -> str:
        """Why a negative weight makes no sense under the balancer; empty if it does."""
        balancer = self._config.balancer
        if balancer is None:
            return ""
        return balancer.needs_positive or (_NEGATIVE_LEARNED if self.is_learned else "")

    def _refresh(self) -> None:
        """Makes constants on the device of the state."""
        with torch.inference_mode(mode=False):
            self._zero = torch.zeros((), dtype=torch.float32, device=self.device)
            self._one, self._nan = self._zero + 1, self._zero + torch.nan
            self._unread = self._nan.repeat(len(self._balanced))

    # In a forward pass

    def weigh(
        self,
        values: Values,
        inactive: Collection[str],
        shared: SharedLike = None,
        *,
        computes_gradients: bool = False,
        divided_by: int | None = None,
    ) -> Factors:
        """The factors that depend on the losses of a forward pass, or are learned.

        Args:
            values: The terms present.
            inactive: Terms that do not count now.
            shared: What the terms depend on, for a balancer by gradients.
            computes_gradients: Whether it may compute them; else its current weights count.
            divided_by: The number by which the training loop divides the total; None if it does
                not.
        """
        step = balance = passes = found = None
        if self.estimates and self.training and torch.is_grad_enabled():  # else a value is whole
            passes = self._passes(values, divided_by)
            parts = zip(values.losses, passes.unbind(), strict=True)
            whole, vector = [loss * n for loss, n in parts], values.vector * passes
            # Not by _replace, which torch 2.7 does not compile.
            values = Values(values.names, values.raws, whole, vector, values.groups)
        if (gradients := self.weights_from_gradients) is not None:
            where = self._where(values.names, inactive)
            dtype = values.vector.dtype  # of losses in low precision too
            losses = {values.names[index]: values.losses[index].to(dtype) for index in where}
            if computes_gradients:
                step = gradients.weigh(losses, take(values.vector.detach(), where), shared)
                balance = step.balance
            else:
                balance = gradients.current(list(losses)).to(values.vector)
            if gradients.adjusts:
                found = None if step is None else step.found
                found = torch.full_like(balance, torch.nan) if found is None else found
        factors, penalties, found = self._factors(
            values.names, values.vector, inactive, balance, found
        )
        if penalties is not None and passes is not None:
            penalties = penalties / passes
        plain = None
        if step is not None and step.rows:
            ones = torch.ones_like(step.balance)
            plain, *_ = self._factors(values.names, values.vector, inactive, ones)
        return Factors(factors, penalties, step, plain, passes, found)

    def _passes(self, values: Values, divided_by: int | None) -> Tensor:
        """The factor that estimates a whole sum from its part in one forward pass, for each term.

        It is the number of passes: that of the last step, unless the total is divided by it. It is
        1 for the other terms.
        """
        last = self.observations.state["passes"]
        passes = last if divided_by is None else self._one * divided_by
        parts = [passes if name in self.summed else self._one for name in values.names]
        return torch.stack(parts).to(values.vector.dtype) if parts else values.vector

    def _factors(
        self,
        names: Sequence[str],
        vector: Tensor,
        inactive: Collection[str],
        balance: Tensor | None,
        found: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The factors of some terms, their penalties, and the factors before they are adjusted."""
        vector = vector.detach()
        if self._balances_all and not inactive and len(names) == len(self._term_names):
            return self._balance(vector) if balance is None else (balance, None, found)
        if not names:
            return vector, None, None
        one, zero, penalty = self._one.to(vector.dtype), self._zero.to(vector.dtype), None
        factors, penalties = [one] * len(names), [zero] * len(names)
        where = self._where(names, inactive)
        if self._balances_inside and where:
            if balance is None:
                places = [self._balanced.index(names[index]) for index in where]
                balance, penalty, found = self._balance(
                    take(vector, where), None if len(places) == len(self._balanced) else places
                )
            _replace(factors, where, balance)
            if penalty is not None:
                _replace(penalties, where, penalty)
        before = None if found is None else list(factors)
        if before is not None and found is not None:
            _replace(before, where, found)
        for name, slot in self._instant.items():
            if name in names and name not in inactive:
                index = names.index(name)
                weight, _ = slot.weigh_inside(vector[index])
                factors[index] = factors[index] * weight
                if before is not None:
                    before[index] = before[index] * weight
                penalties[index] = penalties[index] * weight
        return (
            torch.stack(factors),
            None if penalty is None else torch.stack(penalties),
            None if before is None else torch.stack(before),
        )

    def _balance(
        self, vector: Tensor, where: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """What `_factors` returns, for the balanced terms alone."""
        slot: Slot = self.balancer_slot  # type: ignore[assignment]
        weights, penalty = slot.weigh_inside(vector, where)
        if not slot.adjusts:
            return weights, penalty, None
        return slot.adjusted(weights), penalty, weights

    def _where(self, names: Sequence[str], inactive: Collection[str]) -> list[int]:
        """The places of the balanced terms that count."""
        return [i for i, n in enumerate(names) if n in self._balanced and n not in inactive]

    def anchor(self, present: Collection[str]) -> Tensor | None:
        """A 0 that has the learned tensors in its graph, if no balanced term is present.

        A rank without a gradient would leave the others waiting for their mean, as it would in
        DistributedDataParallel.
        """
        if not self._parameters or any(name in present for name in self._balanced):
            return None
        return torch.stack([0 * parameter.sum() for parameter in self.parameters()]).sum()

    def observe(self, values: Values, inactive: Collection[str]) -> None:
        """Adds up the values of a training forward pass."""
        names, vector = values.names, values.vector.detach()
        if inactive:
            where = [index for index, name in enumerate(names) if name not in inactive]
            if not where:
                return
            names, vector = tuple(names[index] for index in where), take(vector, where)
        self.observations.add_terms(vector, names)
        if self.observations.raws:
            raws = values.raws.items()
            self.observations.add_raws({n: raw for n, raw in raws if n not in inactive})

    def record(self, step: GradientStep) -> None:
        """Adds up what a training forward pass computed from gradients."""
        if self.weights_from_gradients is not None:
            self.weights_from_gradients.record(step)

    # Between forward passes

    def show(
        self,
        step: int,
        before: int,
        horizon: Horizon,
        fields: Mapping[str, Mapping[str, Tensor]],
    ) -> None:
        """Sets the step for all components, and the values of scheduled fields by place."""
        for place, slot in self.slots.items():
            slot.show(step, before, horizon, fields.get(place))

    def factors(self) -> tuple[Tensor | None, Tensor | None]:
        """The factors of all terms until the next step, shape (n,); None if all are 1.

        The second are those before `normalize` and `bounds`; None without these.
        """
        slot = self.balancer_slot
        if slot is None or self._balances_inside:
            return (self._steered_by(None) if self._steered else None), None
        found = slot.weigh(self._unread)
        if not slot.adjusts:
            return self._steered_by(found), None
        return self._steered_by(slot.adjusted(found)), self._steered_by(found)

    def _steered_by(self, balance: Tensor | None) -> Tensor:
        """The factors of all terms from a balancer's weights and the controllers."""
        factors = [self._one] * len(self._term_names)
        if balance is not None:
            if self._balances_all:
                return balance
            _replace(factors, self._where_balanced, balance)
        for name, slot in self._steered.items():
            index = self._term_names.index(name)
            factors[index] = factors[index] * slot.weigh(self._nan)
        return torch.stack(factors)

    @torch.no_grad()
    def next_factors(self) -> Tensor | None:
        """Factors of the next forward pass beside `factors`; nan if they depend on its losses."""
        if not self.weighs_inside:
            return None
        gradients = self.weights_from_gradients
        balance = None if gradients is None else gradients.next_weights()
        unread = self._nan.repeat(len(self._term_names))
        return self._factors(self._term_names, unread, (), balance)[0]

    def check(self) -> None:
        """Calls each component once and checks what it returns.

        Raises:
            ConfigError: Naming the component and what to change.
        """
        for slot in self.slots.values():
            slot.check(self.device)

    def learn(self, step: int, before: int, horizon: Horizon, inactive: Collection[str]) -> None:
        """Updates all components from the means of the step that was done, over the ranks.

        Args:
            step: Steps done.
            before: Steps done before.
            horizon: The length of training.
            inactive: Terms that were dormant in it: their controllers could steer nothing.
        """
        self._progress.steps += 1
        if self.observes:
            for slot in self.slots.values():
                slot.show(step, before, horizon)  # with the scheduled fields of the step done
            with torch.no_grad():
                self._update(inactive)
        if self.weights_from_gradients is not None:
            with torch.no_grad():
                self.weights_from_gradients.step_done()

    def _update(self, inactive: Collection[str]) -> None:
        observations = self.observations
        values, valid = observations.take(self._group)
        for name, slot in self.controllers.items():
            if name not in inactive and _observes(slot):
                channel = observations.channel(slot.component.source or name)  # type: ignore[union-attr]
                self._update_one(slot, values[channel], valid[channel])
        for name in observations.raws:
            channel = observations.channel_of_raw(name)
            self._update_one(self.transforms[name], values[channel], valid[channel])
        if self._learns:
            if self._balanced != observations.names:
                where = self._where_balanced
                values, valid = take(values, where), take(valid, where)
            self._update_balancer(values, valid)

    def _update_one(self, slot: Slot, value: Tensor, valid: Tensor) -> None:
        slot.learn(torch.where(valid, value, self._one), valid)

    def _update_balancer(self, values: Tensor, seen: Tensor) -> None:
        slot, last = self.balancer_slot, self._last
        if slot is None:
            return
        if self.learns_after:
            last["awaited"].copy_(seen)
            self._progress.awaits_after = True
        if self._interval is not None:
            sums, counts = last["interval"].unbind()
            sums += torch.where(seen, values, self._zero)
            counts += seen
            if not slot.now.passed(self._interval):
                return
            values = sums / counts
            seen = is_finite(values)  # 0 / 0 if nothing was seen
            last["interval"].zero_()
        observed = torch.where(seen, values, last["values"])
        last["values"].copy_(observed)  # not the same tensor: an update may change it
        gradients = None
        if self.weights_from_gradients is not None:
            if not self.weights_from_gradients.has_new:
                return
            gradients = self.weights_from_gradients.observed()
            seen = seen & gradients.seen
        slot.learn(observed, seen, gradients)

    def learn_after(self, values: Values, inactive: Collection[str]) -> None:
        """Updates the balancer from the losses of the same batch after the step.

        Raises:
            RuntimeError: If no step was done since the last call.
        """
        if not self._progress.awaits_after:
            raise RuntimeError(
                "criterion.observe_after(terms) is called once after each optimizer step, with "
                "the mean over micro-batches: no step was done since the last call"
            )
        self._progress.awaits_after, self._progress.has_observed_after = False, True
        where = [index for index, name in enumerate(values.names) if name not in inactive]
        if where:
            vector = take(values.vector, where).float().to(self.device)
            self._after.add_terms(vector, [values.names[index] for index in where])
        observed, valid = (take(x, self._where_balanced) for x in self._after.take(self._group))
        valid = valid & (self._last["awaited"] > 0)  # else there is nothing to compare with
        self._last["awaited"].zero_()
        observed = torch.where(valid, observed, self._last["values"])
        if self.balancer_slot is not None:
            self.balancer_slot.learn_after(observed, valid)

    def set_weight(self, name: str, weight: float) -> None:
        """Sets the weight of a manual controller, which was checked."""
        self.controllers[name].state["weight"].fill_(weight)

    def observe_metrics(self, metrics: Mapping[str, Tensor | float]) -> None:
        """Adds values of metrics that controllers observe.

        Raises:
            ValueError: For a metric that no controller observes, and for a value that is not a
                number.
        """
        self.observations.add_metrics(metrics, self.device)
        self._progress.metrics_seen.update(metrics)

    def move(self, device: torch.device) -> None:
        if self.weights_from_gradients is not None:
            self.weights_from_gradients.check_device(device)
        is_new = device != self.device
        super().move(device)
        if is_new and self.slots:
            self.observations.refresh()
            self._after.state["totals"] = self._after.state["totals"].to(device)
            self._after.refresh()
            self._refresh()

    def read(self, found: Mapping[str, Any]) -> Checked:
        checked = super().read(found)
        if checked.problems:
            return checked
        for place, slot in self.slots.items():
            group = f"{place}.{slot.component.kind or type(slot.component).__name__}."
            state = {
                key: checked.values.get(key if key in self._parameters else group + key, tensor)
                for key, tensor in slot.state.items()
            }
            if problem := slot.why_impossible(state):
                is_learned = problem.split()[0] in self._parameters
                checked.problems.append(problem if is_learned else group + problem)
        return checked

    def after_load(self) -> None:
        """Brings the rest in line with tensors that were just loaded."""
        self._progress.awaits_after = self.learns_after and bool(self._last["awaited"].any())
        self._progress.begin(self.named_parameters())
        if self.weights_from_gradients is not None:
            self.weights_from_gradients.after_load()

    def discard(self) -> None:
        """Drops everything observed since the last step: the clock was set to another time."""
        self.observations.drop()
        if self.learns_after:
            self._last["awaited"].zero_()
        self._progress.awaits_after = False
        self._progress.begin(self.named_parameters())
        if self.weights_from_gradients is not None:
            self.weights_from_gradients.discard()

    # Diagnostics

    def reported(self, device: torch.device) -> dict[str, dict[str, Tensor]]:
        """Copies of the state of all controllers on a device, by term."""
        return {
            name: {key: t.detach().clone().to(device) for key, t in slot.state.items()}
            for name, slot in self.controllers.items()
            if slot.adapts
        }

    def unmoved_parameters_warning(self, least: int) -> str:
        """What to write if learned weights have not moved in `least` steps; empty otherwise.

        It looks at them on the host.
        """
        if self._progress.steps < least:
            return ""
        key = self._progress.unmoved(self.named_parameters())
        return key and (
            f"the learned weights of the balancer ({key}) have not moved in "
            f"{self._progress.steps} steps: give them to the optimizer, as in Adam([{{'params': "
            "model.parameters()}, *criterion.param_groups(lr=1e-2)])"
        )

    def findings(self) -> list[str]:
        """What looks wrong, one sentence each."""
        if self._progress.steps < _ENOUGH_STEPS:
            return []
        found = [note] if (note := self.unmoved_parameters_warning(_ENOUGH_STEPS)) else []
        found += [
            f"metric {metric!r} was never given to the controller that observes it: call "
            f"criterion.observe({metric}=...) before the optimizer step"
            for metric in self.observations.metrics
            if metric not in self._progress.metrics_seen
        ]
        balancer = self._config.balancer
        if balancer and balancer.learns_after and not self._progress.has_observed_after:
            found.append(
                f"the balancer {balancer.kind!r} learns from the losses after "
                "the step and never observed them: call criterion.observe_after(terms) after each "
                "optimizer step"
            )
        return found


class _Progress:
    """What happened since the state was built or loaded, on the host."""

    def __init__(self) -> None:
        self.steps = 0
        self.awaits_after = self.has_observed_after = False
        self.metrics_seen: set[str] = set()
        self._start: State = {}
        self._has_moved = False

    def begin(self, learned: Iterable[tuple[str, Tensor]]) -> None:
        """Counts steps from here on, and notes the learned weights to see whether they move."""
        self._start = {key: tensor.detach().clone() for key, tensor in learned}
        self.steps, self._has_moved = 0, False

    def unmoved(self, learned: Iterable[tuple[str, Tensor]]) -> str:
        """The name of a learned weight that has not moved; empty if there is none."""
        for key, tensor in learned if not self._has_moved else ():
            if torch.equal(tensor.detach().cpu(), self._start[key].cpu()):
                return key
        self._has_moved = True
        return ""


def _observes(slot: Slot) -> bool:
    """Whether a controller learns from observed values."""
    return slot.component.observes  # type: ignore[union-attr]


def _compares(balancer: Balancer | None) -> bool:
    """Whether the weights depend on the values or directions of all terms of one forward pass."""
    if isinstance(balancer, GradientBalancer):
        return "gramian" in balancer.statistics
    return balancer is not None and balancer.instant


@contextmanager
def _float32() -> Iterator[None]:
    """Makes float32 the default, in which components declare their state."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _replace(entries: list[Tensor], where: Sequence[int], values: Tensor) -> None:
    for index, value in zip(where, values.unbind(), strict=True):
        entries[index] = value


def _metrics_of(config: LossConfig) -> list[str]:
    """The metrics that controllers observe, which are not terms."""
    controllers = [term.controller for term in config.terms.values()]
    sources = {controller.source for controller in controllers if controller is not None}
    return sorted(source for source in sources if source and source not in config.terms)
