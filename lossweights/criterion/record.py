"""What training forward passes left for metrics, and the calls after their step."""

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lossweights.components.durations import Horizon
from lossweights.config.loss_config import LossConfig
from lossweights.criterion.given import GivenTerms
from lossweights.criterion.gradients.meter import GradientMeter
from lossweights.criterion.gradients.weights import GradientStep
from lossweights.criterion.indexing import put
from lossweights.criterion.reader import Values
from lossweights.criterion.report import Breakdown
from lossweights.criterion.torch_internals import inside_func_transform, keeps_address
from lossweights.errors import quoted

MANY_FORWARDS = 200  # forward passes without a step after which the clock was forgotten
_LOOK_EVERY = 32  # forward passes, at most, between two looks at which terms carry a gradient
_MANY_PASSES = 256  # of one step, after which they are added up
_SOME_STEPS = 4  # after which a pattern is not taken for chance
_RECENT_STEPS = 50  # that are kept, to see since when the total is not finite

# The rows of a table of sums over forward passes; `_COUNT` is how often a term was given. With a
# balancer whose weights are adjusted there are two more: what it found, and how often it did.
_RAW, _VALUE, _WEIGHT, _PENALTY, _WEIGHTED, _COUNT, _FOUND, _FINDS = range(8)


class Parts(NamedTuple):
    """A total and its parts."""

    total: Tensor  # a scalar with its graph
    values: Values  # of the terms present
    weights: Tensor  # of these, as far as they are known before the forward pass
    factors: Tensor | None = None  # what multiplies these weights; None for 1
    penalties: Tensor | None = None  # added to `factors` times the values
    gradients: GradientStep | None = None  # what was computed from gradients
    found: Tensor | None = None  # weights times factors, before the balancer's are adjusted


class Pass(NamedTuple):
    """One forward pass, without its graph; the fields are those of `Parts` and `Values`."""

    all_names: tuple[str, ...]
    names: tuple[str, ...]
    vector: Tensor
    weights: Tensor
    factors: Tensor | None
    penalties: Tensor | None
    raws: dict[str, Tensor]
    skipped: frozenset[str]
    groups: Mapping[str, tuple[tuple[str, ...], Tensor, Tensor]]  # names, values and weights
    found: Tensor | None = None


class Step(NamedTuple):
    """The forward passes of one optimizer step.

    Args:
        passes: The passes, except those in `sums`.
        sums: The table of those that were added up; None if there are none.
        names_of_sums: The terms that they had.
        numbers: The scheduled numbers during the step.
    """

    passes: Sequence[Pass]
    sums: Tensor | None
    names_of_sums: frozenset[str]
    numbers: Mapping[str, float]

    @property
    def names(self) -> frozenset[str]:
        """The terms that were given in it."""
        return self.names_of_sums.union(*(each.all_names for each in self.passes))

    @property
    def device(self) -> torch.device:
        """The device of its last forward pass."""
        return (self.passes[-1].vector if self.passes else cast("Tensor", self.sums)).device


class Sums(NamedTuple):
    """Several optimizer steps, added up.

    Args:
        sums: The table of sums over the steps, as `_tables` has them over forward passes.
        names: The terms that were given in them.
        numbers: The sum of each scheduled number.
        n: The number of steps.
    """

    sums: Tensor
    names: frozenset[str]
    numbers: Mapping[str, float]
    n: int


@dataclass(frozen=True)  # a graph of torch 2.7 cannot read a named tuple from outside of it
class _Columns:
    """The columns of a table: the terms, sorted, and the members of each group."""

    terms: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]]
    all_names: tuple[str, ...]  # the terms, and the members of all groups


class _Patterns:
    """Sets of terms that compiled graphs were given, each in an attribute of its own.

    Not in a list: a graph would be made again for each content of it that it found.
    """


