"""What this library raises on purpose, and the words that its messages share."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError


class ConfigError(ValueError):
    """A declaration that cannot be used: each line names a place in it and says what to write."""


class HorizonError(RuntimeError):
    """A percentage or an epoch was asked for before the length of training was known."""


def quoted(names: Iterable[str]) -> str:
    """`'a', 'b'`: names as they stand in a message."""
    return ", ".join(repr(name) for name in names) or "none"


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """`"; did you mean 'kl'?"` for the nearest of `options`, or nothing where none is near."""
    lowered = {option.lower(): option for option in options}
    near = get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
    return f"; did you mean {lowered[near[0]]!r}?" if near else ""


def explain(
    error: ValidationError, where: Callable[[tuple[str | int, ...]], str] | None = None
) -> str:
    """Every problem of a pydantic error on a line of its own: place, problem, what was found.

    Args:
        error: What pydantic raised.
        where: Turns a location in the declaration into words; a dotted path by default.
    """
    lines = []
    for problem in error.errors(include_url=False):
        place = (where or dotted)(problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "missing":
            message = "this field is needed"
        elif problem["type"] not in ("value_error", "unknown_field"):  # ours say what they found
            message = f"{message[0].lower()}{message[1:]}, found {problem['input']!r}"
        lines.append(f"{place}: {message}" if place else message)
    return "\n".join(lines)


def dotted(path: Iterable[Any]) -> str:
    """`("terms", "kl", 0)` as `terms.kl[0]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def warn(message: str) -> None:
    """A warning that points to the user's line, however deep in this library it arises."""
    package = str(Path(__file__).parent)
    level, frame = 2, sys._getframe(1)  # noqa: SLF001  # what `warnings` itself counts by
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
