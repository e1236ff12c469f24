"""How terms count in training and in evaluation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from lossweights.components.durations import Horizon
from lossweights.components.schedules import Values
from lossweights.config.loss_config import LossConfig
from lossweights.config.timeline import Timeline, multiply_members
from lossweights.criterion.adaptive import Adaptive
from lossweights.criterion.clock import Clock
from lossweights.criterion.record import ForwardRecord
from lossweights.criterion.slots import Slot
from lossweights.errors import ConfigError, HorizonError, quoted, warn

T = TypeVar("T")
Fields = Mapping[str, Mapping[str, Tensor]]


@dataclass
class Mode:
    """How terms count in one mode of the module.

    Attributes:
        weights: float32, in sorted order of the terms: the factors known before a forward pass.
        members: The weights of the members of each group, likewise, within the group.
        transforms: Functions of a term's value, by term.
        adaptive: What weighs inside a forward pass; None if nothing does.
        in_place: Whether `weights` is overwritten when the clock moves, or replaced.
        dormant: Terms that do not count yet, and may be absent.
        skipped: Terms of weight 0 that are left out of the sum, and may be absent.
        inactive: Both.
        found: `weights` before the balancer's `normalize` and `bounds`; None without these.
    """

    weights: Tensor
    members: Mapping[str, Tensor]
    transforms: Mapping[str, Callable[[Tensor], Tensor]]
    adaptive: Adaptive | None = None
    in_place: bool = False
    dormant: frozenset[str] = frozenset()
    skipped: frozenset[str] = frozenset()
    found: Tensor | None = None

    def __post_init__(self) -> None:
        self.device, self.inactive = self.weights.device, self.dormant | self.skipped


class Modes:
    """The modes of training and evaluation, kept in step with a clock.

    Args:
        config: The declaration.
        adaptive: Its components.
        record: The record of forward passes, which a step completes.
        clock: The clock.
        shares_clock: Whether the clock is another criterion's; then a length of training in the
            config overrides the clock's.

    Attributes:
        train: The mode of training; None if `missing`.
        eval: The mode of evaluation; None if `missing`.
        missing: What is not known yet and must be bound, as an error message.
        loaded: The length of training of a checkpoint that was loaded, until it is compared.
        horizon: The length of training.
        timeline: The schedules; None if `missing`.
        numbers: The scheduled numbers of the coming step as tensors of fixed address, by name, for
            each device that the criterion was on: a program may still use those of an earlier one.
    """

    def __init__(
        self,
        config: LossConfig,
        adaptive: Adaptive,
        record: ForwardRecord,
        clock: Clock,
        *,
        shares_clock: bool,
    ) -> None:
        self.config, self.adaptive, self.record, self.clock = config, adaptive, record, clock
        self._own = config.horizon if shares_clock else Horizon()
        self.device, self._has_warned = torch.device("cpu"), False
        self.loaded: Horizon | None = None
        self._done: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset())
        self._reset()
        self.on_bind()
        self.after_bind()
        clock.subscribe(self)

    def _reset(self) -> None:
        self.horizon, self.missing = Horizon(), ""
        self.timeline: Timeline | None = None
        self.numbers: dict[torch.device, dict[str, Tensor]] = {}
        self.train: Mode | None = None
        self.eval: Mode | None = None

    def get(self, *, training: bool) -> Mode:
        """The mode of training or of evaluation.

        Raises:
            HorizonError: If the length of training is needed and not known.
        """
        mode = self.train if training else self.eval
        if mode is None:
            raise HorizonError(self.missing)
        return mode

    def of_step_done(self) -> Mode:
        """The mode of training, with the terms that counted in the step that was done.

        Raises:
            HorizonError: If the length of training is needed and not known.
        """
        dormant, skipped = self._done
        return replace(self.get(training=True), dormant=dormant, skipped=skipped)

    # Events of the clock

    def on_bind(self) -> None:
        """Computes all weights for the horizon.

        Raises:
            ConfigError: If a schedule is invalid for it, or the clock counts another unit.
        """
        if problem := self.config.wrong_length(self.clock.unit):
            raise ConfigError(problem)
        horizon = self.clock.horizon.merged(self._own)
        self._before = self.horizon if self.timeline is not None else self.loaded
        missing, timeline = "", None
        try:
            timeline = Timeline(self.config, horizon)
        except HorizonError as error:
            missing = _ask_to_bind(error, horizon.unit)
        if timeline is not None and (why := self.adaptive.why_positive):
            timeline.refuse_negative(self.config.balanced_names, why)
        self.horizon, self.timeline, self.missing = horizon, timeline, missing
        self._build(check=True)
        self._end = timeline.moves_until if timeline else None

    def after_bind(self) -> None:
        """Warns of schedules that end after training, and of weights that change within it."""
        for sentence in self.timeline.overruns() if self.timeline else []:
            warn(sentence)
        self._warn_of_changes(self._before)

    def _warn_of_changes(self, before: Horizon | None) -> None:
        """Warns if another length of training changes weights in the middle of it."""
        step, timeline = self.clock.step, self.timeline
        if before is None or timeline is None or not step:
            return
        if before != self.horizon and (note := timeline.changes(before, step)):
            warn(note)

    def on_late_start(self, done: int) -> None:
        """Warns of schedules that begin at 0 with an optimizer that made steps before."""
        if self.timeline is not None and (note := self.timeline.late_start(done)):
            warn(note)

    def on_tick(self, before: int, step: int, *, stepped: bool) -> None:
        """Learns from the step that was done, and sets the weights of the next."""
        if not stepped:
            self.adaptive.discard()
            self.record.discard(before)
        done = stepped and step != before
        # A step that takes 0 units goes on: what it had counts with the next.
        is_due = done and self.record.step_done(before)
        if done and not is_due:
            self.record.idle_steps += 1
        if self.adaptive.learns_after and self.train is not None:
            self._done = self.train.dormant, self.train.skipped
        if self.timeline is None:
            return
        try:
            if done and self.adaptive.slots and self.train is not None:
                self.adaptive.learn(step, before, self.horizon, self.train.dormant)
        finally:
            self._show_next(step)
        self.record.is_due = is_due  # before the warnings, which may be errors
        is_late = self._end is not None and step > self._end
        if is_late and (note := self.timeline.past_end(step, before)):
            self._end = None
            warn(note)
        if not self._has_warned and (note := self.apart_warning()):
            self._has_warned = True
            warn(note)
        if self.eval is None and before == 0:
            warn(f"training works, but evaluation does not yet: {self.missing}")

    def apart_warning(self) -> str:
        """What to write if terms that the balancer compares never came together; else empty."""
        balancer = self.config.balancer
        if balancer is None or not self.record.given.came_apart(self.record.steps):
            return ""
        names = sorted(self.record.given.alone)
        given = ", ".join(f"{name!r}: {name}" for name in names)
        return (
            f"the balancer {balancer.kind!r} compares the terms of one call, and {quoted(names)} "
            "were each given in a call of their own, where it has no effect: give the terms of a "
            f"step in one call, criterion({{{given}}}, ...)"
        )

    def _show_next(self, step: int) -> None:
        try:
            if self.train is None:  # the weights of the step before could not be computed
                self._build()
            else:
                self.show(step)
        except Exception as error:
            if self.eval is self.train:
                self.eval = None
            self.train, self.missing = None, str(error)  # no weights of another step
            raise

    def after_tick(self, before: int, *, stepped: bool) -> None:
        """Runs the callbacks of a step that had a training forward."""
        if self.record.is_due:
            self.record.call_back(before)

    @torch.inference_mode(mode=False)
    def refresh(self) -> None:
        """Computes the weights of the clock's step after a checkpoint was loaded."""
        if self.timeline is not None:
            self._show_next(self.clock.step)
            if self.clock.step:  # else the clock, which another criterion has, is loaded later
                loaded, self.loaded = self.loaded, None
                self._warn_of_changes(loaded)

    # Weights

    def show(self, step: int, *, check: bool = False) -> None:
        """Sets the weights, and the scheduled fields of components, to those of a step.

        Args:
            step: The step of the clock.
            check: Whether to check what the components return, on the host.
        """
        mode, timeline, adaptive = self.train, self.timeline, self.adaptive
        if mode is None or timeline is None:
            raise HorizonError(self.missing)
        weights, mode.members, fields = self._rows.at(step)
        if timeline.numbers:
            self._show_numbers(timeline.row(step), timeline.numbers)
        before = self.clock.before
        if adaptive.slots:
            adaptive.show(step, before, self.horizon, fields)
            if check and self.device.type != "meta":
                adaptive.check()
            factors, found = adaptive.factors()
            if found is not None:
                out = self._rows.found if mode.in_place else None
                mode.found = torch.mul(weights, found, out=out)
            if factors is not None:
                out = self._rows.product if mode.in_place else None
                weights = torch.mul(weights, factors, out=out)
        mode.weights = weights
        if timeline.is_patterned:
            self._show_inactive(mode, timeline, step)
        if adaptive.weights_from_gradients is not None:
            adaptive.weights_from_gradients.show(step, before, self.horizon, mode.inactive)

    def _show_inactive(self, mode: Mode, timeline: Timeline, step: int) -> None:
        # Replaced only when they change: a compiled graph is made for each pattern of them.
        dormant, skipped = timeline.dormant(step), timeline.skipped(step)
        skippable = self.adaptive.skippable
        if skippable and self.device.type != "meta":
            zero = [name for name, at in skippable.items() if not mode.weights[at]]
            skipped |= timeline.with_members(zero)
        if (dormant, skipped) != (mode.dormant, mode.skipped):
            mode.dormant, mode.skipped, mode.inactive = dormant, skipped, dormant | skipped

    def _show_numbers(self, row: Values, columns: Mapping[str, int]) -> None:
        # A new table, since the record keeps that of the step before.
        self.record.numbers = {name: float(row[column]) for name, column in columns.items()}
        for tensors in self.numbers.values():
            for name, number in self.record.numbers.items():
                tensors[name].fill_(number)

    def weights(self) -> dict[str, float]:
        """The weights of the coming training step, of all terms and members.

        nan if a weight depends on the losses of that step.
        """
        mode, timeline = self.get(training=True), self.timeline
        if timeline is None:
            return {}
        row = map(float, timeline.row(self.clock.step))
        found = dict(zip(timeline.all_names, row, strict=False))
        if self.adaptive.slots:
            factors = self.adaptive.next_factors()
            weights = mode.weights
            if factors is not None:  # nan if they are not known yet, which does not matter beside 0
                weights = torch.where(weights == 0, weights, weights * factors)
            found |= zip(timeline.names, weights.tolist(), strict=True)
        multiply_members(found, timeline.groups)
        return found

    def move(self, device: torch.device) -> None:
        """Computes all weights on another device."""
        if device != self.device:
            self.adaptive.move(device)
            self.record.move(device)
            self.device = device
            self._build()

    def restart(self) -> None:
        """Subscribes to the clock and computes all weights, in a copy."""
        self.device = self.adaptive.device
        self.clock.subscribe(self)
        self.on_bind()

    @torch.inference_mode(mode=False)  # training could not use tensors made in it
    def _build(self, *, check: bool = False) -> None:
        """Makes both modes on the device."""
        self.train = self.eval = None
        if self.timeline is None:
            return
        adaptive, self._rows = self.adaptive, _Rows(self.timeline, self.device)
        if self.timeline.numbers and self.device not in self.numbers:
            self.numbers[self.device] = {
                name: torch.zeros((), dtype=torch.float32, device=self.device)
                for name in self.timeline.numbers
            }
        weights, members, _ = self._rows.at(self.clock.step)
        self.train = Mode(
            weights,
            members,
            {name: self._through(slot) for name, slot in adaptive.transforms.items()},
            adaptive if adaptive.weighs_inside else None,
            self._rows.in_place,
        )
        if self.config.eval_weights == "current":
            self.eval = self.train
        else:
            try:
                self.eval = self._final_mode(self.timeline)
            except HorizonError as error:
                ask = _ask_to_bind(error, self.horizon.unit)
                self.missing = f"{ask}; or write eval_weights: current"
        self.show(self.clock.step, check=check)

    def _final_mode(self, timeline: Timeline) -> Mode:
        """The mode of evaluation with final weights, or those of a table.

        Raises:
            HorizonError: If a schedule that counts never settles, and the end of training is not
                known.
        """
        config = self.config
        table = config.eval_weights if isinstance(config.eval_weights, dict) else {}
        final = timeline.final(but=table)
        weights = dict(zip(timeline.all_names, final.tolist(), strict=False))
        for name, term in config.terms.items():
            if term.controller is not None:
                weights[name] *= term.controller.sign
        weights |= table
        # Nothing is gained from a graph with zero gradients here, so `when_zero` does not matter.
        skipped = timeline.with_members(name for name, weight in weights.items() if weight == 0)
        tensor = torch.tensor(list(weights.values()), dtype=torch.float32, device=self.device)
        fields = fields_of(timeline, torch.from_numpy(final).to(self.device).unbind())
        # Transforms that adapt are left out, so that evaluation losses stay comparable.
        transforms = {
            name: self._through(slot.with_fields(fields.get(slot.place, {})))
            for name, slot in self.adaptive.transforms.items()
            if not slot.adapts
        }
        return Mode(*split(timeline, tensor), transforms, skipped=skipped)

    def _through(self, slot: Slot) -> Callable[[Tensor], Tensor]:
        """A transform on the device of its state, also in an evaluation on another device."""
        device = self.device

        def apply(value: Tensor) -> Tensor:
            if value.device == device:
                return slot.apply(value)
            return slot.apply(value.to(device)).to(value.device)

        return apply

    def __getstate__(self) -> dict[str, Any]:
        # Computed again, on the CPU: another machine may lack the device.
        kept = ("config", "adaptive", "record", "clock", "_own", "_has_warned", "loaded", "_done")
        return {key: self.__dict__[key] for key in kept}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self.__dict__.update(kept)
        self._reset()