class ForwardRecord:
    """A record of training forward passes, without their graphs.

    Args:
        config: The declaration.
        summed: Terms with `accumulates: sum`.
        compared: Those that a balancer compares with each other in a forward pass.
        weights_move: Whether any weight changes with time, so that the clock matters.
        adjusts: Whether the weights of a balancer are adjusted.

    Attributes:
        order: The terms, each group followed by its members, as declared.
        members: The terms that are inside a group.
        names: The terms and members of the last forward pass; none before the first.
        numbers: The scheduled numbers of the coming step.
        detached: Terms that carried no gradient when last looked at, with their weights.
        given: Which terms were given.
        step: The step of the last forward pass, once the clock has moved on from it.
        is_due: Whether callbacks are due.
        awaits_step: Whether there was a forward pass, and no step since.
        recent: The last steps that had a forward pass.
        steps: How many there were.
        idle_steps: Optimizer steps in a row without a forward pass.
        meters: What measures gradients in forward passes.
        in_graph: Whether one of these was compiled, so that nothing is measured.
    """

    def __init__(
        self,
        config: LossConfig,
        summed: Collection[str],
        compared: Collection[str],
        *,
        weights_move: bool,
        adjusts: bool = False,
    ) -> None:
        self.order, groups = tuple(config.all_terms), config.groups
        self.members = frozenset(self.order).difference(config.terms)
        terms = tuple(sorted(config.terms))
        self._all = (*terms, *chain.from_iterable(groups.values()))
        self._columns, self._adjusts = _Columns(terms, groups, self._all), adjusts
        summed = set(summed)
        for group, inside in groups.items():
            summed.update(inside if group in summed else ())
        self._summed = [index for index, name in enumerate(self._all) if name in summed]
        self._weights_move = weights_move
        self.names: tuple[str, ...] = ()
        self.numbers: Mapping[str, float] = {}
        self.detached: dict[str, Tensor] = {}
        self.given = GivenTerms(compared)
        self.step: int | None = None
        self.is_due = self.awaits_step = False
        self.recent: deque[Step] = deque(maxlen=_RECENT_STEPS)
        self._forwards = 0  # outside of compiled graphs
        self._forwards_at_move = 0
        self._next_look = 0  # the number of forward passes before it
        self.steps = self.idle_steps = 0  # with a forward pass, and in a row without one
        self._has_penalties = False
        self._callbacks: OrderedDict[int, Callable[[int], object]] = OrderedDict()
        self.meters: OrderedDict[int, GradientMeter] = OrderedDict()
        self.in_graph = False
        self._patterns = _Patterns()  # of the step that is going on
        self._start_step()
        self.move(torch.device("cpu"))

    def _start_step(self) -> None:
        self._passes: list[Pass] = []
        self._sums: Tensor | None = None  # the table of earlier passes
        self._names_of_sums: frozenset[str] = frozenset()
        if patterns := vars(self._patterns):
            for names in patterns.values():  # a compiled forward pass did not give them
                self.given.note(names, self.steps)
            patterns.clear()
            self._compiled.zero_()

    @torch.inference_mode(mode=False)  # training could not use tensors made in it
    def move(self, device: torch.device) -> None:
        """Goes on with the step on another device."""
        if self.awaits_step:  # a table may be on another device than later passes
            self._add_up()
        rows = _FINDS if self._adjusts else _COUNT
        shape = (rows + 1, len(self._all) + 1)  # of the table that compiled graphs add to
        self._compiled = keeps_address(torch.zeros(shape, dtype=torch.float32, device=device))

    def add(self, parts: Parts, skipped: frozenset[str]) -> bool:
        """Keeps the parts of a total without the `skipped` terms; does not wait for the device.

        Returns whether the clock, which matters to weights, seems to be forgotten, after each many
        forward passes.
        """
        _, (names, raws, losses, vector, groups), weights, factors, penalties, _, before = parts
        if before is None and self._adjusts:  # no balanced term is present
            before = weights if factors is None else weights * factors
        self.names = all_names = parts.values.all_names if groups else names
        fields: Any = (  # those of a `Pass`
            all_names,
            names,
            vector.detach(),
            weights,
            None if factors is None else factors.detach(),
            None if penalties is None else penalties.detach(),
            # The losses themselves may be overwritten; the vector is a copy.
            {name: raw.detach().clone() for name, raw in raws.items()} if raws else raws,
            skipped,
            {
                name: (each.names, each.vector.detach(), each.weights)
                for name, each in groups.items()
            }
            if groups
            else groups,
            None if before is None else before.detach(),
        )
        if penalties is not None:
            self._has_penalties = True
        if looks := torch.compiler.is_compiling():  # a graph is traced once, and counts nothing
            # Not to a list, which would grow: a graph is made for each length of it.
            self._compiled.add_(_tables([Pass(*fields)], self._columns)[0])
            setattr(self._patterns, repr(all_names), all_names)
            is_idle = False
        else:
            if inside_func_transform():
                raise RuntimeError(
                    "a criterion in training records its terms, which torch.func transforms "
                    "cannot do: use criterion.breakdown(terms).total there"
                )
            if looks := self._forwards == self._next_look:
                # Early passes are looked at more often: a term may have a weight of 0 in the first.
                self._next_look += min(max(1, self._forwards), _LOOK_EVERY)
            self._forwards += 1
            idle = self.idle
            is_idle = idle >= MANY_FORWARDS and not idle % MANY_FORWARDS and self._weights_move
            if all_names != self.given.names:
                self.given.note(all_names, self.steps)
            if len(self._passes) == _MANY_PASSES:
                self._add_up()
            # In half the time of the named tuple's own constructor.
            self._passes.append(tuple.__new__(Pass, fields))
        if looks:  # at each forward pass it would cost too much
            terms = [*zip(names, losses, weights.unbind(), strict=True)]
            for each in groups.values():
                terms += zip(each.names, each.losses, each.weights.unbind(), strict=True)
            self.detached = {name: weight for name, loss, weight in terms if not loss.requires_grad}
        self.awaits_step, self.step = True, None
        return is_idle

    @property
    def idle(self) -> int:
        """Forward passes, outside of compiled graphs, since the clock moved."""
        return self._forwards - self._forwards_at_move

    def _add_up(self) -> None:
        """Keeps the passes of this step as their sums alone."""
        latest = self._latest()
        self._start_step()
        self._sums, self._names_of_sums = _sums(latest, self._columns), latest.names

    def step_done(self, step: int) -> bool:
        """Completes the record of a step; returns whether it had a forward pass."""
        self._forwards_at_move = self._forwards
        self.is_due = False
        if not self.awaits_step:
            return False
        self.steps += 1
        self.idle_steps = 0
        self.recent.append(self._latest())
        self._start_step()
        self.awaits_step, self.step = False, step
        return True

    def discard(self, step: int) -> None:
        """Ends a step that was not done: callbacks do not run, and measurements are dropped."""
        self.step_done(step)
        for meter in self.meters.values():
            meter.discard()

    def _latest(self) -> Step:
        """The step that is going on, as far as it went."""
        if not (patterns := vars(self._patterns)):
            return self._without_compiled()
        sums = self._compiled.clone()
        sums = sums if self._sums is None else sums + self._sums.to(sums.device)
        names = self._names_of_sums.union(*patterns.values())
        return Step(self._passes, sums, names, self.numbers)

    def _without_compiled(self) -> Step:
        return Step(self._passes, self._sums, self._names_of_sums, self.numbers)

    def breakdown(self) -> Breakdown | None:
        """The parts of the step that is going on, or else of the last; None before the first."""
        if not self.awaits_step and not self.recent:
            return None
        step = self._latest() if self.awaits_step else self.recent[-1]
        return self.mean(self.add_up([step]))

    def add_up(self, steps: Sequence[Step], earlier: Sums | None = None) -> Sums:
        """The sums over steps, and over `earlier` ones.

        A step counts with its means over the forward passes in which a term was given, or its sums
        with `accumulates: sum`; what terms add to the total is a mean over all passes.
        """
        tables = _tables_of_steps(steps, self._columns)
        count = tables[:, _COUNT:_FOUND].clamp(min=1)  # sums of terms that were not given are 0
        of_all = count[..., -1:].expand(-1, _COUNT - _PENALTY, count.shape[-1])
        divisors = torch.cat([count.expand(-1, _PENALTY, -1), of_all, count], dim=1)
        for index in self._summed:
            divisors[:, _RAW:_WEIGHT, index] = divisors[:, _PENALTY:_COUNT, index] = 1.0
        if self._adjusts:
            finds = tables[:, _FINDS:].clamp(min=1)
            divisors = torch.cat([divisors, finds, finds], dim=1)
        sums, names = (tables / divisors).sum(dim=0), frozenset[str]()
        numbers = {k: math.fsum(each.numbers[k] for each in steps) for k in steps[-1].numbers}
        n = len(steps)
        if earlier is not None:
            sums, names = sums + earlier.sums.to(sums.device), earlier.names
            numbers = {name: x + earlier.numbers[name] for name, x in numbers.items()}
            n += earlier.n
        given = {each.all_names for step in steps for each in step.passes}  # few different ones
        names = names.union(*given, *(step.names_of_sums for step in steps))
        return Sums(sums, names, numbers, n)

    def mean(self, steps: Sums) -> Breakdown:
        """The parts of a total and the scheduled numbers, as means; terms as declared.

        Values and weights are means over the steps in which a term was given; penalties and
        weighted values over all; found weights over those in which the balancer found any.
        """
        given = steps.sums[:_PENALTY] / steps.sums[_COUNT]
        added = steps.sums[_PENALTY:_COUNT] / steps.sums[_COUNT, -1]
        where = [index for index, name in enumerate(self._all) if name in steps.names]
        rows = [row.unbind() for part in (given, added) for row in part.unbind()]
        raw, value, weight, penalty, products = ([row[index] for index in where] for row in rows)
        finds = (steps.sums[_FOUND] / steps.sums[_FINDS]).unbind() if self._adjusts else ()
        count = len(steps.names.difference(self.members))  # terms come before members
        found = Breakdown.of(
            [self._all[index] for index in where],
            raw,
            value,
            weight,
            penalty[:count] if self._has_penalties else [],
            products,
            self.order,
            steps.sums.new_zeros(()),
            self.members,
            [finds[index] for index in where[:count]] if finds else (),
        )
        full = steps.sums.new_full  # does not wait for the device
        means = {name: full((), x / steps.n) for name, x in steps.numbers.items()}
        return replace(found, scheduled=means) if means else found

    def unused_warning(self) -> str:
        """What to write if the clock moves and no forward pass was ever recorded; else empty."""
        if self.steps or self.idle_steps < _SOME_STEPS:
            return ""
        return (
            f"the clock made {self.idle_steps} steps, and the criterion was never called in "
            "training: call it in each step, in training mode and with gradients enabled"
        )

    def infinite_warning(self) -> str:
        """What to write if the total of the last step was not finite; empty otherwise."""
        steps = [*self.recent, *([self._latest()] if self.awaits_step else [])][-_RECENT_STEPS:]
        if not steps:
            return ""
        tables = _tables_of_steps(steps, self._columns)
        totals = (tables[:, _WEIGHTED] + tables[:, _PENALTY]).sum(dim=1)
        n = int((~totals.isfinite()).flip(0).cumprod(0).sum())  # in a row, up to the last step
        if n == 0:
            return ""
        finite = tables[-1, _WEIGHTED, :-1].isfinite().tolist()
        names = [name for name, good in zip(self._all, finite, strict=True) if not good]
        which = "the last step" if n == 1 else f"each of the last {n} steps"
        where = f"the total was nan or inf in {which}"
        if not names:
            return f"{where}, although each term is finite: their sum is too large for float32"
        return (
            f"{where}, because of {quoted(names)}: to find where it begins, write "
            "on_nonfinite: raise"
        )

    def idle_clock_warning(
        self, horizon: Horizon, step: int, *, look: bool, least: int = MANY_FORWARDS
    ) -> str:
        """What to write if the clock did not move for `least` forward passes; empty otherwise.

        To `look` at those in compiled graphs, it waits for the device.
        """
        idle = self.idle
        if look and vars(self._patterns):
            idle += int(self._compiled[_COUNT, -1])
        if idle < least:
            return ""
        n = "" if horizon.unit == "steps" else horizon.unit
        follow = f"follow(optimizer{f', per_step={n}' * bool(n)})"
        return (
            f"{idle} forward passes in training, but the clock is at {horizon.at(step)}, so "
            f"metrics are means over all of them: call criterion.{follow} once, or "
            f"criterion.step({n}) after each optimizer.step()"
        )

    def add_callback(self, call: Callable[[int], object]) -> RemovableHandle:
        """Calls `call(step)` after each step that had a forward pass."""
        handle = RemovableHandle(self._callbacks)
        self._callbacks[handle.id] = call
        return handle

    def add_meter(self, meter: GradientMeter) -> RemovableHandle:
        """Measures gradients of the terms in forward passes, when the meter says so."""
        handle = RemovableHandle(self.meters)
        self.meters[handle.id] = meter
        return handle

    def call_back(self, step: int) -> None:
        """Runs the callbacks of a step."""
        self.is_due = False
        for call in tuple(self._callbacks.values()):
            call(step)

    def __getstate__(self) -> dict[str, Any]:
        # In a few tensors: each takes a file descriptor on its way to another process. They replace
        # those here, because the descriptors of temporary tensors would be used again meanwhile.
        if self._passes:
            step = self._without_compiled()
            self._passes, self._sums = [], _sums(step, self._columns)
            self._names_of_sums = step.names
        if self.recent:
            step = self.recent[-1]
            self.recent[-1] = Step((), _sums(step, self._columns), step.names, step.numbers)
        last = deque([*self.recent][-1:], maxlen=self.recent.maxlen)
        gone: dict[str, Any] = {"_callbacks": OrderedDict(), "meters": OrderedDict()}
        return {**self.__dict__, **gone, "recent": last}

    @torch.inference_mode(mode=False)
    def __setstate__(self, kept: dict[str, Any]) -> None:
        self.__dict__.update(kept)
        # torch.multiprocessing shares the memory with the sender, which goes on by itself.
        self._compiled = keeps_address(self._compiled.clone())


