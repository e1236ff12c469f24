"""`WeightedLoss`: combines named terms into one scalar, and keeps their weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from numbers import Real
from os import PathLike
from typing import Any, Literal, NoReturn, Self, overload

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lossweights.components.balancers import Balancer
from lossweights.components.controllers import Manual
from lossweights.components.durations import Duration, Horizon
from lossweights.components.schedules import Constant, Schedule
from lossweights.config.files import plain
from lossweights.config.loss_config import EvalWeights, LossConfig, OnNonfinite, ScheduleLike
from lossweights.config.names import FIXED
from lossweights.config.term import TermLike
from lossweights.config.timeline import multiply_members
from lossweights.criterion.adaptive import Adaptive
from lossweights.criterion.clock import Clock, Follower, PerStep, unwrapped, whole_number
from lossweights.criterion.combine import combine, finite_terms
from lossweights.criterion.diagnostics import audit, describe, misspelt_sources
from lossweights.criterion.distributed import ProcessGroup
from lossweights.criterion.gradients.meter import GradientMeter
from lossweights.criterion.gradients.shared import SharedLike
from lossweights.criterion.modes import Mode, Modes
from lossweights.criterion.reader import Reader, Values, ignoring
from lossweights.criterion.record import ForwardRecord, Parts
from lossweights.criterion.report import (
    METRICS,
    QUANTITIES,
    SET_BY_HAND,
    Breakdown,
    Weights,
    chosen,
    on_host,
)
from lossweights.criterion.scheduled import COMPUTED, Scheduled
from lossweights.criterion.state import NOT_STRICT, converted, decoded, encoded, entries
from lossweights.criterion.torch_internals import loads_strictly
from lossweights.errors import ConfigError, HorizonError, did_you_mean, explain, quoted, shown, warn

_MANY_FORWARDS_FOLLOWED = 2000  # for a clock that follows an optimizer, which may be another one
_MANY_STEPS = 100  # steps after which learned weights that did not move were forgotten


class WeightedLoss(nn.Module):
    """Combines named terms into one scalar, each multiplied by its current weight.

    Args:
        terms: The terms by name: a number (a constant weight), a schedule, a table, a `Term`, or
            in Python a function of the step; or a list of names, all of weight 1; or a
            `LossConfig`, with which only `clock` and `process_group` may be passed.
        scheduled: Other numbers that change with the clock, by name: a number, a schedule, a
            table, or in Python a function of the step. `criterion.scheduled` has their values.
        total_steps: Optimizer steps of the whole training, or `"40 epochs"`.
        steps_per_epoch: Optimizer steps of an epoch.
        eval_weights: What counts in evaluation: `final`, `current`, or weights by name.
        on_nonfinite: `propagate`, `raise` or `skip_term`.
        ignore: Names or patterns that may be given without being terms.
        balancer: What weighs all terms together, such as `uncertainty` or a table with `kind`.
        sync: `auto` to average observations over the ranks, if there are several; or `off`.
        clock: The clock of another criterion, for two criteria of one training.
        process_group: The ranks of `torch.distributed` that train together; None for all.
        total: The length of the whole training in any unit, such as `"2e9 tokens"`, in place of
            `total_steps`; the clock counts that unit.

    Raises:
        ConfigError: If the config is invalid; each line names a place in it.

    Only `step()`, or the optimizer that the criterion follows, moves its clock. In evaluation (eval
    mode, or gradients disabled) `eval_weights` applies and nothing is recorded.

    >>> import torch
    >>> from lossweights import Cyclical, WeightedLoss
    >>> criterion = WeightedLoss(
    ...     terms={"reconstruction": 1.0, "kl": Cyclical(cycles=4, ratio=0.5)}, total_steps=40_000
    ... )
    >>> criterion.set_step(2_500)
    >>> criterion({"reconstruction": torch.tensor(3.0), "kl": torch.tensor(2.0)})
    tensor(4.)
    """

    def __init__(
        self,
        terms: Mapping[str, TermLike] | Sequence[str] | LossConfig,
        *,
        scheduled: Mapping[str, ScheduleLike] | None = None,
        total_steps: int | Duration | str | None = None,
        steps_per_epoch: int | None = None,
        eval_weights: EvalWeights | Mapping[str, float] = "final",
        on_nonfinite: OnNonfinite = "propagate",
        ignore: Sequence[str] = (),
        balancer: Balancer | str | Mapping[str, Any] | None = None,
        sync: Literal["auto", "off"] = "auto",
        clock: Clock | None = None,
        process_group: Any = None,
        total: Duration | str | None = None,
    ) -> None:
        super().__init__()
        if torch.is_inference_mode_enabled():
            raise RuntimeError(
                "a criterion built inside inference_mode cannot be used for training: "
                "build it outside"
            )
        if clock is not None and not isinstance(clock, Clock):
            hint = "write clock=other.clock" if isinstance(clock, WeightedLoss) else "a Clock"
            raise TypeError(
                f"clock= takes the clock of another criterion, found {type(clock).__name__}: {hint}"
            )
        if process_group is not None and sync == "off":
            raise ConfigError("process_group has no effect with sync: off: remove one of them")
        fields = {
            "scheduled": {} if scheduled is None else scheduled,
            "total_steps": total_steps,
            "steps_per_epoch": steps_per_epoch,
            "total": total,
            "eval_weights": eval_weights,
            "on_nonfinite": on_nonfinite,
            "ignore": ignore,
            "balancer": balancer,
            "sync": sync,
        }
        self._config = config = _config_of(terms, fields)
        shares_clock = clock is not None
        for sentence in misspelt_sources(config):
            warn(sentence)
        self._clock = clock = clock or Clock(
            config.total_steps, config.steps_per_epoch, total=config.total, unit=config.unit
        )
        self._owns_clock = not clock.has_owner
        self._group = ProcessGroup(config.sync, process_group)
        self.adaptive = Adaptive(config, self._group)
        self._reader = Reader(config.terms, ignoring(config.ignore))
        self._record = ForwardRecord(
            config,
            self.adaptive.summed,
            self.adaptive.compared,
            weights_move=_weights_move(config, self.adaptive),
            adjusts=config.balancer is not None and config.balancer.adjusts,
        )
        self._issued: set[str] = set()
        self._divided_by: int | None = None
        self._multiplied: frozenset[str] = frozenset()
        self._is_checked = config.on_nonfinite != "propagate"
        self._by_gradients = self.adaptive.weights_from_gradients is not None
        self._balancer_kind = "" if config.balancer is None else config.balancer.kind
        self._modes = Modes(config, self.adaptive, self._record, clock, shares_clock=shares_clock)
        clock.has_owner = True
        self.register_load_state_dict_post_hook(_after_load)  # type: ignore[no-untyped-call]

    @classmethod
    def from_config(
        cls,
        source: LossConfig | Mapping[str, Any] | str | PathLike[str],
        at: str | None = None,
        *,
        clock: Clock | None = None,
        process_group: Any = None,
    ) -> Self:
        """A criterion from a `LossConfig`, a mapping, or a JSON, TOML or YAML file.

        Args:
            source: The config, or its file.
            at: The place of the declaration in it, as a dotted path.
            clock: As for `WeightedLoss`.
            process_group: As for `WeightedLoss`.

        Raises:
            ConfigError: Naming, for every problem, its place and what to write.

        >>> config = {"loss": {"terms": {"nll": 1.0, "kl": 0.5}}}
        >>> WeightedLoss.from_config(config, at="loss").weights
        {'nll': 1.0, 'kl': 0.5}
        """
        return cls(LossConfig.read(source, at), clock=clock, process_group=process_group)

    # Combining

    def forward(
        self,
        terms: Mapping[str, Tensor | None] = None,  # type: ignore[assignment]  # noqa: RUF013  # refused
        shared: SharedLike = None,
        *others: Tensor,
        **by_name: Tensor,
    ) -> Tensor:
        """The weighted sum, a scalar with its graph, in float32 (float64 for float64 terms).

        Args:
            terms: A scalar tensor for each term by name, in any order; None, like a missing
                name, for one that is optional or dormant.
            shared: What the terms share, for a balancer by gradients and a history that measures
                them: features, as the trunk returned them, or parameters; a tensor, or a sequence
                or mapping of tensors. Nothing else uses it.
            *others: Refused; terms go by name.
            **by_name: Refused; the terms are one mapping.

        Raises:
            ValueError: For a name that is missing or unknown, and for a value that is not a
                scalar; for `shared` if it is needed and missing, or a term does not depend on it.
            HorizonError: If the length of training is needed and not known: call `bind`.
            FloatingPointError: For a nan or inf, with `on_nonfinite="raise"`.
        """
        if others or by_name:
            found = [type(each).__name__ for each in others] + [f"{name}=" for name in by_name]
            raise TypeError(self._reader.usage(", ".join(found)))
        training = self.training and torch.is_grad_enabled()
        if training and self._by_gradients:
            return self._uncompiled(terms, shared)
        return self._total(terms, shared, training=training)

    def _total(
        self, terms: Mapping[str, Tensor | None], shared: SharedLike, *, training: bool
    ) -> Tensor:
        values, mode = self._read(terms, training=training)
        if training:
            if self._record.meters and isinstance(shared, Iterator):
                shared = list(shared)  # it is read more than once
            parts = combine(
                values,
                mode,
                self._reader.names,
                shared,
                computes_gradients=True,
                multiplied=self._multiplied,
                divided_by=self._divided_by,
            )
            adaptive = self._modes.adaptive
            if self._record.add(parts, mode.skipped):
                self._warn_of_idle_clock()
            if parts.gradients is not None:
                adaptive.record(parts.gradients)
            if adaptive.observes:
                adaptive.observe(values, mode.inactive)
            if self._record.meters:
                if torch.compiler.is_compiling():
                    self._record.in_graph = True
                else:
                    self._measure(parts, mode, shared)
            return parts.total
        return combine(values, mode, self._reader.names, shared).total

    def _measure(self, parts: Parts, mode: Mode, shared: SharedLike) -> None:
        """Measures the gradients of the terms for the histories for which this is due."""
        if not (due := [meter for meter in self._record.meters.values() if meter.is_due()]):
            return
        values = parts.values
        weights = parts.weights if parts.factors is None else parts.weights * parts.factors
        counted = [index for index, n in enumerate(values.names) if n not in mode.inactive]
        dtype = values.vector.dtype  # of losses in low precision too
        losses = {values.names[index]: values.losses[index].to(dtype) for index in counted}
        each = weights.detach().unbind()
        for meter in due:
            meter.measure(losses, {values.names[index]: each[index] for index in counted}, shared)

    def _add_meter(self, is_due: Callable[[], bool]) -> tuple[GradientMeter, RemovableHandle]:
        """Measures the gradients of forward passes for which `is_due()` is true."""
        may_lack = self.config.on_nonfinite == "skip_term" or any(
            term.optional for term in self.config.terms.values()
        )
        names, summed = self._reader.names, self.adaptive.summed
        meter = GradientMeter(names, summed, self._group, is_due, may_lack=may_lack)
        return meter, self._record.add_meter(meter)

    def _read(self, terms: Mapping[str, Tensor | None], *, training: bool) -> tuple[Values, Mode]:
        """The terms of a forward pass and the mode in which they count."""
        mode = self._modes.train if training else self._modes.eval
        if mode is None:
            raise HorizonError(self._modes.missing)
        finite = self._finite(mode) if training and self._is_checked else None
        values = self._reader.read(terms, mode, training=training, finite=finite)
        if training and values.vector.device != mode.device:  # it moves to its losses, once
            self._modes.move(values.vector.device)
            mode = self._modes.get(training=True)
            values = self._reader.read(terms, mode, finite=finite)
        return values if finite is None else finite(values), mode

    def _finite(self, mode: Mode) -> Callable[[Values], Values]:
        """A function that leaves out terms whose value is not finite, or raises."""
        return lambda values: finite_terms(values, mode, self.config, self.clock)

    def _uncompiled(self, terms: Mapping[str, Tensor | None], shared: SharedLike) -> Tensor:
        """A training forward pass with a balancer by gradients, outside of compiled graphs."""
        if torch.compiler.is_compiling():
            raise RuntimeError(
                f"the balancer {self._balancer_kind!r} computes gradients, which a compiled graph "
                "cannot do: compile the model, and call the criterion outside"
            )
        # The caller may have graph breaks; torch would resume compiling here.
        return _not_compiled(WeightedLoss._total)(self, terms, shared, training=True)

    def _warn_of_idle_clock(self) -> None:
        if self.clock.is_followed and self._record.idle < _MANY_FORWARDS_FOLLOWED:
            return  # many batches may be accumulated, or another model be trained first
        if note := self._record.idle_clock_warning(self.horizon, self.current_step, look=False):
            self._issue({"clock": note})

    def breakdown(self, terms: Mapping[str, Tensor | None]) -> Breakdown:
        """All parts of the total for these terms, without recording anything; raises as a call.

        A balancer by gradients computes none: its current weights count, after a forward pass
        those of that pass.
        """
        values, mode = self._read(terms, training=self.training and torch.is_grad_enabled())
        parts = combine(values, mode, self._reader.names, divided_by=self._divided_by)
        weights, factors, penalties = parts.weights, parts.factors, parts.penalties
        factors = weights if factors is None else weights * factors
        losses = dict(zip(values.names, values.losses, strict=True))
        weight = dict(zip(values.names, factors.unbind(), strict=True))
        for group, members in values.groups.items():
            losses |= zip(members.names, members.losses, strict=True)
            weight |= zip(members.names, (members.weights * weight[group]).unbind(), strict=True)
        losses = {name: loss.to(values.vector.dtype) for name, loss in losses.items()}
        return Breakdown.of(
            tuple(losses),
            [values.raws.get(name, loss) for name, loss in losses.items()],
            list(losses.values()),
            list(weight.values()),
            () if penalties is None else (weights * penalties).unbind(),
            [
                loss.new_zeros(()) if name in mode.skipped else loss * weight[name]
                for name, loss in losses.items()
            ],
            self._record.order,
            weights.new_zeros(()),
            self._record.members,
            () if parts.found is None else parts.found.unbind(),
        )

    def wrap(self, function: Callable[..., Mapping[str, Tensor | None]]) -> WrappedLoss:
        """A module that calls `function`, which returns named terms, and combines them.

        For a balancer by gradients the function also returns what the terms share: `terms,
        features`.

        >>> criterion = WeightedLoss(terms={"mse": 1.0, "l1": 0.1})
        >>> loss_fn = criterion.wrap(
        ...     lambda out, target: {"mse": ((out - target) ** 2).mean(), "l1": out.abs().mean()}
        ... )
        >>> loss_fn(torch.ones(3), torch.zeros(3))
        tensor(1.1000)
        """
        return WrappedLoss(function, self)

    @property
    def divided_by(self) -> int | None:
        """The number by which the training loop divides the total before its backward pass.

        Set it where a trainer divides by the number of accumulated batches and a term has
        `accumulates: sum`: such a term is multiplied by it in training, so that its parts add up.
        The integrations set it. None, the default, is for a loop that does not divide. It changes
        neither other terms nor what is reported.

        Raises:
            ValueError: If it is set to anything but None or a whole number of at least 1.

        >>> from lossweights import WeightedLoss
        >>> criterion = WeightedLoss({"ce": {"accumulates": "sum"}, "router": 0.1})
        >>> criterion.divided_by = 4  # accumulated batches
        >>> terms = {"ce": torch.tensor(0.5), "router": torch.tensor(2.0)}
        >>> (criterion(terms) / criterion.divided_by).item()  # 0.5 + 0.1 * 2.0 / 4
        0.55...
        """
        return self._divided_by

    @divided_by.setter
    def divided_by(self, n: int | None) -> None:
        self._divided_by = None if n is None else whole_number("divided_by", n, least=1)
        self._multiplied = self.adaptive.summed if n is not None and n > 1 else frozenset()

    # Time

    @property
    def clock(self) -> Clock:
        """The clock, which other criteria may share."""
        return self._clock

    @property
    def current_step(self) -> int:
        """Optimizer steps done so far, or what else the clock counts; 0 before the first update."""
        return self.clock.step

    @property
    def horizon(self) -> Horizon:
        """The length of training, as far as it is known."""
        return self._modes.horizon

    def step(self, n: int | None = None) -> None:
        """Moves the clock: call it after each `optimizer.step()`.

        Args:
            n: Optimizer steps that were done, by default 1; or what the step took in the unit of
                the clock, such as 4096 tokens, where it is required.

        Raises:
            RuntimeError: While the criterion follows an optimizer, or shares another's clock.
            ValueError: If `n` is not a whole number of at least 0, or is required.
        """
        if not self._owns_clock:
            self._refuse_shared("step")
        self.clock.advance(n)

    def set_step(self, step: int) -> None:
        """Sets the clock: `step` optimizer steps, or units, are done. Adaptive state stays.

        Raises:
            RuntimeError: If the criterion shares another's clock.
            ValueError: If `step` is not a whole number of at least 0.
        """
        if not self._owns_clock:
            self._refuse_shared("set_step")
        self.clock.set(step)

    def follow(self, optimizer: Optimizer, per_step: PerStep | None = None) -> Follower:
        """Moves the clock with each step of `optimizer`, so that `step()` need not be called.

        Gradient accumulation and steps that a gradient scaler skips are counted correctly. With a
        fused optimizer under a scaler, whether a step was skipped is read from the device.

        If the clock is at 0 and the optimizer has made steps before, the next step warns that
        schedules start from 0. After `load_state_dict` or `set_step` it does not. Optimizers
        that do not count their steps, such as SGD and L-BFGS, give no warning.

        Args:
            optimizer: A torch optimizer, or the wrapper of Lightning or Accelerate around one.
            per_step: For a clock that counts another unit than steps: how many an optimizer step
                takes, such as 4096 tokens, or a function that returns it, called without arguments
                after each step that is not skipped. On several ranks, the same number on each.

        Returns:
            A handle. Its `remove()`, or leaving its `with` block, releases the clock.

        Raises:
            RuntimeError: If it follows an optimizer already, or shares another's clock.
            TypeError: If it is not a torch optimizer.
            ValueError: If `per_step` is missing, not a whole number, or given to a clock of steps;
                in a step, if the function does not return a whole number of at least 0.
        """
        if not self._owns_clock:
            self._refuse_shared("follow")
        return self.clock.follow(optimizer, per_step)

    def bind(
        self,
        *,
        total_steps: int | Duration | str | None = None,
        steps_per_epoch: int | None = None,
        total: Duration | str | None = None,
    ) -> Self:
        """Sets how long training takes, for all criteria on the same clock; returns the criterion.

        Schedules that would end after training are reported as a warning, with what to change.

        Args:
            total_steps: Optimizer steps of the whole training, or `"40 epochs"`.
            steps_per_epoch: Optimizer steps of an epoch: batches divided by accumulation.
            total: The length of the whole training in any unit, such as `"2e9 tokens"`, in place of
                `total_steps`.

        Raises:
            ValueError: If it is not a length of training, such as a percentage, or is in a unit
                that the config does not count in.
            RuntimeError: If it changes the unit of a clock that has moved, or is followed.
        """
        self.clock.bind(total_steps=total_steps, steps_per_epoch=steps_per_epoch, total=total)
        return self

    def _refuse_shared(self, call: str) -> None:
        raise RuntimeError(f"this criterion shares the clock of another: call {call}() on that one")

    # Observations

    def observe(self, **metrics: Tensor | float) -> None:
        """Passes the values of metrics that controllers observe with `source: name`.

        If a metric is given several times between two steps, the mean counts.

        Args:
            **metrics: Numbers or scalar tensors by name.

        Raises:
            ValueError: For a metric that no controller observes, and for a value that is not a
                number.

        >>> from lossweights import WeightedLoss
        >>> criterion = WeightedLoss(
        ...     terms={
        ...         "policy": 1.0,
        ...         "kl": {"kind": "adaptive-kl", "target": 3.0, "source": "rollout_kl"},
        ...     }
        ... )
        >>> criterion.observe(rollout_kl=3.2)
        """
        if metrics and not self.adaptive.observations.metrics:
            raise ValueError(
                f"no controller of this loss observes {quoted(metrics)}: write "
                f"source: {next(iter(metrics))} at a controller"
            )
        self.adaptive.observe_metrics(metrics)

    def observe_after(self, terms: Mapping[str, Tensor | None]) -> None:
        """Passes the losses of the same batch after the optimizer step, to a balancer such as FAMO.

        Call it once after each step. If the optimizer that the criterion follows made no step since
        the last call, because a gradient scaler skipped it, nothing is learned.

        Args:
            terms: The losses by name, as in a call.

        Raises:
            ValueError: If the balancer does not learn from them, and for terms that a call would
                refuse.
            RuntimeError: If no step was done since the last call, and no optimizer is followed.
            HorizonError: As a call does.
        """
        adaptive = self.adaptive
        if not adaptive.learns_after:
            raise ValueError(
                "no balancer of this loss learns from the losses after the step: for metrics call "
                "criterion.observe(name=value)"
            )
        skipped = not adaptive.awaits_after and self.clock.follower is not None
        if skipped and self._record.awaits_step:
            return  # a forward pass without a step after it: the gradient scaler skipped that
        with torch.inference_mode(mode=False), torch.no_grad():
            mode = self._modes.of_step_done()
            values = self._reader.read(terms, mode)
            adaptive.learn_after(values, mode.inactive)
            self._modes.show(self.current_step)

    @contextmanager
    def freeze(self) -> Iterator[None]:
        """Holds the weights of a balancer by gradients, as for a line search.

        Within the block they are the mean of those of the forward passes since the last step, or
        else those of the last step, and `shared` need not be given (except for `heads: plain`).
        Other balancers are not affected.

        >>> from lossweights import WeightedLoss
        >>> criterion = WeightedLoss(terms=["a", "b"], balancer="mgda")
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> _ = criterion({"a": x[0] ** 2, "b": x[1] ** 2}, shared=x)
        >>> with criterion.freeze():
        ...     criterion({"a": x[0] ** 2, "b": x[1] ** 2})
        tensor(1.6000, grad_fn=...)
        """
        weights = self.adaptive.weights_from_gradients
        if weights is None:
            yield
            return
        was_frozen, weights.is_frozen = weights.is_frozen, True
        try:
            yield
        finally:
            weights.is_frozen = was_frozen

    def param_groups(self, **options: Any) -> list[dict[str, Any]]:
        """The learned weights as groups for an optimizer; none if nothing is learned.

        Args:
            **options: Of the group, such as `lr=1e-2`. Weight decay, which would pull learned
                weights to an arbitrary point, is 0 unless given here.

        >>> from lossweights import WeightedLoss
        >>> criterion = WeightedLoss(terms=["a", "b"], balancer="uncertainty")
        >>> model = torch.nn.Linear(2, 2)
        >>> optimizer = torch.optim.AdamW(
        ...     [{"params": model.parameters()}, *criterion.param_groups(lr=1e-2)], lr=1e-3
        ... )
        """
        learned = list(self.parameters())
        return [{"params": learned, "weight_decay": 0.0, **options}] if learned else []

    def drop_stale_moments(self, optimizer: Optimizer) -> None:
        """Drops what an optimizer keeps of learned weights if that belongs to other terms.

        Call it after `optimizer.load_state_dict(...)`, if terms were added or removed since the
        checkpoint. The moments of the learned weights start over; all others stay. An optimizer
        that makes its state when it is built, such as Adagrad, must be built again instead.

        Args:
            optimizer: A torch optimizer, or the wrapper of Lightning or Accelerate around one.

        Raises:
            TypeError: If it is not a torch optimizer.

        >>> from lossweights import WeightedLoss
        >>> criterion = WeightedLoss(terms=["a", "b"], balancer="uncertainty")
        >>> optimizer = torch.optim.Adam(criterion.param_groups(lr=1e-2))
        >>> criterion.drop_stale_moments(optimizer)
        """
        state = unwrapped(optimizer, "drop_stale_moments()").state
        for parameter in self.parameters():
            kept = [t for t in state.get(parameter, {}).values() if isinstance(t, Tensor)]
            # Scalars count steps.
            fits = all(t.shape == parameter.shape or not t.ndim for t in kept)
            if self.adaptive.is_mapped or not fits:
                state.pop(parameter, None)

    # Metrics and diagnostics

    @property
    def config(self) -> LossConfig:
        """The config of this criterion. It cannot be changed."""
        return self._config

    @config.setter
    def config(self, _: object) -> NoReturn:
        raise AttributeError(FIXED)

    @property
    def term_names(self) -> tuple[str, ...]:
        """The terms, as declared."""
        return tuple(self.config.terms)

    @property
    def weights(self) -> dict[str, float]:
        """The weights of the coming training step, by term.

        A weight that depends on the losses of that step (`instant` balancers and controllers) is
        nan here: `metrics` has those of the last step.

        Raises:
            HorizonError: If the length of training is needed and not known.
        """
        found = self._modes.weights()
        return Weights((name, found[name]) for name in self._record.order)

    @weights.setter
    def weights(self, _: object) -> NoReturn:
        raise AttributeError(SET_BY_HAND)

    @property
    def scheduled(self) -> Scheduled:
        """The scheduled numbers of the coming step, by name; for compiled code, as tensors.

        >>> from lossweights import WeightedLoss
        >>> criterion = WeightedLoss(["reconstruction"], scheduled={"mask_ratio": 0.3})
        >>> criterion.scheduled["mask_ratio"]
        0.3
        """
        return Scheduled(self._modes)

    @scheduled.setter
    def scheduled(self, _: object) -> NoReturn:
        raise AttributeError(COMPUTED)

    def set_weight(self, name: str, weight: float) -> None:
        """Sets the weight of a term with a `manual` controller, from the next forward pass on.

        Args:
            name: The term.
            weight: Its weight, within the bounds of the controller.

        Raises:
            ValueError: For an unknown name, a term without that controller, and a weight that is
                not a number within the bounds.

        >>> from lossweights import WeightedLoss
        >>> kl = {"kind": "manual", "initial": 0.1, "highest": 1.0}
        >>> criterion = WeightedLoss(terms={"nll": 1.0, "kl": kl})
        >>> criterion.set_weight("kl", 0.25)
        >>> criterion.weights
        {'nll': 1.0, 'kl': 0.25}
        """
        self._check_name(name)
        term = self.config.lineage(name)[-1]
        if not isinstance(term.controller, Manual):
            owner = term.controller or term.schedule
            of = f"{owner.kind or 'function'!r} sets it" if owner else "it is a constant"
            lowest = ", lowest: -1e6" if term.weight < 0 else ""
            manual = f"{{kind: manual, initial: {term.weight:g}{lowest}}}"
            hint = f"write {manual} at terms.{name}"
            if name in self._record.members:
                hint = f"a member of a group has no controller: declare it as a term, {manual}"
            raise ValueError(f"the weight of {name!r} cannot be set, {of}: {hint}")
        controller = term.controller
        is_number = isinstance(weight, Real) and not isinstance(weight, bool)
        if not is_number or not controller.lowest <= weight <= controller.highest:
            hint = f"change lowest or highest at terms.{name}" if is_number else "write a float"
            raise ValueError(
                f"the weight of {name!r} is a number from {controller.lowest:g} to "
                f"{controller.highest:g}, found {weight!r}: {hint}"
            )
        self.adaptive.set_weight(name, float(weight))
        self._modes.refresh()

    def is_active(self, name: str) -> bool:
        """Whether the term counts now; one that does not need not be computed.

        In training it does not while it is dormant, or while its weight is 0 and its config has
        `when_zero: skip`. In evaluation it does not if its weight there is 0.

        Raises:
            ValueError: For an unknown name.
        """
        self._check_name(name)
        training = self.training and torch.is_grad_enabled()
        mode = self._modes.get(training=training)
        if training or name in mode.inactive:
            return name not in mode.inactive
        weights = dict(zip(self._reader.names, mode.weights.tolist(), strict=True))
        for group, members in self.config.groups.items():
            weights |= zip(members, mode.members[group].tolist(), strict=True)
        multiply_members(weights, self.config.groups)
        return bool(weights[name])

    def _check_name(self, name: str) -> None:
        if name not in self._record.order:
            raise ValueError(
                f"no term is called {name!r}{did_you_mean(name, self._record.order)} "
                f"(the terms are {quoted(self._record.order)})"
            )

    @overload
    def metrics(
        self, prefix: str = ..., include: Iterable[str] | None = ..., tensors: Literal[False] = ...
    ) -> dict[str, float]: ...
    @overload
    def metrics(
        self, prefix: str = ..., include: Iterable[str] | None = ..., *, tensors: Literal[True]
    ) -> dict[str, Tensor]: ...
    def metrics(
        self, prefix: str = "", include: Iterable[str] | None = None, tensors: bool = False
    ) -> dict[str, float] | dict[str, Tensor]:
        """The metrics of the last step, or of the current one so far; empty before the first.

        Values are means over the forward passes of the step, or sums with `accumulates: sum`.

        Args:
            prefix: Prepended to each name, such as `train/`.
            include: Which of `raw`, `value`, `found`, `weight`, `penalty`, `weighted`, `share`,
                `total`, `controller` (as in `controller/kl/error`) and `scheduled`.
            tensors: Whether to return 0-dim tensors, without waiting for the device; floats take
                one transfer for all.

        >>> from lossweights import WeightedLoss
        >>> criterion = WeightedLoss(terms={"nll": 1.0, "kl": 0.5})
        >>> _ = criterion({"nll": torch.tensor(3.0), "kl": torch.tensor(2.0)})
        >>> criterion.metrics(prefix="train/", include=["weighted", "total"])
        {'train/weighted/nll': 3.0, 'train/weighted/kl': 1.0, 'train/total': 4.0}
        """
        wanted = chosen(include, METRICS)
        breakdown = self._last_breakdown()
        if breakdown is None:
            return {}
        self._issue(self._notes(look=not tensors))
        found = breakdown.metrics(prefix, wanted)
        return found if tensors else on_host(found)

    def report(self) -> Breakdown:
        """The parts of the last step, as in `metrics`; printed, a table. Empty before the first.

        >>> from lossweights import WeightedLoss
        >>> criterion = WeightedLoss(terms={"nll": 1.0, "kl": 0.5})
        >>> _ = criterion({"nll": torch.tensor(3.0), "kl": torch.tensor(2.0)})
        >>> print(criterion.report())
        step 0
        term           raw       value      weight    weighted       share
        nll              3           3           1           3       75.0%
        kl               2           2         0.5           1       25.0%
        total                                                4
        """
        breakdown = self._last_breakdown()
        if breakdown is None:
            note = "no forward pass yet: call criterion(terms) in training mode, with gradients"
            parts: dict[str, Any] = {quantity: {} for quantity in QUANTITIES}
            parts |= {"step": self.current_step, "unit": self.clock.unit}
            return Breakdown(total=torch.zeros(()), notes=(note,), **parts)
        step = self.current_step if self._record.step is None else self._record.step
        notes = tuple(self._notes(look=True).values())
        return replace(breakdown, step=step, notes=notes, unit=self.clock.unit)

    def _last_breakdown(self) -> Breakdown | None:
        breakdown = self._record.breakdown()
        if breakdown is None or not self.adaptive.controllers:
            return breakdown
        # On the device of that forward pass, which may not be the current one.
        controllers = self.adaptive.reported(breakdown.total.device)
        return replace(breakdown, controllers=controllers)

    def _notes(self, *, look: bool) -> dict[str, str]:
        """Warnings about the training so far, by topic; `look` may wait for the device."""
        unmoved = self.adaptive.unmoved_parameters_warning(_MANY_STEPS) if look else ""
        idle = self._record.idle_clock_warning(self.horizon, self.current_step, look=look)
        notes = {"clock": idle, "learned": unmoved}
        return {topic: note for topic, note in notes.items() if note}

    def _issue(self, notes: Mapping[str, str]) -> None:
        """Warns about each topic once."""
        for topic, note in notes.items():
            if topic not in self._issued:
                self._issued.add(topic)
                warn(note)

    def describe(self) -> str:
        """The plan: for each term its weight's start, peak and end over the training."""
        return describe(self.config, self.horizon)

    def audit(self) -> list[str]:
        """What looks wrong so far, one sentence each; empty if nothing does.

        * Before training: a term whose weight is 0 for the whole training, or is not known.
        * From the first forward pass on: a total that is not finite in the last step; a term that
          was never given; a term that carries no gradient. Gradients are checked in passes 1, 2, 3,
          5, 9, 17 and 33, then in every 32nd; a term whose weight is 0 in the last of these is not
          reported.
        * From 2 steps on: learned weights that do not move; observations that a component waits
          for.
        * From 4 steps on: terms that a balancer compares, given one at a time; a criterion that is
          never called.
        * From 10 steps on: a term that is no longer given.
        * From 20 forward passes without a step on: a clock that does not move; 200 if it moved
          before, or follows an optimizer, because a step may have many batches.
        * As soon as it happens: a clock that is past the end of training.
        """
        findings = audit(self.config, self._record, self._modes)
        return findings + self.adaptive.findings()

    def on_step(self, call: Callable[[int], object]) -> RemovableHandle:
        """Calls `call(step)` after each optimizer step that had a training forward pass.

        `metrics` then shows that step, whose number (optimizer steps done before it, or what else
        the clock counts) is passed; if `step(n)` counts several at once, that of the first. Copies
        and pickles of the criterion do not have the callback.

        Args:
            call: A function of the step. An exception in it is raised by the step.

        Returns:
            A handle; its `remove()` ends the calls.

        Raises:
            TypeError: If it is not a function.

        >>> from lossweights import WeightedLoss
        >>> criterion = WeightedLoss(terms={"nll": 1.0, "kl": 0.5})
        >>> handle = criterion.on_step(
        ...     lambda step: print(step, criterion.metrics(include=["total"]))
        ... )
        >>> _ = criterion({"nll": torch.tensor(3.0), "kl": torch.tensor(2.0)})
        >>> criterion.step()
        0 {'total': 4.0}
        """
        if not callable(call):
            raise TypeError(f"on_step takes a function of the step, found {type(call).__name__}")
        return self._record.add_callback(call)

    def extra_repr(self) -> str:
        """The terms and scheduled numbers, as declared."""
        parts = [f"{name}: {term}" for name, term in self.config.terms.items()]
        parts += [f"scheduled.{name}: {each}" for name, each in self.config.scheduled.items()]
        return ", ".join(parts)

    # State

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}term_names"] = encoded(sorted(self.config.all_terms))
        if self._owns_clock:
            destination[f"{prefix}clock.step"] = torch.tensor(self.clock.step)
            destination[f"{prefix}clock.before"] = torch.tensor(self.clock.before)
        horizon = self.horizon
        if horizon.unit != "steps":
            destination[f"{prefix}clock.unit"] = encoded([horizon.unit])
        numbers = (horizon.span if horizon.is_bounded else None, horizon.steps_per_epoch)
        destination[f"{prefix}horizon"] = torch.tensor([-1 if n is None else n for n in numbers])

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        missing: list[str] = []
        unexpected: list[str] = []
        problems: list[str] = []
        # First, since it calls the user's hooks.
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing, unexpected, problems
        )
        strict = loads_strictly(default=strict)
        found, inside = entries(state_dict, prefix), f"{prefix}adaptive."
        read: dict[str, Callable[[Any], Any]] = {"term_names": decoded, "horizon": _horizon_of}
        read["clock.unit"] = _unit_of
        if self._owns_clock:
            read |= {"clock.step": _step_of, "clock.before": _step_of}
        values: dict[str, Any] = {}
        for key, reader in read.items():
            if key not in found:
                missing += [] if key in ("horizon", "clock.unit") else [prefix + key]
                continue
            try:
                values[key] = reader(found[key])
            except (ValueError, RuntimeError) as error:  # of torch, for an unusual tensor
                problems.append(f"{prefix}{key} {error}")
        ours = set(self.config.all_terms)
        theirs = set(values.get("term_names", ours))
        # Terms are reported as keys, so that a load that is not strict returns them.
        missing += [
            f"{prefix}terms.{name} (not a term of this checkpoint)"
            for name in sorted(ours - theirs)
        ]
        unexpected = [key for key in unexpected if key.removeprefix(prefix) not in read] + [
            f"{prefix}terms.{name} (not a term of this criterion)" for name in sorted(theirs - ours)
        ]
        missing += [prefix + note for note in _without_other_unit(values, self.horizon.unit)]
        # Everything is checked before anything is changed.
        adaptive = self.adaptive.checked = self.adaptive.read(entries(state_dict, inside))
        refused = bool(problems or (strict and (missing or unexpected)))
        refused = self.adaptive.skips_load = refused or adaptive.is_refused(strict=strict)
        if refused:
            missing += [inside + key for key in adaptive.missing]
            unexpected += [inside + key for key in adaptive.unexpected]
            problems += [inside + problem for problem in adaptive.problems]
            if strict:
                problems += _what_to_load(found, prefix, ours, theirs, adaptive.differences())
        missing_keys += missing
        unexpected_keys += unexpected
        error_msgs += problems
        if refused or not found:
            return
        self.adaptive.discard()  # observations belong to no step of the checkpoint
        self._record.discard(self.clock.step)
        self._modes.loaded = _loaded_horizon(values)
        if "clock.step" in values:
            self.clock.restore(values["clock.step"], values.get("clock.before"))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._modes.move(self.adaptive.device)
        return self

    def __setstate__(self, kept: dict[str, Any]) -> None:
        super().__setstate__(kept)  # type: ignore[no-untyped-call]
        self._modes.restart()
        self._record.move(self._modes.device)


