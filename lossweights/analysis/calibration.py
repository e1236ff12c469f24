"""Base weights from batches or from a training, which give the terms the wanted shares."""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np

from lossweights.analysis.fitting import Fit, final_weights, fit
from lossweights.analysis.history import History
from lossweights.analysis.measurements import (
    Batches,
    By,
    Measurements,
    Pair,
    Quartiles,
    Series,
    basis,
)
from lossweights.analysis.verdict import Evidence, PairCalibration, pairs, verdict
from lossweights.components.durations import Horizon
from lossweights.config.files import as_yaml
from lossweights.config.loss_config import LossConfig
from lossweights.config.names import ByName
from lossweights.criterion.weighted_loss import WeightedLoss
from lossweights.errors import HorizonError

_MOST_PAIRS = 20  # in the printed table


@dataclass(frozen=True)
class TermCalibration:
    """Measurements of a term, and its proposed weight.

    Args:
        value: Quartiles of its absolute value, after its transform; nan if it was never given.
        norm: Quartiles of the norm of its gradient; nan if it was not measured.
        run_share: Quartiles of its share as it was recorded: of the gradient norms or, if weights
            are fitted to values, of the loss; nan for batches.
        typical: Median of the size to which its weight was fitted.
        old: Its base weight.
        weight: Its proposed base weight.
        old_share: Its share under the old weights, at typical sizes.
        share: Its share under the proposed weights.
        spread: Quartiles of the weights that each row or batch alone would propose.
        moved: The weight that the late half of the rows proposes, divided by that of the early
            half; nan if one of them lacks the term.
        note: Why the weight is kept, and how many values were missing or not finite.
    """

    value: Quartiles
    norm: Quartiles
    run_share: Quartiles
    typical: float
    old: float
    weight: float
    old_share: float
    share: float
    spread: Quartiles
    moved: float
    note: str = ""


@dataclass(frozen=True)
class Calibration:
    """The result of `calibrate`. Its text has tables, the verdict and the terms to paste.

    Args:
        config: The config with the proposed weights.
        terms: The measurements by term.
        by: What the weights were fitted to: `gradients` or `values`.
        rows: The number of batches, or of the rows in which that was measured.
        steps: The first and the last step of the rows; None for batches.
        pairs: How the gradients of two terms agree, if it was measured.
        verdict: What a training says about its weights, in sentences; empty for batches.
    """

    config: LossConfig
    terms: dict[str, TermCalibration]
    by: By
    rows: int
    steps: tuple[int, int] | None = None
    pairs: dict[Pair, PairCalibration] = field(default_factory=dict)
    verdict: tuple[str, ...] = ()

    def __str__(self) -> str:
        notes = [f"{name}: {term.note}" for name, term in self.terms.items() if term.note]
        table, problems = _pasted(self.config)
        paste = ["", as_yaml({"terms": table})]
        if self.steps is None:
            batches = f"{self.rows} batch{'es' if self.rows > 1 else ''}"
            return "\n".join([batches, *self._proposal(), *notes, *problems, *paste])
        rows = f"{self.rows} row{'s' if self.rows > 1 else ''}"
        parts = [
            [f"{rows}, steps {self.steps[0]} to {self.steps[1]}, by {self.by}"],
            self._measured(),
            self._agreement(),
            self._proposal(),
            [*notes, *problems],
            [f"* {sentence}" for sentence in self.verdict],
        ]
        return "\n".join(["\n\n".join("\n".join(part) for part in parts if part), *paste])

    def _measured(self) -> list[str]:
        """The quartiles of each term in the training."""
        width = max(4, *map(len, self.terms))
        lines = [f"{'term':<{width}}{'value':>23}{'gradient norm':>25}{'share':>24}"]
        for name, term in self.terms.items():
            cells = (_range(term.value), _range(term.norm), _range(term.run_share, ".1%"))
            lines.append(f"{name:<{width}} {cells[0]:>22} {cells[1]:>24} {cells[2]:>23}")
        return lines

    def _agreement(self) -> list[str]:
        """The pairs with the lowest cosines."""
        if not self.pairs:
            return []
        found = sorted(self.pairs.items(), key=lambda item: item[1].cosine)
        names = {pair: ", ".join(pair) for pair, _ in found[:_MOST_PAIRS]}
        width = max(4, *map(len, names.values()))
        lines = [
            f"{'pair':<{width}}{'cosine':>9}{'early':>9}{'late':>9}{'conflict':>10}{'rows':>6}"
        ]
        for pair, each in found[:_MOST_PAIRS]:
            lines.append(
                f"{names[pair]:<{width}}{each.cosine:>9.2f}{each.early:>9.2f}{each.late:>9.2f}"
                f"{each.conflict:>10.0%}{each.rows:>6}"
            )
        more = len(found) - _MOST_PAIRS
        return lines + [f"and {more} more pairs"] * (more > 0)

    def _proposal(self) -> list[str]:
        """The proposed weights; for a training, how much they differ between rows."""
        width, in_time = max(4, *map(len, self.terms)), self.steps is not None
        head = f"{'term':<{width}}{'typical':>12}{'weight':>10}{'share':>8}{'proposed':>11}"
        lines = [f"{head}{'share':>8}" + f"{'quartiles':>17}{'late/early':>12}" * in_time]
        for name, term in self.terms.items():
            typical = "-" if math.isnan(term.typical) else f"{term.typical:.4g}"
            line = (
                f"{name:<{width}}{typical:>12}{term.old:>10.4g}{term.old_share:>8.1%}"
                f"{term.weight:>11.4g}{term.share:>8.1%}"
            )
            if in_time and not math.isnan(term.spread.median):
                quartiles = f"{term.spread.lower:.4g}, {term.spread.upper:.4g}"
                line += f" {quartiles:>16}{term.moved:>12.3g}"
            lines.append(line)
        return lines


