"""What each term did over a whole training, kept at an interval."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossweights.durations import Duration, steps
from lossweights.errors import did_you_mean, quoted
from lossweights.report import QUANTITIES, chosen
from lossweights.weighted_loss import WeightedLoss

_ROWS_ON_DEVICE = 100  # moved to the host together

_EVERY = steps(50)

Row = dict[str, float]  # what `WeightedLoss.metrics` gives, and the `step` that it was in


class History:
    """Keeps the metrics of a criterion, every so many optimizer steps.

    Nothing waits for a GPU in between: rows stay there and are moved a hundred at a time, or when
    they are asked for. On a CPU each is here, and in the file, at once.

    Args:
        criterion: What is followed; None for a history without a future.
        every: From one row to the next, such as `"50 steps"` or `"1 epochs"`.
        path: A file for the rows, a line of JSON each. One that exists is taken up: its rows stay,
            but for those of steps that are done again.
        include: Which quantities, as in `WeightedLoss.metrics`; all where it is left out.

    Raises:
        ValueError: For an interval of less than a step, a quantity that there is not, and a file
            that holds no history.

    With gradient accumulation a row shows the last forward pass of its step. On several ranks each
    has values of its own: give `path` on one of them.

    >>> criterion = WeightedLoss(terms={"nll": 1.0, "kl": 0.5})
    >>> history = History(criterion, every="2 steps")
    >>> for value in (4.0, 3.0, 2.0):
    ...     _ = criterion({"nll": torch.tensor(value), "kl": torch.tensor(2.0)})
    ...     criterion.step()
    >>> history.steps
    array([0, 2])
    >>> history["weighted/nll"]
    array([4., 2.])
    """

    def __init__(
        self,
        criterion: WeightedLoss | None = None,
        every: Duration | str = _EVERY,
        path: str | PathLike[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        self._every = Duration.parse(every)
        if self._every.unit == "steps" and self._every.value < 1:
            raise ValueError(f"every is at least 1 step, found {self._every}")
        self._include = chosen(include, (*QUANTITIES, "total", "controller"))
        self._path = None if path is None else Path(path)
        self._rows: list[Row] = []
        self._on_device: list[tuple[int, list[str], Tensor]] = []
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._path.exists():
                self._rows = _read(self._path)
                self.save(self._path)  # without a line that was cut off
        self._latest = int(self._rows[-1]["step"]) if self._rows else -1
        self._handle = None
        if criterion is not None:
            self._handle = criterion.on_step(partial(self._step_done, criterion))

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """A history from its file.

        Raises:
            ValueError: Where the file holds none; each with its line.
        """
        history = cls()
        history._rows = _read(Path(path))
        return history

    def save(self, path: str | PathLike[str]) -> None:
        """Writes all rows, a line of JSON each; what is there is replaced."""
        Path(path).write_text("".join(map(_line, self.rows)), encoding="utf-8")

    def close(self) -> None:
        """Follows the criterion no longer; what is kept stays, and is written."""
        if self._handle is not None:
            self._handle.remove()
        self._move_to_host()

    @property
    def rows(self) -> list[Row]:
        """The rows in order of their `step`; a copy."""
        self._move_to_host()
        return [dict(row) for row in self._rows]

    @property
    def steps(self) -> NDArray[np.int64]:
        """The steps that have a row, shape (rows,)."""
        self._move_to_host()
        return np.array([row["step"] for row in self._rows], dtype=np.int64)

    @property
    def terms(self) -> tuple[str, ...]:
        """The names of the terms, in the order in which they came."""
        self._move_to_host()
        names = (key.split("/", 1) for row in self._rows for key in row)
        return tuple(dict.fromkeys(pair[1] for pair in names if pair[0] in QUANTITIES))

    def __getitem__(self, metric: str) -> NDArray[np.float64]:
        """A metric such as `raw/kl` over the rows, shape (rows,); nan where a row lacks it.

        Raises:
            ValueError: For a metric that no row has.
        """
        self._move_to_host()
        known = dict.fromkeys(key for row in self._rows for key in row if key != "step")
        if metric not in known:
            raise ValueError(
                f"no row has {metric!r}{did_you_mean(metric, known)} (there are {quoted(known)})"
            )
        return np.array([row.get(metric, math.nan) for row in self._rows])

    def __len__(self) -> int:
        return len(self._rows) + len(self._on_device)

    def _step_done(self, criterion: WeightedLoss, step: int) -> None:
        """Called after each step of the criterion."""
        if step <= self._latest:
            self._forget_from(step)
        interval = max(1, criterion.horizon.steps(self._every))
        if step // interval == self._latest // interval:
            return
        self._latest = step
        found = criterion.metrics(include=self._include, tensors=True)
        kept = torch.stack([*found.values()]) if found else torch.empty(0)
        self._on_device.append((step, list(found), kept))
        if kept.device.type == "cpu" or len(self._on_device) >= _ROWS_ON_DEVICE:
            self._move_to_host()

    def _forget_from(self, step: int) -> None:
        """Drops the rows of steps that are done again, as after a checkpoint was loaded."""
        self._move_to_host()
        self._rows = [row for row in self._rows if row["step"] < step]
        self._latest = int(self._rows[-1]["step"]) if self._rows else -1
        if self._path is not None:
            self.save(self._path)

    def _move_to_host(self) -> None:
        waiting, self._on_device = self._on_device, []
        new = [
            {"step": step, **dict(zip(names, values.tolist(), strict=True))}
            for step, names, values in waiting
        ]
        self._rows += new
        if new and self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(map(_line, new))


def _line(row: Row) -> str:
    cells = (f"{json.dumps(key)}: {_number(value)}" for key, value in row.items())
    return f"{{{', '.join(cells)}}}\n"


def _number(value: float) -> str:
    """As JSON, which knows neither nan nor inf: null, and a number too large for any float."""
    if math.isnan(value):
        return "null"
    return json.dumps(value) if math.isfinite(value) else "1e999" if value > 0 else "-1e999"


def _read(path: Path) -> list[Row]:
    """The rows of a file; a last line that is cut off is left out."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    rows: list[Row] = []
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        rows.append(_row(line, f"{path.name}, line {number}"))
        if number > 1 and rows[-1]["step"] <= rows[-2]["step"]:
            raise ValueError(f"{path.name}, line {number}: steps go up from row to row")
    return rows


def _row(line: str, place: str) -> Row:
    try:
        row: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place}: a history is a line of JSON for each row: {error}") from None
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        raise ValueError(f"{place}: a row is a table with a whole `step`, found {line[:80]!r}")
    return {key: _read_number(value, key, place) for key, value in row.items()}


def _read_number(value: Any, key: str, place: str) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{place}: {key!r} is a number, found {value!r}")
    return value