class _Rows:
    """The rows of a timeline in float32 on a device, uploaded in blocks.

    On the CPU each step has tensors of its own. On another device a row is copied into one tensor,
    since a captured CUDA graph reads from one address.
    """

    def __init__(self, timeline: Timeline, device: torch.device) -> None:
        self._timeline, self._device = timeline, device
        self.in_place = device.type != "cpu"
        self._first, self._count = 0, 0
        if self.in_place:
            self._row = torch.zeros(timeline.width, dtype=torch.float32, device=device)
            weights, members = split(timeline, self._row)
            self.product, self.found = torch.zeros_like(weights), torch.zeros_like(weights)
            self._views = weights, members, fields_of(timeline, self._row.unbind())

    def at(self, step: int) -> tuple[Tensor, Mapping[str, Tensor], Fields]:
        """The weights of a step, those of members by group, and scheduled fields by place."""
        index = step - self._first
        if not 0 <= index < self._count:
            self._upload(step)
            index = step - self._first
        if self.in_place:
            self._row.copy_(self._rows[index])
            return self._views
        # Only this row: a tensor for each field and step of a block takes up memory.
        columns = self._all[index].unbind() if self._timeline.fields else ()
        fields = fields_of(self._timeline, columns)
        if self._timeline.groups:
            return *split(self._timeline, self._all[index]), fields
        return self._rows[index], {}, fields

    def _upload(self, step: int) -> None:
        self._first, block = self._timeline.block(step)
        self._count, n = len(block), len(self._timeline.names)
        rows = torch.from_numpy(block.astype(np.float32)).to(self._device, non_blocking=True)
        self._rows = (rows if self.in_place else rows[:, :n]).unbind()
        self._all = rows


def split(timeline: Timeline, row: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The weights of the terms in a row, and those of the members of each group."""
    sizes = timeline.sizes
    weights, *members = row.split_with_sizes([*sizes, row.shape[0] - sum(sizes)])
    return weights, dict(zip(timeline.groups, members, strict=False))


def fields_of(timeline: Timeline, columns: Sequence[T]) -> dict[str, dict[str, T]]:
    """The columns of scheduled fields, by the place of their component and the field."""
    return {
        place: {field: columns[index] for field, index in indexes.items()}
        for place, indexes in timeline.fields.items()
    }


def _ask_to_bind(error: HorizonError, unit: str) -> str:
    call = "bind(total_steps=len(loader) * epochs, steps_per_epoch=len(loader))"
    call = call if unit == "steps" else f'bind(total="... {unit}")'
    return f"{error}: set it in the config, or call criterion.{call} before the first step"
