"""Base weights from a few batches, which give the terms the wanted shares of the loss."""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lossweights.components.schedules import Complement
from lossweights.config.files import as_yaml
from lossweights.config.loss_config import LossConfig
from lossweights.config.names import ByName
from lossweights.config.term import Term
from lossweights.config.timeline import weight_of
from lossweights.criterion.weighted_loss import WeightedLoss
from lossweights.errors import HorizonError, did_you_mean, quoted

Batches: TypeAlias = Iterable[Mapping[str, Tensor | float | None]]

_MOST = 1e12  # the largest factor of a weight: a term that needs more is practically 0
_ROUNDING = 0.01  # by which the sum of all shares may differ from 1


@dataclass(frozen=True)
class TermCalibration:
    """Measurements of a term, and its proposed weight.

    Args:
        typical: Median of its absolute value, after its transform; nan if it was never given.
        old: Its base weight.
        weight: Its proposed base weight.
        old_share: Its share of the loss under the old weights, at typical values.
        share: Its share under the proposed weights.
        note: Why the weight is kept, and how many values were missing or not finite.
    """

    typical: float
    old: float
    weight: float
    old_share: float
    share: float
    note: str = ""


@dataclass(frozen=True)
class Calibration:
    """The result of `calibrate`; printed, a table and the terms to paste into a config.

    Args:
        config: The config with the proposed weights.
        terms: The measurements by term.
        batches: The number of batches.
    """

    config: LossConfig
    terms: dict[str, TermCalibration]
    batches: int

    def __str__(self) -> str:
        width = max(4, *map(len, self.terms))
        lines = [
            f"{self.batches} batch{'es' if self.batches > 1 else ''}",
            f"{'term':<{width}}{'typical':>12}{'weight':>10}{'share':>8}{'proposed':>11}{'share':>8}",
        ]
        for name, term in self.terms.items():
            typical = "-" if math.isnan(term.typical) else f"{term.typical:.4g}"
            lines.append(
                f"{name:<{width}}{typical:>12}{term.old:>10.4g}{term.old_share:>8.1%}"
                f"{term.weight:>11.4g}{term.share:>8.1%}"
            )
        lines += [f"{name}: {term.note}" for name, term in self.terms.items() if term.note]
        table = {name: {"weight": declared.weight} for name, declared in self.config.terms.items()}
        for name, declared in self.config.terms.items():
            try:
                table[name] |= _short(declared.model_dump(mode="json", exclude_defaults=True))
            except ValueError:
                lines.append(f"{name}: a file cannot contain its function; add its other fields")
        return "\n".join([*lines, "", as_yaml({"terms": ByName(table).written()})])