def _sums(step: Step, columns: _Columns) -> Tensor:
    """The table of all forward passes of a step, shape (rows, n + 1)."""
    if not step.passes:
        return cast("Tensor", step.sums)
    sums = _tables(step.passes, columns).sum(dim=0)
    return sums if step.sums is None else sums + step.sums.to(sums.device)


def _tables_of_steps(steps: Sequence[Step], columns: _Columns) -> Tensor:
    """The tables of steps, shape (steps, rows, n + 1), on the device of the last."""
    device, count = steps[-1].device, len(steps[-1].passes)
    if all(s.sums is None and len(s.passes) == count and s.device == device for s in steps):
        tables = _tables([each for step in steps for each in step.passes], columns)  # all at once
        return tables.view(len(steps), count, *tables.shape[1:]).sum(dim=1)
    return torch.stack([_sums(step, columns).to(device) for step in steps])


@torch.no_grad()
def _tables(passes: Sequence[Pass], columns: _Columns) -> Tensor:
    """One table for each forward pass, shape (passes, rows, n + 1).

    The last column is 0, but 1 in the row of counts, so that it counts passes.
    """
    terms, names = columns.terms, columns.all_names
    given = [each.names for each in passes]
    value = _stacked([each.vector for each in passes], given, terms)
    weight = _stacked([each.weights for each in passes], given, terms)
    penalty = torch.zeros_like(value)
    if any(each.penalties is not None for each in passes):
        penalty = _stacked([each.penalties for each in passes], given, terms) * weight
    if any(each.factors is not None for each in passes):
        factors = [torch.ones_like(e.vector) if e.factors is None else e.factors for e in passes]
        weight = weight * _stacked(factors, given, terms)
    if columns.groups:
        value, weight = _with_members(passes, columns, value, weight)
        penalty = torch.nn.functional.pad(penalty, (0, len(names) - len(terms)))
    raw, weighted = value, value * weight
    count = value.new_ones(len(passes), len(names) + 1)
    if any(each.raws for each in passes):
        raw = value.clone()
    for row, each in enumerate(passes):
        for name, part in each.raws.items():
            raw[row, names.index(name)] = part
        if each.skipped:
            _zero(weighted[row], names, each.skipped)
        for name in (
            set(names).difference(each.all_names) if len(each.all_names) < len(names) else ()
        ):
            count[row, names.index(name)].zero_()
    rows = torch.stack([raw, value, weight, penalty, weighted], dim=1)
    tables = [torch.nn.functional.pad(rows, (0, 1)), count[:, None]]
    if passes[0].found is not None:
        finds = [None if each.found is None else ~each.found.isnan() for each in passes]
        found = [None if each.found is None else each.found.nan_to_num(0.0) for each in passes]
        rows = torch.stack(
            [_stacked(found, given, terms), _stacked(finds, given, terms).to(value.dtype)], dim=1
        )
        tables.append(torch.nn.functional.pad(rows, (0, len(names) - len(terms) + 1)))
    return torch.cat(tables, dim=1)


