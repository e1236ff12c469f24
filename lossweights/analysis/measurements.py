"""The sizes of terms, and how their gradients agree, in batches or in the rows of a history."""

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossweights.analysis.history import History, Row
from lossweights.config.loss_config import LossConfig
from lossweights.config.names import ByName
from lossweights.criterion.weighted_loss import WeightedLoss
from lossweights.errors import did_you_mean, quoted

Batches: TypeAlias = Iterable[Mapping[str, Tensor | float | None]]
By: TypeAlias = Literal["gradients", "values"]
Pair: TypeAlias = tuple[str, str]  # in alphabetical order

# One entry for each batch or row: nan if it lacks the term, inf if its number is not finite.
Series: TypeAlias = NDArray[np.float64]

_PREFIXES: dict[By, str] = {"gradients": "gradient/norm/", "values": "value/"}
_COSINE, _CONFLICT = "gradient/cosine/", "gradient/conflict/"
_SHARES: dict[By, str] = {"gradients": "gradient/share/", "values": "share/"}


class Quartiles(NamedTuple):
    """The quartiles of some numbers, nan if there are none.

    Args:
        lower: A quarter of the numbers is below.
        median: Half of them are below.
        upper: A quarter of them is above.
    """

    lower: float
    median: float
    upper: float

    @classmethod
    def of(cls, series: Series) -> "Quartiles":
        """The quartiles of the finite numbers."""
        finite = series[np.isfinite(series)]
        if not len(finite):
            return cls(np.nan, np.nan, np.nan)
        return cls(*np.quantile(finite, (0.25, 0.5, 0.75)).tolist())

    @classmethod
    def of_weights(cls, series: Series) -> "Quartiles":
        """The quartiles of proposed weights: infinite where a term is 0, nan where it is absent."""
        given = series[~np.isnan(series)]
        if np.isfinite(given).all():
            return cls.of(given)
        # Between two of them there may be nothing to interpolate.
        return cls(*np.quantile(given, (0.25, 0.5, 0.75), method="nearest").tolist())


@dataclass(frozen=True)
class Measurements:
    """What was measured, by term or by pair of terms.

    Args:
        sizes: Absolute values of the terms after their transforms, and norms of their gradients.
        shares: Shares of the terms in these, as they were recorded; empty for batches.
        cosines: Cosines of the gradients of two terms, in the rows with gradients.
        conflicts: Part of the measurements of such a row with a negative cosine.
        steps: The step of each row; empty for batches.
    """

    sizes: dict[By, dict[str, Series]]
    shares: dict[By, dict[str, Series]] = field(default_factory=dict)
    cosines: dict[Pair, Series] = field(default_factory=dict)
    conflicts: dict[Pair, Series] = field(default_factory=dict)
    steps: tuple[int, ...] = ()

    def used(self, by: By) -> NDArray[np.intp]:
        """The rows in which any term was measured."""
        found = [~np.isnan(series) for series in self.sizes[by].values()]
        return np.flatnonzero(np.any(found, axis=0))

    @classmethod
    def of_batches(cls, criterion: WeightedLoss, batches: Any) -> "Measurements":
        """Measures the terms in batches of losses, with the transforms of a criterion.

        Raises:
            ValueError: If there is no batch, or one is invalid.
        """
        if isinstance(batches, Mapping | History) or not isinstance(batches, Iterable):
            found = "one dict" if isinstance(batches, Mapping) else type(batches).__name__
            hint = ": write calibrate(history, criterion.config)" * isinstance(batches, History)
            raise ValueError(
                f"batches are several dicts of losses, as in [{{'kl': kl}}], found {found}{hint}"
            )
        bare = _bare(criterion)
        rows: list[dict[str, float]] = []
        for batch in batches:
            with torch.no_grad():
                values = bare.breakdown(batch).value
            rows.append({name: value.item() for name, value in values.items()})
        if not rows:
            raise ValueError("at least one batch is needed, found none: is the generator used up?")
        names = criterion.config.terms
        return cls({"values": {name: abs(_series(rows, name)) for name in names}, "gradients": {}})

    @classmethod
    def of_history(
        cls, source: History | str | os.PathLike[str], config: LossConfig
    ) -> "Measurements":
        """Reads the rows of a history, or of its file.

        Raises:
            ValueError: If it is no history, has no rows, or not the terms of the config.
        """
        history = source if isinstance(source, History) else History.load(source)
        place = "the history" if isinstance(source, History) else Path(source).name
        rows = history.rows
        if not rows:
            raise ValueError(
                f"{place} has no rows: a history has its first one after `every` steps"
            )
        keys = dict.fromkeys(key for row in rows for key in row)
        _check_names(keys, config, place)
        sizes = {by: _by_name(rows, keys, prefix, config) for by, prefix in _PREFIXES.items()}
        keys_of = {pair: "/".join(pair) for pair in combinations(sorted(sizes["gradients"]), 2)}
        pairs = {pair: key for pair, key in keys_of.items() if f"{_COSINE}{key}" in keys}
        norms = [_PREFIXES["gradients"] + name for name in sizes["gradients"]]
        measured = [row for row in rows if any(key in row for key in norms)]
        return cls(
            {by: {n: abs(series) for n, series in found.items()} for by, found in sizes.items()},
            {by: _by_name(rows, keys, prefix, config) for by, prefix in _SHARES.items()},
            {pair: _series(measured, _COSINE + key) for pair, key in pairs.items()},
            {pair: _series(measured, _CONFLICT + key) for pair, key in pairs.items()},
            tuple(int(row["step"]) for row in rows),
        )


