"""Every schedule of a config, evaluated in blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossweights.components.durations import Duration, Horizon
from lossweights.components.schedules import Schedule, Steps, Values
from lossweights.components.transforms import Transform
from lossweights.config.loss_config import LossConfig
from lossweights.errors import ConfigError, HorizonError

T = TypeVar("T")

_BLOCK_STEPS = 1024
_BLOCK_VALUES = 1 << 19  # of configs with thousands of terms, fewer steps at a time


class Timeline:
    """Every schedule of a config over time, in columns.

    First the weights of the terms, in sorted order of their names: base weight times schedule, 0
    while dormant. Then the scheduled fields of controllers, transforms and the balancer. Blocks
    begin at multiples of `block_steps` whatever step is asked for, so that a value never depends
    on where one began to look.

    Args:
        config: The declaration.
        horizon: The length of training, as far as it is known.

    Attributes:
        names: The terms, sorted.
        fields: For each component that adapts, by its place, the column of each scheduled field.
        is_patterned: Whether there are terms that are dormant or left out at some step.

    Raises:
        HorizonError: Where a schedule needs more of the horizon than is known; names the term.
        ConfigError: Where a schedule has no finite float32 for a step; names the term.
    """

    def __init__(self, config: LossConfig, horizon: Horizon) -> None:
        self.config = config
        self.horizon = horizon
        self.names = tuple(sorted(config.terms))
        self.starts = {
            name: _named(f"term {name!r}", partial(horizon.steps, config.terms[name].after))
            for name in self.names
        }
        self._horizons = {start: horizon.local(start) for start in {0, *self.starts.values()}}
        self._late = [name for name, start in self.starts.items() if start > 0]
        self._all_awake = max(self.starts.values())
        self._skippable = {
            name: column
            for column, name in enumerate(self.names)
            if config.terms[name].when_zero == "skip"
        }
        self.is_patterned = bool(self._late or self._skippable)
        self._columns = [
            _Column(f"term {name!r}", term.schedule, self.starts[name], term.weight, is_weight=True)
            for name, term in sorted(config.terms.items())
        ]
        self.fields: dict[str, dict[str, int]] = {}
        for place, term_name, component in config.adaptive_parts():
            start = 0 if term_name is None else self.starts[term_name]
            for field in type(component).model_fields:
                value = getattr(component, field)
                if isinstance(value, Duration):
                    _named(place, partial(horizon.length, value))  # is asked for in mid-training
                elif isinstance(value, Schedule):
                    self.fields.setdefault(place, {})[field] = len(self._columns)
                    is_final = isinstance(component, Transform)  # all else is 1 in evaluation
                    self._columns.append(
                        _Column(f"{place}.{field}", value, start, is_final=is_final)
                    )
        # Columns that share a schedule share its evaluation.
        groups: dict[Hashable, list[int]] = {}
        for index, column in enumerate(self._columns):
            key = (_identity(column.schedule), column.start, column.is_weight, column.is_final)
            groups.setdefault(key, []).append(index)
        self._groups = list(groups.values())
        self._bases = np.array([column.base for column in self._columns])
        self.block_steps = max(16, min(_BLOCK_STEPS, _BLOCK_VALUES // len(self._columns)))
        self._first, self._block = -1, np.empty((0, len(self._columns)))
        self._uploaded_first, self._uploaded_to = 0, torch.device("cpu")
        self._rows: tuple[Tensor, ...] = ()
        self.row(0)

    @property
    def width(self) -> int:
        """How many columns there are."""
        return len(self._columns)

    def row(self, step: int) -> Values:
        """The values of one step in all columns, float64; the first are those of `names`."""
        first = step - step % self.block_steps
        if first != self._first:
            self._block = self._evaluate(np.arange(first, first + self.block_steps))
            self._first = first
        row: Values = self._block[step - first]
        return row

    def tensor_row(self, step: int, device: torch.device) -> Tensor:
        """The values of one step, float32 on a device; a GPU gets one upload a block."""
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

    def final(self, but: Collection[str] = ()) -> NDArray[np.float32]:
        """The values at the end of training: base weight times `schedule.final`.

        Args:
            but: Terms whose schedules are not asked; their base weights are here.

        Raises:
            HorizonError: For a schedule that never settles, while the end is not known.
            ConfigError: For a weight that is too large for float32; names the term.
        """
        finals = self._bases.copy()
        quiet = {index for index, name in enumerate(self.names) if name in but}
        for indexes in self._groups:
            column = self._columns[indexes[0]]
            if column.schedule is not None and column.is_final and not quiet.issuperset(indexes):
                horizon = self._horizons[column.start]
                finals[indexes] *= _named(column.label, partial(column.schedule.final, horizon))
        too_large = ~(np.abs(finals) <= np.finfo(np.float32).max)  # nan too
        if too_large.any():
            index = int(too_large.argmax())
            raise ConfigError(
                f"{self._columns[index].label}: {self._columns[index].what('final')} is "
                f"{finals[index]:g}, which float32 cannot hold"
            )
        return finals.astype(np.float32)

    def refuse_negative(self, names: Collection[str], why: str) -> None:
        """Refuses schedules of some terms that go below 0.

        Args:
            names: The terms.
            why: What is wrong with that, after `its weight goes down to -1, `.

        Raises:
            ConfigError: Naming the term.
        """
        total = self.horizon.total_steps
        last = total if isinstance(total, int) else _BLOCK_STEPS
        steps = np.unique(np.linspace(0, last, _BLOCK_STEPS).astype(np.int64))
        lowest = self._evaluate(steps).min(axis=0)
        for name, value in zip(self.names, lowest, strict=False):
            if name in names and value < 0:
                raise ConfigError(
                    f"term {name!r}: its weight goes down to {value:g}, {why}: write balanced: "
                    f"false at terms.{name}, or turn the term's sign round"
                )

    def overruns(self) -> list[str]:
        """What would not arrive: for each schedule that ends after training, a sentence."""
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
        for column in self._columns[len(self.names) :]:
            if column.schedule is None or column.start >= total:
                continue
            end = column.schedule.ends(self._horizons[column.start])
            if end is not None and column.start + end > total > 0:
                reached = self._evaluate(np.array([total]))[0, self._columns.index(column)]
                sentences.append(
                    f"{column.label} does not arrive: it ends at step "
                    f"{math.ceil(column.start + end)}, training at {total}, with a value of "
                    f"{reached:g}; shorten {column.schedule!r}, or train longer"
                )
        return sentences

    def _horizon_of(self, name: str) -> Horizon:
        return self._horizons[self.starts[name]]

    def _evaluate(self, steps: Steps) -> Values:
        rows = np.empty((len(steps), len(self._columns)))
        for indexes in self._groups:
            column = self._columns[indexes[0]]
            factor: Values = np.ones(len(steps))
            if column.schedule is not None:
                local = np.maximum(steps - column.start, 0)
                horizon = self._horizons[column.start]
                factor = _named(column.label, partial(column.schedule, local, horizon))
            if column.is_weight:
                factor = np.where(steps >= column.start, factor, 0.0)
            rows[:, indexes] = factor[:, None] * self._bases[indexes]
        too_large = np.abs(rows) > np.finfo(np.float32).max
        if too_large.any():
            row, index = np.argwhere(too_large)[0]
            raise ConfigError(
                f"{self._columns[index].label}: {self._columns[index].what('')} at step "
                f"{steps[row]} is {rows[row, index]:g}, too large for float32"
            )
        return rows


class _Column(NamedTuple):
    """A schedule with what the timeline makes of it; not `is_final` where only training asks."""

    label: str
    schedule: Schedule | None
    start: int
    base: float = 1.0
    is_weight: bool = False
    is_final: bool = True

    def what(self, which: str) -> str:
        """`its final weight`: the words for the value in a message."""
        return " ".join(filter(None, ("its", which, "weight" if self.is_weight else "value")))


def _identity(schedule: Schedule | None) -> Hashable:
    """What equal schedules share; one with fields that cannot be hashed is like no other."""
    try:
        hash(schedule)
    except TypeError:
        return id(schedule)
    return schedule


def _named(label: str, compute: Callable[[], T]) -> T:
    """The result, or the error with the label before it."""
    try:
        return compute()
    except HorizonError as error:
        raise HorizonError(f"{label}: {error}") from None
    except ValueError as error:
        raise ConfigError(f"{label}: {error}") from error
    except Exception as error:  # a plug-in's own
        raise ConfigError(f"{label}: its schedule failed: {error!r}") from error