def _zero(row: Tensor, names: Sequence[str], which: Collection[str]) -> None:
    """Sets the entries of some names to 0."""
    for column, name in enumerate(names):  # torch 2.7 does not compile a loop over a set
        if name in which:
            row[column].zero_()


def _stacked(
    parts: Sequence[Tensor | None], given: Sequence[Sequence[str]], names: Sequence[str]
) -> Tensor:
    """Parts of several forward passes, one row each, with 0 for names that were not given."""
    n, rows = len(names), []
    zeros = next(part for part in parts if part is not None).new_zeros(n)
    for part, present in zip(parts, given, strict=True):
        if part is None:
            rows.append(zeros)
        elif len(present) == n:
            rows.append(part)
        else:
            rows.append(put(part, [names.index(name) for name in present], n))
    return torch.stack(rows)


def _with_members(
    passes: Sequence[Pass], columns: _Columns, value: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """The values and weights of the terms, and of all members after them."""
    values, weights = [value], [weight]
    weight_of = dict(zip(columns.terms, weight.unbind(dim=1), strict=True))
    absent = ((), value.new_zeros(0), value.new_zeros(0))
    for group, names in columns.groups.items():  # outer groups come first
        found = [each.groups.get(group, absent) for each in passes]
        given = [names for names, _, _ in found]
        values.append(_stacked([vector for _, vector, _ in found], given, names))
        inside = _stacked([own for _, _, own in found], given, names) * weight_of[group][:, None]
        weight_of |= zip(names, inside.unbind(dim=1), strict=True)
        weights.append(inside)
    return torch.cat(values, dim=1), torch.cat(weights, dim=1)
