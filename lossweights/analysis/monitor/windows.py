"""What the rows of a training show, and what its config means them to show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lossweights.components.durations import Horizon
from lossweights.components.schedules import Schedule
from lossweights.config.curves import Curves
from lossweights.config.loss_config import LossConfig
from lossweights.errors import ConfigError

_MEANT = 0.1  # of the largest weight: with less a term is meant to count for little
_MOVED = 0.1  # of its last weight: by so much a schedule may still be off where it has settled


@dataclass(frozen=True)
class Window:
    """What some rows in succession show: medians, of the terms that most of the rows have.

    Args:
        first: Step of the first row.
        last: Step of the last row.
        raw: Values as given.
        extent: The least and the greatest of these.
        portion: What part of all absolute values as given this one is.
        weighted: Weighted values, without the price of learned weights.
        share: What part of all absolute weighted values this one is.
        total: The sum of absolute weighted values; nan where no row is finite.
        broken: Of terms that are not finite in most rows, the number of those.
    """

    first: int
    last: int
    raw: dict[str, float]
    extent: dict[str, tuple[float, float]]
    portion: dict[str, float]
    weighted: dict[str, float]
    share: dict[str, float]
    total: float
    broken: dict[str, int]

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, float]]) -> Window:
        """From rows with `step`, `raw/<term>`, `weighted/<term>` and perhaps a penalty."""
        names = list(dict.fromkeys(key[4:] for row in rows for key in row if key[:4] == "raw/"))
        raw, weighted = (
            np.array([[row.get(f"{what}/{name}", math.nan) for name in names] for row in rows])
            for what in ("raw", "weighted")
        )
        weighted -= [[row.get(f"penalty/{name}", 0.0) for name in names] for row in rows]
        given = np.array([[f"raw/{name}" in row for name in names] for row in rows])
        bad = given & ~np.isfinite(weighted)
        known = given & ~bad & np.isfinite(raw)
        raw, weighted = (np.where(known, table, math.nan) for table in (raw, weighted))
        half = len(rows) / 2

        def columns(table: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
            known = ((name, c[~np.isnan(c)]) for name, c in zip(names, table.T, strict=True))
            return {name: column for name, column in known if len(column) > half}

        def medians(table: NDArray[np.float64]) -> dict[str, float]:
            return {name: float(np.median(column)) for name, column in columns(table).items()}

        def parts(table: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
            whole = np.nansum(abs(table), axis=1)
            return whole, abs(table) / np.where(whole > 0, whole, 1.0)[:, None]

        (total, share), (_, portion) = parts(weighted), parts(raw)
        sound = total[~bad.any(axis=1)]
        return cls(
            first=int(rows[0]["step"]),
            last=int(rows[-1]["step"]),
            raw=medians(raw),
            extent={name: (float(c.min()), float(c.max())) for name, c in columns(raw).items()},
            portion=medians(portion),
            weighted=medians(weighted),
            share=medians(share),
            total=float(np.median(sound)) if len(sound) else math.nan,
            broken={n: int(k) for n, k in zip(names, bad.sum(axis=0), strict=True) if k > half},
        )


class Plan:
    """What a config means its terms to weigh.

    Args:
        config: The declaration.
        horizon: The length of training, as far as it is known.

    Attributes:
        steered: Terms whose weights a controller finds.
        found: These, and those whose weights a balancer finds.
    """

    def __init__(self, config: LossConfig, horizon: Horizon) -> None:
        self.config, self.horizon = config, horizon
        self._curves = Curves.of(config, horizon)
        self.steered = {name for name, term in config.terms.items() if term.controller is not None}
        balanced = () if config.balancer is None else config.balanced_names
        self.found = self.steered.union(balanced)
        self._largest = max(map(self.meant, config.terms))
        self._settled = {name: self._settles(name) for name in config.terms}

    def _settles(self, name: str) -> float:
        """The step from which the weight is about what it ends as, and its transform stands."""
        steps, weights = self._curves.steps, self._curves.weights[name]
        term = self.config.terms[name]
        start = self.horizon.steps(term.after)
        fields = () if term.transform is None else (value for _, value in term.transform)
        schedules = [value for value in fields if isinstance(value, Schedule)]
        if term.schedule is not None and not self.horizon.is_bounded:
            schedules.append(term.schedule)
        ends = [schedule.ends(self.horizon.local(start)) for schedule in schedules]
        if None in ends:
            return math.inf
        (moving,) = np.nonzero(abs(weights - weights[-1]) > _MOVED * abs(weights[-1]))
        settled = float(steps[moving[-1] + 1]) if len(moving) else 0.0
        return max([settled, *(start + end for end in ends if end)])

    def meant(self, name: str) -> float:
        """The size of its weight at the end of training, but for what is found in training."""
        return float(abs(self._curves.weights[name][-1]))

    def takes(self, path: str, value: str) -> bool:
        """Whether the config would be valid with another value there."""
        try:
            self.config.override({path: value})
        except ConfigError:
            return False
        return True

    def has_settled(self, name: str, step: int) -> bool:
        """Whether its schedule lets the weight be from that step on."""
        return step >= self._settled[name]

    def counts(self, name: str, windows: Sequence[Window]) -> bool:
        """Whether it is there in all windows, has settled, and is meant to count for something.

        One whose weight is found counts for what is found.
        """
        return (
            name not in self.found
            and all(window.raw.get(name, 0.0) != 0 for window in windows)
            and self.has_settled(name, windows[0].first)
            and self.meant(name) > 0
            and self.meant(name) >= _MEANT * self._largest
        )
