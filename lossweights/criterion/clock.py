"""The clock of a training: how many optimizer steps are done, and who may move it."""

from __future__ import annotations

import weakref
from typing import Any, Protocol, Self

from torch.optim import Optimizer


class Listener(Protocol):
    """What is told when a clock moves."""

    def clock_stepped(self, before: int) -> None:
        """Optimizer steps were done: the clock moved on from `before`. Told ahead of the move."""

    def clock_set(self) -> None:
        """The clock goes to another time, without steps having been done."""

    def clock_moved(self, before: int) -> None:
        """The clock stood at `before` and stands elsewhere now."""


class Clock:
    """Counts optimizer steps, for one owner and everyone who listens.

    A copy or a pickle keeps the count alone: it is not followed by anything, and whoever
    owns the copy starts to listen again.
    """

    def __init__(self, step: int = 0) -> None:
        self.step = step
        self.follower: Follower | None = None
        self._listeners: list[weakref.ref[Listener]] = []

    def listen(self, listener: Listener) -> None:
        """Tells `listener` of every move from now on, for as long as it lives."""
        alive = [reference for reference in self._listeners if reference() is not None]
        self._listeners = [*alive, weakref.ref(listener)]

    def advance(self, steps: int) -> None:
        """Counts optimizer steps that were done, and tells everyone, also where one raises."""
        before, self.step = self.step, self.step + steps
        failed: Exception | None = None
        for reference in self._listeners:
            if (listener := reference()) is not None:
                try:
                    listener.clock_stepped(before)
                    listener.clock_moved(before)
                except Exception as error:  # noqa: BLE001  # raised when all are told
                    failed = failed or error
        if failed is not None:
            raise failed

    def set(self, step: int) -> None:
        """Goes to another time, and tells everyone."""
        for reference in self._listeners:
            if (listener := reference()) is not None:
                listener.clock_set()
        self.restore(step)

    def restore(self, step: int) -> None:
        """Goes to the time of a checkpoint; what was seen is the business of whoever loads it."""
        before, self.step = self.step, step
        for reference in self._listeners:
            if (listener := reference()) is not None:
                listener.clock_moved(before)

    def __getstate__(self) -> dict[str, Any]:
        return {"step": self.step}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["step"])  # type: ignore[misc]


class Follower:
    """Moves a clock by one at each real step of an optimizer, until it is removed.

    A context manager: leaving it removes it.
    """

    def __init__(self, clock: Clock, optimizer: Optimizer) -> None:
        self._clock = clock
        self._optimizer = weakref.ref(optimizer)
        self._counted = False
        self._hooks = (
            optimizer.register_step_pre_hook(self._begins),
            optimizer.register_step_post_hook(self._done),
        )
        clock.follower = self

    @property
    def is_alive(self) -> bool:
        """Whether there is still an optimizer to follow."""
        return self._optimizer() is not None

    def remove(self) -> None:
        """Gives the clock up: another optimizer, or `step()`, may move it."""
        for hook in self._hooks:
            hook.remove()
        if self._clock.follower is self:
            self._clock.follower = None

    def _begins(self, *_: Any) -> None:
        self._counted = False

    def _done(self, optimizer: Optimizer, *_: Any) -> None:
        if self._counted:  # torch calls the hooks again for a subclass around super().step()
            return
        self._counted = True
        # A fused optimizer is called on a step that the scaler skips, and told so on the device.
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is None or not bool(found_inf):
            self._clock.advance(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def unwrapped(optimizer: object) -> Optimizer:
    """The torch optimizer inside the wrappers of Lightning and Accelerate.

    Raises:
        TypeError: For what is, and holds, no torch optimizer.
    """
    inner = optimizer
    while (wrapped := getattr(inner, "optimizer", None)) is not None:
        inner = wrapped
    if not isinstance(inner, Optimizer):
        raise TypeError(
            f"follow() takes a torch optimizer, found {type(optimizer).__name__}; "
            "with anything else call criterion.step() after each of its steps"
        )
    return inner
