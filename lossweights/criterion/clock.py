"""The clock of a training: how many optimizer steps are done, and how long training takes."""

from __future__ import annotations

import weakref
from numbers import Integral, Real
from typing import Any, Protocol, Self

import torch
from torch.optim import Optimizer

from lossweights.components.durations import Duration, Horizon
from lossweights.criterion.torch_internals import makes_optimizer_state


class Listener(Protocol):
    """An object that a clock notifies."""

    def on_tick(self, before: int, step: int, *, stepped: bool) -> None:
        """The clock moved from `before` to `step`; `stepped` if optimizer steps were done."""

    def after_tick(self, before: int, *, stepped: bool) -> None:
        """The same, once `on_tick` of all listeners has returned."""

    def on_bind(self) -> None:
        """The horizon of the clock changed."""

    def after_bind(self) -> None:
        """The same, once `on_bind` of all listeners has returned."""

    def refresh(self) -> None:
        """The step of the clock was restored from a checkpoint."""


class Clock:
    """Counts the optimizer steps of a training and knows how long it takes.

    Every criterion has one, `criterion.clock`, and several criteria share one with
    `WeightedLoss(..., clock=other.clock)`. The first criterion on a clock moves it and saves its
    step; of a clock made on its own, that is the first that it is passed to.

    Args:
        total_steps: Optimizer steps of the whole training, or `"40 epochs"`; None if unknown.
        steps_per_epoch: Optimizer steps of an epoch; None if unknown.

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
    ) -> None:
        self._step = 0
        self.has_owner = False
        self.follower: Follower | None = None
        self._bound = (total_steps, steps_per_epoch)
        self.declared = self._horizon = Horizon(total_steps, steps_per_epoch)
        self._listeners: list[weakref.ref[Listener]] = []

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self._step

    @property
    def horizon(self) -> Horizon:
        """The length of training, as far as it is known."""
        return self._horizon

    @property
    def is_followed(self) -> bool:
        """Whether it follows an optimizer that still exists."""
        return self.follower is not None and self.follower.is_alive

    def advance(self, n: int = 1) -> None:
        """Counts `n` optimizer steps that were done.

        All criteria on this clock learn and update their weights, then their callbacks run. An
        exception is raised after all of them were notified. Raises as `WeightedLoss.step`.
        """
        if n.__class__ is not int or n < 0:
            n = whole_number("step()", n)
        if self.is_followed:
            raise RuntimeError(
                "this criterion follows an optimizer, which moves its clock: drop the call of "
                "step(), or release the clock with the handle that follow() returned, "
                "handle.remove()"
            )
        self._move(self.step + n, stepped=True)

    def count_step(self) -> None:
        """Counts one step of the optimizer that the clock follows."""
        self._move(self.step + 1, stepped=True)

    def set(self, step: int) -> None:
        """Sets the clock, as `WeightedLoss.set_step`: observations of the step are dropped."""
        self._move(whole_number("set_step()", step), stepped=False)

    def restore(self, step: int) -> None:
        """Sets the step of a checkpoint; `refresh` follows once everything is loaded."""
        self._step = step

    def refresh(self) -> None:
        """Makes all criteria on this clock compute the weights of its step."""
        for listener in self._alive():
            listener.refresh()

    def bind(
        self, *, total_steps: int | Duration | str | None = None, steps_per_epoch: int | None = None
    ) -> None:
        """Sets how long training takes, as `WeightedLoss.bind`; if it raises, nothing changes."""
        bound, horizon = self._bound, self._horizon
        self._bound = (
            bound[0] if total_steps is None else total_steps,
            bound[1] if steps_per_epoch is None else steps_per_epoch,
        )
        notified = []
        try:
            self._horizon = Horizon(*self._bound)
            for listener in self._alive():
                notified.append(listener)
                listener.on_bind()
        except Exception:
            self._bound, self._horizon = bound, horizon
            for listener in notified:
                listener.on_bind()
            raise
        for listener in notified:
            listener.after_bind()

    def follow(self, optimizer: Optimizer) -> Follower:
        """Moves the clock with each step of `optimizer`, as `WeightedLoss.follow`."""
        if self.is_followed:
            raise RuntimeError(
                "this criterion follows an optimizer already, and one clock has one owner: release "
                "it first with handle.remove(), or build a second criterion with "
                "clock=criterion.clock to share it"
            )
        return Follower(self, unwrapped(optimizer))

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
        before, self._step = self._step, step
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
        kept = ("_step", "has_owner", "declared", "_bound", "_horizon")
        return {key: self.__dict__[key] for key in kept}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self.__dict__.update(kept, follower=None, _listeners=[])


class Follower:
    """Moves a clock by one at each step of an optimizer, until it is removed.

    A context manager: leaving it removes it.

    Attributes:
        of_trainer: Whether a trainer follows, which replaces a follower that it left behind.
    """

    of_trainer = False

    def __init__(self, clock: Clock, optimizer: Optimizer) -> None:
        self._clock = clock
        self._optimizer = weakref.ref(optimizer)
        self._is_counted = False
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

    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        if self._is_counted:  # torch calls the hooks again for a subclass around super().step()
            return
        self._is_counted = True
        # A gradient scaler calls a fused optimizer even to skip a step; the flag is on the device.
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is None or not bool(found_inf):
            self._clock.count_step()

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


def whole_number(call: str, n: object, least: int = 0) -> int:
    """`n`, checked for `call`.

    Raises:
        ValueError: If it is not a whole number of at least `least`.
    """
    if isinstance(n, bool) or not isinstance(n, Integral) or n < least:
        found = repr(n) if isinstance(n, Real | str) else type(n).__name__
        hint = "; after an optimizer step write step(), without arguments" * (call == "step()")
        raise ValueError(f"{call} takes a whole number of at least {least}, found {found}{hint}")
    return int(n)
