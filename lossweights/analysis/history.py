"""The metrics of a training: means over intervals, in memory and in a file."""

import json
import math
import os
import sys
import weakref
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any, Final, Literal, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.hooks import RemovableHandle

from lossweights.components.durations import Duration, wrong_unit
from lossweights.config.files import open_file
from lossweights.criterion.gradients.meter import GradientMeter
from lossweights.criterion.record import Step, Sums
from lossweights.criterion.report import METRICS, QUANTITIES, chosen, on_host
from lossweights.criterion.weighted_loss import WeightedLoss
from lossweights.errors import HorizonError, did_you_mean, quoted, shown, warn

_EVERY = 50  # steps
_GRADIENTS_EVERY = 500
_IN_GRAPH = (
    "the criterion was called in a compiled graph, which cannot compute them: compile the model, "
    "and call the criterion outside"
)
_LONGEST_ROW = 2**24  # bytes
_LARGEST = 2**53  # float64 represents every whole number up to it

_MANY_STEPS = 64  # of one interval, after which they are added up

Row: TypeAlias = dict[str, float]  # the `step`, and the metrics by name

_NO_ROW: Final[Row] = {}


class History:
    r"""Keeps the metrics of a criterion, one row for each interval of optimizer steps.

    A row has the means of `WeightedLoss.metrics` over the steps of an interval, and the number of
    its last step; if the clock counts another unit, what was done of it before that step. Intervals
    begin at multiples of their length. A row takes one transfer from the device; a step without a
    row takes none. Copies and pickles keep the rows and follow nothing.

    Args:
        criterion: The criterion to follow. Without one, the history is empty.
        every: Interval of a row, such as `"50 steps"`, `"1 epochs"` or `"1%"`, or in the unit that
            the clock counts. While it cannot be converted, 50 steps.
        path: File to which each row is appended as one line of JSON as soon as its interval is
            complete; at the end of training, `close` adds the last one. If the file exists, its
            rows are kept. Steps that are repeated, as after a checkpoint was loaded, replace the
            rows from that step on. With several processes, pass it in one of them.
        include: Quantities to keep, as in `WeightedLoss.metrics`. By default all.
        reduce: Whether a row has the `mean` over the steps of its interval, or the `last` step.
        gradients: Interval between two steps in which the gradients of the terms are measured, if
            `criterion(terms, shared=...)` is passed what they share. By default never. While it
            cannot be converted, 500 steps. With several processes, build the history in all of
            them: each measures the whole batch.

    The row of such a step has, for the gradient $g_i$ of each term with respect to the shared
    tensors, before its weight $w_i$:

    * `gradient/norm/kl`: $\lVert g_i \rVert$; 0 if the term does not depend on them;
    * `gradient/share/kl`: $|w_i| \lVert g_i \rVert / \sum_j |w_j| \lVert g_j \rVert$;
    * `gradient/cosine/kl/nll`: the cosine between the gradients of two terms (of $-g_i$ if $w_i$ is
      negative); absent if one of them is 0;
    * `gradient/conflict/kl/nll`: the part of the measurements in which it was negative.

    Groups are measured as a whole. A measurement takes a backward pass for each term to the shared
    tensors, and changes nothing. If one cannot be made, a warning says why, once.

    Raises:
        TypeError: If something other than a criterion is passed.
        ValueError: If an interval is 0 or in another unit than the clock counts, a quantity or
            `reduce` is unknown, or the file is not a history.
        OSError: If the file cannot be read or written; if writing fails later, a warning is issued.

    >>> import torch
    >>> criterion = WeightedLoss(terms={"nll": 1.0, "kl": 0.5})
    >>> history = History(criterion, every="2 steps")
    >>> for value in (4.0, 3.0, 2.0):
    ...     _ = criterion({"nll": torch.tensor(value), "kl": torch.tensor(2.0)})
    ...     criterion.step()
    >>> history.steps
    array([1, 2])
    >>> history["weighted/nll"]
    array([3.5, 2. ])

    The gradients of two terms with respect to features:

    >>> history = History(criterion, every="2 steps", gradients="100 steps")
    >>> criterion.set_step(100)
    >>> features = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> _ = criterion({"nll": features.sum(), "kl": -3 * features[1]}, shared=features)
    >>> criterion.step()
    >>> history["gradient/norm/kl"], history["gradient/cosine/kl/nll"].round(3)
    (array([3.]), array([-0.707]))
    """

    def __init__(
        self,
        criterion: WeightedLoss | None = None,
        every: Duration | str = f"{_EVERY} steps",
        path: str | os.PathLike[str] | None = None,
        include: Iterable[str] | None = None,
        *,
        reduce: Literal["mean", "last"] = "mean",
        gradients: Duration | str | None = None,
    ) -> None:
        if criterion is not None and not hasattr(criterion, "on_step"):
            is_path = isinstance(criterion, str | os.PathLike)
            hint = "read a file with History.load(path)" if is_path else "pass the criterion itself"
            raise TypeError(
                f"a history follows a WeightedLoss, found {type(criterion).__name__}: {hint}"
            )
        if reduce not in ("mean", "last"):
            raise ValueError(f"reduce is 'mean' or 'last', found {reduce!r}")
        self._every = _interval("every", every, criterion)
        self._gradients_every = None
        if gradients is not None:
            self._gradients_every = _interval("gradients", gradients, criterion)
        self._unit = "steps"
        self._include = chosen(include, METRICS)
        self._warned: set[str] = set()  # of what, by topic
        self._is_mean = reduce == "mean"
        self._rows: list[Row] = []
        self._steps: list[Step] = []  # of the interval that is not complete
        self._sums: Sums | None = None  # its earlier steps
        self._last, self._partial = 0, _NO_ROW  # its last step, and its row if it was asked for
        self._path = None
        if path is not None:
            try:
                self._path = Path(path).resolve()
            except ValueError as error:  # NUL, or half a character
                raise ValueError(f"{shown(path)} is not the path of a file: {error}") from None
            if self._path.exists():
                self._rows = _read(self._path)
            self.save(self._path)  # without a line that was cut off
        self._handle: RemovableHandle | None = None
        self._meter: GradientMeter | None = None
        self._meter_handle: RemovableHandle | None = None
        if criterion is not None:  # it refers to this history, so no reference the other way
            self._criterion = weakref.ref(criterion)
            self._record = criterion._record  # noqa: SLF001
            self._handle = criterion.on_step(self._add)
            if self._gradients_every is not None:
                self._meter, self._meter_handle = criterion._add_meter(self._is_measured)  # noqa: SLF001

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Reads a file of `path` or `save`. If its last line was cut off, the line is ignored.

        Raises:
            ValueError: If the file is not a history; names the line.
        """
        history = cls()
        history._rows = _read(Path(path))
        return history

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes all rows to a file, one line of JSON each. An existing file is replaced.

        JSON has no nan and inf: nan is written as null, and inf as `1e999`, which is read as inf.
        """
        path = Path(path).resolve()
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.unfinished")
        with unfinished.open("w", encoding="utf-8") as file:
            file.writelines(map(_line, self.rows))
        unfinished.replace(path)

    def close(self) -> None:
        """Stops following the criterion. The rows are kept, and the last one is added to the file.

        Its interval may not be complete.
        """
        self._end_interval()
        for handle in (self._handle, self._meter_handle):
            if handle is not None:
                handle.remove()

    @property
    def rows(self) -> list[Row]:
        """The rows in order of `step`, a dict of floats each, as `pandas.DataFrame` takes them.

        The last one may belong to an interval that is not complete yet.
        """
        if self._steps and not self._partial:
            self._partial = self._row()
            self._rows.append(self._partial)
        return self._rows

    @property
    def unit(self) -> str:
        """What the `step` of a row counts, as the clock does; `"steps"` for a file read alone."""
        if self._handle is not None and (criterion := self._criterion()) is not None:
            self._unit = criterion.clock.unit
        return self._unit

    @property
    def is_complete(self) -> bool:
        """Whether the interval of the last row is complete."""
        return not self._steps

    @property
    def steps(self) -> NDArray[np.int64]:
        """The steps of the rows, shape (rows,)."""
        return np.array([row["step"] for row in self.rows], dtype=np.int64)

    @property
    def terms(self) -> tuple[str, ...]:
        """The names of the terms, in the order in which they first appear."""
        parts = (metric.partition("/") for metric in self)
        return tuple(dict.fromkeys(name for what, _, name in parts if what in QUANTITIES))

    def __iter__(self) -> Iterator[str]:
        """The names of all metrics that any row has."""
        kinds = dict.fromkeys(map(tuple, self.rows))  # few, because most rows have the same names
        return iter(dict.fromkeys(name for names in kinds for name in names if name != "step"))

    def __getitem__(self, metric: str) -> NDArray[np.float64]:
        """A metric such as `raw/kl` over the rows, shape (rows,); nan if a row lacks it.

        Raises:
            ValueError: If no row has the metric.
        """
        if not any(metric in row for row in self.rows):
            known = tuple(self)
            raise ValueError(
                f"no row has {metric!r}{did_you_mean(str(metric), known)} (found {quoted(known)})"
            )
        return np.array([row.get(metric, math.nan) for row in self.rows], dtype=np.float64)

    def __len__(self) -> int:
        return len(self.rows)

    def __getstate__(self) -> dict[str, Any]:
        rows, gone = list(self.rows), ("_criterion", "_record")
        _ = self.unit
        kept = {key: value for key, value in self.__dict__.items() if key not in gone}
        kept |= {"_rows": rows, "_steps": [], "_sums": None, "_partial": _NO_ROW}
        return kept | {"_path": None, "_handle": None, "_meter": None, "_meter_handle": None}

    def _add(self, step: int) -> None:
        """Called after each step of the criterion."""
        criterion = self._criterion()
        if criterion is None:
            return
        self._drop_partial()
        interval = self._interval(criterion)
        if self._steps and self._last >= step:  # steps that are repeated
            self._steps, self._sums = [], None
            if self._meter is not None:
                self._meter.drop()
        while self._rows and self._rows[-1]["step"] >= step:
            self._rows.pop()
        if self._steps and self._last // interval != step // interval:  # `step(n)` passed its end
            self._end_interval()
        if not self._is_mean:
            self._steps = []
        elif len(self._steps) == _MANY_STEPS:
            self._steps, self._sums = [], self._record.add_up(self._steps, self._sums)
        self._steps.append(self._record.recent[-1])
        self._last = step
        if self._meter is not None:
            self._end_measurements(self._meter)
        if criterion.current_step // interval != step // interval:
            self._end_interval()

    def _end_interval(self) -> None:
        """Adds the row of the steps since the last one."""
        self._drop_partial()
        if not self._steps:
            return
        row = self._row()
        self._rows.append(row)
        self._steps, self._sums = [], None
        if self._meter is not None:
            self._meter.drop()
        if self._path is None:
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(_line(row))
        except OSError as error:
            warn(
                f"{self._path.name} cannot be written, so the rows from step {row['step']} on are "
                f"kept in memory only: write them with history.save(path). {error}"
            )
            self._path = None

    def _row(self) -> Row:
        steps = self._record.add_up(self._steps, self._sums)
        found = self._record.mean(steps)
        if (criterion := self._criterion()) is not None:
            controllers = criterion.adaptive.reported(found.total.device)
            found = replace(found, controllers=controllers)
        measured = {} if self._meter is None else self._meter.metrics()
        device = found.total.device
        tensors = {name: value.to(device, torch.float32) for name, value in measured.items()}
        numbers = on_host(found.metrics(include=self._include) | tensors)
        for name in measured:
            if math.isnan(numbers[name]):  # it was not measured
                del numbers[name]
        return {"step": self._last} | {sys.intern(name): value for name, value in numbers.items()}

    def _drop_partial(self) -> None:
        if self._rows and self._rows[-1] is self._partial:
            self._rows.pop()
        self._partial = _NO_ROW

    def _interval(self, criterion: WeightedLoss) -> int:
        try:
            return max(1, self._every.steps(criterion.horizon))
        except HorizonError as error:
            self._warn(
                "every",
                f"the history keeps a row every {_EVERY} steps until the length of training "
                f"is known: {error}; call criterion.bind(...)",
            )
            return _EVERY

    def _is_measured(self) -> bool:
        """Whether the gradients of the coming step are measured."""
        if (criterion := self._criterion()) is None or self._gradients_every is None:
            return False
        clock = criterion.clock
        try:
            interval = max(1, self._gradients_every.steps(criterion.horizon))
        except HorizonError as error:
            self._warn(
                "gradients",
                f"the history measures gradients every {_GRADIENTS_EVERY} steps until the length "
                f"of training is known: {error}; call criterion.bind(...)",
            )
            interval = _GRADIENTS_EVERY
        return clock.step == 0 or clock.step // interval > clock.before // interval

    def _end_measurements(self, meter: GradientMeter) -> None:
        """Completes those of a step."""
        meter.end_step()
        if problem := meter.problem or _IN_GRAPH * self._record.in_graph:
            self._warn("measurements", f"the history measures no gradients: {problem}")

    def _warn(self, topic: str, message: str) -> None:
        """Warns about each topic once."""
        if topic not in self._warned:
            self._warned.add(topic)
            warn(message)


