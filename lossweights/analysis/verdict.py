"""What the measurements of a training say about its weights, in sentences."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from lossweights.analysis.fitting import Fit
from lossweights.analysis.measurements import By, Measurements, Pair, Quartiles, Series
from lossweights.analysis.monitor import resolved_terms
from lossweights.config.loss_config import LossConfig
from lossweights.errors import quoted

_LEAST_ROWS = 8  # with fewer, nothing is said about conflicts, and with fewer than half of them in
# each half nothing about time
_FACTOR = 3.0  # between two weights that are called different
_ORDERED = 0.9  # of all pairs of an early and a late row, that must agree in how a weight moved
_OPPOSED = -0.1  # cosine: for gradients that are nearer to orthogonal, a projection changes little
_CHANCE = 0.01  # of calling any conflict of independent gradients lasting, over all pairs
_TESTS = 3  # of each pair: all rows, and both halves
_CLEARLY = 1.5  # factor by which one proposal moves less than another
_SMALL = 0.04  # of an equal share of the values, as in a monitor
_FELL = 0.5  # of its earlier value, likewise
_MOST = 5  # pairs that are named in sentences of one kind

_OTHER: dict[By, By] = {"gradients": "values", "values": "gradients"}
_BALANCERS: dict[By, str] = {"gradients": "norm-balance", "values": "moving-average"}
_INTERVALS: dict[By, str] = {  # of a history; a row ends after `every`
    "gradients": "`gradients` and `every`",
    "values": "`every`",
}


@dataclass(frozen=True)
class PairCalibration:
    """How the gradients of two terms agree.

    Args:
        cosine: Median over the rows of the cosine of their gradients, as these enter the total.
        conflict: Part of the measured steps in which it is negative.
        early: The median in the early half of the rows; nan without any.
        late: The median in the late half.
        rows: The number of rows.
    """

    cosine: float
    conflict: float
    early: float
    late: float
    rows: int


@dataclass(frozen=True)
class Evidence:
    """A fit, and the measurements behind it.

    Args:
        config: The config of the training, with its balancer.
        by: What the weights were fitted to.
        measured: All measurements.
        sizes: The sizes in the rows to which the weights were fitted.
        fit: The fitted weights.
    """

    config: LossConfig
    by: By
    measured: Measurements
    sizes: dict[str, Series]
    fit: Fit

    @property
    def proposals(self) -> dict[str, Series]:
        """The weight that each row alone proposes, by fitted term but the anchor."""
        fit = self.fit
        return {name: fit.of_rows(name, self.sizes) for name in fit.names if name != fit.anchor}

    def moved(self, name: str) -> float:
        """The weight proposed by the late half of the rows, divided by that of the early half."""
        pair = self.sizes[name], self.sizes[self.fit.anchor]
        halves = zip(*map(_halves, pair), strict=True)
        early, late = (self.fit.weight(name, *map(_median, sizes)) for sizes in halves)
        with np.errstate(all="ignore"):
            return float(np.divide(late, early))


def pairs(measured: Measurements) -> dict[Pair, PairCalibration]:
    """How the gradients of each two terms agree; pairs that were never measured are left out."""
    found = {}
    for pair, cosines in measured.cosines.items():
        if rows := int(np.isfinite(cosines).sum()):
            conflict = _mean(measured.conflicts[pair])
            early, late = map(_median, _halves(cosines))
            found[pair] = PairCalibration(_median(cosines), conflict, early, late, rows)
    return found


def verdict(evidence: Evidence, found: Mapping[Pair, PairCalibration]) -> tuple[str, ...]:
    """What the measurements of a training say, and what to write; `found` are its pairs."""
    proposals = evidence.proposals
    moved, lasting = _moved(evidence, proposals), _lasting(evidence, found)
    against = [  # fixed weights, or not known yet
        _unjudged(evidence, proposals),
        _moving(evidence, moved),
        _varying({name: each for name, each in proposals.items() if name not in moved}),
        *_first(lasting),
        *_unclear(found, lasting),
        _few_cosines(found),
    ]
    remarks = [
        _vanishing(evidence),
        _disagreement(evidence),
        _collapsing(evidence),
        _without_gradients(evidence),
        _replaced(evidence),
    ]
    enough = "" if any(against) else _enough(evidence, found)
    return tuple(filter(None, [enough, *against, *remarks]))


# Time


def _unjudged(evidence: Evidence, proposals: Mapping[str, Series]) -> str:
    """Terms with too few rows to say whether their proposals move."""
    least, few = _LEAST_ROWS // 2, []
    for name, series in proposals.items():
        early, late = (int((~np.isnan(half)).sum()) for half in _halves(series))
        if min(early, late) < least:
            few.append(f"{name!r} ({early} in the early half, {late} in the late half)")
    if not few:
        return ""
    return (
        f"too few rows to judge whether the proposal moves for {_and(few)}, {least} in each are "
        f"needed: record more, with a shorter {_INTERVALS[evidence.by]} or a longer training"
    )


def _moved(evidence: Evidence, proposals: Mapping[str, Series]) -> dict[str, float]:
    """By how much proposals differ between the halves, if it is by more than their noise."""
    factors = {name: evidence.moved(name) for name in proposals}
    return {
        name: factor
        for name, factor in factors.items()
        if not 1 / _FACTOR <= factor <= _FACTOR and _is_ordered(*_halves(proposals[name]))
    }


def _moving(evidence: Evidence, moved: Mapping[str, float]) -> str:
    """Terms whose proposals move during the training."""
    if not moved:
        return ""
    found = [
        f"{name!r} rises by a factor of {factor:.2g}"
        if factor > 1
        else f"{name!r} falls by a factor of {1 / factor if factor else math.inf:.2g}"
        for name, factor in moved.items()
    ]
    balancer = evidence.config.balancer
    advice = f"prefer a balancer such as {_BALANCERS[evidence.by]}, or a schedule"
    if balancer is not None:
        advice = f"keep the balancer {balancer.kind!r}, or write a schedule"
    return (
        f"from the early to the late half of the rows, the proposal for {_and(found)}, compared "
        f"with {evidence.fit.anchor!r}: {advice}"
    )


def _varying(proposals: Mapping[str, Series]) -> str:
    """Terms whose proposals differ from row to row."""
    found = []
    for name, series in proposals.items():
        lower, _, upper = Quartiles.of_weights(series)
        sizes = sorted((abs(lower), abs(upper)))  # a base weight may be negative
        if sizes[1] > _FACTOR * sizes[0]:
            found.append(f"{lower:.2g} and {upper:.2g} for {name!r}")
    if not found:
        return ""
    return (
        f"the proposal differs from row to row, its quartiles are {_and(found)}: if that is noise, "
        "average over more steps per row; if it is not, prefer a balancer"
    )


def _is_ordered(early: Series, late: Series) -> bool:
    """Whether almost all rows of one half are above those of the other."""
    early, late = early[~np.isnan(early)], late[~np.isnan(late)]
    if min(len(early), len(late)) < _LEAST_ROWS // 2:
        return False
    early = np.sort(early)
    below = np.searchsorted(early, late, "left").mean()  # of the early rows
    above = len(early) - np.searchsorted(early, late, "right").mean()
    return bool(max(below, above) >= _ORDERED * len(early))


# Conflicts


def _lasting(evidence: Evidence, found: Mapping[Pair, PairCalibration]) -> dict[Pair, str]:
    """Pairs that oppose each other more often than chance explains, and not only slightly."""
    sentences = {}
    for pair in sorted(found, key=lambda pair: found[pair].cosine):
        cosines, conflicts = evidence.measured.cosines[pair], evidence.measured.conflicts[pair]
        whole = ("", cosines, conflicts)
        early, late = zip(
            (" of the early half", " of the late half"),
            _halves(cosines),
            _halves(conflicts),
            strict=True,
        )
        for when, part, rates in (whole, late, early):
            if _opposes(part, _deviations(found)):
                rows = int(np.isfinite(part).sum())
                sentences[pair] = (
                    f"{pair[0]!r} and {pair[1]!r} oppose each other in {_mean(rates):.0%} of the "
                    f"measured steps{when} ({rows} rows, median cosine {_median(part):.2f}): "
                    f"{_against_conflict(evidence, pair)}"
                )
                break
    return sentences


def _opposes(cosines: Series, deviations: float) -> bool:
    """Whether cosines are negative in more rows than a fair coin explains, and far from 0."""
    finite = cosines[np.isfinite(cosines)]
    excess = np.sum(finite < 0) - len(finite) / 2
    is_more = excess > deviations * math.sqrt(len(finite)) / 2
    return bool(len(finite) >= _LEAST_ROWS and is_more and np.median(finite) <= _OPPOSED)


def _against_conflict(evidence: Evidence, pair: Pair) -> str:
    """What to write against a conflict."""
    config = evidence.config
    if config.balancer is not None and set(pair) <= set(resolved_terms(config)):
        return f"keep the balancer {config.balancer.kind!r}, which resolves it"
    advice = "if both should improve, try balancer: pcgrad or upgrad"
    if unbalanced := [name for name in pair if not config.terms[name].is_balanced]:
        advice += f", with balanced: true at {quoted(unbalanced)}"
    return (
        f"{advice}; if one limits the other, as a KL or a penalty does, equal shares are not the "
        "goal: choose its weight with a sweep, or give it a target"
    )


def _unclear(found: Mapping[Pair, PairCalibration], lasting: Mapping[Pair, str]) -> list[str]:
    """Pairs that seem to oppose each other, in too few rows to tell."""
    return _first(
        {
            pair: f"{pair[0]!r} and {pair[1]!r} oppose each other in {each.conflict:.0%} of the "
            f"measured steps ({each.rows} rows), with a median cosine of {each.cosine:.2f}: more "
            "rows are needed to tell this from chance"
            for pair, each in found.items()
            if each.cosine <= _OPPOSED and pair not in lasting and each.rows >= _least_rows(found)
        }
    )


def _few_cosines(found: Mapping[Pair, PairCalibration]) -> str:
    """Pairs that were measured too rarely to judge."""
    few = {pair: each.rows for pair, each in found.items() if each.rows < _least_rows(found)}
    if not few:
        return ""
    names = ["/".join(pair) for pair in [*few][:_MOST]]
    which = "" if len(few) == len(found) else f" of {quoted(names)}"
    more = f" and {len(few) - len(names)} more pairs" * bool(which and len(few) > len(names))
    return (
        f"too few rows to judge conflicts{which}{more} ({min(few.values())}, at least "
        f"{_least_rows(found)} are needed): record more, with a shorter {_INTERVALS['gradients']} "
        "or a longer training"
    )


def _least_rows(found: Mapping[Pair, PairCalibration]) -> int:
    """The rows in which a conflict can be told from chance: more, if there are many pairs."""
    return max(_LEAST_ROWS, math.ceil(_deviations(found) ** 2))


def _deviations(found: Mapping[Pair, PairCalibration]) -> float:
    """Standard deviations of a fair coin that are rarely exceeded, in the tests of all pairs."""
    return NormalDist().inv_cdf(1 - _CHANCE / (_TESTS * len(found)))


# The rest


def _enough(evidence: Evidence, found: Mapping[Pair, PairCalibration]) -> str:
    """That fixed weights are enough, or, without pairs, that they are stable."""
    names = evidence.fit.names
    which = "" if len(names) == len(evidence.config.terms) else f" for {quoted(names)}"
    if not evidence.proposals:
        return ""
    if not found:
        return f"the proposed weights are stable over the training{which}"
    rows = min(pair.rows for pair in found.values())
    conflict = f"no conflict in any measured step ({rows} rows)"
    if any(pair.conflict for pair in found.values()):
        lowest = min(pair.cosine for pair in found.values())
        conflict = f"no lasting conflict (median cosines from {lowest:.2f} on, {rows} rows)"
    return f"{conflict}, and the proposed weights are stable: fixed weights are enough{which}"


def _vanishing(evidence: Evidence) -> str:
    """Terms whose gradient is 0 in most rows."""
    norms = evidence.measured.sizes["gradients"]
    zero = [name for name, series in norms.items() if _median(series) == 0]
    if not zero:
        return ""
    fitted = ", or fit its weight to values, with by='values'" * (evidence.by == "gradients")
    return (
        f"the gradient with respect to `shared` is 0 in most rows for {quoted(zero)}: if such a "
        f"term depends on other tensors, share them too{fitted}"
    )


def _disagreement(evidence: Evidence) -> str:
    """Terms for which values and gradients propose different weights."""
    fit, other = evidence.fit, _OTHER[evidence.by]
    sizes = {name: _median(series) for name, series in evidence.measured.sizes[other].items()}
    found = []
    for name in evidence.proposals:
        size, of_anchor = sizes.get(name, 0.0), sizes.get(fit.anchor, 0.0)
        if size > 0 and of_anchor > 0:
            own = fit.weight(name, fit.typical[name], fit.typical[fit.anchor])
            weight = fit.weight(name, size, of_anchor)
            if not 1 / _FACTOR <= weight / own <= _FACTOR:
                found.append(f"{weight:.2g} instead of {own:.2g} for {name!r}")
    if not found:
        return ""
    return (
        f"by {other}, the proposal would be {_and(found)}, compared with {fit.anchor!r}: "
        f"{_steadier(evidence, other)}"
    )


def _steadier(evidence: Evidence, other: By) -> str:
    """Which of two proposals moves less between the halves of the rows."""
    drift = {by: _drift(evidence, by) for by in (evidence.by, other)}
    low, high = sorted(drift, key=lambda by: drift[by])
    if not drift[high] > drift[low] + math.log(_CLEARLY):
        return "both move as much between the early and the late half, so try both"
    return f"prefer the one by {low}, which moves less between the early and the late half"


def _drift(evidence: Evidence, by: By) -> float:
    """By how much, at most, a proposal moves between the halves of the rows, as a logarithm."""
    used, sizes = evidence.measured.used(by), evidence.measured.sizes[by]
    halves = {name: [*map(_median, _halves(sizes[name][used]))] for name in evidence.fit.names}
    with np.errstate(all="ignore"):
        moved = [float(np.log(np.divide(late, early))) for early, late in halves.values()]
    return max(moved) - min(moved) if np.isfinite(moved).all() else math.inf


def _collapsing(evidence: Evidence) -> str:
    """Terms whose value fell, further than the others, to a small part of the loss."""
    values = evidence.measured.sizes["values"]
    halves = {name: [*map(_median, _halves(series))] for name, series in values.items()}
    whole = math.fsum(late for _, late in halves.values() if math.isfinite(late))
    kept = {name: late / early for name, (early, late) in halves.items() if early > 0}
    found = []
    for name in [name for name in evidence.fit.names if kept.get(name, 1.0) <= _FELL]:
        early, late = halves[name]
        others = [ratio for other, ratio in kept.items() if other != name]
        is_small = late * len(values) < _SMALL * whole
        if is_small and others and kept[name] <= _FELL * float(np.nanmedian(others)):
            found.append(f"{name!r} from {early:.2g} to {late:.2g}, {late / whole:.2%} of the sum")
    if not found:
        return ""
    return (
        f"from the early to the late half of the rows, the value fell for {_and(found)}: if such a "
        "term should keep its value, as the KL of a VAE should, an equal share makes it vanish. "
        "Give it a smaller weight, a schedule or a target"
    )


def _without_gradients(evidence: Evidence) -> str:
    if evidence.measured.sizes["gradients"]:
        return ""
    return (
        "gradients were not measured, so conflicts are not known: record them with "
        'History(criterion, gradients="500 steps"), and pass shared= in the call of the criterion'
    )


def _replaced(evidence: Evidence) -> str:
    """That the proposal is for a config without the balancer of the training."""
    balancer = evidence.config.balancer
    if balancer is None:
        return ""
    return (
        f"the proposal is for fixed weights, without the balancer {balancer.kind!r}: use either "
        "the balancer with the present weights, or the proposed weights alone"
    )


def _halves(series: Series) -> tuple[Series, Series]:
    """The early and the late half of the rows."""
    middle = len(series) // 2
    return series[:middle], series[middle:]


def _median(series: Series) -> float:
    finite = series[np.isfinite(series)]
    return float(np.median(finite)) if len(finite) else math.nan


def _mean(series: Series) -> float:
    finite = series[np.isfinite(series)]
    return float(np.mean(finite)) if len(finite) else math.nan


def _first(sentences: Mapping[Pair, str]) -> list[str]:
    """At most five sentences; the last one says how many more pairs there are."""
    kept = [*sentences.values()][:_MOST]
    if more := len(sentences) - len(kept):
        kept[-1] += f"; the same holds for {more} more pairs"
    return kept


def _and(parts: Sequence[str]) -> str:
    return ", ".join(parts[:-1]) + " and " * (len(parts) > 1) + parts[-1]