class WrappedLoss(nn.Module):
    """A function that returns named terms, with a criterion that combines them.

    Args:
        function: Called with the module's arguments, returns terms, or terms and what they share;
            the parameters of a module become parameters of this one.
        criterion: Combines the terms.

    Raises:
        TypeError: If `function` is not callable.
    """

    def __init__(
        self, function: Callable[..., Mapping[str, Tensor | None]], criterion: WeightedLoss
    ) -> None:
        super().__init__()
        if not callable(function):
            raise TypeError(
                "wrap takes a function that returns named terms, such as lambda output, target: "
                f"{{'mse': ...}}, found {type(function).__name__}"
            )
        self.function = function
        self.criterion = criterion

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The total of the terms that the function returns for these arguments.

        Raises:
            TypeError: If it does not return named terms.
        """
        found: Any = self.function(*args, **kwargs)
        terms, shared = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
        if not hasattr(terms, "items"):
            raise TypeError(
                f"the wrapped function returns named terms, such as {{'kl': kl}}, or these and "
                f"what they share, found {type(terms).__name__}"
            )
        return self.criterion(terms, shared)  # type: ignore[no-any-return]


def _what_to_load(
    found: Collection[str], prefix: str, ours: set[str], theirs: set[str], differences: str
) -> Iterator[str]:
    """What to write if a checkpoint is of another criterion.

    Args:
        found: The keys of the criterion in the checkpoint.
        prefix: What these keys begin with.
        ours: The terms here.
        theirs: The terms of the checkpoint.
        differences: How the components differ.
    """
    if not found:
        yield (
            f"the checkpoint has no criterion {prefix.rstrip('.')}".rstrip() + ": load it "
            f"with {NOT_STRICT}, then set the clock with criterion.set_step(step)"
        )
    elif ours != theirs:
        yield (
            f"{prefix}terms: the checkpoint has the terms {quoted(sorted(theirs))}, this criterion "
            f"has {quoted(sorted(ours))}: load what both have with {NOT_STRICT}"
        )
    elif differences:
        yield (
            f"{prefix}adaptive: {differences}: to let new components begin from their initial "
            f"state, load with {NOT_STRICT}"
        )


def _config_of(terms: Any, fields: dict[str, Any]) -> LossConfig:
    """The config of a criterion, validated once.

    Raises:
        ConfigError: For a declaration that cannot be used.
    """
    if isinstance(terms, LossConfig):
        defaults = {name: field.default for name, field in LossConfig.model_fields.items()}
        if both := [name for name, value in fields.items() if value not in (defaults[name], [])]:
            raise ConfigError(
                f"{quoted(both)} cannot be passed with a LossConfig: set it in the config, as in "
                f"config.override({{{both[0]!r}: ...}})"
            )
        return terms
    if isinstance(terms, str | PathLike):
        raise ConfigError(
            "terms must be a table by name, a list of names or a LossConfig, found "
            f"{shown(terms)}; from a file build it with WeightedLoss.from_config(...)"
        )
    try:
        return LossConfig.model_validate(plain({"terms": terms, **fields}))
    except ValidationError as error:
        raise ConfigError(explain(error)) from None


def _weights_move(config: LossConfig, adaptive: Adaptive) -> bool:
    """Whether any weight or number changes from step to step, so that the clock matters."""
    balancer = config.balancer
    return (
        adaptive.observes
        or adaptive.weights_from_gradients is not None
        or (balancer is not None and not adaptive.is_learned and not balancer.instant)
        or any(term.schedule is not None for term in config.all_terms.values())
        or any(not isinstance(schedule, Constant) for schedule in config.scheduled.values())
        or any(Duration.parse(term.after).value > 0 for term in config.all_terms.values())
        or any(
            isinstance(value, Schedule) and not isinstance(value, Constant)
            for part in config.adaptive_parts()
            for value in vars(part.component).values()
        )
    )


def _after_load(criterion: WeightedLoss, _: object) -> None:
    """Shows the weights of a checkpoint once, when all of it is loaded."""
    criterion.adaptive.checked = None
    if criterion.adaptive.skips_load:
        criterion.adaptive.skips_load = False
        return
    criterion.adaptive.after_load()
    criterion.clock.refresh()


def _step_of(value: Any) -> int:
    """The step of a checkpoint.

    Raises:
        ValueError: Unless it is a whole number from 0 to below 2**53.
    """
    step = int(converted(value, (), torch.int64))
    if not 0 <= step < 2**53:
        raise ValueError(f"is a whole number from 0 to below 2**53, found {step}")
    return step


def _horizon_of(value: Any) -> list[int | None]:
    """The total and the steps of an epoch in a checkpoint, as far as they were known.

    Raises:
        ValueError: Unless it is two whole numbers, -1 for what was not known.
    """
    numbers = converted(value, (2,), torch.int64).tolist()
    if not all(-1 <= number < 2**53 for number in numbers):
        raise ValueError(f"is two whole numbers from -1 to below 2**53, found {numbers}")
    return [None if number < 0 else number for number in numbers]


def _loaded_horizon(values: Mapping[str, Any]) -> Horizon | None:
    """The length of training of a checkpoint; None if it does not say one in our unit."""
    if "horizon" not in values:
        return None
    (total, each), unit = values["horizon"], values["clock.unit"]
    length = None if total is None else Duration(total, unit)
    return Horizon(total=length, steps_per_epoch=each if unit == "steps" else None, unit=unit)


def _unit_of(value: Any) -> str:
    """What the clock of a checkpoint counts.

    Raises:
        ValueError: Unless it is one word.
    """
    if len(units := decoded(value)) != 1:
        raise ValueError(f"is one unit, found {quoted(units)}")
    return units[0]


def _without_other_unit(values: dict[str, Any], ours: str) -> list[str]:
    """Drops the times of a checkpoint that counts another unit; says so, as a missing key."""
    theirs = values.setdefault("clock.unit", "steps")
    times = [key for key in ("clock.step", "clock.before", "horizon") if key in values]
    if theirs == ours or not times:
        return []
    for key in times:
        del values[key]
    note = (
        f'clock.step in {ours} (this checkpoint counts {theirs}: write total: "... {theirs}"; '
        f"{NOT_STRICT} leaves the clock as it is, then call set_step(...))"
    )
    return [note]


@cache
def _not_compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function that torch does not compile; made once, which takes longer than a call."""
    return torch.compiler.disable(function)  # type: ignore[no-untyped-call, no-any-return]
