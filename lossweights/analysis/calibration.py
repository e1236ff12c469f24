"""Base weights from a few batches, so that the terms have the wanted shares of the loss."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lossweights.config.loss_config import LossConfig
from lossweights.config.term import Term
from lossweights.criterion.weighted_loss import WeightedLoss
from lossweights.errors import HorizonError, did_you_mean, quoted

Batch: TypeAlias = Mapping[str, Tensor | float | None]
Batches: TypeAlias = Iterable[Batch] | Callable[[], Iterable[Batch]]

_MOST = 1e12  # times its old weight: a term that needs more is practically 0
_ROUNDING = 0.01  # by which given shares may miss a sum of 1


@dataclass(frozen=True)
class TermCalibration:
    """What was measured of a term, and the proposed weight.

    Args:
        typical: Median over the batches of its absolute value, after its transform; nan if it was
            never given.
        old: Its base weight.
        weight: The proposed base weight.
        old_share: Its share of the loss under the old weights, at typical values.
        share: Its share under the proposed weights.
        note: Why the weight is kept, and values that were missing or not finite.
    """

    typical: float
    old: float
    weight: float
    old_share: float
    share: float
    note: str = ""


@dataclass(frozen=True)
class Calibration:
    """What `calibrate` proposes; printed, a table and the terms to paste into a YAML config.

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
        lines += ["", "terms:"]
        for name, term in self.config.terms.items():
            lines.append(f"  {_json(name)}: {_written(term)}")
        return "\n".join(lines)


def calibrate(
    criterion: WeightedLoss, batches: Batches, shares: Mapping[str, float] | None = None
) -> Calibration:
    """Proposes base weights that give the terms equal shares of the loss, or the given ones.

    The size of a term is the median over the batches of its absolute value, after its transform,
    times its weight at the end of its schedule. The term with the largest share keeps its weight,
    and the others are fitted to it, rounded to two digits.

    Terms with a controller, a balancer or a transform that adapts keep their weights and are not
    counted, because these compensate for the size of a term. So do terms that are 0, never finite
    or never given, and terms whose weight is 0 at the end.

    Args:
        criterion: The criterion to calibrate. It is not changed.
        batches: A few batches of values, as the criterion is called with: a list, a generator, or
            a function that returns one. Terms may be missing. Gradients are not needed, but not
            disabled either, since some losses are computed from gradients.
        shares: Share of the loss by term, above 0. The other terms get equal parts of the rest.

    Raises:
        ValueError: If there is no batch, the criterion refuses a value, the shares are not
            possible, or no term can be calibrated.
        HorizonError: If a schedule needs the length of training to know its end.

    >>> criterion = WeightedLoss(terms={"nll": 1.0, "kl": {"kind": "warmup", "over": "10 steps"}})
    >>> batches = [{"nll": 96.0, "kl": 5.0}, {"nll": 100.0, "kl": 4.0}, {"nll": 105.0, "kl": 4.0}]
    >>> print(calibrate(criterion, batches, shares={"kl": 0.1}))
    3 batches
    term     typical    weight   share   proposed   share
    nll          100         1   96.2%          1   89.9%
    kl             4         1    3.8%        2.8   10.1%
    <BLANKLINE>
    terms:
      "nll": 1.0
      "kl": {"weight": 2.8, "schedule": {"kind": "warmup", "over": "10 steps"}}
    """
    config = criterion.config
    finals = {name: _final(criterion, name) for name in config.terms}
    seen, count = _seen(criterion, batches)
    finite = {name: [*filter(math.isfinite, values)] for name, values in seen.items()}
    typical = {name: median(values or [math.nan]) for name, values in finite.items()}
    kept = {name: _why_kept(config, name, typical[name], finals[name]) for name in config.terms}
    sizes = {name: abs(finals[name]) * typical[name] for name, why in kept.items() if not why}
    if not sizes:
        reasons = "; ".join(f"{name!r} keeps its weight: {why}" for name, why in kept.items())
        raise ValueError(f"no term can be calibrated: {reasons}")
    wanted = _wanted(config, shares or {}, kept)
    largest = max(sizes, key=lambda name: sizes[name])
    weights = {name: term.weight for name, term in config.terms.items()}
    for name, size in sizes.items():
        factor = sizes[largest] / size * wanted[name] / wanted[largest]
        if not 1 / _MOST < factor < _MOST:
            kept[name] = f"it is practically 0 beside {largest!r}"
        elif name != largest:
            weights[name] = float(f"{weights[name] * factor:.1e}")
    before = _shares({name: size for name, size in sizes.items() if not kept[name]})
    after = _shares(
        {name: share * weights[name] / config.terms[name].weight for name, share in before.items()}
    )
    notes = {name: _note(seen[name], finite[name], kept[name], count) for name in config.terms}
    terms = {n: term.model_copy(update={"weight": weights[n]}) for n, term in config.terms.items()}
    return Calibration(
        config.model_copy(update={"terms": terms}),
        {
            name: TermCalibration(
                typical[name],
                term.weight,
                weights[name],
                before.get(name, 0.0),
                after.get(name, 0.0),
                notes[name],
            )
            for name, term in config.terms.items()
        },
        count,
    )


