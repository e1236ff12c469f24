"""Every schedule of a config, evaluated in blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossweights.config import LossConfig
from lossweights.durations import Horizon
from lossweights.errors import ConfigError, HorizonError
from lossweights.schedules import Schedule, Steps, Values

T = TypeVar("T")

_BLOCK_STEPS = 1024
_BLOCK_VALUES = 1 << 19  # of configs with thousands of terms, fewer steps at a time


class Timeline:
    """The weights of a config's terms over time: base weight times schedule, 0 while dormant.

    Terms lie in sorted order of their names, and blocks begin at multiples of `block_steps`
    whatever step is asked for, so that a value never depends on where one began to look.

    Args:
        config: The declaration.
        horizon: The length of training, as far as it is known.

    Attributes:
        is_patterned: Whether there are terms that are dormant or left out at some step.

    Raises:
        HorizonError: Where a schedule needs more of the horizon than is known; names the term.
        ConfigError: Where a schedule has no finite float32 for a step; names the term.
    """

    def __init__(self, config: LossConfig, horizon: Horizon) -> None:
        self.config = config
        self.horizon = horizon
        self.names = tuple(sorted(config.terms))
        self.block_steps = max(16, min(_BLOCK_STEPS, _BLOCK_VALUES // len(self.names)))
        self.starts = {
            name: _named(name, partial(horizon.steps, config.terms[name].after))
            for name in self.names
        }
        self._horizons = {start: horizon.local(start) for start in set(self.starts.values())}
        self._late = [name for name, start in self.starts.items() if start > 0]
        self._all_awake = max(self.starts.values())
        self._skippable = {
            name: column
            for column, name in enumerate(self.names)
            if config.terms[name].when_zero == "skip"
        }
        self.is_patterned = bool(self._late or self._skippable)
        # Terms that share a schedule share its evaluation.
        groups: dict[Hashable, list[int]] = {}
        for column, name in enumerate(self.names):
            key = (_identity(config.terms[name].schedule), self.starts[name])
            groups.setdefault(key, []).append(column)
        self._groups = list(groups.values())
        self._bases = np.array([config.terms[name].weight for name in self.names])
        self._first, self._block = -1, np.empty((0, len(self.names)))
        self._uploaded_first, self._uploaded_to = 0, torch.device("cpu")
        self._rows: tuple[Tensor, ...] = ()
        self.row(0)

    def row(self, step: int) -> Values:
        """The weights of one step, float64 in the order of `names`."""
        first = step - step % self.block_steps
        if first != self._first:
            self._block = self._evaluate(np.arange(first, first + self.block_steps))
            self._first = first
        row: Values = self._block[step - first]
        return row

    def tensor_row(self, step: int, device: torch.device) -> Tensor:
        """The weights of one step, float32 on a device; a GPU gets one upload a block."""
        index = step - self._uploaded_first
        if not 0 <= index < len(self._rows) or device != self._uploaded_to:
            self.row(step)
            with torch.inference_mode(mode=False):  # training could not use what is made in it
                block = torch.from_numpy(self._block.astype(np.float32))
                self._rows = block.to(device, non_blocking=True).unbind()
            self._uploaded_first, self._uploaded_to = self._first, device
            index = step - self._first
        return self._rows[index]

    def dormant(self, step: int) -> frozenset[str]:
        """The terms that are dormant at a step."""
        if step >= self._all_awake:
            return frozenset()
        return frozenset(name for name in self._late if step < self.starts[name])

    def left_out(self, step: int) -> frozenset[str]:
        """The terms that are left out of the sum at a step: `when_zero: skip`, with weight 0."""
        row = self.row(step)
        return frozenset(name for name, column in self._skippable.items() if row[column] == 0)

    def final(self) -> NDArray[np.float32]:
        """The weights at the end of training: base weight times `schedule.final`.

        Raises:
            HorizonError: For a schedule that never settles, while the end is not known.
            ConfigError: For a weight that is too large for float32; names the term.
        """
        finals = self._bases.copy()
        for columns in self._groups:
            name = self.names[columns[0]]
            schedule, horizon = self.config.terms[name].schedule, self._horizon_of(name)
            if schedule is not None:
                finals[columns] *= _named(name, partial(schedule.final, horizon))
        too_large = ~(np.abs(finals) <= np.finfo(np.float32).max)  # nan too
        if too_large.any():
            column = int(too_large.argmax())
            raise ConfigError(
                f"term {self.names[column]!r}: its final weight is {finals[column]:g}, "
                "which float32 cannot hold"
            )
        return finals.astype(np.float32)

    def overruns(self) -> list[str]:
        """What would not arrive: for each term whose schedule ends after training, a sentence."""
        if not isinstance(self.horizon.total_steps, int):
            return []
        total, sentences = self.horizon.total_steps, []
        for name, start in self.starts.items():
            term = self.config.terms[name]
            end = None if term.schedule is None else term.schedule.ends(self._horizon_of(name))
            if start >= total > 0:
                sentences.append(
                    f"term {name!r} is dormant for the whole training: terms.{name}.after is "
                    f"{term.after}, training takes {total} steps"
                )
            elif end is not None and start + end > total > 0 and term.weight != 0:
                reached = self._evaluate(np.array([total]))[0, self.names.index(name)]
                sentences.append(
                    f"term {name!r} does not arrive: its schedule ends at step "
                    f"{math.ceil(start + end)}, training at {total}, with a weight of {reached:g}; "
                    f"shorten {term.schedule!r} at terms.{name}.schedule, or train longer"
                )
        return sentences

    def _horizon_of(self, name: str) -> Horizon:
        return self._horizons[self.starts[name]]

    def _evaluate(self, steps: Steps) -> Values:
        rows = np.empty((len(steps), len(self.names)))
        for columns in self._groups:
            name = self.names[columns[0]]
            schedule, start = self.config.terms[name].schedule, self.starts[name]
            factor: Values = np.ones(len(steps))
            if schedule is not None:
                local = np.maximum(steps - start, 0)
                factor = _named(name, partial(schedule, local, self._horizon_of(name)))
            awake = np.where(steps >= start, factor, 0.0)
            rows[:, columns] = awake[:, None] * self._bases[columns]
        too_large = np.abs(rows) > np.finfo(np.float32).max
        if too_large.any():
            row, column = np.argwhere(too_large)[0]
            raise ConfigError(
                f"term {self.names[column]!r}: its weight at step {steps[row]} is "
                f"{rows[row, column]:g}, too large for float32"
            )
        return rows


def _identity(schedule: Schedule | None) -> Hashable:
    """What equal schedules share; one with fields that cannot be hashed is like no other."""
    try:
        hash(schedule)
    except TypeError:
        return id(schedule)
    return schedule


def _named(name: str, compute: Callable[[], T]) -> T:
    """The result, or the error with the term's name before it."""
    try:
        return compute()
    except HorizonError as error:
        raise HorizonError(f"term {name!r}: {error}") from None
    except ValueError as error:
        raise ConfigError(f"term {name!r}: {error}") from error
    except Exception as error:  # a plug-in's own
        raise ConfigError(f"term {name!r}: its schedule failed: {error!r}") from error
