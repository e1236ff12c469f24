"""Base weights with which terms of some sizes have the wanted shares."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from lossweights.analysis.measurements import By, Series
from lossweights.components.durations import Horizon
from lossweights.components.limits import LARGEST_FLOAT32, SMALLEST_FLOAT32
from lossweights.components.schedules import Complement
from lossweights.config.loss_config import LossConfig
from lossweights.config.term import Term
from lossweights.config.timeline import weight_of
from lossweights.errors import did_you_mean, quoted

_MOST = 1e12  # the largest factor of a weight: a term that needs more is practically 0
_LARGEST = 0.9 * LARGEST_FLOAT32  # rounded to two digits it may be larger
_ROUNDING = 0.01  # by which the sum of all shares may differ from 1


@dataclass(frozen=True)
class Fit:
    """Base weights that were fitted to sizes.

    Args:
        config: The config that is calibrated.
        ends: Weights at the end of training.
        kept: Why a term keeps its weight, by term; empty if it was fitted.
        wanted: The wanted shares of the terms that were fitted.
        anchor: The term with the largest share, which keeps its weight.
        typical: The sizes.
        weights: Base weights of all terms.
    """

    config: LossConfig
    ends: dict[str, float]
    kept: dict[str, str]
    wanted: dict[str, float]
    anchor: str
    typical: dict[str, float]
    weights: dict[str, float]

    @property
    def names(self) -> list[str]:
        """The terms that were fitted, with the anchor."""
        return [name for name, why in self.kept.items() if not why]

    def weight(self, name: str, size: Any, of_anchor: Any) -> Any:
        """The base weight of a term of a size beside the anchor, not rounded. Takes arrays too."""
        with np.errstate(all="ignore"):  # a size of 0
            ratio = abs(self.ends[self.anchor] / self.ends[name]) * np.divide(of_anchor, size)
        wanted = self.wanted[name] / self.wanted[self.anchor]
        return self.config.terms[name].weight * ratio * wanted

    def of_rows(self, name: str, sizes: Mapping[str, Series]) -> Series:
        """The weight that each row alone proposes; nan in rows that do not have both sizes."""
        both = [np.where(np.isfinite(sizes[x]), sizes[x], np.nan) for x in (name, self.anchor)]
        found: Series = self.weight(name, *both)
        return found

    def shares(self, weights: Mapping[str, float]) -> dict[str, float]:
        """The shares of all terms under base weights, at their typical sizes."""
        sizes = {
            name: abs(self.ends[name]) * self.typical[name] * weights[name] / term.weight
            for name, term in self.config.terms.items()
            if name in self.names
        }
        return {name: sizes.get(name, 0.0) / math.fsum(sizes.values()) for name in self.kept}


def fit(
    config: LossConfig,
    ends: dict[str, float],
    typical: dict[str, float],
    shares: Mapping[str, float],
    by: By,
) -> Fit:
    """Fits base weights to typical sizes, rounded to two digits.

    Raises:
        ValueError: If a share is invalid, or no term can be fitted.
    """
    kept = {name: _why_kept(config, name, typical[name], ends[name], by) for name in config.terms}
    sizes = {name: abs(ends[name]) * typical[name] for name, why in kept.items() if not why}
    if not sizes:
        reasons = "; ".join(f"{name!r} keeps its weight: {why}" for name, why in kept.items())
        raise ValueError(f"no term can be calibrated: {reasons}")
    wanted = _wanted(config, shares, kept)
    anchor = max(sizes, key=lambda name: sizes[name])
    weights = {name: term.weight for name, term in config.terms.items()}
    found = Fit(config, ends, kept, wanted, anchor, typical, weights)
    for name in sizes:
        weight = found.weight(name, typical[name], typical[anchor])
        if not 1 / _MOST < weight / weights[name] < _MOST:
            kept[name] = f"it is practically 0 compared to {anchor!r}"
        elif not SMALLEST_FLOAT32 < abs(weight) < _LARGEST:
            kept[name] = f"the proposal, {weight:.1e}, is no weight in float32"
        elif name != anchor:
            weights[name] = float(f"{weight:.1e}")
    return found


def final_weights(config: LossConfig, horizon: Horizon) -> dict[str, float]:
    """The weights of all terms at the end of training.

    Raises:
        HorizonError: If a schedule needs the length of training and it is not known.
    """
    return {name: weight_of(config, name, horizon).final() for name in config.all_terms}


def _why_kept(  # noqa: PLR0911  # one each
    config: LossConfig, name: str, typical: float, final: float, by: By
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
        what = "the term was" if by == "values" else "its gradient was"
        return f"{what} never given, or never finite"
    what = "the term was 0 in most batches" if by == "values" else "its gradient is mostly 0"
    return "" if typical > 0 else what


def _complements(config: LossConfig, name: str) -> list[str]:
    schedules = {other: term.schedule for other, term in config.terms.items()}
    return [n for n, s in schedules.items() if isinstance(s, Complement) and s.of == name]


def _adaptive(term: Term) -> list[str]:
    """The kinds of the transforms of a term, or of members inside it, that adapt."""
    own = term.transform
    found = [] if own is None or not own.init() else [own.kind]
    return found + [kind for member in (term.terms or {}).values() for kind in _adaptive(member)]


def _wanted(
    config: LossConfig, shares: Mapping[str, float], kept: Mapping[str, str]
) -> dict[str, float]:
    """The share of each term that is calibrated."""
    if not isinstance(shares, Mapping) or not all(isinstance(name, str) for name in shares):
        raise ValueError(f"shares: write a share by term, as in {{'kl': 0.1}}, found {shares!r}")
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
        if isinstance(share, bool) or not isinstance(share, Real) or not 0 < share <= 1:
            raise ValueError(f"shares: {name!r} needs a share above 0 and up to 1, found {share!r}")
    rest = [name for name, why in kept.items() if not why and name not in shares]
    shares = {name: float(share) for name, share in shares.items()}
    total = math.fsum(shares.values())
    if rest and total >= 1:
        raise ValueError(f"shares: their sum is {total:g}, which leaves nothing for {quoted(rest)}")
    if not rest and abs(total - 1) > _ROUNDING:
        raise ValueError(f"shares: their sum must be 1, found {total:g}")
    return {**shares, **dict.fromkeys(rest, (1 - total) / max(len(rest), 1))}
