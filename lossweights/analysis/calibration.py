"""Base weights from a few batches, so that the terms have the shares that one wants."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lossweights.config.loss_config import LossConfig
from lossweights.config.term import Term
from lossweights.criterion.weighted_loss import WeightedLoss
from lossweights.errors import HorizonError, did_you_mean, quoted

Batch = Mapping[str, Tensor | float | None]
Batches = Iterable[Batch] | Callable[[], Iterable[Batch]]

_WIDEST = 1e12  # times its old weight: a term that would need more is practically 0
_ROUNDING = 0.01  # by which shares may miss their sum
_MUCH = 1000  # times its old weight: an equal share may not be what was meant, of a regulariser
_PLAIN = re.compile(r"[A-Za-z_][\w-]*|\d+(\.\d+)? (steps|epochs)|\d+(\.\d+)?%")
_NOT_PLAIN = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}  # YAML's own words


@dataclass(frozen=True)
class TermCalibration:
    """What was seen of a term, and what is proposed.

    Args:
        typical: Median over the batches of its absolute value, through its transform; nan where
            it was not seen.
        quartiles: A quarter of the values lie below the first, a quarter above the second.
        old: Its base weight.
        weight: The one that is proposed.
        old_share: Its part of the loss under the old weights, at typical values.
        share: The same under the proposed ones.
        note: Why its weight stays, or what else is worth knowing.
    """

    typical: float
    quartiles: tuple[float, float]
    old: float
    weight: float
    old_share: float
    share: float
    note: str = ""


@dataclass(frozen=True)
class Calibration:
    """What `calibrate` proposes; printed, a table and the terms in YAML.

    Args:
        config: The config with the proposed weights.
        terms: What was seen of each term.
        batches: How many batches there were.
    """

    config: LossConfig
    terms: dict[str, TermCalibration]
    batches: int

    def __str__(self) -> str:
        width = max(4, *map(len, self.terms))
        columns = f"{'typical':>12}{'half of them':>22}{'weight':>10}{'share':>8}"
        lines = [
            f"{self.batches} batch{'es' if self.batches > 1 else ''}",
            f"{'term':<{width}}{columns}{'proposed':>11}{'share':>8}",
        ]
        for name, term in self.terms.items():
            middle = f"{term.quartiles[0]:.4g} to {term.quartiles[1]:.4g}"
            known = math.isfinite(term.typical)
            lines.append(
                f"{name:<{width}}{f'{term.typical:.4g}' if known else '-':>12}"
                f"{middle if known else '-':>22}{term.old:>10.4g}{term.old_share:>8.1%}"
                f"{term.weight:>11.4g}{term.share:>8.1%}"
            )
        lines += [f"{name}: {term.note}" for name, term in self.terms.items() if term.note]
        terms = (f"  {_yaml(name)}: {_term(term)}" for name, term in self.config.terms.items())
        return "\n".join([*lines, "", "terms:", *terms])


def calibrate(
    criterion: WeightedLoss, batches: Batches, shares: Mapping[str, float] | None = None
) -> Calibration:
    """Proposes base weights that give the terms equal shares of the loss, or those wanted.

    What a term counts for is its typical size, the median over the batches of its absolute value
    through its transform, times its weight as its schedule ends. The term of the largest share
    keeps its weight; all others are fitted to it, in two digits.

    Terms under a controller, a balancer or a transform that adapts keep their weights and take no
    part: those find by themselves what these would be. So do terms that are 0, never finite, or
    not seen in any batch, and those whose weight is 0 or ends there.

    Args:
        criterion: What is weighed. Nothing of it changes.
        batches: A few batches of values, each as the criterion is called with: a list, a
            generator, or a function that returns one. Terms may be missing. Gradients are not
            needed; they are not turned off, since some losses are made of them.
        shares: What part of the loss a term is to be, by name, above 0. Terms that are not named
            have equal parts of the rest. They add up to 1, or to less where a term is left.

    Raises:
        ValueError: For no batch, for values that the criterion would refuse, for shares that
            cannot be, and where no term takes part.
        HorizonError: Where a schedule needs the length of training to know how it ends.

    >>> criterion = WeightedLoss(terms={"nll": 1.0, "kl": {"kind": "warmup", "over": "10 steps"}})
    >>> batches = [{"nll": 96.0, "kl": 5.0}, {"nll": 100.0, "kl": 4.0}, {"nll": 105.0, "kl": 4.0}]
    >>> print(calibrate(criterion, batches, shares={"kl": 0.1}))
    3 batches
    term     typical          half of them    weight   share   proposed   share
    nll          100           98 to 102.5         1   96.2%          1   89.9%
    kl             4              4 to 4.5         1    3.8%        2.8   10.1%
    <BLANKLINE>
    terms:
      nll: 1.0
      kl: {weight: 2.8, schedule: {kind: warmup, over: 10 steps}}
    """
    config = criterion.config
    finals = {name: _final(criterion, name) for name in config.terms}
    seen, count = _seen(criterion, batches)
    sizes = {name: np.array(values) for name, values in seen.items()}
    typical = {
        name: float(np.median(found)) if len(found := size[np.isfinite(size)]) else math.nan
        for name, size in sizes.items()
    }
    stays = {name: _why_it_stays(config, name, typical[name], finals[name]) for name in sizes}
    parts = {name: abs(finals[name]) * typical[name] for name in sizes if not stays[name]}
    if not parts:
        reasons = "; ".join(f"{name!r}: {why}" for name, why in stays.items())
        raise ValueError(f"no term is left whose weight could be proposed: {reasons}")
    wanted = _wanted(config, shares or {}, stays)
    largest = max(parts, key=lambda name: parts[name])
    weights = {name: term.weight for name, term in config.terms.items()}
    hints: dict[str, str] = {}
    for name, part in parts.items():
        factor = parts[largest] / part * wanted[name] / wanted[largest]
        if not 1 / _WIDEST < factor < _WIDEST:
            stays[name] = f"keeps its weight: it is practically 0 beside {largest!r}"
        elif name != largest:
            weights[name] = float(f"{weights[name] * factor:.1e}")
            if factor > _MUCH and name not in (shares or {}):
                hints[name] = f"if it is to count for little: shares={{{name!r}: 0.01}}"
    before = _shares({name: part for name, part in parts.items() if not stays[name]})
    after = _shares(
        {name: share * weights[name] / config.terms[name].weight for name, share in before.items()}
    )
    terms = {n: t.model_copy(update={"weight": weights[n]}) for n, t in config.terms.items()}
    return Calibration(
        config.model_copy(update={"terms": terms}),
        {
            name: TermCalibration(
                typical[name],
                _quartiles(sizes[name]),
                term.weight,
                weights[name],
                before.get(name, 0.0),
                after.get(name, 0.0),
                _note(sizes[name], stays[name] or hints.get(name, ""), count),
            )
            for name, term in config.terms.items()
        },
        count,
    )


def _seen(criterion: WeightedLoss, batches: Batches) -> tuple[dict[str, list[float]], int]:
    """The absolute values of each term, transformed, and how many batches there were."""
    bare = _bare(criterion)
    seen: dict[str, list[float]] = {name: [] for name in criterion.config.terms}
    count = 0
    given: Any = batches() if callable(batches) else batches
    if isinstance(given, Mapping) or not isinstance(given, Iterable):
        raise ValueError(
            "batches are several tables of values by name, as in [{'nll': nll, 'kl': kl}], found "
            f"{'one table' if isinstance(given, Mapping) else type(given).__name__}"
        )
    for count, batch in enumerate(given, start=1):  # noqa: B007  # counts
        with torch.no_grad():
            found = bare.breakdown(batch).value
        sizes = torch.stack([value.abs() for value in found.values()]).tolist() if found else []
        for name, size in zip(found, sizes, strict=True):
            seen[name].append(size)
    if not count:
        raise ValueError("at least one batch is needed, found none: is the generator used up?")
    return seen, count


def _bare(criterion: WeightedLoss) -> WeightedLoss:
    """The same terms without weights, any of which may be missing; as evaluation sees them.

    Its transforms stand as at the end of their schedules, but for those that adapt.
    """
    config, horizon = criterion.config, criterion.horizon
    terms = {
        name: Term(
            after=term.after, reduction=term.reduction, transform=term.transform, optional=True
        )
        for name, term in config.terms.items()
    }
    bare = LossConfig(terms=terms, ignore=config.ignore)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what ends after training the criterion itself told
        return (
            WeightedLoss.from_config(bare)
            .bind(total_steps=horizon.total_steps, steps_per_epoch=horizon.steps_per_epoch)
            .eval()
        )


def _final(criterion: WeightedLoss, name: str) -> float:
    """The weight of a term at the end of training; what is found in training counts 1."""
    term, horizon = criterion.config.terms[name], criterion.horizon
    if term.schedule is None:
        return term.weight
    try:
        return term.weight * term.schedule.final(horizon.local(horizon.steps(term.after)))
    except HorizonError as error:
        raise HorizonError(
            f"term {name!r}: {error}, with criterion.bind(total_steps=..., steps_per_epoch=...)"
        ) from None


def _why_it_stays(config: LossConfig, name: str, typical: float, final: float) -> str:
    """Why the weight of a term is not proposed; empty where it is."""
    term = config.terms[name]
    if term.controller is not None:
        return f"keeps its weight: the controller {term.controller.kind!r} finds what it counts"
    if term.transform is not None and term.transform.init():
        return f"keeps its weight: the transform {term.transform.kind!r} makes up for its size"
    if config.balancer is not None and term.is_balanced:
        return (
            f"keeps its weight: the balancer {config.balancer.kind!r} makes up for its size, and "
            "its weight is what it counts after that"
        )
    if final == 0:
        return "keeps its weight: it is 0 at the end of training"
    if math.isnan(typical):
        return "keeps its weight: it was not seen, or never finite"
    return "" if typical > 0 else "keeps its weight: it was 0 in most batches"


def _wanted(
    config: LossConfig, shares: Mapping[str, float], stays: Mapping[str, str]
) -> dict[str, float]:
    """The share of each term that takes part."""
    for name, share in shares.items():
        if name not in config.terms:
            raise ValueError(
                f"shares: no term is called {name!r}{did_you_mean(str(name), config.terms)} "
                f"(the terms are {quoted(config.terms)})"
            )
        if stays[name]:
            raise ValueError(f"shares: {name!r} cannot have one, it {stays[name]}")
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            raise ValueError(f"shares: {name!r} is a part of 1 and above 0, found {share!r}")
    rest = [name for name, why in stays.items() if not why and name not in shares]
    total = math.fsum(shares.values())
    if rest and total >= 1:
        raise ValueError(
            f"shares: they add up to {total:g}, which leaves nothing for {quoted(rest)}"
        )
    if not rest and abs(total - 1) > _ROUNDING:
        raise ValueError(f"shares: they add up to 1, found {total:g}")
    return {**shares, **dict.fromkeys(rest, (1 - total) / max(len(rest), 1))}


def _shares(parts: Mapping[str, float]) -> dict[str, float]:
    total = math.fsum(parts.values())
    return {name: part / total for name, part in parts.items()}


def _quartiles(sizes: Any) -> tuple[float, float]:
    finite = sizes[np.isfinite(sizes)]
    low, high = np.quantile(finite, [0.25, 0.75]) if len(finite) else (math.nan, math.nan)
    return float(low), float(high)


def _note(sizes: Any, why: str, count: int) -> str:
    """What is worth knowing of a term, after why its weight is what it is."""
    broken = int((~np.isfinite(sizes)).sum())
    notes = [why] if why else []
    if 0 < len(sizes) < count:
        notes.append(f"in {len(sizes)} of {count} batches")
    if broken:
        notes.append(f"nan or inf in {broken} of them, which are left out")
    return "; ".join(notes)


def _term(term: Term) -> str:
    """A term as a config has it."""
    try:
        fields = term.model_dump(mode="json", exclude_defaults=True)
    except ValueError:  # a Python function, which no file can hold
        return f"{{weight: {term.weight!r}}}  # and the rest, which a file cannot hold, as it was"
    if not fields.keys() - {"weight"}:
        return repr(term.weight)
    return _yaml({"weight": term.weight, **fields})


def _yaml(value: Any) -> str:
    """Data as YAML in one line, in JSON's way where nothing shorter is safe."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_yaml(key)}: {_yaml(part)}' for key, part in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml, value))}]"
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _NOT_PLAIN:
        return value
    return json.dumps(value, ensure_ascii=False)  # YAML reads no pairs of \u, as of an emoji
