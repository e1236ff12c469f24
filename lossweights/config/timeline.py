"""Base weight x schedule, scheduled numbers and fields of components over time, in numpy."""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from lossweights.components.declaration import Component
from lossweights.components.durations import Duration, Horizon
from lossweights.components.limits import LARGEST_FLOAT32
from lossweights.components.schedules import Complement, Constant, Schedule, Steps, Values
from lossweights.components.schedules.function import calls_function
from lossweights.components.transforms import Transform
from lossweights.config.loss_config import LossConfig
from lossweights.errors import ConfigError, HorizonError, UnitError, quoted

T = TypeVar("T")

BLOCK_STEPS = 1024  # steps that are evaluated at a time
# Steps shown of a training without an end, if no weight moves or one never settles.
_STILL_STEPS, _ENDLESS_STEPS = 1000, 10_000


class Timeline:
    """All schedules of a config over time, in columns.

    The first columns are the weights of the terms, sorted by name: base weight times schedule, 0
    while dormant. Then come those of the members of groups, within their group, the scheduled
    numbers, and the scheduled fields of controllers, transforms and the balancer. Schedules are
    evaluated in blocks that begin at multiples of `BLOCK_STEPS`, so a value does not depend on
    which steps were evaluated before. A clock that does not count steps moves by many units at
    once, so then one row is evaluated at a time. Python functions are called for one step, because
    the variables that they read may change.

    Args:
        config: The config.
        horizon: The length of training; parts of it may be unknown.

    Attributes:
        names: The terms, sorted.
        groups: The members of each group, in the order of their columns.
        all_names: The terms and all members, in the order of their columns.
        sizes: How many columns the terms have, and the members of each group.
        numbers: The column of each scheduled number, as declared.
        fields: The column of each scheduled field, by the place of its component and its name.
        starts: The step at which each term or member wakes up.
        moves_until: The end of training, if any term or number has a schedule and the end is known.
        is_patterned: Whether any term is dormant or skipped at some step.

    Raises:
        HorizonError: If a schedule needs more of the horizon than is known; names the term.
        ConfigError: If a schedule has no finite float32 for a step; names the term.
    """

    def __init__(self, config: LossConfig, horizon: Horizon) -> None:
        self.config, self.horizon = config, horizon
        self.names, self.groups, terms = (
            tuple(sorted(config.terms)),
            config.groups,
            config.all_terms,
        )
        self.all_names = (*self.names, *chain.from_iterable(self.groups.values()))
        self._columns = [weight_of(config, name, horizon) for name in self.all_names]
        self.starts = {
            name: column.start for name, column in zip(self.all_names, self._columns, strict=True)
        }
        self.sizes = [len(self.names), *map(len, self.groups.values())]
        self._last_start = max(self.starts.values())
        self._skippable = {
            name: i for i, name in enumerate(self.all_names) if terms[name].when_zero == "skip"
        }
        self.is_patterned = bool(self._last_start or self._skippable)
        self.numbers = {name: i for i, name in enumerate(config.scheduled, len(self._columns))}
        self._columns += [number_of(config, name, horizon) for name in self.numbers]
        self.fields: dict[str, dict[str, int]] = {}
        for part in config.adaptive_parts():
            start = 0 if part.term is None else self.starts[part.term]
            columns = fields_of(part.place, part.component, start, horizon)
            for field, column in columns.items():
                self.fields.setdefault(part.place, {})[field] = len(self._columns)
                self._columns.append(column)
        self.moves_until = horizon.span if self._moving() and horizon.is_bounded else None
        self._calling = [i for i, each in enumerate(self._columns) if each.calls_function]
        self._others = [i for i in range(len(self._columns)) if i not in self._calling]
        self._block_steps = BLOCK_STEPS if horizon.unit == "steps" else 1
        self._first, self._block = -1, np.empty((0, len(self._columns)))
        self._called, self._row = -1, np.empty(0)  # the last step for which functions were called
        self._why_positive: dict[int, str] = {}
        still = [i for i, each in enumerate(self._columns) if each.is_constant]
        self._still, self._constants = still, self.rows(np.array([0]), still)[:, still]
        self._evaluated = [i for i in self._others if i not in set(still)]
        self.row(0)
        self._check_complements()

    def _moving(self) -> list[str]:
        """The terms and numbers with a schedule."""
        terms, numbers = self.config.all_terms, self.config.scheduled
        moving = [name for name, term in terms.items() if term.schedule is not None]
        return moving + [
            f"scheduled.{n}" for n, s in numbers.items() if not isinstance(s, Constant)
        ]

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self._columns)

    def row(self, step: int) -> Values:
        """The values of one step in all columns, float64."""
        first, block = self.block(step)
        row: Values = block[step - first]
        return row

    def block(self, step: int) -> tuple[int, Values]:
        """The block with a step: its first step, and the values of its steps.

        It has `BLOCK_STEPS` steps, or one if functions are called or the clock counts another unit.
        """
        first = step - step % self._block_steps
        if first != self._first:
            self._block = self.rows(np.arange(first, first + self._block_steps), self._evaluated)
            self._block[:, self._still] = self._constants
            self._first = first
        if not self._calling:
            return self._first, self._block
        if step != self._called:
            self._row = self._block[step - first].copy()
            values = self.rows(np.array([step]), self._calling)[0, self._calling]
            self._refuse_below_zero(dict(zip(self._calling, values, strict=True)))
            self._row[self._calling] = values
            self._called = step
        return step, self._row[None]

    def rows(self, steps: Steps, columns: Sequence[int] | None = None) -> Values:
        """The values of any steps, float64, shape (steps, columns).

        Args:
            steps: The steps.
            columns: The columns that are evaluated; the others are 0. All by default.

        Raises:
            ConfigError: If a schedule fails, or a value is too large for float32.
        """
        rows = np.zeros((len(steps), self.width))
        found: dict[str, Values] = {}  # so that a function is called once for it and its complement
        for index in range(self.width) if columns is None else columns:
            column = self._columns[index]
            rows[:, index] = values = column.values(steps, found)
            if (too_large := np.abs(values) > LARGEST_FLOAT32).any():
                (row, *_), *_ = np.nonzero(too_large)
                raise ConfigError(
                    f"{column.label}: {column.value_of('')} at {self.horizon.at(steps[row])} is "
                    f"{values[row]:g}, too large for float32"
                )
        return rows

    def dormant(self, step: int) -> frozenset[str]:
        """The terms that are dormant at a step."""
        if step >= self._last_start:
            return frozenset()
        return frozenset(name for name, start in self.starts.items() if step < start)

    def skipped(self, step: int) -> frozenset[str]:
        """The terms that have weight 0 at a step and `when_zero: skip`."""
        if not self._skippable:
            return frozenset()
        row = self.row(step)
        zero = [name for name, column in self._skippable.items() if row[column] == 0]
        return self.with_members(zero)

    def with_members(self, names: Iterable[str]) -> frozenset[str]:
        """These terms, and all members of the groups among them."""
        found = set(names)
        for group, members in self.groups.items():  # outer groups come first
            if group in found:
                found.update(members)
        return frozenset(found)

    def final(self, but: Collection[str] = ()) -> NDArray[np.float32]:
        """The values at the end of training: base weight times `schedule.final`.

        Args:
            but: Terms whose schedules are not evaluated; they have their base weights.

        Raises:
            HorizonError: For a schedule that never settles, while the end is not known.
            ConfigError: For a weight that is too large for float32; names the term.
        """
        finals = np.array([column.base for column in self._columns])
        found: dict[str, float] = {}
        for index, column in enumerate(self._columns):
            is_kept = index < len(self.all_names) and self.all_names[index] in but
            if column.is_final and not is_kept:
                finals[index] = column.final(found)
            if not abs(finals[index]) <= LARGEST_FLOAT32:  # nan too
                raise ConfigError(
                    f"{column.label}: {column.value_of('final')} is {finals[index]:g}, which "
                    "float32 cannot hold"
                )
        return finals.astype(np.float32)

    def refuse_negative(self, names: Collection[str], why: str) -> None:
        """Refuses terms whose weight goes below 0.

        Args:
            names: The terms.
            why: Why a negative weight is an error, for the message.

        Raises:
            ConfigError: If a weight does; names the term.
        """
        self._why_positive = {i: why for i, name in enumerate(self.names) if name in names}
        lowest = self.rows(self._sample(), self._others).min(axis=0)
        self._refuse_below_zero(dict(enumerate(lowest)))
        self._refuse_below_zero(dict(enumerate(self.row(0))))

    def _check_complements(self) -> None:
        """Raises ConfigError for a complement that goes below 0 at some step of training."""
        complements = [i for i in self._others if self._columns[i].of is not None]
        if complements:
            self.rows(self._sample(), complements)

    def _sample(self) -> Steps:
        last = self.horizon.span if self.horizon.is_bounded else BLOCK_STEPS
        return _evenly(0, last, BLOCK_STEPS)

    def _refuse_below_zero(self, values: Mapping[int, float]) -> None:
        for index, value in values.items():
            if value < 0 and index in self._why_positive:
                name = self.names[index]
                raise ConfigError(
                    f"term {name!r}: its weight goes down to {value:g}, "
                    f"{self._why_positive[index]}: write balanced: false at terms.{name}, or flip "
                    "the term's sign"
                )

    def changes(self, before: Horizon, step: int) -> str:
        """What to write if values at a step differ from those for another length of training.

        Empty if none does, or if those cannot be computed.
        """
        try:
            row = Timeline(self.config, before).row(step)
        except (HorizonError, ValueError):
            return ""
        changed = [
            f"{column.label} from {old:g} to {new:g}"
            for column, old, new in zip(self._columns, row, self.row(step), strict=True)
            if np.float32(old) != np.float32(new)
        ]
        if not changed:
            return ""
        unit = self.horizon.unit
        such = f', such as "{before.span} {unit}" in place of "100%"' if before.is_bounded else ""
        return (
            f"the length of training was {before} and is {self.horizon} now, which changes values "
            f"at {self.horizon.at(step)}: {', '.join(changed)}. To keep them, write durations in "
            f"{unit}{such}, or keep the old length"
        )

    def late_start(self, done: int) -> str:
        """What to write if the clock begins at 0 after `done` optimizer steps.

        Empty if no value depends on the step.
        """
        moving = [
            column.label
            for column in self._columns
            if column.start or not isinstance(column.schedule, Constant | None)
        ]
        if not moving:
            return ""
        unit = self.horizon.unit
        start = done if unit == "steps" else f"{unit} done"
        return (
            f"the optimizer has made {done} steps, but the clock is at {self.horizon.at(0)}, so "
            f"schedules start from 0 ({', '.join(moving)}). To resume, load the state of the "
            f"criterion, or call criterion.set_step({start}). If they should start now, call "
            "criterion.set_step(0)"
        )

    def past_end(self, step: int, before: int) -> str:
        """What to write if a step is past the end of training; empty if no value depends on it.

        In another unit than steps, the last step may end after it, but has to begin `before` it.
        """
        end, counts_steps = self.moves_until, self.horizon.unit == "steps"
        if end is None or step <= end or not (counts_steps or before >= end):
            return ""
        return (
            f"training is at {self.horizon.at(step)}, past its end at {end}, for which the "
            f"schedules of {quoted(self._moving())} were computed: set "
            f"{'total_steps' if counts_steps else 'total'} to its real length"
        )

    def overruns(self) -> list[str]:
        """One sentence for each schedule that ends after training."""
        if not self.horizon.is_bounded:
            return []
        sentences, total, unit = [], self.horizon.span, self.horizon.unit
        for index, column in enumerate(self._columns):
            end, name = column.end(), self.all_names[index] if column.is_weight else ""
            if name and column.start >= total > 0:
                sentences.append(
                    f"{column.label} is dormant for the whole training: terms.{name}.after is "
                    f"{self.config.all_terms[name].after}, training takes {total} {unit}"
                )
            elif column.of is not None:
                pass  # the other term, with which it ends, has a sentence
            elif end is not None and end > total > column.start and column.base != 0:
                reached = column.values(np.array([total]))[0]
                what, kind = ("its schedule ends", "weight") if name else ("it ends", "value")
                place = f" at terms.{name}.schedule" if name else ""
                sentences.append(
                    f"{column.label} ends too late: {what} at {self.horizon.at(math.ceil(end))}, "
                    f"training at {total}, with a {kind} of {reached:g}; shorten "
                    f"{column.schedule}{place}, or train longer"
                )
        return sentences


