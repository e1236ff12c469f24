"""Finds terms that go wrong: `diagnose` in rows, `Monitor` during training."""

import math
import os
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any, Literal, TypeAlias

import numpy as np
from torch.utils.hooks import RemovableHandle

from lossweights.analysis.history import History
from lossweights.components.balancers import GradientBalancer
from lossweights.components.durations import Duration, Horizon
from lossweights.components.schedules import Values
from lossweights.config.loss_config import LossConfig
from lossweights.config.timeline import Curves, fields_of, weight_of
from lossweights.criterion.weighted_loss import WeightedLoss
from lossweights.errors import did_you_mean, quoted, warn

Rows: TypeAlias = Sequence[Mapping[str, float]]
Floors: TypeAlias = Mapping[str, float]

_QUANTITIES = ("raw", "weighted", "share")
_WINDOW = 5  # rows; the median of five is not changed by two unusual batches
_WINDOWS = 4  # that a collapse must last: early in training most changes are temporary
_MOST_ROWS = 1000  # that a monitor keeps, a multiple of the window
_SMALL = 0.04  # of an equal share; in VAEs, a vanishing KL had 1 to 2% of the loss of two terms
_FELL = 0.5  # of its earlier value: batches differ by less
_KEPT = 0.25  # of their earlier values, for the other terms; below it all terms are learned alike
_ROSE = 1.05  # times their earlier values, for the other terms: medians differ by less
_MINOR = 0.1  # of the largest weight: terms with less are meant to count for little
_SETTLED = 0.1  # of its last weight, by which a scheduled weight may still differ
_MOST_AGREEING = 1  # rows of a window in which conflicting gradients may agree
_OPPOSED = -0.1  # the median cosine of a window; by chance it is near 0 for many parameters


@dataclass(frozen=True)
class Finding:
    """Something wrong with a term.

    Args:
        step: The last step that was considered.
        term: The name of the term; of a conflict, both, as in `a and b`.
        trouble: `collapse`, `non-finite` or `conflict`.
        message: The values, and what to write instead.
    """

    step: int
    term: str
    trouble: Literal["collapse", "non-finite", "conflict"]
    message: str