def _interval(name: str, given: Duration | str, criterion: WeightedLoss | None) -> Duration:
    """The interval of an argument, checked."""
    try:
        interval = Duration.parse(given)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if interval.value == 0:
        raise ValueError(f'{name} is at least "1 steps", found {str(given)!r}')
    if criterion is not None and interval.clock_unit not in (None, criterion.clock.unit):
        raise ValueError(f"{name}: {wrong_unit(interval, criterion.clock.unit)}")
    return interval


def _line(row: Row) -> str:
    """A row as JSON."""
    odd = {"nan": "null", "inf": "1e999", "-inf": "-1e999"}
    cells = (f"{json.dumps(name)}: {odd.get(repr(x), repr(x))}" for name, x in row.items())
    return f"{{{', '.join(cells)}}}\n"


def _read(path: Path) -> list[Row]:
    """The rows of a file; rows of repeated steps replace earlier ones."""
    rows: list[Row] = []
    start = b'{"step": '
    with open_file(path) as file:
        for number, line in enumerate(iter(partial(file.readline, _LONGEST_ROW + 1), b""), 1):
            is_cut = not line.endswith(b"\n") and len(line) <= _LONGEST_ROW
            if is_cut and line[: len(start)] == start[: len(line)]:
                break  # the last row
            row = _row(line, f"{path.name}, line {number}")
            while rows and rows[-1]["step"] >= row["step"]:
                rows.pop()
            rows.append(row)
    return rows


def _row(line: bytes, place: str) -> Row:
    with suppress(ValueError, AttributeError, RecursionError):  # not JSON, or not an object
        row = json.loads(line) if len(line) <= _LONGEST_ROW else {}
        values = row.values()
        are_numbers = {*map(type, values)} <= {int, float, NoneType}
        are_floats = are_numbers and all(type(x) is not int or abs(x) <= _LARGEST for x in values)
        if are_floats and type(row.get("step")) is int and row["step"] >= 0:
            return {sys.intern(n): math.nan if v is None else v for n, v in row.items()}
    raise ValueError(
        f"{place}: a row of a history is a JSON object of numbers with an integer `step`, "
        f"found {shown(line[:80].decode(errors='replace'))}"
    )
