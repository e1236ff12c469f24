"""Exceptions, and the phrases that messages share."""

import sys
import warnings
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import lru_cache
from itertools import islice
from types import FrameType
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

# Longer text is cut, so that people can read the message.
_LONGEST = 200  # characters of a value
_LONGEST_NAME = 100  # characters of a name with similar ones
_MOST_NAMES = 40
_MOST_OPTIONS = 1000  # that are compared with a name
MOST_PROBLEMS = 20  # of one config

# What a field needs, by the type of error of pydantic.
_NEEDED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "a table",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "model_type": "a table",
    "string_type": "text",
    "tuple_type": "a list",
}

_UNWRITTEN = ("[key]", "[table]", "[rule]")  # parts that pydantic adds to a location


class ConfigError(ValueError):
    """A config is invalid: each line names a place in it and says what to write."""


class HorizonError(RuntimeError):
    """A duration was used before the length of training was known, or in another unit."""


class UnitError(HorizonError):
    """A duration is in a unit that the clock does not count."""


def shown(value: object, depth: int = 4) -> str:
    """`repr(value)` for a message: shortened, and safe for a value of any type, size and depth.

    >>> shown(["x" * 1000, 10**5000], depth=1)
    '[..., ...]'
    """
    if depth == 0:
        return "..."
    if isinstance(value, str | bytes):
        text = repr(value[: _LONGEST + 1])
    elif isinstance(value, int) and value.bit_length() > 3 * _LONGEST:  # its digits take time
        text = f"an integer of {value.bit_length()} bits"
    elif isinstance(value, dict):
        pairs = (
            f"{shown(key, depth - 1)}: {shown(part, depth - 1)}" for key, part in value.items()
        )
        text = f"{{{_joined(pairs)}}}"
    elif isinstance(value, list | tuple | set | frozenset):
        inside = _joined(shown(part, depth - 1) for part in value)
        text = {list: f"[{inside}]", tuple: f"({inside})"}.get(type(value), f"{{{inside}}}")
    else:
        try:
            text = repr(value)
        except Exception:  # noqa: BLE001  # code of the user
            text = f"<{type(value).__name__}>"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _joined(parts: Iterable[str]) -> str:
    text = ""
    for part in parts:
        if len(text) > _LONGEST:
            break
        text += f", {part}" if text else part
    return text


def quoted(names: Iterable[str]) -> str:
    """`'a', 'b'`: names as they appear in a message, at most 40 of them."""
    names = list(names)
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return (", ".join(map(shown, names[:_MOST_NAMES])) or "none") + more


def did_you_mean(name: object, options: Iterable[str]) -> str:
    """`"; did you mean 'kl'?"` for the nearest of `options`; empty if none is near."""
    if not isinstance(name, str) or len(name) > _LONGEST_NAME:  # the comparison is quadratic
        return ""
    return _nearest(name, tuple(options))


@lru_cache(maxsize=64)  # one mistake is often made many times
def _nearest(name: str, options: tuple[str, ...]) -> str:
    likely = (option for option in options if len(option) <= _LONGEST_NAME)
    lowered = {option.lower(): option for option in islice(likely, _MOST_OPTIONS)}
    near = get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
    return f"; did you mean {lowered[near[0]]!r}?" if near else ""


def dotted(path: Iterable[Any]) -> str:
    """`("terms", "kl", 0)` as `terms.kl[0]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{shown(part)}]"
        elif not isinstance(part, str) or part not in _UNWRITTEN:
            is_text = isinstance(part, str) and part.isprintable()
            name = part if is_text and 0 < len(part) <= _LONGEST_NAME else shown(part)
            text += f".{name}" if text else name
    return text


def explain(error: ValidationError, where: Callable[[tuple[Any, ...]], str] = dotted) -> str:
    """Formats a pydantic error: one line per problem, with its place and the value found.

    Args:
        error: The error that pydantic raised.
        where: Formats a location in the declaration.
    """
    lines: dict[tuple[str, bool], str] = {}
    problems = error.errors(include_url=False)
    around = {each["loc"][:depth] for each in problems for depth in range(len(each["loc"]))}
    for problem in problems:
        place, of_key = where(problem["loc"]), problem["loc"][-1:] == ("[key]",)
        if (place, of_key) in lines:  # a path with braces is one place of several terms
            continue
        if problem["type"] == "too_short" and problem["loc"] in around:  # without what is refused
            continue
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "missing":
            message = "this field is needed"
        elif problem["type"] not in ("value_error", "unknown_field"):  # ours include the input
            message = f"{_needed(problem)}, found {shown(problem['input'])}"
        lines[place, of_key] = f"{place}: {message}" if place else message
    first = [*lines.values()][:MOST_PROBLEMS]
    if len(lines) > MOST_PROBLEMS:
        first.append(f"and {len(lines) - MOST_PROBLEMS} more problems")
    return "\n".join(first)


def _needed(problem: ErrorDetails) -> str:
    """What a field needs, of which pydantic says what the input should be."""
    if (kind := _NEEDED.get(problem["type"])) is not None:
        return f"{kind} is needed"
    context = problem.get("ctx", {})
    if problem["type"] == "too_short":
        return f"a list of at least {context['min_length']} is needed"
    if problem["type"] == "too_long":
        return f"a list of at most {context['max_length']} is needed"
    message = problem["msg"].replace("Input should be", "must be")
    return f"{message[0].lower()}{message[1:]}"


def warn(message: str) -> None:
    """Warns at the user's line, however deep in this library, or in torch, the warning arises."""
    level, frame = 2, sys._getframe(1)  # noqa: SLF001  # `warnings` counts frames too
    while frame.f_back is not None and _package(frame) in ("lossweights", "torch"):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]
