"""Which weights stand now: a clock, the timeline of a config, and its rows on a device."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from numbers import Integral
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lossweights.components.durations import Duration, Horizon
from lossweights.config.loss_config import LossConfig
from lossweights.config.timeline import Timeline
from lossweights.criterion import state
from lossweights.criterion.adaptation import Adaptation
from lossweights.criterion.clock import Clock, Follower, unwrapped
from lossweights.criterion.memory import Memory
from lossweights.criterion.ranks import Ranks
from lossweights.criterion.standing import Present, Standing, yardstick
from lossweights.errors import HorizonError, warn


class Timekeeper(nn.Module):
    """A module that keeps the weights of a config in step with a training.

    Args:
        config: The declaration.
        clock: Another one whose clock this one shares, and whose length of training where the
            config does not say it.
        process_group: The ranks over which what adapts is averaged; None for all.
    """

    config: LossConfig
    term_names = state.Trail()

    def __init__(
        self, config: LossConfig, clock: Timekeeper | None = None, process_group: Any = None
    ) -> None:
        super().__init__()
        if torch.is_inference_mode_enabled():
            raise RuntimeError(
                "a criterion built inside inference_mode could not be trained with: "
                "build it outside"
            )
        if clock is not None and not isinstance(clock, Timekeeper):
            raise TypeError(f"clock= takes another WeightedLoss, found {type(clock).__name__}")
        self.config = config
        self._owns_clock = clock is None
        self._clock: Clock = Clock() if clock is None else clock._clock  # noqa: SLF001  # its own kind
        # Not a buffer: DDP would overwrite it from rank 0, `.half()` would round it, and every
        # weight can be computed from the step.
        self._device = torch.device("cpu")
        self._adaptation: Adaptation | None = None
        if config.adaptive_parts():
            ranks = Ranks(config.sync, process_group)
            self.memory = Memory(config, ranks)
            self._adaptation = Adaptation(config, self.memory, ranks)
            self.register_load_state_dict_post_hook(_show_what_was_loaded)  # type: ignore[no-untyped-call]
        bound = (None, None) if clock is None else clock._bound  # noqa: SLF001  # its own kind
        self._lay_out(
            bound[0] if config.total_steps is None else config.total_steps,
            bound[1] if config.steps_per_epoch is None else config.steps_per_epoch,
        )
        self._clock.listen(self)  # last: what was refused above must not be told of the time

    @property
    def current_step(self) -> int:
        """Optimizer steps done so far; 0 before the first update."""
        return self._clock.step

    @property
    def horizon(self) -> Horizon:
        """The length of training, so far as it is known."""
        return self._horizon

    @property
    def owns_clock(self) -> bool:
        """Whether its time is its own; else another criterion's, which `clock=` named."""
        return self._owns_clock

    def step(self, n: int = 1) -> None:
        """Moves the clock by `n` steps: call it after each `optimizer.step()`.

        Raises:
            RuntimeError: While the criterion follows an optimizer, or shares another's clock.
            ValueError: For what is no whole number of at least 0.
        """
        clock = self._clock
        if not self._owns_clock or n.__class__ is not int or n < 0:
            n = self._check_move("step", n)
        if clock.follower is not None and clock.follower.is_alive:
            raise RuntimeError(
                "this criterion follows an optimizer, which moves its clock: drop the call of "
                "step(), or give the clock up with the handle that follow() returned, "
                "handle.remove()"
            )
        clock.advance(n)

    def set_step(self, step: int) -> None:
        """Sets the clock: `step` optimizer steps are done. What adapts stays as it is.

        Raises:
            RuntimeError: Where the criterion shares another's clock.
            ValueError: For what is no whole number of at least 0.
        """
        self._clock.set(self._check_move("set_step", step))

    def follow(self, optimizer: Optimizer) -> Follower:
        """Moves the clock with each real step of `optimizer`, so that `step()` need not be called.

        Gradient accumulation and steps that a gradient scaler skips are counted right. With a
        fused optimizer under a scaler, whether a step was skipped is read from the device.

        Args:
            optimizer: A torch optimizer, or the wrapper of Lightning or Accelerate around one.

        Returns:
            A handle, of which `remove()` gives the clock up; so does leaving its `with` block.

        Raises:
            RuntimeError: Where it follows an optimizer already, or shares another's clock.
            TypeError: For what is no torch optimizer.
        """
        self._check_move("follow", 0)
        if self._clock.follower is not None and self._clock.follower.is_alive:
            raise RuntimeError(
                "this criterion follows an optimizer already, and one clock has one owner: "
                "give it up first with handle.remove(), or build a second criterion with "
                "clock=criterion to share it"
            )
        return Follower(self._clock, unwrapped(optimizer))

    def bind(
        self, *, total_steps: int | Duration | str | None = None, steps_per_epoch: int | None = None
    ) -> Self:
        """Says how long training takes, where the config could not know.

        What would end after training does is reported as a warning, with what to change.

        Args:
            total_steps: Optimizer steps of the whole training, or `"40 epochs"`.
            steps_per_epoch: Optimizer steps of an epoch: batches divided by accumulation.

        Returns:
            The criterion itself.

        Raises:
            ValueError: For what is no length of training, such as a percentage.
        """
        self._lay_out(
            self._bound[0] if total_steps is None else total_steps,
            self._bound[1] if steps_per_epoch is None else steps_per_epoch,
        )
        return self

    @property
    def weights(self) -> dict[str, float]:
        """The weights of the coming training step, by name.

        Where a weight follows from the losses that it weighs (`instant` balancers and
        controllers) it is nan here: `metrics` has that of the last forward pass.

        Raises:
            HorizonError: Where the length of training is needed and not known.
        """
        if self._timeline is None:
            raise HorizonError(self._lacking)
        row = self._timeline.row(self._clock.step).tolist()
        if self._adaptation is not None:
            standing = self._standing(training=True)
            row = self._adaptation.known(standing.weights, standing.moments).tolist()
        found = dict(zip(self._timeline.names, row, strict=False))
        return {name: found[name] for name in self.config.terms}

    def _standing(self, training: bool) -> Standing:
        """The weights that count now, in training or in evaluation."""
        standing = self._in_training if training else self._in_evaluation
        if standing is None:
            raise HorizonError(self._lacking)
        return standing

    def _lay_out(
        self, total_steps: int | Duration | str | None, steps_per_epoch: int | None
    ) -> None:
        horizon, lacking = Horizon(total_steps, steps_per_epoch), ""
        try:
            timeline = Timeline(self.config, horizon)
        except HorizonError as error:
            timeline, lacking = None, _ask_to_bind(error)
        self._bound = (total_steps, steps_per_epoch)
        self._horizon, self._timeline, self._lacking = horizon, timeline, lacking
        balancer = self.config.balancer
        if timeline is not None and balancer is not None and balancer.needs_positive:
            timeline.refuse_negative(self.config.balanced_names, balancer.needs_positive)
        self._stand(check=True)
        for sentence in timeline.overruns() if timeline else []:
            warn(sentence)

    def _stand(self, *, check: bool = False) -> None:
        """Lets the weights of now stand on the device."""
        config, timeline, adaptation = self.config, self._timeline, self._adaptation
        self._present: Present | None = None
        self._in_training: Standing | None = None
        self._in_evaluation: Standing | None = None
        if timeline is None:
            return
        self._present = Present(config, timeline, self._horizon, adaptation, self._device)
        self._in_training = self._present.standing
        if config.eval_weights == "current":
            self._in_evaluation = self._in_training
        else:
            try:
                self._in_evaluation = yardstick(config, timeline, adaptation, self._device)
            except HorizonError as error:
                self._lacking = f"{_ask_to_bind(error)}; or write eval_weights: current"
        self._present.show(self._clock.step, self._clock.step, check=check)

    def clock_stepped(self, before: int) -> None:
        """Called by the clock: optimizer steps were done since it stood at `before`."""
        if self._present is not None and self._clock.step != before:
            self._present.step_done(self._clock.step, before)

    def clock_set(self) -> None:
        """Called by the clock: it goes to another time, without steps having been done."""
        if self._adaptation is not None:
            self._adaptation.forget()

    def clock_moved(self, before: int) -> None:
        """Called by the clock: it stood at `before` and stands elsewhere now."""
        if self._present is None:
            return
        try:
            self._present.show(self._clock.step, before)
        except Exception as error:
            self._present = self._in_training = None  # no row of another step
            self._lacking = str(error)
            raise
        if self._in_evaluation is None and before == 0:
            warn(f"training goes on, but evaluation cannot: {self._lacking}")

    def _check_move(self, call: str, n: int) -> int:
        if not self._owns_clock:
            raise RuntimeError(
                f"this criterion shares the clock of another: call {call}() on that one"
            )
        if isinstance(n, bool) or not isinstance(n, Integral) or n < 0:
            raise ValueError(f"{call}() takes a whole number of at least 0, found {n!r}")
        return int(n)

    # State

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        step = self._clock.step if self._owns_clock else None
        for key, value in state.written(self.config.terms, step).items():
            destination[f"{prefix}{key}"] = value

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
        ours = {key: f"{prefix}{key}" for key in state.KEYS}
        found = {key: state_dict[full] for key, full in ours.items() if full in state_dict}
        others = {key: value for key, value in state_dict.items() if key not in ours.values()}
        super()._load_from_state_dict(
            others, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        needed = state.KEYS if self._owns_clock else ("term_names",)
        missing_keys += [ours[key] for key in needed if key not in found]
        state.compare_names(
            found, self.config.terms, prefix, missing_keys, unexpected_keys, error_msgs
        )
        step = state.read_step(found, error_msgs)
        if found:
            self.clock_set()  # what was seen here belongs to no step of the checkpoint
        if step is not None and self._owns_clock:
            self._clock.restore(step)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._move(fn(torch.empty(0, device=self._device)).device)
        return self

    def _move(self, device: torch.device) -> None:
        if device != self._device:
            if self._adaptation is not None:
                self._adaptation.move(device)
            self._device = device
            self._stand()

    def __getstate__(self) -> dict[str, Any]:
        # Computed anew, on the CPU: another machine may lack the device.
        dropped = ("_timeline", "_present", "_in_training", "_in_evaluation", "_device")
        return {key: value for key, value in self.__dict__.items() if key not in dropped}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        super().__setstate__(kept)  # type: ignore[no-untyped-call]
        self._device = self._adaptation.memory.device if self._adaptation else torch.device("cpu")
        self._clock.listen(self)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said when the original was built
            self._lay_out(*self._bound)


def _show_what_was_loaded(timekeeper: Timekeeper, _: object) -> None:
    """The weights of a checkpoint follow from its memory, which is loaded after its step."""
    if timekeeper._adaptation is not None:  # noqa: SLF001  # its own function
        timekeeper._adaptation.remember()  # noqa: SLF001  # its own function
    timekeeper.clock_moved(timekeeper.current_step)


def _ask_to_bind(error: HorizonError) -> str:
    return (
        f"{error}. Write it into the config, or call "
        "criterion.bind(total_steps=len(loader) * epochs, steps_per_epoch=len(loader)) "
        "before the first step"
    )