class Column(NamedTuple):
    """A base weight times a schedule over time, a scheduled number, or a field of a component.

    Args:
        label: For messages.
        schedule: None for a constant.
        start: The step at which it begins.
        horizon: The length of training from there on.
        base: What the schedule is multiplied by.
        is_weight: Whether it is a weight, which is 0 before `start`.
        is_final: Whether it counts in evaluation.
        of: The weight of which `schedule` is the complement, if it is one.
    """

    label: str
    schedule: Schedule | None
    start: int
    horizon: Horizon
    base: float = 1.0
    is_weight: bool = False
    is_final: bool = True
    of: Column | None = None

    @property
    def is_constant(self) -> bool:
        """Whether the value is the same at each step."""
        return self.schedule is None and self.start == 0

    @property
    def calls_function(self) -> bool:
        """Whether a Python function is called for its values."""
        return calls_function(self.schedule) or (self.of is not None and self.of.calls_function)

    def values(self, steps: Steps, found: dict[str, Values] | None = None) -> Values:
        """The values at any steps, float64.

        Args:
            steps: The steps.
            found: Weights at these steps that are already known, by label; these are added.

        Raises:
            HorizonError: If the schedule needs more of the horizon than is known.
            ConfigError: If the schedule fails.
        """
        found = {} if found is None else found
        if self.label in found:
            return found[self.label]
        factor: Values = np.ones(len(steps))
        if self.of is not None and isinstance(self.schedule, Complement):
            weights, last = self.of.values(steps, found), math.inf
            if self.horizon.is_bounded:
                last = self.start + self.horizon.span
            counts = (steps >= self.start) & (steps <= last)
            factor = _named(self.label, partial(self.schedule.rest, weights, counts))
        elif self.schedule is not None:
            local = np.maximum(steps - self.start, 0)
            factor = _named(self.label, partial(self.schedule, local, self.horizon))
        if self.is_weight:
            factor = np.where(steps >= self.start, factor, 0.0)
        values: Values = factor * self.base
        found[self.label] = values
        return values

    def end(self) -> float | None:
        """The step of training from which the value no longer changes; None if it never settles."""
        if self.schedule is None:
            return float(self.start)
        if self.of is not None:
            end = self.of.end()
            return None if end is None else max(end, float(self.start))
        end = _named(self.label, partial(self.schedule.ends, self.horizon))
        return None if end is None else self.start + end

    def shown(self, points: int) -> Steps:
        """About `points` steps from `start` on, which show the course of the values.

        They go to the end of training. If it is not known, they go as far as the schedule moves,
        or 10,000 steps if it never settles.
        """
        end = self.end()
        last = self.start + _ENDLESS_STEPS if end is None else math.ceil(end)
        if self.horizon.is_bounded:
            last = self.start + max(self.horizon.span - 1, 0)
        steps = _evenly(self.start, last, points)
        if end is not None and self.start <= end <= last and len(steps) <= last - self.start:
            steps = np.union1d(steps, [math.ceil(end)])  # where a long ramp arrives
        return steps

    def final(self, found: dict[str, float] | None = None) -> float:
        """The value at the end of training; `found` are those that are already known, as above.

        Raises:
            HorizonError: For a schedule that never settles, while the end is not known.
        """
        found = {} if found is None else found
        if self.schedule is None:
            return self.base
        if self.label not in found:
            found[self.label] = self.base * self._final(self.schedule, found)
        return found[self.label]

    def _final(self, schedule: Schedule, found: dict[str, float]) -> float:
        if self.of is not None and isinstance(schedule, Complement):
            weights = np.array([self.of.final(found)])
            return float(_named(self.label, partial(schedule.rest, weights))[0])
        return _named(self.label, partial(schedule.final, self.horizon))

    def value_of(self, which: str) -> str:
        """`its final weight`: the words for the value in a message."""
        return " ".join(filter(None, ("its", which, "weight" if self.is_weight else "value")))


