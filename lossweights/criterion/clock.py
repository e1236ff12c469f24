"""The clock of a training: what is done of it, in steps or another unit, and how long it takes."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any, Protocol, Self, TypeAlias

import torch
from torch.optim import Optimizer

from lossweights.components.durations import Duration, Horizon, one_total
from lossweights.criterion.torch_internals import makes_optimizer_state

PerStep: TypeAlias = int | Callable[[], int]


class Listener(Protocol):
    """An object that a clock notifies."""

    def on_tick(self, before: int, step: int, *, stepped: bool) -> None:
        """The clock moved from `before` to `step`; `stepped` if optimizer steps were done."""

    def after_tick(self, before: int, *, stepped: bool) -> None:
        """The same, once `on_tick` of all listeners has returned."""

    def on_late_start(self, done: int) -> None:
        """The clock begins at 0 to follow an optimizer that made `done` steps before."""

    def on_bind(self) -> None:
        """The horizon of the clock changed."""

    def after_bind(self) -> None:
        """The same, once `on_bind` of all listeners has returned."""

    def refresh(self) -> None:
        """The step of the clock was restored from a checkpoint."""


class Clock:
    """Counts the optimizer steps of a training, or another unit, and knows how long it takes.

    Every criterion has one, `criterion.clock`, and several criteria share one with
    `WeightedLoss(..., clock=other.clock)`. The first criterion on a clock moves it and saves its
    step; of a clock made on its own, that is the first that it is passed to.

    Args:
        total_steps: Optimizer steps of the whole training, or `"40 epochs"`; None if unknown.
        steps_per_epoch: Optimizer steps of an epoch; None if unknown.
        total: The length of the whole training in any unit, such as `"2e9 tokens"`, in place of
            `total_steps`; the clock counts that unit.
        unit: What the clock counts if the total is unknown, such as `"tokens"`; by default steps.

    Attributes:
        has_owner: Whether a criterion owns it.
        follower: What moves the clock with an optimizer; None if nothing does.
        declared: The horizon given at construction; `bind` does not change it.

    A copy or a pickle keeps the step and the horizon. It follows no optimizer, and the copied
    criteria subscribe to it again.

    >>> clock = Clock(total_steps=100)
    >>> clock.advance()
    >>> clock.step, clock.horizon.total_steps
    (1, 100)
    """

    def __init__(
        self,
        total_steps: int | Duration | str | None = None,
        steps_per_epoch: int | None = None,
        *,
        total: Duration | str | None = None,
        unit: str | None = None,
    ) -> None:
        self._step = self._before = 0
        self.has_owner = self._is_set = False
        self.follower: Follower | None = None
        self._unit = unit  # None if a total may still set it
        self.declared = Horizon(total_steps, steps_per_epoch, total=total, unit=unit)
        self._use(self.declared)
        self._listeners: list[weakref.ref[Listener]] = []

    def _use(self, horizon: Horizon) -> None:
        self._horizon, self._counts_steps = horizon, horizon.unit == "steps"

    @property
    def step(self) -> int:
        """Optimizer steps done, or what else the clock counts."""
        return self._step

    @property
    def before(self) -> int:
        """The same before the clock last moved."""
        return self._before

    @property
    def unit(self) -> str:
        """What the clock counts: `"steps"`, or another unit such as `"tokens"`."""
        return self._horizon.unit

    @property
    def horizon(self) -> Horizon:
        """The length of training, as far as it is known."""
        return self._horizon

    @property
    def is_followed(self) -> bool:
        """Whether it follows an optimizer that still exists."""
        return self.follower is not None and self.follower.is_alive

    def advance(self, n: int | None = None) -> None:
        """Counts `n` optimizer steps that were done, or what one took in the unit of the clock.

        All criteria on this clock learn and update their weights, then their callbacks run. An
        exception is raised after all of them were notified. Raises as `WeightedLoss.step`.
        """
        if n is None and self._counts_steps:
            n = 1
        elif n is None:
            raise ValueError(
                f"the clock counts {self.unit}: write how many the optimizer step took, as in "
                "step(4096)"
            )
        elif n.__class__ is not int or n < 0:
            n = whole_number("step()", n)
        if self.is_followed:
            raise RuntimeError(
                "this criterion follows an optimizer, which moves its clock: drop the call of "
                "step(), or release the clock with the handle that follow() returned, "
                "handle.remove()"
            )
        self._move(self.step + n, stepped=True)

    def count_step(self, n: int = 1) -> None:
        """Counts one step of the optimizer that the clock follows, which took `n` units."""
        self._move(self.step + n, stepped=True)

    def set(self, step: int) -> None:
        """Sets the clock, as `WeightedLoss.set_step`: observations of the step are dropped."""
        self._is_set = True
        self._move(whole_number("set_step()", step), stepped=False)

    def restore(self, step: int, before: int | None = None) -> None:
        """Sets the step of a checkpoint; `refresh` follows once everything is loaded.

        Args:
            step: The step.
            before: That before the clock last moved; by default one step earlier.
        """
        self._is_set = True
        self._step, self._before = step, max(step - 1, 0) if before is None else before

    def refresh(self) -> None:
        """Makes all criteria on this clock compute the weights of its step."""
        for listener in self._alive():
            listener.refresh()

    def bind(
        self,
        *,
        total_steps: int | Duration | str | None = None,
        steps_per_epoch: int | None = None,
        total: Duration | str | None = None,
    ) -> None:
        """Sets how long training takes, as `WeightedLoss.bind`; if it raises, nothing changes."""
        horizon, notified = self._horizon, []
        length = one_total(total_steps, total)
        length = horizon.total if length is None else length
        each = horizon.steps_per_epoch if steps_per_epoch is None else steps_per_epoch
        unit = self._unit if length is None else None
        bound = Horizon(total=length, steps_per_epoch=each, unit=unit)
        if bound.unit != horizon.unit and (self._step or self.is_followed):
            raise RuntimeError(
                f"the clock counts {horizon.unit} already, and the total is {length}: call "
                "bind() before the first step, and before follow()"
            )
        try:
            self._use(bound)
            for listener in self._alive():
                notified.append(listener)
                listener.on_bind()
            self._check_unit()
        except Exception:
            self._use(horizon)
            for listener in notified:
                listener.on_bind()
            raise
        for listener in notified:
            listener.after_bind()

    def _check_unit(self) -> None:
        """Refuses a total in another unit; a criterion names the place first, if it has one."""
        if self._unit not in (None, self.unit):
            raise ValueError(
                f"the clock counts {self._unit}, and the total is {self.horizon}: write "
                f'total="... {self._unit}"'
            )

    def follow(self, optimizer: Optimizer, per_step: PerStep | None = None) -> Follower:
        """Moves the clock with each step of `optimizer`, as `WeightedLoss.follow`."""
        if self.is_followed:
            raise RuntimeError(
                "this criterion follows an optimizer already, and one clock has one owner: release "
                "it first with handle.remove(), or build a second criterion with "
                "clock=criterion.clock to share it"
            )
        if per_step is not None and not callable(per_step):
            per_step = whole_number("per_step", per_step, least=1)
        if self._counts_steps and per_step not in (None, 1):
            raise ValueError(
                "per_step is for a clock that counts another unit, and this one counts steps: "
                'write total: "... tokens" for the length of training, or drop per_step'
            )
        if not self._counts_steps and per_step is None:
            raise ValueError(
                f"the clock counts {self.unit}: write how many an optimizer step takes, "
                "per_step=4096, or a function that returns it after each step, per_step=count"
            )
        return Follower(self, unwrapped(optimizer), per_step or 1)

    def begin(self, optimizer: Optimizer) -> None:
        """Reports an optimizer that made steps before, unless the clock was moved or set."""
        if self._step or self._is_set:
            return
        # `torch.distributed.checkpoint` makes a step of its own, which optimizers count.
        if (done := _steps_of(optimizer)) > 1:
            for listener in self._alive():
                listener.on_late_start(done)

    def subscribe(self, listener: Listener) -> None:
        """Notifies `listener` from now on, for as long as it exists."""
        others = [found for found in self._alive() if found is not listener]
        self._listeners = [weakref.ref(found) for found in (*others, listener)]

    def _alive(self) -> list[Listener]:
        return [found for reference in self._listeners if (found := reference()) is not None]

    def _move(self, step: int, *, stepped: bool) -> None:
        if torch.is_inference_mode_enabled():  # training could not use tensors made in it
            with torch.inference_mode(mode=False):
                return self._move(step, stepped=stepped)
        before, self._before, self._step = self._step, self._step, step
        failed: Exception | None = None
        listeners = self._alive()
        for listener in listeners:
            try:
                listener.on_tick(before, step, stepped=stepped)
            except Exception as error:  # noqa: BLE001  # raised below, after all are notified
                failed = failed or error
        for listener in listeners:
            try:
                listener.after_tick(before, stepped=stepped)
            except Exception as error:  # noqa: BLE001  # the same
                failed = failed or error
        if failed is not None:
            raise failed
        return None

    def __getstate__(self) -> dict[str, Any]:
        gone = ("follower", "_listeners")
        return {key: value for key, value in self.__dict__.items() if key not in gone}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self.__dict__.update(kept, follower=None, _listeners=[])


class Follower:
    """Moves a clock at each step of an optimizer, until it is removed.

    A context manager: leaving it removes it.

    Attributes:
        of_trainer: Whether a trainer follows, which replaces a follower that it left behind.
    """

    of_trainer = False

    def __init__(self, clock: Clock, optimizer: Optimizer, per_step: PerStep) -> None:
        self._clock, self._per_step = clock, per_step
        self._optimizer = weakref.ref(optimizer)
        self._is_counted = self._has_begun = False
        self._hooks = (
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        )
        clock.follower = self

    @property
    def is_alive(self) -> bool:
        """Whether the optimizer still exists."""
        return self._optimizer() is not None

    def remove(self) -> None:
        """Releases the clock: another optimizer, or `step()`, may move it."""
        for hook in self._hooks:
            hook.remove()
        if self._clock.follower is self:
            self._clock.follower = None

    def _before_step(self, optimizer: Optimizer, *_: Any) -> None:
        self._is_counted = not optimizer.state and makes_optimizer_state()
        if not (self._is_counted or self._has_begun or self.of_trainer):
            self._has_begun = True
            self._clock.begin(optimizer)

    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        if self._is_counted:  # torch calls the hooks again for a subclass around super().step()
            return
        self._is_counted = True
        # A gradient scaler calls a fused optimizer even to skip a step; the flag is on the device.
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is None or not bool(found_inf):
            n = self._per_step
            self._clock.count_step(whole_number("per_step()", n()) if callable(n) else n)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def unwrapped(optimizer: object, call: str = "follow()") -> Optimizer:
    """The torch optimizer inside the wrappers of Lightning and Accelerate, for `call`.

    Raises:
        TypeError: If there is no torch optimizer inside.
    """
    inner = optimizer
    while (wrapped := getattr(inner, "optimizer", None)) is not None:
        inner = wrapped
    if not isinstance(inner, Optimizer):
        hint = "; with anything else call criterion.step() after each of its steps"
        raise TypeError(
            f"{call} takes a torch optimizer, found {type(optimizer).__name__}"
            f"{hint if call == 'follow()' else ''}"
        )
    return inner


def _steps_of(optimizer: Optimizer) -> int:
    """The steps that an optimizer counted; 0 if it does not count, or while a graph is captured."""
    done = 0  # each parameter counts from its first gradient on
    for state in optimizer.state.values():
        count = state.get("step") if isinstance(state, Mapping) else None
        if isinstance(count, torch.Tensor):
            if count.is_cuda and torch.cuda.is_current_stream_capturing():
                return 0
            count = None if count.is_meta or count.numel() != 1 else count.item()
        if isinstance(count, Real) and math.isfinite(count):  # an optimizer may keep anything
            done = max(done, int(float(count)))
    return done


def whole_number(call: str, n: object, least: int = 0) -> int:
    """`n`, checked for `call`.

    Raises:
        ValueError: If it is not a whole number of at least `least`.
    """
    if isinstance(n, bool) or not isinstance(n, Integral) or n < least:
        found = repr(n) if isinstance(n, Real | str) else type(n).__name__
        hint = "; after an optimizer step write step(), without arguments" * (call == "step()")
        verb = "returns" if call == "per_step()" else "takes"
        raise ValueError(f"{call} {verb} a whole number of at least {least}, found {found}{hint}")
    return int(n)