@overload
def calibrate(
    source: WeightedLoss,
    given: Batches | Callable[[], Batches],
    shares: Mapping[str, float] | None = None,
) -> Calibration: ...


@overload
def calibrate(
    source: History | str | os.PathLike[str],
    given: LossConfig | Mapping[str, Any] | str | os.PathLike[str],
    shares: Mapping[str, float] | None = None,
    *,
    by: By | None = None,
    at: str | None = None,
    horizon: Horizon | None = None,
) -> Calibration: ...


def calibrate(
    source: WeightedLoss | History | str | os.PathLike[str],
    given: Any,
    shares: Mapping[str, float] | None = None,
    *,
    by: By | None = None,
    at: str | None = None,
    horizon: Horizon | None = None,
) -> Calibration:
    """Proposes base weights that give the terms equal shares, or those in `shares`.

    `calibrate(criterion, batches)` is quick and needs no training. `calibrate(history, config)`
    reads a short training, and fits the weights to gradients if they were recorded. It also says
    whether the terms oppose each other, and whether fixed weights are enough.

    The size of a term is the median over the batches or rows of its absolute value, after its
    transform, or of the norm of its gradient, times its weight at the end of its schedule. The term
    with the largest share keeps its weight, and the others are fitted to it, rounded to two digits.

    Terms keep their weight and are not counted if a controller, a balancer or an adaptive transform
    compensates for their size, if they are mostly 0, never finite or never given, or if their
    weight is 0 at the end. A group is one term: its members keep their weights in it. With a
    history, the proposal is for fixed weights, and replaces a balancer.

    Args:
        source: The criterion to calibrate, which is not changed; or a history or its file.
        given: For a criterion, a few dicts of losses: a list, a generator, or a function that
            returns one. Terms may be missing. Gradients are neither needed nor disabled. For a
            history, the config of the training: a config, a mapping or a file.
        shares: Share by term, above 0. The other terms get equal parts of the rest.
        by: Whether weights are fitted to `gradients` or to `values`. By default to gradients, if
            the history has them.
        at: Dotted path of the config in its file or mapping.
        horizon: Length of the training; by default that of the config.

    Raises:
        TypeError: If the source is neither a criterion nor a history.
        ValueError: If no batch, row or term can be used, or a value or a share is invalid; if the
            file is not a history, or has other terms than the config.
        HorizonError: If a schedule needs the length of training and it is not known.
        OSError: If the file cannot be read.

    >>> criterion = WeightedLoss(terms={"nll": 1.0, "kl": {"kind": "warmup", "over": "10 steps"}})
    >>> batches = [{"nll": 96.0, "kl": 5.0}, {"nll": 100.0, "kl": 4.0}, {"nll": 105.0, "kl": 4.0}]
    >>> print(calibrate(criterion, batches, shares={"kl": 0.1}))
    3 batches
    term     typical    weight   share   proposed   share
    nll          100         1   96.2%          1   89.9%
    kl             4         1    3.8%        2.8   10.1%
    <BLANKLINE>
    terms:
      nll: {weight: 1.0}
      kl:
        weight: 2.8
        schedule: {kind: warmup, over: 10 steps}
    """
    wanted = {} if shares is None else shares
    if isinstance(source, WeightedLoss):
        if (by, at, horizon) != (None, None, None):
            raise ValueError(
                "a criterion has its config, and batches have values alone: by=, at= and horizon= "
                "are for calibrate(history, config)"
            )
        return _of_batches(source, given, wanted)
    if horizon is not None and not isinstance(horizon, Horizon):
        raise TypeError(f"horizon is a Horizon(total_steps=...), found {horizon!r}")
    if isinstance(source, History | str | os.PathLike):
        config = LossConfig.read(given, at)
        return _of_history(source, config, wanted, by, horizon or config.horizon)
    raise TypeError(
        "calibrate takes a criterion and batches, or a history (or its file) and a config, found "
        f"{type(source).__name__}"
    )