def _bare(criterion: WeightedLoss) -> WeightedLoss:
    """A criterion with the same terms and transforms, and nothing that changes their values."""
    config, horizon = criterion.config, criterion.horizon
    bare_term = {"schedule": None, "controller": None, "balanced": None, "optional": True}
    terms = {name: term.model_copy(update=bare_term) for name, term in config.terms.items()}
    with warnings.catch_warnings(action="ignore"):  # the criterion has warned of its schedules
        bare = WeightedLoss(LossConfig(terms=ByName(terms), ignore=config.ignore)).eval()
        bare.bind(total=horizon.total, steps_per_epoch=horizon.steps_per_epoch)
    return bare


def _series(rows: Sequence[Row], key: str) -> Series:
    found = np.array([row.get(key, np.nan) for row in rows], dtype=np.float64)
    is_given = np.array([key in row for row in rows])
    return np.where(is_given & ~np.isfinite(found), np.inf, found)


def _by_name(
    rows: Sequence[Row], keys: Mapping[str, None], prefix: str, config: LossConfig
) -> dict[str, Series]:
    """The series of a quantity by term; all of them, or none if no term has it."""
    found = {name: prefix + name for name in config.terms}
    if not any(key in keys for key in found.values()):
        return {}
    return {name: _series(rows, key) for name, key in found.items()}


def _check_names(keys: Iterable[str], config: LossConfig, place: str) -> None:
    """Refuses rows with a term that the config lacks."""
    terms = config.all_terms
    for key in keys:
        for prefix in ("raw/", *_PREFIXES.values()):
            name = key.removeprefix(prefix)
            if key.startswith(prefix) and name not in terms:
                raise ValueError(
                    f"{place} has the term {name!r}, which the config lacks"
                    f"{did_you_mean(name, terms)} (its terms are {quoted(terms)}): pass the "
                    "config of the training that was recorded"
                )


def basis(by: By | None, measured: Measurements) -> By:
    """What weights are fitted to: by default the gradients, if they were measured.

    Raises:
        ValueError: If it was not measured.
    """
    if by not in (None, *_PREFIXES):
        raise ValueError(f"by is 'gradients' or 'values', found {by!r}")
    is_measured = {each: bool(measured.sizes[each]) for each in _PREFIXES}
    found: By = by or ("gradients" if is_measured["gradients"] else "values")
    if is_measured[found]:
        return found
    if found == "gradients":
        raise ValueError(
            "by='gradients' needs gradients, and the history has none: record them with "
            'History(criterion, gradients="500 steps"), and pass shared= in the call of the '
            "criterion; or write by='values'"
        )
    raise ValueError("the history has no value/<term>: let the history include value")
