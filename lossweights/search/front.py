"""The results of a sweep: outcomes of its configs, their front, its knee and hypervolume."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lossweights.components.declaration import written
from lossweights.config.loss_config import LossConfig
from lossweights.errors import quoted, shown
from lossweights.search import study as queue

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from optuna.trial import FrozenTrial

Numbers: TypeAlias = NDArray[np.float64]

_STATES = {
    "COMPLETE": "done",
    "FAIL": "failed",
    "PRUNED": "pruned",
    "RUNNING": "running",
    "WAITING": "waiting",
}
_ROUNDING = 1e-12  # of a mean: less is no spread
_BEYOND = 0.1  # of the range of each objective: by how much the reference point is worse


@dataclass(frozen=True)
class Outcome:
    """One config of a sweep, with its results.

    Args:
        number: 0 for the unchanged config, then in the order of the queue.
        state: `"done"`, `"failed"`, `"pruned"`, `"running"`, or `"waiting"`.
        params: What varies, by path; empty for the unchanged config.
        results: What `train` returned, by seed.
        reason: Why it failed or was pruned; otherwise empty.
        data: The config, for `LossConfig.read`; empty while it waits.
    """

    number: int
    state: str
    params: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[int, Mapping[str, float]] = field(default_factory=dict, repr=False)
    reason: str = ""
    data: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def values(self, measure: str) -> list[float]:
        """A measure by seed, in the order of the seeds; without those that lack it."""
        return [found[measure] for found in self.results.values() if measure in found]

    def mean(self, measure: str) -> float:
        """The mean over the seeds; nan without any."""
        values = self.values(measure)
        return float(_mean(np.array(values))) if values else math.nan

    def std(self, measure: str) -> float:
        """The standard deviation over the seeds, with n - 1; nan for fewer than two."""
        values = self.values(measure)
        return float(_std(np.array(values))) if len(values) > 1 else math.nan


class Front:
    r"""The results of a sweep.

    A config *dominates* another if its mean is at least as good in each objective and, in at least
    one, better beyond the spread: the mean of the differences of the two, seed by seed, is greater
    than their standard deviation (with n - 1). With one seed any difference counts. The front is
    every config that is done and that no other dominates. It includes those that are worse in the
    mean, but within the spread.

    Args:
        outcomes: Of all configs, by number.
        minimize: The objectives that should be small.
        maximize: The objectives that should be large.
        seeds: The seeds of each config.
        name: The name of the sweep.

    >>> from lossweights.search import Outcome
    >>> measured = [(3.0, 0.0), (1.0, 1.0), (0.0, 3.0), (2.0, 2.0)]
    >>> outcomes = [
    ...     Outcome(number, "done", results={0: {"nll": nll, "kl": kl}})
    ...     for number, (nll, kl) in enumerate(measured)
    ... ]
    >>> front = Front(outcomes, minimize=["nll", "kl"])
    >>> [each.number for each in front.points]
    [0, 1, 2]
    >>> front.knee().number
    1
    """

    def __init__(
        self,
        outcomes: Iterable[Outcome],
        *,
        minimize: Sequence[str] = (),
        maximize: Sequence[str] = (),
        seeds: Sequence[int] = (0,),
        name: str = "sweep",
    ) -> None:
        self.outcomes = tuple(outcomes)
        self.minimize, self.maximize = tuple(minimize), tuple(maximize)
        self.seeds, self.name = tuple(seeds), name

    @classmethod
    def load(cls, storage: str | os.PathLike[str], name: str = "sweep") -> Front:
        """The results in a storage, also while the sweep is running.

        Raises:
            ValueError: If there is no such storage, or no sweep of this name in it.
            ImportError: Without the extra `sweep`.
        """
        queue.need_optuna()
        if "://" not in os.fspath(storage) and not os.path.exists(storage):  # noqa: PTH110
            raise ValueError(f"there is no storage {shown(os.fspath(storage))}")
        with queue.quiet():
            studies, settings = queue.load_studies(queue.open_storage(storage), name)
            return cls.of(studies.trials(), settings, name)

    @classmethod
    def of(cls, trials: Iterable[FrozenTrial], settings: Mapping[str, Any], name: str) -> Front:
        """The results of the last trial of each config."""
        outcomes = []
        for trial in trials:
            known, reason = trial.user_attrs, queue.reason(trial)
            state = _STATES[trial.state.name]
            if state == "failed" and not reason:
                state = "waiting"  # it was interrupted
            by_seed = {seed: known.get(f"seed {seed}") for seed in settings["seeds"]}
            results = {seed: found for seed, found in by_seed.items() if found is not None}
            outcomes.append(
                Outcome(
                    known["slot"],
                    state,
                    dict(trial.params),
                    results,
                    reason if state in ("failed", "pruned") else "",
                    known.get("config", {}),
                )
            )
        keys = ("minimize", "maximize", "seeds")
        return cls(outcomes, name=name, **{key: settings[key] for key in keys})

    @property
    def objectives(self) -> tuple[str, ...]:
        """The names of the objectives, those to minimize first."""
        return (*self.minimize, *self.maximize)

    @cached_property
    def done(self) -> tuple[Outcome, ...]:
        """The configs that were trained with all seeds."""
        return tuple(each for each in self.outcomes if each.state == "done")

    @cached_property
    def points(self) -> tuple[Outcome, ...]:
        """The configs on the front, by number."""
        if not self.done:
            return ()
        costs = self._costs_by_seed(self.done)
        return tuple(
            each
            for each, own in zip(self.done, costs, strict=True)
            if not _are_better(costs, own).any()
        )

    def dominates(self, one: Outcome, other: Outcome) -> bool:
        """Whether a config dominates another, as defined above; both are done."""
        costs = self._costs_by_seed([one, other])
        return bool(_are_better(costs[:1], costs[1])[0])

    @property
    def best(self) -> Outcome:
        """The config with the best mean, with one objective.

        Raises:
            ValueError: With several objectives, or if no config is done.
        """
        if len(self.objectives) > 1:
            raise ValueError(
                f"there is no best config for several objectives ({quoted(self.objectives)}): "
                "choose one of front.points, such as front.knee()"
            )
        if not self.done:
            raise ValueError("no config is done yet")
        return min(self.done, key=lambda each: self._costs([each])[0, 0])

    def knee(self) -> Outcome | None:
        r"""The config whose means bulge most towards the ideal.

        Only configs count whose means no other config dominates. Those that are on the front
        because of the spread alone do not. Each objective is scaled so that its best mean among
        them is 0 and its worst 1. The knee is the config with the greatest distance, towards 0,
        from the plane through the ends of the axes, $\sum_i x_i = 1$. It is always one that was
        trained.

        Returns:
            None if no config is on that side of the plane: the front is straight, curved away from
            the ideal, or has fewer than three such configs.

        Source: Das 1999, doi:10.1007/BF01195985. There the plane goes through the best point of
        each objective, which is the same for two objectives.
        """
        best = self._best_means
        if len(best) < 3 or len(self.objectives) < 2:
            return None
        sums = self._scaled(best).sum(axis=1)
        return best[int(sums.argmin())] if sums.min() < 1 - 1e-9 else None

    def hypervolume(self) -> list[float]:
        """The volume that the means dominate, after each config that is done, by number.

        Objectives are scaled as for the `knee`, so that one bad config does not change the scale.
        If the best configs do not differ in an objective, its worst mean of all configs is 1. The
        reference point is 1.1 in each objective; a config beyond it adds nothing.

        Raises:
            ImportError: Without moocore (extra `sweep`).
        """
        queue.need_optuna()
        import moocore  # noqa: PLC0415

        if not self.done:
            return []
        scaled = self._scaled(self.done)
        reference = np.full(len(self.objectives), 1 + _BEYOND)
        return [
            float(moocore.hypervolume(scaled[: count + 1], ref=reference))
            for count in range(len(scaled))
        ]

    @cached_property
    def _best_means(self) -> tuple[Outcome, ...]:
        """The configs that are done whose means no other config dominates, by number."""
        if not self.done:
            return ()
        costs = self._costs(self.done)
        return tuple(
            each
            for each, own in zip(self.done, costs, strict=True)
            if not ((costs <= own).all(axis=1) & (costs < own).any(axis=1)).any()
        )

    def _costs(self, outcomes: Sequence[Outcome]) -> Numbers:
        """The means of the objectives, a row per config; small is good."""
        return _mean(self._costs_by_seed(outcomes))

    def _costs_by_seed(self, outcomes: Sequence[Outcome]) -> Numbers:
        """The objectives by config, objective and seed; small is good."""
        signs = [-1.0 if name in self.maximize else 1.0 for name in self.objectives]
        values = [
            [[each.results[seed][name] for seed in self.seeds] for name in self.objectives]
            for each in outcomes
        ]
        costs: Numbers = np.array(values) * np.array(signs)[:, None]
        return costs

    def _scaled(self, outcomes: Sequence[Outcome]) -> Numbers:
        """Costs, with 0 and 1 at the ends of the configs with the best means."""
        best = self._costs(self._best_means)
        low, high = best.min(axis=0), best.max(axis=0)
        high = np.where(high > low, high, self._costs(self.done).max(axis=0))
        scaled: Numbers = (self._costs(outcomes) - low) / np.where(high > low, high - low, 1.0)
        return scaled

    def config(self, number: int) -> LossConfig:
        """The config with this number.

        Raises:
            ValueError: If there is none, or it has not started.
        """
        found = {each.number: each for each in self.outcomes}.get(number)
        if found is None:
            raise ValueError(
                f"no config has the number {shown(number)}: there are 0 to {len(self.outcomes) - 1}"
            )
        if not found.data:
            raise ValueError(
                f"config {number} is {found.state}: its values are known once it starts"
            )
        return LossConfig.read(found.data)

    def table(self) -> str:
        """All configs that have started: means and standard deviations over seeds, as text.

        `*` marks the front, `k` its knee, and `b` the best config with one objective.

        Raises:
            ImportError: Without rich (extra `sweep`).
        """
        queue.need_optuna()
        from rich.console import Console  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415

        rows = [each for each in self.outcomes if each.state != "waiting" or each.results]
        paths = list(dict.fromkeys(path for each in rows for path in each.params))
        others = dict.fromkeys(
            name for each in rows for found in each.results.values() for name in found
        )
        measures = list(dict.fromkeys([*self.objectives, *others]))
        marks = self._marks()
        table = Table(box=None, pad_edge=False, header_style="")
        for title in ("", "config", *paths):
            table.add_column(title)
        for name in measures:
            table.add_column(name, justify="right")
        table.add_column("")
        marks = self._marks()
        for each in rows:
            cells = [
                _spread(each.mean(name), each.std(name)) if each.values(name) else ""
                for name in measures
            ]
            params = [_short(each.params[path]) if path in each.params else "" for path in paths]
            note = each.state + (f": {each.reason}" if each.reason else "")
            if each.number == 0:
                params = ["unchanged" if index == 0 else "" for index in range(len(paths))]
            note = "" if each.state == "done" else note
            table.add_row(marks.get(each.number, ""), str(each.number), *params, *cells, note)
        text = io.StringIO()
        Console(file=text, width=10_000, color_system=None, markup=False, emoji=False).print(table)
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines())

    def _marks(self) -> dict[int, str]:
        """The marks in the table, by number."""
        found = {each.number: "*" for each in self.points}
        if self.done and len(self.objectives) == 1:
            found[self.best.number] = "b"
        elif (knee := self.knee()) is not None:
            found[knee.number] = "k"
        return found

    def plot(self, path: str | os.PathLike[str] | None = None, *, width: float = 6.4) -> Figure:
        """A picture of the sweep, also written to a file if there is a `path`.

        With two objectives: all configs with their standard deviations, the front, its knee, the
        unchanged config, and the hypervolume. With more: each pair of them. With one: its mean by
        number of the config.

        Args:
            path: A file, such as `front.png`.
            width: Width in inches.

        Raises:
            ImportError: Without matplotlib (extra `plot`).
            ValueError: If no config is done.
        """
        from lossweights.search.picture import draw  # noqa: PLC0415  # an extra

        figure = draw(self, width)
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure

    def __repr__(self) -> str:
        return (
            f"Front({self.name!r}: {len(self.done)} configs done, {len(self.points)} on the front)"
        )


def _are_better(costs: Numbers, own: Numbers) -> NDArray[np.bool_]:
    """Which configs dominate one, by their costs and its own."""
    gains = own - costs
    means = _mean(gains)
    spreads = _std(gains) if gains.shape[2] > 1 else np.zeros_like(means)
    return np.asarray((means > spreads).any(axis=1) & (means >= 0).all(axis=1))


def _mean(values: Numbers) -> Numbers:
    """The mean over the last axis."""
    scale = _scale(values)
    with np.errstate(all="ignore"):  # inf - inf
        found: Numbers = (values / scale).mean(axis=-1) * scale[..., 0]
    return found


def _std(values: Numbers) -> Numbers:
    """The standard deviation over the last axis, with n - 1; nan with infinite values."""
    scale = _scale(values)
    with np.errstate(all="ignore"):
        found: Numbers = (values / scale).std(axis=-1, ddof=1) * scale[..., 0]
    return found


def _scale(values: Numbers) -> Numbers:
    """The power of 2 by which values are divided so that their squares, as of 1e200, are finite."""
    largest = np.abs(values).max(axis=-1, keepdims=True)
    is_number = (largest > 0) & np.isfinite(largest)
    return np.ldexp(1.0, np.where(is_number, np.frexp(largest)[1] - 1, 0))


def _short(value: object) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.4g}" if isinstance(value, float) else written(value)


def _spread(mean: float, std: float) -> str:
    """`1.23 ± 0.04`: with two digits of the standard deviation."""
    if math.isnan(std):
        return f"{mean:.4g}"
    if std <= _ROUNDING * abs(mean):
        return f"{mean:.4g} ± 0"
    digits = 1 - math.floor(math.log10(std))
    return (
        f"{mean:.{digits}f} ± {std:.{digits}f}" if 0 <= digits <= 6 else f"{mean:.4g} ± {std:.2g}"
    )
