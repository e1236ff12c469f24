"""What each term did over a whole training, kept at an interval."""

from __future__ import annotations

import json
import math
import os
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossweights.components.durations import Duration, Horizon, steps
from lossweights.criterion.report import METRICS, QUANTITIES, chosen
from lossweights.criterion.weighted_loss import WeightedLoss
from lossweights.errors import HorizonError, did_you_mean, quoted, warn

_MOST_ROWS = 100  # that wait on the device, to be moved together,
_MOST_SECONDS = 30.0  # and how long the first of them does

_EVERY = steps(50)

_of_finite = json.JSONEncoder(allow_nan=False).encode

Row = dict[str, float]  # what `WeightedLoss.metrics` gives, and the `step` that it was in
Waiting = tuple[int, list[str], Tensor]  # the same on the device: step, names and values


class History:
    """Keeps the metrics of a criterion, every so many optimizer steps.

    Nothing waits for the device in between: rows stay there until a hundred wait, or one has
    waited for half a minute. They are moved, and written, when they are asked for too, and when
    the criterion or the process ends. Only a process that is killed loses those that wait: call
    `flush` before a checkpoint is saved, and a resumed training lacks none.

    Args:
        criterion: What is followed; None for a history without a future.
        every: From one row to the next, such as `"50 steps"` or `"1 epochs"`. While it cannot be
            counted in steps, 50 steps.
        path: A file for the rows, a line of JSON each. One that exists is taken up: its rows stay,
            but for those of steps that are done again.
        include: Which quantities, as in `WeightedLoss.metrics`; all where it is left out.

    Raises:
        ValueError: For an interval of 0, a quantity that there is not, and a file that holds no
            history.
        OSError: For a file that cannot be written. One that fails later costs a warning: the rows
            stay in memory, and it is tried again.

    With gradient accumulation a row shows the last forward pass of its step. On several ranks each
    has values of its own: give `path` on one of them. A copy or a pickle holds the rows, and
    follows nothing.

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
        path: str | os.PathLike[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        self._every = Duration.parse(every)
        if self._every.value == 0:
            raise ValueError(f'every is at least "1 steps", found {str(every)!r}')
        self._include = chosen(include, METRICS)
        self._rows: list[Row] = []
        self._waiting: list[Waiting] = []
        self._waiting_since = 0.0
        self._is_told = False  # that `every` cannot be counted yet
        self._path = None if path is None else Path(path).resolve()
        self._bytes = 0  # of the file, as this one left it; -1 where it is to be written anew
        if self._path is not None:
            if self._path.exists():
                self._rows = _read(self._path)
            self._bytes = _write(self._path, self._rows)  # without a line that was cut off
        self._latest = self._last_step()
        self._ends: tuple[Callable[[], object], ...] = ()
        if criterion is not None:
            handle = criterion.on_step(partial(self._step_done, weakref.ref(criterion)))
            finalizer = weakref.finalize(criterion, self.flush)  # when the process ends, too
            self._ends = handle.remove, finalizer.detach

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """A history from its file.

        Raises:
            ValueError: Where the file holds none, with the line.
        """
        history = cls()
        history._rows = _read(Path(path))
        return history

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes all rows, a line of JSON each; what is there is replaced.

        A nan is written as null, an inf as `1e999`, which JSON reads as inf.
        """
        _write(Path(path).resolve(), self.rows)

    def flush(self) -> None:
        """Moves the rows that wait on the device to the host, and writes them."""
        waiting, self._waiting = self._waiting, []
        new = moved(waiting)
        self._rows += new
        if self._path is None or (self._bytes >= 0 and not new):
            return
        before, self._bytes = self._bytes, -1  # a line may be cut off
        try:
            if before == _bytes_of(self._path):
                with self._path.open("a", encoding="utf-8") as file:
                    file.writelines(map(_line, new))
                    end = file.tell()
                self._bytes = end
            else:
                self._bytes = _write(self._path, self._rows)
                if before >= 0:
                    warn(
                        f"{self._path.name} was changed by another, and holds the rows of this "
                        "history alone now: where two write to it, or several ranks, give each a "
                        "path of its own"
                    )
        except OSError as error:
            warn(f"{self._path.name} cannot be written, its rows are kept in memory: {error}")

    def close(self) -> None:
        """Follows the criterion no longer; what is kept stays, and is written."""
        self.flush()
        for end in self._ends:
            end()

    @property
    def rows(self) -> list[Row]:
        """The rows in order of their `step`, such as for a table of pandas; a copy."""
        self.flush()
        return [dict(row) for row in self._rows]

    @property
    def steps(self) -> NDArray[np.int64]:
        """The steps that have a row, shape (rows,)."""
        self.flush()
        return np.array([row["step"] for row in self._rows], dtype=np.int64)

    @property
    def terms(self) -> tuple[str, ...]:
        """The names of the terms, in the order in which they came."""
        names = (metric.partition("/") for metric in self)
        return tuple(dict.fromkeys(name for what, _, name in names if what in QUANTITIES))

    def __iter__(self) -> Iterator[str]:
        """The names of the metrics that any row has."""
        self.flush()
        together = dict.fromkeys(map(tuple, self._rows))  # few, while there may be many rows
        return iter(dict.fromkeys(name for names in together for name in names if name != "step"))

    def __getitem__(self, metric: str) -> NDArray[np.float64]:
        """A metric such as `raw/kl` over the rows, shape (rows,); nan where a row lacks it.

        Raises:
            ValueError: For a metric that no row has.
        """
        self.flush()
        if not any(metric in row for row in self._rows):
            known = tuple(self)
            raise ValueError(
                f"no row has {metric!r}{did_you_mean(str(metric), known)} "
                f"(there are {quoted(known)})"
            )
        return np.array([row.get(metric, math.nan) for row in self._rows], dtype=np.float64)

    def __len__(self) -> int:
        return len(self._rows) + len(self._waiting)

    def __getstate__(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]
        self._rows = state["rows"]

    def _step_done(self, reference: weakref.ref[WeightedLoss], step: int) -> None:
        """Called after each step of the criterion."""
        criterion = reference()  # weak: it holds this call, and would hold itself
        if criterion is None:
            return
        if step <= self._latest:  # done again, as after a checkpoint was loaded
            self.flush()
            self._rows = [row for row in self._rows if row["step"] < step]
            self._latest = self._last_step()
            self._bytes = -1
        interval = self._interval(criterion.horizon)
        if step // interval != self._latest // interval:
            self._latest = step
            found = criterion.metrics(include=self._include, tensors=True)
            values = torch.stack([*found.values()]) if found else torch.empty(0)
            self._waiting_since = self._waiting_since if self._waiting else time.monotonic()
            self._waiting.append((step, [*map(sys.intern, found)], values))
        if self._waiting and (
            len(self._waiting) >= _MOST_ROWS
            or time.monotonic() - self._waiting_since >= _MOST_SECONDS
        ):
            self.flush()

    def _interval(self, horizon: Horizon) -> int:
        try:
            return max(1, horizon.steps(self._every))
        except HorizonError as error:
            if not self._is_told:
                self._is_told = True
                warn(
                    f"the history keeps a row every {_EVERY} until the length of training is "
                    f"known: {error}, with criterion.bind(...)"
                )
            return horizon.steps(_EVERY)

    def _last_step(self) -> int:
        return int(self._rows[-1]["step"]) if self._rows else -1


