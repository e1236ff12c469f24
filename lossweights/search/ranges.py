"""What varies in a sweep: ranges and choices of values by path, and their checks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, TypeAlias

from lossweights.components.declaration import written
from lossweights.components.durations import Duration
from lossweights.config.loss_config import LossConfig
from lossweights.errors import ConfigError, shown

if TYPE_CHECKING:
    from optuna import Trial

_USAGE = "write a range, (low, high) or (low, high, 'log'), or a list of choices, such as [1, 2, 4]"


@dataclass(frozen=True)
class Range:
    """The values of a path from `low` to `high`, both included.

    Args:
        path: Of `LossConfig.override`.
        low: The lowest value.
        high: The highest value.
        log: Whether values are spread evenly over their logarithms.
        whole: Whether values are whole numbers.
        unit: The unit, if they are durations.
    """

    path: str
    low: float
    high: float
    log: bool
    whole: bool
    unit: str | None = None

    def values(self) -> list[Any]:
        """Both ends."""
        return [self._value(self.low), self._value(self.high)]

    def suggest(self, trial: Trial) -> Any:
        """The value of the path in a trial."""
        if self.whole:
            return self._value(
                trial.suggest_int(self.path, int(self.low), int(self.high), log=self.log)
            )
        return self._value(trial.suggest_float(self.path, self.low, self.high, log=self.log))

    def _value(self, number: float) -> Any:
        return number if self.unit is None else str(Duration(number, self.unit))

    def __str__(self) -> str:
        low, high = map(written, self.values())
        return f"{low}..{high}{' log' if self.log else ''}{'' if self.whole else ' continuous'}"


@dataclass(frozen=True)
class Choices:
    """The values of a path, one of a list.

    Args:
        path: Of `LossConfig.override`.
        by_label: The values, by what they are called in Optuna, which keeps simple values only.
    """

    path: str
    by_label: Mapping[Any, Any]

    def values(self) -> list[Any]:
        """All of them."""
        return [*self.by_label.values()]

    def suggest(self, trial: Trial) -> Any:
        """The value of the path in a trial."""
        return self.by_label[trial.suggest_categorical(self.path, [*self.by_label])]

    def __str__(self) -> str:
        return written(self.values())


Varied: TypeAlias = Range | Choices


def read_vary(vary: Mapping[str, Any], config: LossConfig) -> list[Varied]:
    """What varies, after each end of a range and each choice was applied alone to the config.

    Raises:
        ConfigError: One line per path and value that is refused.
    """
    if not isinstance(vary, Mapping) or not vary:
        raise ConfigError(
            "vary: a table of ranges and choices by path is needed, such as "
            f'{{"kl.weight": (0.01, 10.0, "log")}}, found {shown(vary)}'
        )
    found: list[Varied] = []
    problems = []
    for path, wanted in vary.items():
        try:
            each = _choices(path, wanted) if isinstance(wanted, list) else _range(path, wanted)
            found.append(each)
        except ValueError as error:
            problems.append(f"vary {path!r}: {error}")
            continue
        for value in each.values():
            try:
                stored(config.override({path: value}))
            except ConfigError as error:
                problems.append(f"vary {path!r}: {shown(value)} is refused: {error}")
    if not problems:
        pairs = itertools.combinations(found, 2)
        problems = [
            f"vary {one.path!r}: {other.path!r} comes later and replaces it: write it first"
            for one, other in pairs
            if _is_replaced(one, other, config)
        ]
    if problems:
        raise ConfigError("\n".join(problems))
    return found


def _is_replaced(one: Varied, other: Varied, config: LossConfig) -> bool:
    """Whether the path of `one` is inside that of `other`, which is applied later and hides it."""
    inner, outer = (each.path.removeprefix("terms.") for each in (one, other))
    if not inner.startswith(f"{outer}."):
        return False
    first, *_, last = one.values() * 2
    if config.override({one.path: first}) == config.override({one.path: last}):
        return False
    for value in other.values():
        with suppress(ConfigError):  # of values that are fine alone
            both = [config.override({one.path: x, other.path: value}) for x in (first, last)]
            if both[0] == both[1]:
                return True
    return False


def stored(config: LossConfig) -> dict[str, Any]:
    """The config as data for JSON, which `LossConfig.read` reads.

    Raises:
        ConfigError: If a part is no data, such as a function.
    """
    try:
        return config.model_dump(mode="json", exclude_unset=True)
    except ValueError as error:
        raise ConfigError(
            f"a sweep stores its configs, but one cannot be written: {error}; use registered kinds"
        ) from None


def grid(varied: Sequence[Varied], config: LossConfig, most: int) -> list[dict[str, Any]] | None:
    """All combinations of choices that change the config, as Optuna's params.

    Returns:
        None with a range, or if there are more than `most` combinations.
    """
    if not all(isinstance(each, Choices) for each in varied):
        return None
    tables = [each.by_label for each in varied if isinstance(each, Choices)]
    paths = [each.path for each in varied]
    combinations = []
    for labels in itertools.product(*tables):
        values = [table[label] for table, label in zip(tables, labels, strict=True)]
        try:
            is_unchanged = config.override(dict(zip(paths, values, strict=True))) == config
        except ConfigError:  # of values that are fine alone: a failure of its trial
            is_unchanged = False
        if not is_unchanged:
            combinations.append(dict(zip(paths, labels, strict=True)))
        if len(combinations) > most:  # there may be millions
            return None
    return combinations


def _choices(path: str, values: Sequence[Any]) -> Choices:
    if not values:
        raise ValueError(f"an empty list: {_USAGE}")
    by_label: dict[Any, Any] = {}
    for value in values:
        is_simple = value is None or isinstance(value, str | bool | int | float)
        label = value if is_simple else written(value)
        if label in by_label:
            raise ValueError(f"{shown(value)} is there twice: keep one")
        by_label[label] = value
    return Choices(path, by_label)


def _range(path: str, wanted: object) -> Range:
    if not isinstance(wanted, tuple) or len(wanted) not in (2, 3):
        raise ValueError(f"{_USAGE}, found {shown(wanted)}")
    log = len(wanted) == 3
    if log and wanted[2] != "log":
        raise ValueError(f"the third part of a range can only be 'log', found {shown(wanted[2])}")
    ends, unit = wanted[:2], None
    if all(isinstance(end, str | Duration) for end in ends):
        durations = [Duration.parse(end) for end in ends]
        units = [each.unit for each in durations]
        if units[0] != units[1]:
            raise ValueError(f"both ends of a range need one unit, found {shown(wanted)}")
        ends, unit = tuple(each.value for each in durations), units[0]
    if not all(isinstance(e, Real) and not isinstance(e, bool) and math.isfinite(e) for e in ends):
        raise ValueError(
            f"the ends of a range are numbers, or durations such as '5%', found {shown(wanted)}"
        )
    whole = unit not in ("percent", "epochs") and all(isinstance(end, Integral) for end in ends)
    low, high = (int(end) if whole else float(end) for end in ends)
    if low >= high:
        raise ValueError(f"low must be below high, found {shown(wanted)}")
    if log and low <= 0:
        raise ValueError(f"a logarithmic range begins above 0, found {shown(wanted)}")
    return Range(path, low, high, log, whole, unit)
