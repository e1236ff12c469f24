"""Durations with their unit, and the horizon that converts them into steps."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, Literal

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from lossweights.components.limits import LARGEST_INT
from lossweights.errors import HorizonError, did_you_mean, shown

Unit = Literal["steps", "epochs", "percent"]

_UNITS: dict[str, Unit] = {
    "step": "steps",
    "steps": "steps",
    "epoch": "epochs",
    "epochs": "epochs",
    "ep": "epochs",
    "%": "percent",
    "percent": "percent",
    "dur": "percent",
}

_NUMBER = r"(?:[0-9][0-9_]*(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_WHOLE = (  # in all spellings but those with an exponent below 0
    r"[0-9][0-9_]*(?:\.0*)?(?:[eE]\+?[0-9]+)?|(?:[0-9][0-9_]*)?\.[0-9]+[eE]\+?[0-9]+"
)
_WRITTEN = re.compile(rf"([+-]?{_NUMBER})\s*([^\s0-9]*)")  # in linear time
_COUNT = re.compile(r"[0-9]+(?:_[0-9]+)*")
_LONGEST_TEXT = 100  # characters of a duration


@dataclass(frozen=True)
class Duration:
    """A length of training: `"500 steps"`, `"10 epochs"` (or `"10ep"`), `"25%"` (or `"0.25dur"`).

    A percentage is always of the whole training, even inside a stage.

    Args:
        value: Number of units; at least 0, and whole for steps.
        unit: `"steps"` (optimizer steps), `"epochs"` or `"percent"`.

    Raises:
        ValueError: For a value below 0 or above 2**53, a fraction of a step, or an unknown unit.

    >>> Duration.parse("0.25dur")
    percent(25)
    >>> Duration.parse("10 epochs").steps(Horizon(steps_per_epoch=300))
    3000
    """

    value: float
    unit: Unit

    def __post_init__(self) -> None:
        if self.unit not in ("steps", "epochs", "percent"):
            raise ValueError(f"a duration is in steps, epochs or percent, found {shown(self.unit)}")
        if isinstance(self.value, bool) or not isinstance(self.value, Real):
            raise ValueError(f"a duration is a number of {self.unit}, found {shown(self.value)}")
        value = _python(self.value)
        if not 0 <= value <= LARGEST_INT:
            unit = "%" if self.unit == "percent" else f" {self.unit}"
            raise ValueError(
                f"a duration must be from 0 to {LARGEST_INT}, found {_number_text(value)}{unit}"
            )
        if self.unit == "steps" and value != int(value):
            raise ValueError(f"steps must be whole, found {value:g} steps")
        object.__setattr__(self, "value", int(value) if self.unit == "steps" else value)

    @classmethod
    def parse(cls, written: object) -> Duration:
        """A duration from its text; a `Duration` is returned unchanged.

        Raises:
            ValueError: For a number without a unit, an unknown unit, or an invalid value.
        """
        if isinstance(written, Duration):
            return written
        if isinstance(written, bool) or not isinstance(written, Real | str):
            raise ValueError(
                f'a duration is written "500 steps", "10 epochs" or "25%", found {shown(written)}'
            )
        text = written.strip() if isinstance(written, str) else _number_text(_python(written))
        match = _WRITTEN.fullmatch(text) if len(text) <= _LONGEST_TEXT else None
        if match is None:
            raise ValueError(
                f'{shown(written)} is not a duration: write "500 steps", "10 epochs" or "25%"'
            )
        number, unit = match[1].replace("_", ""), match[2]
        if not unit:
            if 0 < float(number) < 1:
                raise ValueError(
                    f'{number} has no unit: write "{100 * float(number):g}%" or "{number} epochs"'
                )
            raise ValueError(
                f'{number} has no unit: write "{number} steps" or "{number} epochs" '
                f"(in Python also steps({number}) or epochs({number}))"
            )
        known = _UNITS.get(unit.lower())
        if known is None:
            raise ValueError(
                f"{unit!r} is not a unit of training{did_you_mean(unit, _UNITS)}: "
                f'write "{number} steps", "{number} epochs" or "{number}%"'
            )
        value = float(number)
        return cls(round(value * 100, 10) if unit.lower() == "dur" else value, known)

    def length(self, horizon: Horizon) -> float:
        """The duration in steps, not rounded: 25% of 1,686 steps are 421.5.

        Raises:
            HorizonError: If `horizon` lacks the total or the length of an epoch.
        """
        if self.unit == "steps":
            return self.value
        if self.unit == "percent":
            return self.value * horizon.total(f"{self} of training") / 100
        if horizon.steps_per_epoch is None:
            raise _unknown(str(self), "steps_per_epoch")
        return self.value * horizon.steps_per_epoch

    def steps(self, horizon: Horizon) -> int:
        """The duration in whole steps, halves rounded up; errors as those of `length`."""
        return math.floor(self.length(horizon) + 0.5)

    def __repr__(self) -> str:
        return f"{self.unit}({self.value!r})".replace(".0)", ")")

    def __str__(self) -> str:
        number = repr(self.value).removesuffix(".0")
        if self.unit == "percent":
            return f"{number}%"
        return f"{number} {self.unit}" if number != "1" else f"1 {self.unit[:-1]}"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse,
            serialization=core_schema.to_string_ser_schema(when_used="always"),
            metadata={"reads_all": "Duration"},
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return dict(DURATION_JSON)


def steps(value: int) -> Duration:
    """A duration in optimizer steps: `steps(500)` is "500 steps"."""
    return Duration(value, "steps")


def epochs(value: float) -> Duration:
    """A duration in epochs: `epochs(10)` is "10 epochs"."""
    return Duration(value, "epochs")


def percent(value: float) -> Duration:
    """A duration in percent of the whole training: `percent(25)` is "25%"."""
    return Duration(value, "percent")


@dataclass(frozen=True)
class Horizon:
    """The length of training, which converts durations into steps.

    Args:
        total_steps: Optimizer steps of the whole training, or a duration in epochs; None if
            unknown.
        steps_per_epoch: Optimizer steps of an epoch; None if unknown.
        end: Steps until *local* time ends, inside a stage or after a delay; None for training
            itself. Percentages are of the whole training in any case.

    Raises:
        ValueError: For counts that are not whole, or below 0 (below 1 for an epoch).

    >>> Horizon("40 epochs", steps_per_epoch=100).total_steps
    4000
    """

    total_steps: int | Duration | str | None = None
    steps_per_epoch: int | None = None
    end: int | None = None

    def __str__(self) -> str:
        each = "" if (n := self.steps_per_epoch) is None else f" ({n} an epoch)"
        if isinstance(self.total_steps, int):
            return f"{self.total_steps} steps{each}"
        return f"{self.total_steps or 'unknown'}{each}"

    def __post_init__(self) -> None:
        check_count("steps_per_epoch", self.steps_per_epoch, least=1)
        total = read_total_steps(self.total_steps)
        if isinstance(total, Duration) and self.steps_per_epoch is not None:
            total = total.steps(self)
        object.__setattr__(self, "total_steps", total)

    @property
    def span(self) -> int:
        """Steps from 0 until training, or a stage, ends; a HorizonError if that is unknown."""
        return self.total("the length of training") if self.end is None else self.end

    def total(self, wanted: str) -> int:
        """`total_steps`; if it is unknown, a HorizonError that begins with `wanted`."""
        if isinstance(self.total_steps, int):
            return self.total_steps
        raise _unknown(wanted, "total_steps" if self.total_steps is None else "steps_per_epoch")

    @property
    def is_bounded(self) -> bool:
        """Whether the end of local time is known."""
        return self.end is not None or isinstance(self.total_steps, int)

    def length(self, duration: Duration | str) -> float:
        """`duration` in steps, not rounded."""
        return Duration.parse(duration).length(self)

    def steps(self, duration: Duration | str) -> int:
        """`duration` in whole steps, halves rounded up."""
        return Duration.parse(duration).steps(self)

    def local(self, start: int, length: int | None = None) -> Horizon:
        """The horizon of a part that begins at step `start`, with `length` steps or the rest."""
        if length is None and self.is_bounded:
            length = max(self.span - start, 0)
        return replace(self, end=length)


def pattern(*units: Unit, count: bool = False) -> str:
    """A regular expression, for a JSON schema, for durations in some units, or also for a count."""

    def words(unit: Unit) -> str:  # in upper or lower case
        written = [word for word in _UNITS if _UNITS[word] == unit]
        return "|".join(re.sub("[a-z]", lambda c: f"[{c[0]}{c[0].upper()}]", w) for w in written)

    numbers = {unit: _WHOLE if unit == "steps" else _NUMBER for unit in units}
    choices = [rf"(?:{number})\s*(?:{words(unit)})" for unit, number in numbers.items()]
    choices += [_COUNT.pattern] * count
    return rf"^\s*(?:\+?(?:{'|'.join(choices)}))\s*$"


DURATION_JSON = {
    "type": "string",
    "pattern": pattern("steps", "epochs", "percent"),
    "description": 'A length of training with its unit: "500 steps", "10 epochs", "25%".',
}


def _python(value: Real) -> float:
    """A number of any library as one of Python, whose text can be parsed again."""
    if isinstance(value, Integral):
        return int(value)
    try:
        return float(value)
    except OverflowError:  # a fraction beyond float64
        return math.inf


def _number_text(value: float) -> str:
    return shown(value).removesuffix(".0")


def _unknown(wanted: str, lacks: str) -> HorizonError:
    return HorizonError(f"{wanted} cannot be converted to steps before {lacks} is known")


def read_total_steps(value: object, least: int = 0) -> int | Duration | None:
    """Reads `total_steps`: 40000, "40000", "40_000 steps", "40 epochs", None; else ValueError."""
    if isinstance(value, Duration | str) and not _is_count(value):
        duration = Duration.parse(value)
        if duration.unit == "percent":
            raise ValueError(
                f"total_steps cannot be a share of itself, found {duration}: "
                'write 40000 or "40 epochs"'
            )
        if duration.unit == "steps" or duration.value == 0:
            value = int(duration.value)
        else:
            return duration
    if isinstance(value, str) and len(text := value.strip()) > 1 and text.startswith("0"):
        raise ValueError(
            f"total_steps is {shown(value)}, which some programs read as octal: write it without "
            "the 0 in front"
        )
    return check_count("total_steps", value, least)


def check_count(name: str, value: object, least: int) -> int | None:
    """A whole number of at least `least`, or None; else ValueError."""
    if value is None:
        return None
    is_whole = isinstance(value, float) and value.is_integer()
    count = int(value) if is_whole or _is_count(value) else value  # type: ignore[call-overload]
    if isinstance(count, bool) or not isinstance(count, Integral) or count < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, found {shown(value)}")
    if int(count) > LARGEST_INT:
        raise ValueError(f"{name} must be at most 2**53, found {shown(value)}")
    return int(count)


def _is_count(value: object) -> bool:
    return (
        isinstance(value, str)
        and len(value) <= _LONGEST_TEXT
        and bool(_COUNT.fullmatch(value.strip()))
    )