def _seen(criterion: WeightedLoss, batches: Batches) -> tuple[dict[str, list[float]], int]:
    """The absolute values of each term after its transform, and the number of batches."""
    config, horizon = criterion.config, criterion.horizon
    copied = ("after", "reduction", "transform")
    terms = {
        name: Term(**{field: getattr(term, field) for field in copied}, optional=True)
        for name, term in config.terms.items()
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the criterion itself has warned of its schedules
        bare = WeightedLoss.from_config(LossConfig(terms=terms, ignore=config.ignore))
        bare.bind(total_steps=horizon.total_steps, steps_per_epoch=horizon.steps_per_epoch).eval()
    given: Any = batches() if callable(batches) else batches
    if isinstance(given, Mapping) or not isinstance(given, Iterable):
        found = "one mapping" if isinstance(given, Mapping) else type(given).__name__
        raise ValueError(
            "batches are several mappings of values by name, such as [{'nll': nll, 'kl': kl}], "
            f"found {found}"
        )
    seen: dict[str, list[float]] = {name: [] for name in config.terms}
    count = 0
    for count, batch in enumerate(given, start=1):  # noqa: B007  # counts
        with torch.no_grad():
            values = bare.breakdown(batch).value
        for name, value in values.items():
            seen[name].append(abs(value.item()))
    if not count:
        raise ValueError("at least one batch is needed, found none: is the generator used up?")
    return seen, count


def _final(criterion: WeightedLoss, name: str) -> float:
    """The weight of a term at the end of training, without controllers and balancers."""
    term, horizon = criterion.config.terms[name], criterion.horizon
    if term.schedule is None:
        return term.weight
    try:
        return term.weight * term.schedule.final(horizon.local(horizon.steps(term.after)))
    except HorizonError as error:
        raise HorizonError(
            f"term {name!r}: {error}, with criterion.bind(total_steps=..., steps_per_epoch=...)"
        ) from None


def _why_kept(config: LossConfig, name: str, typical: float, final: float) -> str:
    """Why the weight of a term is kept; empty if one can be proposed."""
    term = config.terms[name]
    if term.controller is not None:
        return f"the controller {term.controller.kind!r} finds it"
    if term.transform is not None and term.transform.init():
        return f"the transform {term.transform.kind!r} compensates for its size"
    if config.balancer is not None and term.is_balanced:
        return f"the balancer {config.balancer.kind!r} compensates for its size"
    if final == 0:
        return "it is 0 at the end of training"
    if math.isnan(typical):
        return "the term was never given, or never finite"
    return "" if typical > 0 else "the term was 0 in most batches"


def _wanted(
    config: LossConfig, shares: Mapping[str, float], kept: Mapping[str, str]
) -> dict[str, float]:
    """The share of each term that is calibrated."""
    for name, share in shares.items():
        if name not in config.terms:
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


def _shares(sizes: Mapping[str, float]) -> dict[str, float]:
    total = math.fsum(sizes.values())
    return {name: size / total for name, size in sizes.items()}


def _note(seen: list[float], finite: list[float], why: str, count: int) -> str:
    notes = [f"keeps its weight: {why}"] if why else []
    if 0 < len(seen) < count:
        notes.append(f"in {len(seen)} of {count} batches")
    if len(finite) < len(seen):
        notes.append(f"nan or inf in {len(seen) - len(finite)} of them, which are ignored")
    return "; ".join(notes)


def _written(term: Term) -> str:
    """A term as JSON in one line, which YAML reads too."""
    try:
        fields = term.model_dump(mode="json", exclude_defaults=True)
    except ValueError:  # a Python function, which no file can hold
        return f"{_json({'weight': term.weight})}  # add its other fields: a file cannot hold them"
    others = fields.keys() - {"weight"}
    return _json({"weight": term.weight, **fields} if others else term.weight)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)  # YAML does not read the \\u pairs of an emoji