def weight_of(config: LossConfig, name: str, horizon: Horizon) -> Column:
    """The weight of a term over time: base weight times schedule; of a member, within its group.

    Raises:
        HorizonError: If `after` needs more of the horizon than is known; names the term.
    """
    lineage, label = config.lineage(name), f"term {name!r}"
    start = max(_named(label, partial(horizon.steps, term.after)) for term in lineage)
    term, local = lineage[-1], horizon.local(start)
    of = _complemented(config, term.schedule, horizon)
    return Column(label, term.schedule, start, local, term.weight, is_weight=True, of=of)


def _complemented(config: LossConfig, schedule: Schedule | None, horizon: Horizon) -> Column | None:
    """The weight or the number of which a schedule is the complement; None if it is none."""
    if not isinstance(schedule, Complement):
        return None
    if config.lineage(schedule.of):
        return weight_of(config, schedule.of, horizon)
    return number_of(config, schedule.of.removeprefix("scheduled."), horizon)


def number_of(config: LossConfig, name: str, horizon: Horizon) -> Column:
    """A scheduled number over time, from step 0 on."""
    schedule = config.scheduled[name]
    of = _complemented(config, schedule, horizon)
    return Column(f"scheduled.{name}", schedule, 0, horizon, is_final=False, of=of)