def moved(waiting: Sequence[Waiting]) -> list[Row]:
    """Rows that wait on the device, moved to the host together."""
    if not waiting:
        return []
    device = waiting[-1][2].device  # the model may have moved
    numbers = iter(torch.cat([values.to(device) for *_, values in waiting]).tolist())
    return [{"step": step} | {name: next(numbers) for name in names} for step, names, _ in waiting]


def _write(path: Path, rows: Iterable[Row]) -> int:
    """All of a file, or nothing: a process may be killed at any moment. How many bytes it has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    with unfinished.open("w", encoding="utf-8") as file:
        file.writelines(map(_line, rows))
    written = _bytes_of(unfinished)
    unfinished.replace(path)
    return written


def _bytes_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _line(row: Row) -> str:
    try:
        return f"{_of_finite(row)}\n"
    except ValueError:  # ten times as slow
        cells = (f"{json.dumps(key)}: {_number(value)}" for key, value in row.items())
        return f"{{{', '.join(cells)}}}\n"


def _number(value: float) -> str:
    """As JSON, which knows neither nan nor inf: null, and a number too large for any float."""
    if math.isnan(value):
        return "null"
    return json.dumps(value) if math.isfinite(value) else "1e999" if value > 0 else "-1e999"


def _read(path: Path) -> list[Row]:
    """The rows of a file; a last line that was cut off is left out."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    *lines, rest = text.split("\n")
    with suppress(ValueError):
        json.loads(rest)  # whole, though an editor has left out the end of its line
        lines.append(rest)
    rows: list[Row] = []
    for number, line in enumerate(lines, start=1):
        rows.append(_row(line, f"{path.name}, line {number}"))
        if number > 1 and rows[-1]["step"] <= rows[-2]["step"]:
            raise ValueError(
                f"{path.name}, line {number}: steps go up from row to row, found "
                f"{rows[-1]['step']} after {rows[-2]['step']}; do two histories write to it?"
            )
    return rows


def _row(line: str, place: str) -> Row:
    try:
        row: Any = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{place}: a history is a line of JSON for each row: {error}") from None
    step = row.get("step") if isinstance(row, dict) else None
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        raise ValueError(f"{place}: a row is a table with a whole `step`, found {line[:80]!r}")
    return {"step": step} | {
        sys.intern(key): value if value.__class__ is float else _read_number(value, key, place)
        for key, value in row.items()
        if key != "step"
    }


def _read_number(value: Any, key: str, place: str) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{place}: {key!r} is a number, found {value!r}")
    return float(value)
