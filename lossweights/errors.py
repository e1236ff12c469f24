"""Exceptions, and the phrases that messages share."""

import sys
import warnings
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from types import FrameType
from typing import Any

from pydantic import ValidationError


class ConfigError(ValueError):
    """A config is invalid: each line names a place in it and says what to write."""


class HorizonError(RuntimeError):
    """A duration in percent or epochs was used before the length of training was known."""


def quoted(names: Iterable[str]) -> str:
    """`'a', 'b'`: names as they appear in a message."""
    return ", ".join(repr(name) for name in names) or "none"


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """`"; did you mean 'kl'?"` for the nearest of `options`; empty if none is near."""
    lowered = {option.lower(): option for option in options}
    near = get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
    return f"; did you mean {lowered[near[0]]!r}?" if near else ""


def dotted(path: Iterable[Any]) -> str:
    """`("terms", "kl", 0)` as `terms.kl[0]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def explain(error: ValidationError, where: Callable[[tuple[Any, ...]], str] = dotted) -> str:
    """Formats a pydantic error: one line per problem, with its place and the value found.

    Args:
        error: The error that pydantic raised.
        where: Formats a location in the declaration.
    """
    lines = []
    for problem in error.errors(include_url=False):
        place = where(problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "missing":
            message = "this field is needed"
        elif problem["type"] not in ("value_error", "unknown_field"):  # ours include the input
            message = f"{message[0].lower()}{message[1:]}, found {problem['input']!r}"
        lines.append(f"{place}: {message}" if place else message)
    return "\n".join(lines)


def warn(message: str) -> None:
    """Warns at the user's line, however deep in this library, or in torch, the warning arises."""
    level, frame = 2, sys._getframe(1)  # noqa: SLF001  # `warnings` counts frames too
    while frame.f_back is not None and _package(frame) in ("lossweights", "torch"):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]