def fields_of(place: str, component: Component, start: int, horizon: Horizon) -> dict[str, Column]:
    """The scheduled fields of a component over time, from step `start` on.

    Raises:
        HorizonError: If a duration among the fields needs more of the horizon than is known, even
            if it is only used later in training; names the place.
    """
    columns = {}
    for field, value in component:
        if isinstance(value, Duration):
            _named(f"{place}.{field}", partial(horizon.length, value))
        elif isinstance(value, Schedule):
            # In evaluation only transforms act; all other factors are 1.
            is_final, local = isinstance(component, Transform), horizon.local(start)
            columns[field] = Column(f"{place}.{field}", value, start, local, is_final=is_final)
    return columns


@dataclass(frozen=True)
class Curves:
    """The weights and the scheduled numbers of a config over a training.

    Args:
        steps: Steps of the training, shape (n,).
        weights: The weight of each term at these steps, shape (n,); 0 while it is dormant. In
            training it is multiplied by the factors of a controller and a balancer. The weight of a
            member is multiplied by that of its group.
        adaptive: Terms that have such a factor.
        horizon: The length of training.
        scheduled: The value of each scheduled number at these steps, shape (n,).
        parts: For each group its members, with their weight in the group, or None if it changes.

    >>> config = LossConfig.read({"terms": {"nll": 1.0, "kl": {"kind": "warmup", "over": "50%"}}})
    >>> curves = Curves.of(config, Horizon(total_steps=4))
    >>> curves.weights["kl"]
    array([0. , 0.5, 1. , 1. ])
    """

    steps: Steps
    weights: dict[str, Values]
    adaptive: frozenset[str]
    horizon: Horizon
    scheduled: dict[str, Values]
    parts: dict[str, dict[str, float | None]]

    @classmethod
    def of(cls, config: LossConfig, horizon: Horizon | None = None, points: int = 2000) -> Curves:
        """The curves of a config.

        Args:
            config: The config.
            horizon: The length of training; the config has what is missing in it. Without an end
                of training, the curves go as far as the schedules move.
            points: Maximum number of steps, at least 2, evenly spaced.

        Raises:
            HorizonError: If a schedule needs more of the horizon than is known; names the term.
        """
        given = Horizon() if horizon is None else horizon
        known = config.horizon.merged(given)
        columns = {name: weight_of(config, name, known) for name in config.all_terms}
        numbers = {name: number_of(config, name, known) for name in config.scheduled}
        if known.is_bounded:
            last = known.span - 1
        else:
            both = (*columns.values(), *numbers.values())
            moves = max(int(column.shown(points)[-1]) for column in both)
            last = math.ceil(max(_STILL_STEPS, 1.2 * moves))
        steps = _evenly(0, max(last, 0), points)
        weights, scheduled = (
            {name: column.values(steps) + 0.0 for name, column in of.items()}  # no -0
            for of in (columns, numbers)
        )
        adaptive = {name for name, term in config.terms.items() if term.controller is not None}
        adaptive.update(() if config.balancer is None else config.balanced_names)
        groups = config.groups
        for group, members in groups.items():
            adaptive.update(members if group in adaptive else ())
        inside = dict(weights)
        multiply_members(weights, groups)
        parts = {
            group: {n: _part(inside[n], weights[group]) for n in weights if n in members}
            for group, members in groups.items()
        }
        return cls(steps, weights, frozenset(adaptive), known, scheduled, parts)


