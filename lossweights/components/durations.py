"""Durations with their unit, and the horizon that converts them into what the clock counts."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from lossweights.components.limits import LARGEST_INT
from lossweights.errors import HorizonError, UnitError, did_you_mean, shown

_UNITS = {
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
_WORD = re.compile(r"[a-z]{3,100}")  # a unit of its own, such as tokens; `k` and `km` are none
_MANY_ZEROS = 6  # at the end of a number, which are hard to count
_NEAR = 0.7  # the similarity from which a word is taken for a misspelled unit
# What others call steps, and time, which no clock here counts.
_NO_UNITS = frozenset(
    {"iterations", "iters", "its", "updates", "batches", "ticks", "seconds", "minutes", "hours"}
)
_COUNT = re.compile(r"[0-9]+(?:_[0-9]+)*")
_LONGEST_TEXT = 100  # characters of a duration


@dataclass(frozen=True)
class Duration:
    """A length of training: `"500 steps"`, `"10 epochs"` (or `"10ep"`), `"25%"` (or `"0.25dur"`).

    A percentage is always of the whole training, even inside a stage. Any other word of at least
    three letters is a unit too, such as `"1e8 tokens"`, for a clock that counts it.

    Args:
        value: Number of units; at least 0, and whole unless it is in epochs or percent.
        unit: `"steps"` (optimizer steps), `"epochs"`, `"percent"`, or another word in the plural.

    Raises:
        ValueError: For a value below 0 or above 2**53, a fraction of a step, or a word that is
            almost a known unit.

    >>> Duration.parse("0.25dur")
    percent(25)
    >>> Duration.parse("10 epochs").steps(Horizon(steps_per_epoch=300))
    3000
    >>> Duration.parse("10%").steps(Horizon(total="2e9 tokens"))
    200000000
    """

    value: float
    unit: str

    def __post_init__(self) -> None:
        if self.unit not in ("steps", "epochs", "percent"):
            if (word := _own_unit(self.unit)) is None:
                raise ValueError(
                    "a duration is in steps, epochs, percent or a unit of its own such as tokens, "
                    f"found {shown(self.unit)}"
                )
            object.__setattr__(self, "unit", word)
        if isinstance(self.value, bool) or not isinstance(self.value, Real):
            raise ValueError(f"a duration is a number of {self.unit}, found {shown(self.value)}")
        value = _python(self.value)
        if not 0 <= value <= LARGEST_INT:
            unit = "%" if self.unit == "percent" else f" {self.unit}"
            raise ValueError(
                f"a duration must be from 0 to 2**53, found {_number_text(value)}{unit}"
            )
        is_whole = self.unit not in ("epochs", "percent")
        if is_whole and value != int(value):
            raise ValueError(
                f"the number of {self.unit} must be whole, found {value:g} {self.unit}"
            )
        object.__setattr__(self, "value", int(value) if is_whole else value)

    @classmethod
    def parse(cls, written: object) -> Duration:
        """A duration from its text; a `Duration` is returned unchanged.

        Raises:
            ValueError: For a number without a unit, an unknown unit, or an invalid value.
        """
        return cls._parse(written)

    @classmethod
    def _parse(cls, written: object, *, is_total: bool = False) -> Duration:
        """As `parse`; the messages for a total suggest no percentage."""
        if isinstance(written, Duration):
            return written
        examples = '"500 steps", "10 epochs" or "25%"'
        if is_total:
            examples = '"40000 steps" or "40 epochs"'
        if isinstance(written, bool) or not isinstance(written, Real | str):
            raise ValueError(f"a duration is written {examples}, found {shown(written)}")
        text = written.strip() if isinstance(written, str) else _number_text(_python(written))
        match = _WRITTEN.fullmatch(text) if len(text) <= _LONGEST_TEXT else None
        if match is None:
            raise ValueError(f"{shown(written)} is not a duration: write {examples}")
        number, unit = match[1].replace("_", ""), match[2]
        if not unit:
            found = shown(written) if isinstance(written, str) else number
            if 0 < float(number) < 1:
                percentage = "" if is_total else f'"{100 * float(number):g}%" or '
                raise ValueError(f'{found} has no unit: write {percentage}"{number} epochs"')
            raise ValueError(f'{found} has no unit: write "{number} steps" or "{number} epochs"')
        known = _UNITS.get(unit.lower()) or _own_unit(unit)
        if known is None:
            near = "" if _plural(unit) in _NO_UNITS else did_you_mean(unit, _UNITS)
            own = f'; a unit of your own is a word of 3 letters or more, as in "{number} tokens"'
            others = f'or "{number} epochs"' if is_total else f'"{number} epochs" or "{number}%"'
            raise ValueError(
                f'{unit!r} is not a unit of training{near or ":"} write "{number} steps" (of the '
                f"optimizer){' ' if is_total else ', '}{others}"
                f"{'' if _WORD.fullmatch(unit.lower()) else own}"
            )
        value = float(number)
        return cls(round(value * 100, 10) if unit.lower() == "dur" else value, known)

    def length(self, horizon: Horizon) -> float:
        """The duration in what the clock counts, not rounded: 25% of 1,686 steps are 421.5.

        Raises:
            HorizonError: If `horizon` lacks the total or the length of an epoch, or counts another
                unit.
        """
        if self.unit == "percent":
            return self.value * horizon.count(f"{self} of training") / 100
        if self.unit == horizon.unit:
            return self.value
        if self.unit == "epochs" and horizon.unit == "steps":
            if horizon.steps_per_epoch is None:
                raise horizon.unknown(str(self), "steps_per_epoch")
            return self.value * horizon.steps_per_epoch
        if self.value:
            raise UnitError(wrong_unit(self, horizon.unit))
        return 0  # in any unit

    def steps(self, horizon: Horizon) -> int:
        """The duration in whole steps, or units of the clock; errors as those of `length`.

        Halves are rounded up.
        """
        return math.floor(self.length(horizon) + 0.5)

    @property
    def clock_unit(self) -> str | None:
        """What a clock must count to convert it; None for a percentage and a length of 0."""
        if self.unit == "percent" or not self.value:
            return None
        return "steps" if self.unit == "epochs" else self.unit

    def __repr__(self) -> str:
        if self.unit not in ("steps", "epochs", "percent"):
            return f"Duration({self.value!r}, {self.unit!r})"
        return f"{self.unit}({self.value!r})".replace(".0)", ")")

    def __str__(self) -> str:
        number = repr(self.value).removesuffix(".0")
        if self.unit == "percent":
            return f"{number}%"
        if self.unit not in ("steps", "epochs"):
            return f"{_short(self.value)} {self.unit}"
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


@dataclass(frozen=True, init=False)
class Horizon:
    """The length of training, which converts durations into what the clock counts.

    Args:
        total_steps: Optimizer steps of the whole training, or a duration in epochs; None if
            unknown. The short form of `total` for steps.
        steps_per_epoch: Optimizer steps of an epoch; None if unknown.
        end: Steps until *local* time ends, inside a stage or after a delay; None for training
            itself. Percentages are of the whole training in any case.
        total: The length of the whole training in any unit, such as `"2e9 tokens"`,
            `"40000 steps"` or `"40 epochs"`, in place of `total_steps`.
        unit: What the clock counts; by default the unit of the total, or steps.

    Attributes:
        total: The length of the whole training as a `Duration`; None if unknown.
        unit: What the clock counts: `"steps"`, or another unit such as `"tokens"`.

    Raises:
        ValueError: For counts that are not whole, or below 0 (below 1 for an epoch); for two
            totals, and a total or an epoch that the clock cannot count.

    >>> Horizon("40 epochs", steps_per_epoch=100).total_steps
    4000
    >>> Horizon(total="2e9 tokens").steps("1e8 tokens")
    100000000
    """

    total: Duration | None = field(compare=False)
    steps_per_epoch: int | None
    end: int | None
    unit: str
    _known: int | Duration | None = field(init=False, repr=False)  # the total, counted if possible

    def __init__(
        self,
        total_steps: int | Duration | str | None = None,
        steps_per_epoch: int | None = None,
        end: int | None = None,
        *,
        total: Duration | str | None = None,
        unit: str | None = None,
    ) -> None:
        check_count("steps_per_epoch", steps_per_epoch, least=1)
        length, counted = one_total(total_steps, total), _counted(unit)
        if length is not None:
            own = "steps" if length.unit == "epochs" else length.unit
            if unit is not None and own != counted:
                raise ValueError(f"the clock counts {counted}, and the total is {length}")
            counted = own
        if steps_per_epoch is not None and counted != "steps":
            raise ValueError(
                f"steps_per_epoch is for a clock that counts steps, and this one counts {counted}: "
                "remove it"
            )
        values = {"total": length, "steps_per_epoch": steps_per_epoch, "end": end, "unit": counted}
        for name, value in values.items():
            object.__setattr__(self, name, value)  # frozen
        is_waiting = length is not None and length.unit == "epochs" and steps_per_epoch is None
        known = length if length is None or is_waiting else length.steps(self)
        object.__setattr__(self, "_known", known)

    def __str__(self) -> str:
        each = "" if (n := self.steps_per_epoch) is None else f" ({n} an epoch)"
        if isinstance(self._known, int):
            return str(self.total) if self.unit != "steps" else f"{self._known} steps{each}"
        return f"{self._known or 'unknown'}{each}"

    @property
    def total_steps(self) -> int | Duration | None:
        """Optimizer steps of the whole training, or a duration in epochs; None if unknown."""
        return self._known if self.unit == "steps" else None

    @property
    def span(self) -> int:
        """Steps from 0 until training, or a stage, ends; a HorizonError if that is unknown."""
        return self.count("100% of training") if self.end is None else self.end

    def count(self, wanted: str) -> int:
        """The total in what the clock counts; unknown, a HorizonError that begins with `wanted`."""
        if isinstance(self._known, int):
            return self._known
        lacks = "total_steps" if self.unit == "steps" else "total"
        raise self.unknown(wanted, lacks if self.total is None else "steps_per_epoch")

    def unknown(self, wanted: str, lacks: str) -> HorizonError:
        """The error that something cannot be converted before a part of the horizon is known."""
        return HorizonError(f"{wanted} cannot be converted to {self.unit} before {lacks} is known")

    @property
    def is_bounded(self) -> bool:
        """Whether the end of local time is known."""
        return self.end is not None or isinstance(self._known, int)

    def at(self, step: float) -> str:
        """A time in words: "step 500", or "500 tokens".

        >>> Horizon(total="2e9 tokens").at(4096)
        '4096 tokens'
        """
        is_steps = self.unit == "steps"
        return f"step {step:.15g}" if is_steps else f"{_short(step)} {self.unit}"

    def length(self, duration: Duration | str) -> float:
        """`duration` in steps, or what the clock counts, not rounded."""
        return Duration.parse(duration).length(self)

    def steps(self, duration: Duration | str) -> int:
        """`duration` in whole steps, or units of the clock, halves rounded up."""
        return Duration.parse(duration).steps(self)

    def merged(self, given: Horizon) -> Horizon:
        """The horizon, with the parts that another one knows taken from that."""
        total = self.total if given.total is None else given.total
        each = self.steps_per_epoch if given.steps_per_epoch is None else given.steps_per_epoch
        unit = self.unit if given.unit == "steps" else given.unit
        return Horizon(total=total, steps_per_epoch=each, unit=unit if total is None else None)

    def local(self, start: int, length: int | None = None) -> Horizon:
        """The horizon of a part that begins at step `start`, with `length` steps or the rest."""
        if length is None and self.is_bounded:
            length = max(self.span - start, 0)
        return replace(self, end=length)


def pattern(*units: str, own: bool = False, count: bool = False) -> str:
    """A regular expression, for a JSON schema, for durations in some units.

    Args:
        *units: Known units, such as `steps`.
        own: Whether any other word is a unit too. Misspelled units, which are refused, match.
        count: Whether a number without a unit matches.
    """

    def words(*units: str) -> str:  # in upper or lower case
        written = [word for word in _UNITS if _UNITS[word] in units]
        return "|".join(re.sub("[a-z]", lambda c: f"[{c[0]}{c[0].upper()}]", w) for w in written)

    numbers = {unit: _WHOLE if unit == "steps" else _NUMBER for unit in units}
    choices = [rf"(?:{number})\s*(?:{words(unit)})" for unit, number in numbers.items()]
    known = words("steps", "epochs", "percent")
    choices += [rf"(?:{_WHOLE})\s*(?!(?:{known})\s*$)[A-Za-z]{{3,100}}"] * own
    choices += [_COUNT.pattern] * count
    return rf"^\s*(?:\+?(?:{'|'.join(choices)}))\s*$"


DURATION_JSON = {
    "type": "string",
    "pattern": pattern("steps", "epochs", "percent", own=True),
    "description": 'A length of training with its unit: "500 steps", "10 epochs", "25%".',
}


def wrong_unit(duration: Duration, unit: str) -> str:
    """What to write in place of a duration that a clock of a unit cannot count."""
    if unit == "steps":
        return (
            f'{duration}, but the clock counts steps: write total: "... {duration.unit}" for the '
            "whole training, or this one in steps, epochs or percent"
        )
    return f'{duration}, but the clock counts {unit}: write "... {unit}" or a percentage'


def _counted(unit: str | None) -> str:
    """What a clock counts; else ValueError."""
    if unit is None or unit == "steps":
        return "steps"
    if (word := _own_unit(unit)) is None:
        raise ValueError(f'a clock counts "steps", or a unit such as "tokens", found {shown(unit)}')
    return word


def _own_unit(word: object) -> str | None:
    """A word as a unit of its own, in the plural; None if it is almost a known unit, or no word."""
    if not isinstance(word, str) or _WORD.fullmatch(word.lower()) is None:
        return None
    unit = _plural(word)
    if unit in _NO_UNITS:
        return None
    is_near = unit in _UNITS or get_close_matches(unit, _UNITS, n=1, cutoff=_NEAR)
    return None if is_near else unit


def _plural(word: str) -> str:
    """A word in lower case and in the plural."""
    unit = word.lower()
    if unit.endswith("s"):
        return unit
    return unit + ("es" if unit.endswith(("ch", "sh", "x")) else "s")


def _python(value: Real) -> float:
    """A number of any library as one of Python, whose text can be parsed again."""
    if isinstance(value, Integral):
        return int(value)
    try:
        return float(value)
    except OverflowError:  # a fraction beyond float64
        return math.inf


def _short(value: float) -> str:
    """A number as `100000000` or, if it is as exact, `1e8`."""
    digits = f"{value:.16g}"
    shortened = digits.rstrip("0")
    if not digits.isdecimal() or len(digits) - len(shortened) < _MANY_ZEROS:
        return digits
    mantissa = f"{shortened[0]}.{shortened[1:]}".rstrip(".")
    return f"{mantissa}e{len(digits) - 1}"


def _number_text(value: float) -> str:
    return shown(value).removesuffix(".0")


def one_total(
    total_steps: int | Duration | str | None, total: Duration | str | None
) -> Duration | None:
    """The length of training, from `total_steps` or `total`.

    Raises:
        ValueError: If both are given, or one cannot be read.
    """
    if total is None:
        count = read_total_steps(total_steps)
        return steps(count) if isinstance(count, int) else count
    if total_steps is not None:
        raise ValueError(
            f"total_steps and total both say how long training takes, {total_steps} and {total}: "
            "remove total_steps"
        )
    return read_total(total)


def read_total(value: object, least: int = 0) -> Duration | None:
    """Reads `total`: "2e9 tokens", "40000 steps", "40 epochs", None; else ValueError."""
    if value is None:
        return None
    duration = Duration._parse(value, is_total=True)  # noqa: SLF001
    if duration.unit == "percent":
        raise ValueError(
            f'total cannot be a percentage of itself, found {duration}: write "40000 steps" or '
            '"2e9 tokens"'
        )
    if least and not duration.value:
        raise ValueError(f"total must be above 0, found {duration}")
    return duration


def read_total_steps(value: object, least: int = 0) -> int | Duration | None:
    """Reads `total_steps`: 40000, "40000", "40_000 steps", "40 epochs", None; else ValueError."""
    if isinstance(value, Duration | str) and not _is_count(value):
        duration = Duration._parse(value, is_total=True)  # noqa: SLF001
        if duration.unit == "percent":
            raise ValueError(
                f"total_steps cannot be a percentage of itself, found {duration}: "
                'write 40000 or "40 epochs"'
            )
        if duration.unit not in ("steps", "epochs"):
            raise ValueError(
                f'total_steps is a number of steps, found {duration}: write total: "{duration}"'
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