def calibrate(
    criterion: WeightedLoss,
    batches: Batches | Callable[[], Batches],
    shares: Mapping[str, float] | None = None,
) -> Calibration:
    """Proposes base weights that give the terms equal shares of the loss, or those in `shares`.

    The size of a term is the median over the batches of its absolute value, after its transform,
    times its weight at the end of its schedule. The term with the largest share keeps its weight,
    and the others are fitted to it, rounded to two digits.

    Terms keep their weight and are not counted if a controller, a balancer or an adaptive transform
    compensates for their size, if they are mostly 0, never finite or never given, or if their
    weight is 0 at the end. A group is one term: its members keep their weights in it.

    Args:
        criterion: The criterion to calibrate. It is not changed.
        batches: A few dicts of losses: a list, a generator, or a function that returns one. Terms
            may be missing. Gradients are neither needed nor disabled.
        shares: Share of the loss by term, above 0. The other terms get equal parts of the rest.

    Raises:
        ValueError: If no batch or no term can be used, or a value or a share is invalid.
        HorizonError: If a schedule needs the length of training and it is not known.

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
    config = criterion.config
    try:
        horizon = criterion.horizon
        ends = {name: weight_of(config, name, horizon).final() for name in config.all_terms}
    except HorizonError as error:
        raise HorizonError(f"{error}, with criterion.bind(...)") from None
    seen, count = _seen(criterion, batches() if callable(batches) else batches)
    finite = {name: [*filter(math.isfinite, values)] for name, values in seen.items()}
    typical = {name: median(values or [math.nan]) for name, values in finite.items()}
    kept = {name: _why_kept(config, name, typical[name], ends[name]) for name in config.terms}
    sizes = {name: abs(ends[name]) * typical[name] for name, why in kept.items() if not why}
    if not sizes:
        reasons = "; ".join(f"{name!r} keeps its weight: {why}" for name, why in kept.items())
        raise ValueError(f"no term can be calibrated: {reasons}")
    wanted = _wanted(config, shares or {}, kept)
    largest = max(sizes, key=lambda name: sizes[name])
    weights = {name: term.weight for name, term in config.terms.items()}
    for name, size in sizes.items():
        factor = sizes[largest] / size * wanted[name] / wanted[largest]
        if not 1 / _MOST < factor < _MOST:
            kept[name] = f"it is practically 0 compared to {largest!r}"
        elif name != largest:
            weights[name] = float(f"{weights[name] * factor:.1e}")
    before = {name: size for name, size in sizes.items() if not kept[name]}
    after = {
        name: size * weights[name] / config.terms[name].weight for name, size in before.items()
    }
    found = {}
    for name, term in config.terms.items():
        notes = [f"keeps its weight: {kept[name]}"] if kept[name] else []
        given, broken = len(seen[name]), len(seen[name]) - len(finite[name])
        if 0 < given < count:
            notes.append(f"in {given} of {count} batches")
        if broken:
            notes.append(f"nan or inf in {broken} of them, which are ignored")
        old_share = before.get(name, 0.0) / math.fsum(before.values())
        share = after.get(name, 0.0) / math.fsum(after.values())
        found[name] = TermCalibration(
            typical[name], term.weight, weights[name], old_share, share, "; ".join(notes)
        )
    terms = {n: term.model_copy(update={"weight": weights[n]}) for n, term in config.terms.items()}
    return Calibration(config.model_copy(update={"terms": ByName(terms)}), found, count)


def _seen(criterion: WeightedLoss, given: Any) -> tuple[dict[str, list[float]], int]:
    """The absolute values of each term after its transform, and the number of batches."""
    if isinstance(given, Mapping) or not isinstance(given, Iterable):
        found = "one dict" if isinstance(given, Mapping) else type(given).__name__
        raise ValueError(
            f"batches are several dicts of losses, as in [{{'kl': kl}}], found {found}"
        )
    config, horizon = criterion.config, criterion.horizon
    bare_term = {"schedule": None, "controller": None, "balanced": None, "optional": True}
    terms = {name: term.model_copy(update=bare_term) for name, term in config.terms.items()}
    with warnings.catch_warnings(action="ignore"):  # the criterion has warned of its schedules
        bare = WeightedLoss(LossConfig(terms=ByName(terms), ignore=config.ignore)).eval()
        bare.bind(total=horizon.total, steps_per_epoch=horizon.steps_per_epoch)
    seen: dict[str, list[float]] = {name: [] for name in config.terms}
    count = 0
    for batch in given:
        count += 1
        with torch.no_grad():
            values = bare.breakdown(batch).value
        for name in seen.keys() & values.keys():  # of groups, not of their members
            seen[name].append(abs(values[name].item()))
    if not count:
        raise ValueError("at least one batch is needed, found none: is the generator used up?")
    return seen, count


def _why_kept(  # noqa: PLR0911  # one each
    config: LossConfig, name: str, typical: float, final: float
) -> str:
    """Why the weight of a term is kept; empty if one can be proposed."""
    term = config.terms[name]
    if term.controller is not None:
        return f"the controller {term.controller.kind!r} adjusts it"
    if kinds := _adaptive(term):
        member = " of a member" * (term.terms is not None)
        return f"the transform {kinds[0]!r}{member} compensates for its size"
    if config.balancer is not None and term.is_balanced:
        return f"the balancer {config.balancer.kind!r} compensates for its size"
    if others := _complements(config, name):
        return f"{quoted(others)} is its complement, so another weight would change both"
    if final == 0:
        return "it is 0 at the end of training"
    if math.isnan(typical):
        return "the term was never given, or never finite"
    return "" if typical > 0 else "the term was 0 in most batches"


def _complements(config: LossConfig, name: str) -> list[str]:
    schedules = {other: term.schedule for other, term in config.terms.items()}
    return [n for n, s in schedules.items() if isinstance(s, Complement) and s.of == name]


def _adaptive(term: Term) -> list[str]:
    """The kinds of the transforms of a term, or of members inside it, that adapt."""
    own = term.transform
    found = [] if own is None or not own.init() else [own.kind]
    return found + [kind for member in (term.terms or {}).values() for kind in _adaptive(member)]


def _short(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a term, with a number for each member that has a weight alone."""
    if members := fields.get("terms"):
        fields["terms"] = {
            name: _short(member) if member.keys() - {"weight"} else member.get("weight", 1.0)
            for name, member in members.items()
        }
    return fields


def _wanted(
    config: LossConfig, shares: Mapping[str, float], kept: Mapping[str, str]
) -> dict[str, float]:
    """The share of each term that is calibrated."""
    for name, share in shares.items():
        if name not in config.terms:
            if config.lineage(name):
                raise ValueError(
                    f"shares: {name!r} is a member of a group, and groups as a whole have shares: "
                    "set its weight in the group yourself"
                )
            raise ValueError(
                f"shares: no term is called {name!r}{did_you_mean(str(name), config.terms)} "
                f"(the terms are {quoted(config.terms)})"
            )
        if kept[name]:
            raise ValueError(f"shares: {name!r} cannot have one, it keeps its weight: {kept[name]}")
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            raise ValueError(f"shares: {name!r} needs a share above 0 and up to 1, found {share!r}")
    rest = [name for name, why in kept.items() if not why and name not in shares]
    total = math.fsum(shares.values())
    if rest and total >= 1:
        raise ValueError(f"shares: their sum is {total:g}, which leaves nothing for {quoted(rest)}")
    if not rest and abs(total - 1) > _ROUNDING:
        raise ValueError(f"shares: their sum must be 1, found {total:g}")
    return {**shares, **dict.fromkeys(rest, (1 - total) / max(len(rest), 1))}
