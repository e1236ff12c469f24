"""Says once when a term of a training loss goes wrong, and what to try."""

from __future__ import annotations

import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.hooks import RemovableHandle

from lossweights.analysis.history import Waiting, moved
from lossweights.analysis.monitor.troubles import Bounds, Finding, Look
from lossweights.analysis.monitor.windows import Plan, Window
from lossweights.components.durations import Duration, Horizon, percent
from lossweights.criterion.weighted_loss import WeightedLoss
from lossweights.errors import HorizonError, did_you_mean, warn

_EVERY = percent(0.5)  # so that a collapse is told after a tenth of the training
_UNCOUNTED = 50  # steps, while the length of training is not known
_MOST_WINDOWS = 200  # that are remembered: what is older no longer tells anything


class Monitor:
    """Follows a criterion, and says once for each term when it is in trouble.

    It takes a row of values every so many optimizer steps, and looks at medians of several rows.
    Nothing waits for the device until a window of rows is full. What it finds it says as a
    warning, with the figures and what to try, and keeps in `findings`. It never stops a training,
    not even where warnings are errors: there it is printed all the same. The criterion keeps the
    monitor alive, and not the other way round; a copy or a pickle follows nothing.

    Args:
        criterion: What is followed.
        every: From one row to the next, such as `"50 steps"` or `"0.5%"`. While it cannot be
            counted in steps, 50 steps.
        window: How many rows a median is taken of.
        patience: For how many windows a trouble must stay; dominance and a conflict three times
            as long. A value that is nan or inf is told of after one window.
        floors: For terms whose unit is known, the value under which they have collapsed, such as
            0.1 nats for a KL; nothing else is a collapse then.
        collapse: The part of an equal share of the loss, weighted and as given, below which any
            other term that fell has collapsed; 0 for never.
        dominance: The share from which a term dominates; above 1 for never.
        explosion: How many times its earlier median a term is that explodes; inf for never.
        conflict: To how many times its value a term that had fallen rises, while another falls;
            inf for never.

    Attributes:
        findings: What was found, in order.

    Raises:
        ValueError: For a number that is out of its range.

    >>> import warnings
    >>> criterion = WeightedLoss(terms={"depth": 1.0, "normals": 1.0})
    >>> monitor = Monitor(criterion, every="1 steps")
    >>> terms = {"depth": torch.tensor(500.0), "normals": torch.tensor(2.0)}
    >>> with warnings.catch_warnings(record=True, action="always") as caught:
    ...     for _ in range(100):
    ...         _ = criterion(terms)
    ...         criterion.step()
    >>> [(found.step, found.term, found.trouble) for found in monitor.findings]
    [(59, 'depth', 'dominance')]
    >>> len(caught)
    1
    """

    def __init__(
        self,
        criterion: WeightedLoss,
        every: Duration | str = _EVERY,
        *,
        window: int = 5,
        patience: int = 4,
        floors: Mapping[str, float] | None = None,
        collapse: float = 0.04,
        dominance: float = 0.99,
        explosion: float = 100.0,
        conflict: float = 1.5,
    ) -> None:
        self._every = Duration.parse(every)
        if self._every.value == 0:
            raise ValueError(f'every is at least "1 steps", found {str(every)!r}')
        for name, count in (("window", window), ("patience", patience)):
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ValueError(f"{name} is a whole number of at least 1, found {count!r}")
        for name, part in (("collapse", collapse), ("dominance", dominance)):
            if not part >= 0:
                raise ValueError(f"{name} is a part of the loss, such as 0.04, found {part!r}")
        for name, times in (("explosion", explosion), ("conflict", conflict)):
            if not times > 1:
                raise ValueError(f"{name} is a factor above 1, found {times!r}")
        for name in floors or {}:
            if name not in criterion.config.terms:
                near = did_you_mean(str(name), criterion.config.terms)
                raise ValueError(f"floors: no term is called {name!r}{near}")
        self._bounds = Bounds(patience, floors or {}, collapse, dominance, explosion, conflict)
        self._window = window
        self.findings: list[Finding] = []
        self._windows: list[Window] = []
        self._waiting: list[Waiting] = []
        self._latest = -1
        self._interval: tuple[Horizon, int] | None = None
        self._plan: Plan | None = None
        self._config, self._horizon = criterion.config, criterion.horizon
        # Weak: the criterion holds this one, and would hold itself.
        self._criterion: Callable[[], WeightedLoss | None] = weakref.ref(criterion)
        self._handle = criterion.on_step(self._step_done)

    def read(self, rows: Sequence[Mapping[str, float]]) -> list[Finding]:
        """Looks at rows that a `History` kept of this criterion, as if they came now.

        Args:
            rows: Such as `history.rows`, with `raw` and `weighted`; a window of them at a time.

        Returns:
            What it found in them.

        Raises:
            ValueError: For rows without these quantities, or without their step.
            HorizonError: Where the config needs the length of training, and it is not known.
        """
        before = len(self.findings)
        for what in ("raw", "weighted"):
            if rows and not any(key.startswith(f"{what}/") for row in rows for key in row):
                raise ValueError(
                    f"rows have raw/<term> and weighted/<term>, found {list(rows[0])}: let the "
                    "history include raw and weighted"
                )
        for row in rows:
            if "step" not in row:
                raise ValueError(f"each row has its step, found {list(row)}")
        rows = [row for row in rows if any(key.startswith("raw/") for key in row)]
        self._plan = Plan(self._config, self._horizon_of_now())
        for first in range(0, len(rows) - self._window + 1, self._window):
            self._look(rows[first : first + self._window])
        self._latest = max([self._latest, *(int(row["step"]) for row in rows)])
        return self.findings[before:]

    def close(self) -> None:
        """Follows the criterion no longer; `findings` stay."""
        self._handle.remove()

    def __getstate__(self) -> dict[str, Any]:
        alone = {"_criterion": _nothing, "_handle": RemovableHandle(OrderedDict()), "_waiting": []}
        return self.__dict__ | alone

    def _step_done(self, step: int) -> None:
        """Called after each step of the criterion."""
        criterion = self._criterion()
        if criterion is None:
            return
        if step <= self._latest:  # done again, as after a checkpoint was loaded
            self._waiting = [row for row in self._waiting if row[0] < step]
            self._windows = [window for window in self._windows if window.last < step]
            self._latest = step - 1
        interval = self._steps_between_rows()
        if step // interval == self._latest // interval:
            return
        self._latest = step
        found = criterion.metrics(include=("raw", "weighted", "penalty"), tensors=True)
        if not found:
            return
        self._waiting.append((step, list(found), torch.stack([*found.values()])))
        if len(self._waiting) >= self._window:
            waiting, self._waiting = self._waiting, []
            self._look(moved(waiting))

    def _horizon_of_now(self) -> Horizon:
        criterion = self._criterion()
        if criterion is not None:
            self._horizon = criterion.horizon
        return self._horizon

    def _steps_between_rows(self) -> int:
        horizon = self._horizon_of_now()
        if self._interval is None or self._interval[0] is not horizon:
            try:
                interval = max(1, horizon.steps(self._every))
            except HorizonError:
                interval = _UNCOUNTED
            self._interval = horizon, interval
        return self._interval[1]

    def _look(self, rows: Sequence[Mapping[str, float]]) -> None:
        with np.errstate(all="ignore"):  # of values near the largest float
            if not self._windows:
                self._windows.append(Window.of(rows[:1]))  # as it all began
            self._windows.append(Window.of(rows))
        del self._windows[1 : 1 - _MOST_WINDOWS]
        plan = self._plan_of_now()
        if plan is None:
            return
        known = {(found.term, found.trouble) for found in self.findings}
        with np.errstate(all="ignore"):
            new = list(Look(self._windows, plan, self._bounds, known).findings())
        self.findings += new
        for finding in new:
            _tell(f"step {finding.step}: {finding.message}")

    def _plan_of_now(self) -> Plan | None:
        horizon = self._horizon_of_now()
        if self._plan is None or self._plan.horizon != horizon:
            try:
                self._plan = Plan(self._config, horizon)
            except Exception as error:  # noqa: BLE001  # a schedule that fails later in training
                self.close()
                self._plan = None
                _tell(f"the monitor follows no longer, since it cannot look ahead: {error}")
        return self._plan


def _tell(message: str) -> None:
    """Warns; where warnings are errors it is printed, since no training is to stop for it."""
    try:
        warn(message)
    except Warning:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warn(message)


def _nothing() -> None:
    """What a copy follows."""