def _of_batches(criterion: WeightedLoss, batches: Any, shares: Mapping[str, float]) -> Calibration:
    try:
        ends = final_weights(criterion.config, criterion.horizon)
    except HorizonError as error:
        raise HorizonError(f"{error}; call criterion.bind(...)") from None
    measured = Measurements.of_batches(criterion, batches() if callable(batches) else batches)
    evidence = _fitted(criterion.config, ends, measured, "values", shares)
    terms, rows = _terms(evidence, "batches"), len(next(iter(evidence.sizes.values())))
    return Calibration(_with_weights(evidence.fit), terms, evidence.by, rows)


def _of_history(
    source: History | str | os.PathLike[str],
    config: LossConfig,
    shares: Mapping[str, float],
    by: By | None,
    horizon: Horizon,
) -> Calibration:
    try:
        ends = final_weights(config, horizon)
    except HorizonError as error:
        raise HorizonError(f"{error}; pass horizon=Horizon(...)") from None
    measured = Measurements.of_history(source, config)
    by = basis(by, measured)
    evidence = _fitted(config, ends, measured, by, shares)
    used, found = measured.used(by), pairs(measured)
    return Calibration(
        _with_weights(evidence.fit),
        _terms(evidence, "rows"),
        by,
        len(used),
        (measured.steps[used[0]], measured.steps[used[-1]]),
        found,
        verdict(evidence, found),
    )


def _fitted(
    config: LossConfig,
    ends: dict[str, float],
    measured: Measurements,
    by: By,
    shares: Mapping[str, float],
) -> Evidence:
    """Weights fitted to what was measured; for a training, without its balancer."""
    used = measured.used(by) if measured.steps else slice(None)
    sizes = {name: series[used] for name, series in measured.sizes[by].items()}
    typical = {name: Quartiles.of(series).median for name, series in sizes.items()}
    fixed = _without_balancer(config) if measured.steps else config
    return Evidence(config, by, measured, sizes, fit(fixed, ends, typical, shares, by))


def _without_balancer(config: LossConfig) -> LossConfig:
    """The config with fixed weights in place of its balancer."""
    if config.balancer is None:
        return config
    bare = {"balanced": None}
    terms = {name: term.model_copy(update=bare) for name, term in config.terms.items()}
    return config.model_copy(update={"balancer": None, "terms": ByName(terms)})


def _with_weights(found: Fit) -> LossConfig:
    """The config with the fitted weights."""
    terms = {
        name: term.model_copy(update={"weight": found.weights[name]})
        for name, term in found.config.terms.items()
    }
    return found.config.model_copy(update={"terms": ByName(terms)})


def _terms(evidence: Evidence, unit: str) -> dict[str, TermCalibration]:
    """What was measured and fitted, by term."""
    fitted, measured, nothing = evidence.fit, evidence.measured, np.array([])
    before = fitted.shares({name: term.weight for name, term in fitted.config.terms.items()})
    after, proposals = fitted.shares(fitted.weights), evidence.proposals
    shares = measured.shares.get(evidence.by, {})
    return {
        name: TermCalibration(
            value=Quartiles.of(measured.sizes["values"].get(name, nothing)),
            norm=Quartiles.of(measured.sizes["gradients"].get(name, nothing)),
            run_share=Quartiles.of(shares.get(name, nothing)),
            typical=fitted.typical[name],
            old=term.weight,
            weight=fitted.weights[name],
            old_share=before[name],
            share=after[name],
            spread=Quartiles.of_weights(proposals.get(name, nothing)),
            moved=evidence.moved(name) if name in proposals and measured.steps else math.nan,
            note=_note(fitted.kept[name], evidence.sizes[name], unit),
        )
        for name, term in fitted.config.terms.items()
    }


def _note(kept: str, sizes: Series, unit: str) -> str:
    """Why a weight is kept, and what the sizes lack."""
    given, broken = int((~np.isnan(sizes)).sum()), int(np.isinf(sizes).sum())
    notes = [f"keeps its weight: {kept}"] if kept else []
    if 0 < given < len(sizes):
        notes.append(f"in {given} of {len(sizes)} {unit}")
    if broken:
        notes.append(f"nan or inf in {broken} of them, which are ignored")
    return "; ".join(notes)


def _pasted(config: LossConfig) -> tuple[dict[str, Any], list[str]]:
    """The terms as a config contains them, and a line for each that a file cannot contain."""
    table: dict[str, Any] = {name: {"weight": term.weight} for name, term in config.terms.items()}
    problems = []
    for name, term in config.terms.items():
        try:
            table[name] |= _short(term.model_dump(mode="json", exclude_defaults=True))
        except ValueError:
            problems.append(f"{name}: a file cannot contain its function; add its other fields")
    return ByName(table).written(), problems


def _short(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a term, with a number for each member that has a weight alone."""
    if members := fields.get("terms"):
        fields["terms"] = {
            name: _short(member) if member.keys() - {"weight"} else member.get("weight", 1.0)
            for name, member in members.items()
        }
    return fields


def _range(found: Quartiles, form: str = ".3g") -> str:
    """A median, with the quartiles around it."""
    lower, median, upper = (f"{each:{form}}" for each in found)
    return "-" if math.isnan(found.median) else f"{median} ({lower}, {upper})"