def diagnose(
    rows: Rows, config: LossConfig, horizon: Horizon | None = None, floors: Floors | None = None
) -> list[Finding]:
    """Finds terms that have collapsed, are not finite or conflict at the end of some rows.

    Compares medians over whole windows of five rows. A term is *non-finite* if it is nan or inf in
    most rows of the last one. It has *collapsed* if, for four windows, it is below its floor or,
    without one, below 4% of an equal share of the loss, and fell to half while others did not.

    While the schedule of a term still moves its weight, it is not judged. Terms with a controller
    or a balancer, or with less than a tenth of the largest weight, collapse only below a floor.

    Two terms are in *conflict* if, in each of the last four windows of rows in which gradients were
    measured, the cosine between theirs is below 0 in four of five rows, with a median below -0.1.
    Terms whose conflicts the balancer resolves are left out.

    Args:
        rows: Rows with `raw`, `weighted` and `share`, such as `history.rows`.
        config: The config of the criterion.
        horizon: Length of training; by default that of the config.
        floors: Values below which terms have collapsed, such as `{"kl": 0.1}` for 0.1 nats.

    Raises:
        ValueError: If the rows lack a quantity or their step, or a floor names an unknown term.
        HorizonError: If a schedule needs the length of training and it is not known.

    >>> config = LossConfig.read({"terms": ["nll", "kl"]})
    >>> row = {"raw/kl": math.nan, "weighted/kl": math.nan, "share/kl": math.nan}
    >>> (found,) = diagnose([row | {"step": step} for step in range(5)], config)
    >>> found.step, found.term, found.trouble
    (4, 'kl', 'non-finite')
    """
    judged, terms = _judged(config), config.all_terms
    for name in floors or {}:
        if name not in terms:
            near = did_you_mean(str(name), judged)
            raise ValueError(f"floors: no term is called {name!r}{near}")
        if name not in judged:
            raise ValueError(
                f"floors: {name!r} is a group, of which the members are judged: give floors of "
                f"{quoted(config.groups[name])}"
            )
    if rows and not {"step", *_QUANTITIES} <= {key.split("/")[0] for row in rows for key in row}:
        raise ValueError(
            f"rows need step, raw/<term>, weighted/<term> and share/<term>, found {list(rows[0])}: "
            "let the history include raw, weighted and share"
        )
    rows = [row for row in rows if any(key.startswith("raw/") for key in row)]
    conflicts = [*_conflicts(rows, config, horizon or config.horizon)]
    rows = rows[: len(rows) // _WINDOW * _WINDOW]
    if not rows:
        return conflicts
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of numpy, for medians of nothing
        windows = _Windows(rows, config, horizon, floors or {})
        found = [each for index, name in enumerate(judged) for each in windows.of(index, name)]
    return found + conflicts


class Monitor:
    """Warns once when a term of a training collapses or is not finite, or two terms conflict.

    It keeps a `History`, and calls `diagnose` after every fifth row. It never stops a training: if
    warnings are errors, it prints them. Copies and pickles keep the findings and follow nothing.

    Args:
        criterion: The criterion to follow.
        every: Interval of a row, as in `History`; by default a collapse is found in a tenth of the
            training.
        path: File for the rows, as in `History`; a resumed training begins with its rows.
        floors: Values below which terms have collapsed, as in `diagnose`.
        gradients: Interval between two measurements of gradients, as in `History`; without them no
            conflict is found.

    Attributes:
        findings: The findings, in order.
        history: The rows; in a long training, the first five and the last thousand.

    Raises:
        TypeError: If something other than a criterion is passed.
        ValueError: If the interval is 0, or a floor names an unknown term.

    >>> import torch
    >>> criterion = WeightedLoss(terms=["nll", "kl"], total_steps=1000)
    >>> monitor = Monitor(criterion, floors={"kl": 0.1})
    >>> terms = {"nll": torch.tensor(90.0), "kl": torch.tensor(0.02)}
    >>> with warnings.catch_warnings(record=True, action="always") as caught:
    ...     for _ in range(200):
    ...         _ = criterion(terms)
    ...         criterion.step()
    >>> [(found.step, found.term, found.trouble) for found in monitor.findings], len(caught)
    ([(99, 'kl', 'collapse')], 1)
    """

    def __init__(
        self,
        criterion: WeightedLoss,
        every: Duration | str = "0.5%",
        path: str | os.PathLike[str] | None = None,
        *,
        floors: Floors | None = None,
        gradients: Duration | str | None = None,
    ) -> None:
        if not hasattr(criterion, "on_step"):
            raise TypeError(
                f"a monitor follows a WeightedLoss, found {type(criterion).__name__}: "
                "pass the criterion itself"
            )
        self._floors = dict(floors or {})
        diagnose([], criterion.config, floors=self._floors)  # checks the floors
        self.findings: list[Finding] = []
        self.history = History(criterion, every, path, _QUANTITIES, gradients=gradients)
        look = partial(self._look, weakref.ref(criterion))
        self._handle: RemovableHandle | None = criterion.on_step(look)

    def close(self) -> None:
        """Stops following the criterion. The findings are kept."""
        self.history.close()
        if self._handle is not None:
            self._handle.remove()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_handle": None}

    def _look(self, reference: weakref.ref[WeightedLoss], step: int) -> None:
        """Called after each step of the criterion; the history has taken its row."""
        criterion = reference()
        if criterion is None or not self.history.is_complete:
            return
        rows = self.history.rows
        if not rows or rows[-1]["step"] != step or len(rows) % _WINDOW:
            return
        del rows[_WINDOW:-_MOST_ROWS]
        try:
            found = diagnose(rows, criterion.config, criterion.horizon, self._floors)
        except Exception as error:  # noqa: BLE001  # of a user's schedule, at later steps
            self.close()
            _warn(f"the monitor has stopped, because a schedule cannot be evaluated: {error}")
            return
        known = {(finding.term, finding.trouble) for finding in self.findings}
        for finding in found:
            if (finding.term, finding.trouble) not in known:
                self.findings.append(finding)
                _warn(f"{criterion.horizon.at(finding.step)}: {finding.message}")


class _Windows:
    """Medians of rows, in arrays of shape (windows, terms); nan if most rows lack the term."""

    def __init__(
        self, rows: Rows, config: LossConfig, horizon: Horizon | None, floors: Floors
    ) -> None:
        # Without its scheduled numbers, whose schedules may call functions.
        curves = Curves.of(config.model_copy(update={"scheduled": {}}), horizon)
        self.config, self.floors, self.curves = config, floors, curves
        self.at = curves.horizon.at
        names = _judged(config)
        self.weights = np.abs([curves.weights[name][-1] for name in names])
        self.steps = [int(row["step"]) for row in rows]
        self.firsts = np.array(self.steps[::_WINDOW])
        raw, weighted, share = (
            np.array([[row.get(f"{what}/{name}", gap) for name in names] for row in rows])
            for what, gap in zip(_QUANTITIES, (math.nan, 0.0, math.nan), strict=True)
        )
        self.broken = (~np.isfinite(weighted[-_WINDOW:])).sum(axis=0)
        self.rows = np.where(np.isfinite(raw) & np.isfinite(weighted), raw, math.nan)
        self.raw = _medians(self.rows)
        self.share = _medians(np.where(np.isnan(self.rows), math.nan, share))
        whole = np.nansum(abs(self.rows), axis=1, keepdims=True)
        raw_share = _medians(abs(self.rows) / np.where(whole > 0, whole, 1.0))
        terms = (~np.isnan(self.raw)).sum(axis=1, keepdims=True)
        self.is_small = np.nan_to_num(np.fmax(self.share, raw_share)) * terms < _SMALL

    def of(self, index: int, name: str) -> Iterator[Finding]:
        """The findings for a term."""
        if self.broken[index] > _WINDOW / 2:
            message = (
                f"term {name!r} is nan or inf in {self.broken[index]} of the rows from "
                f"{self.at(self.steps[-_WINDOW])} to {self.steps[-1]}. To find where this begins, "
                "write on_nonfinite: raise beside terms. To train without the term meanwhile, "
                "write on_nonfinite: skip_term"
            )
            yield Finding(self.steps[-1], name, "non-finite", message)
        if how := self._collapse(index, name):
            message = (
                f"term {name!r} has collapsed to {self.raw[-1, index]:.3g}, "
                f"{self.share[-1, index]:.2%} of the loss: {how}. If it should carry information, "
                f"as the KL of a VAE does, {self._remedy(name)}. The target is the "
                "value to hold. If only its unit is small, give it a larger weight, as calibrate "
                "proposes. If it should be near 0, ignore this"
            )
            yield Finding(self.steps[-1], name, "collapse", message)

    def _remedy(self, name: str) -> str:
        """What to write against a collapse."""
        *groups, term = self.config.lineage(name)
        cycles = "schedule: {kind: cyclical, cycles: 4}" * self.curves.horizon.is_bounded
        controller = "controller: {kind: pid, target: 3.0}"
        other = "controller" if term.controller else "schedule" if term.schedule else ""
        place = f" at terms.{name}{f', in place of its {other}' * bool(other)}"
        if groups:  # in which a member has no controller
            own = f"declare it as a term of its own, with {controller}"
            return f"write {cycles}{place}, or {own}" if cycles else own
        return f"write {f'{cycles} or ' * bool(cycles)}{controller}{place}"

    def _collapse(self, index: int, name: str) -> str:
        """How a term fell below its floor or, without one, to a small share; empty if neither."""
        recent, settled = abs(self.raw[-_WINDOWS:, index]), self._settled(name)
        if len(recent) < _WINDOWS or (since := self.firsts[-_WINDOWS]) < settled:
            return ""
        if name in self.floors:
            floor = self.floors[name]
            is_below = bool((recent < floor).all())
            return f"below its floor of {floor:g} since {self.at(since)}" * is_below
        small = self.is_small[:, index]
        if (
            name in self.curves.adaptive  # training decides how much it counts
            or not 0 < self.weights[index] >= _MINOR * self.weights.max()
            or not ((recent > 0) & small[-_WINDOWS:]).all()
        ):
            return ""
        if small.all():  # as the KL of a decoder that never uses its code
            before, step, least = self.rows[0], self.steps[0], _KEPT
        else:  # as the KL of a decoder that stops using it, and gets worse
            settled_raw = np.where(self.firsts < settled, math.nan, self.raw[:, index])
            peak = int(np.nanargmax(abs(settled_raw)))
            before, step, least = self.raw[peak], self.steps[(peak + 1) * _WINDOW - 1], _ROSE
        value = before[index]
        ratios = abs(self.raw[-1] / np.where(before == 0, math.nan, before))
        others = np.nanmedian(np.delete(ratios, index)) if len(ratios) > 1 else 0.0
        # The loss of a policy is on both sides of 0, so a small value is not a collapse. A KL that
        # is estimated from samples has values below 0 too, but small ones.
        beyond = np.nanmax(-self.rows[:, index] * np.sign(value))
        is_fall = abs(self.raw[-1, index]) <= _FELL * abs(value) and abs(value) >= 2 * beyond
        if not is_fall or others < least:
            return ""
        return (
            f"it fell from {value:.3g} at {self.at(step)}, while the other terms went to "
            f"{others:.0%} of their values"
        )

    def _settled(self, name: str) -> float:
        """The step from which the weight and the transform hardly change."""
        steps, weights, horizon = self.curves.steps, self.curves.weights[name], self.curves.horizon
        (moving,) = np.nonzero(abs(weights - weights[-1]) > _SETTLED * abs(weights[-1]))
        column = weight_of(self.config, name, horizon)
        transform = self.config.lineage(name)[-1].transform
        columns = [] if horizon.is_bounded else [column]
        if transform is not None:
            place = f"terms.{name}.transform"
            columns += fields_of(place, transform, column.start, horizon).values()
        ends = [math.inf if (end := each.end()) is None else end for each in columns]
        return max([float(steps[moving[-1] + 1]) if len(moving) else 0.0, *ends])


def _conflicts(rows: Rows, config: LossConfig, horizon: Horizon) -> Iterator[Finding]:
    """The pairs of terms whose gradients oppose each other in the last rows with gradients."""
    resolved = resolved_terms(config)
    for one, other in combinations(sorted(config.terms), 2):
        if one in resolved and other in resolved:
            continue
        metric = f"gradient/cosine/{one}/{other}"
        measured = [row for row in rows if metric in row][-_WINDOW * _WINDOWS :]
        if len(measured) < _WINDOW * _WINDOWS:
            continue
        cosines = np.array([row[metric] for row in measured])
        windows = cosines.reshape(_WINDOWS, _WINDOW)
        oppose = (windows < 0).sum(axis=1) >= _WINDOW - _MOST_AGREEING
        if not (oppose & (np.median(windows, axis=1) < _OPPOSED)).all():
            continue
        first, last = int(measured[0]["step"]), int(measured[-1]["step"])
        message = (
            f"terms {one!r} and {other!r} conflict: from {horizon.at(first)} to {last} the median "
            f"cosine between their gradients is {np.median(cosines):.2f}. A small step for "
            "one alone makes the other worse, so their weights decide how much each of them "
            "improves. If both should improve, write balancer: upgrad or balancer: pcgrad beside "
            "terms. If one limits the other on purpose, as a penalty or a KL does, ignore this"
        )
        yield Finding(last, f"{one} and {other}", "conflict", message)


def resolved_terms(config: LossConfig) -> tuple[str, ...]:
    """The terms whose conflicts the balancer resolves, because it looks at their directions."""
    balancer = config.balancer
    is_resolved = isinstance(balancer, GradientBalancer) and "gramian" in balancer.statistics
    return config.balanced_names if is_resolved else ()


def _judged(config: LossConfig) -> list[str]:
    """The terms and members that are judged: all but groups, which are sums of others."""
    return [name for name, term in config.all_terms.items() if term.terms is None]


def _medians(rows: Values) -> Values:
    windows = rows.reshape(-1, _WINDOW, rows.shape[1])
    most = np.isfinite(windows).sum(axis=1) > _WINDOW / 2
    return np.where(most, np.nanmedian(windows, axis=1), math.nan)


def _warn(message: str) -> None:
    """Warns, but prints if warnings are errors: no training should stop for it."""
    try:
        warn(message)
    except Warning:
        with warnings.catch_warnings(action="always"):
            warn(message)