def to_draw(found: Sequence[Curves]) -> dict[str, list[str]]:
    """The terms of which a picture has curves, each with the members that it shows too.

    A member is drawn if its weight in its group changes in one of the configs; once for all members
    of a group whose weights are equal.
    """
    groups = {name: group for each in found for group, part in each.parts.items() for name in part}
    parts: list[Mapping[str, float | None]] = [ChainMap(*each.parts.values()) for each in found]
    shown: dict[str, list[str]] = {}
    firsts: dict[tuple[object, ...], str] = {}
    for name in dict.fromkeys(name for each in found for name in each.weights):
        pairs = [
            (each, part) for each, part in zip(found, parts, strict=True) if name in each.weights
        ]
        if all(part.get(name) is not None for _, part in pairs):
            continue
        curves = [each.weights[name].tobytes() if name in each.weights else None for each in found]
        first = firsts.setdefault((groups.get(name, (name,)), *curves), name)
        shown.setdefault(first, []).extend([name] * (name != first))
    return shown


def _part(weights: Values, of_group: Values) -> float | None:
    """The weight of a member in its group while that counts; None if it changes."""
    found = weights[of_group != 0] if of_group.any() else weights[-1:]
    return float(found[-1]) if np.all(found == found[-1]) else None


def multiply_members(weights: dict[str, Any], groups: Mapping[str, Sequence[str]]) -> None:
    """Multiplies the weight of each member by that of its group, outer groups first."""
    for group, members in groups.items():
        for name in members:
            weights[name] = weights[name] * weights[group]


def _evenly(first: int, last: int, points: int) -> Steps:
    """Up to `points` steps, evenly spaced, with both ends."""
    count = min(max(points, 2), last - first + 1)
    return np.linspace(first, last, count).round().astype(np.int64)


def _named(label: str, compute: Callable[[], T]) -> T:
    """The result, or the error with the label before it."""
    try:
        return compute()
    except UnitError as error:  # no later length of training helps
        raise ConfigError(f"{label}: {error}") from None
    except HorizonError as error:
        raise HorizonError(f"{label}: {error}") from None
    except ValueError as error:
        raise ConfigError(f"{label}: {error}") from error
    except Exception as error:  # a plug-in's own
        raise ConfigError(f"{label}: its schedule failed: {error!r}") from error
