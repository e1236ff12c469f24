"""Reads YAML text: plain data, and the line of each part of it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from lossweights.errors import ConfigError, shown

Lines = dict[int, dict[Any, int]]
"""The line of each key or index, by the `id` of its table or list."""

_WORDS: dict[str, object] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
}
_DIGITS = r"[0-9]+(?:_[0-9]+)*"
_INTEGER = re.compile(rf"[-+]?(?:0|(?!0){_DIGITS}|0x[0-9a-fA-F]+|0o[0-7]+|0b[01]+)")
_FLOAT = re.compile(
    rf"[-+]?(?:{_DIGITS}\.(?:{_DIGITS})?|\.{_DIGITS}|(?!0[0-9]){_DIGITS}(?=[eE]))"
    r"(?:[eE][-+]?[0-9]+)?"
)
_LONGEST_NUMBER = 300  # characters; float64 ends at 1.8e308
_TYPES: dict[str, type] = {"null": type(None), "bool": bool, "int": int, "float": float}
_PREFIX = "tag:yaml.org,2002:"


def read_yaml(text: str, name: str, *, deepest: int, most: int) -> tuple[Any, Lines]:
    """The data of a YAML text, and the line of each part.

    Words and numbers are read as in YAML 1.2, with underscores in numbers: `1e-3` is a number,
    `on` is a string. `017`, which is 15 in YAML 1.1 and 17 in 1.2, is left as a string, like dates.

    Args:
        text: The text.
        name: The name of the file, for errors.
        deepest: How deep tables and lists may be nested.
        most: How many values there may be, with those that merges (`<<`) add.

    Raises:
        ConfigError: If it is not well-formed; names the line.
        ImportError: Without PyYAML.
    """
    try:
        import yaml  # noqa: PLC0415  # an extra
    except ImportError:
        raise ImportError(
            f"{name}: reading YAML needs PyYAML; pip install 'lossweights[yaml]'"
        ) from None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C if there is a C library
    try:
        reader = _Reader(yaml.parse(text, loader), name, deepest, most)
        return reader.document(), reader.lines
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = str(getattr(error, "problem", None) or error)
        if "mapping values" in problem:
            problem = "more indented than the line before, or a text with `: ` needs quotes"
        if mark and "expected key" in problem:
            is_first = not text.splitlines()[mark.line][: mark.column].strip()
            around = getattr(error, "context_mark", mark)
            if is_first and mark.column != around.column:
                problem = "indented differently from the lines above"
            else:
                problem += ": check the quotes and brackets, and for a list among the keys"
        if mark and "start any" in problem and text.splitlines()[mark.line][mark.column] == "\t":
            problem = "a tab, where only spaces can indent"
        if "',' or '}'" in problem:
            problem += ", or a name with braces needs quotes"
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{name}{line}: incomplete or not well-formed YAML: {problem}") from None


class _Reader:
    """Builds data from the events of a YAML parser."""

    def __init__(self, events: Iterator[Any], name: str, deepest: int, most: int) -> None:
        self.lines: Lines = {}
        self._events, self._name, self._deepest, self._most = events, name, deepest, most
        self._anchors: dict[str, Any] = {}  # `_OPEN` for a table that is not complete
        self._count = 0

    def document(self) -> Any:
        next(self._events)  # the start of the stream
        if _type(next(self._events)) == "StreamEndEvent":
            return None
        data = self._node(next(self._events), 0)
        next(self._events)  # the end of the document
        if _type(event := next(self._events)) != "StreamEndEvent":
            self._refuse(event, "a second document begins here: keep one")
        return data

    def _node(self, event: Any, depth: int) -> Any:
        if _type(event) == "AliasEvent":
            found = self._anchors.get(event.anchor, _MISSING)
            if found is _MISSING:
                self._refuse(event, f"the alias *{event.anchor} has no anchor above it")
            if found is _OPEN:
                self._refuse(event, f"the table &{event.anchor} contains itself")
            return found
        if depth > self._deepest:
            self._refuse(event, f"tables and lists are nested more than {self._deepest} deep")
        if event.anchor:
            self._anchors[event.anchor] = _OPEN
        if _type(event) == "ScalarEvent":
            found = self._scalar(event)
        elif _type(event) == "SequenceStartEvent":
            found = self._list(event, depth + 1)
        else:
            found = self._table(event, depth + 1)
        if event.anchor:
            self._anchors[event.anchor] = found
        return found

    def _list(self, start: Any, depth: int) -> list[Any]:
        self._refuse_tag(start, but="seq")
        found: list[Any] = []
        lines = self.lines[id(found)] = {}
        while _type(event := next(self._events)) != "SequenceEndEvent":
            lines[len(found)] = _line(event)
            self._add(1, event)
            found.append(self._node(event, depth))
        return found

    def _table(self, start: Any, depth: int) -> dict[Any, Any]:
        self._refuse_tag(start, but="map")
        own: dict[Any, tuple[Any, int]] = {}
        merged: list[Any] | None = None
        while _type(event := next(self._events)) != "MappingEndEvent":
            self._add(1, event)
            key, line = self._node(event, depth), _line(event)
            if isinstance(key, dict | list):
                self._refuse(
                    event,
                    "a key is text, found a table or a list: put a name that begins with a brace "
                    "in quotes",
                )
            is_merge = key == "<<" and not (event.tag or event.style)
            if key in own or (is_merge and merged is not None):
                self._refuse(event, f"{shown(key)} appears twice in one table; keep one")
            value = self._node(next(self._events), depth)
            if not is_merge:
                own[key] = value, line
                continue
            merged = value if isinstance(value, list) else [value]
            if not all(isinstance(table, dict) for table in merged):
                self._refuse(event, "`<<` merges a table, or a list of tables")
        found: dict[Any, Any] = {}
        lines = self.lines[id(found)] = {}
        for table in merged or ():  # of two with the same key the first one counts
            self._add(len(table), start)
            for key in table:
                found.setdefault(key, table[key])
                lines.setdefault(key, self.lines[id(table)][key])
        for key, (value, line) in own.items():
            found[key], lines[key] = value, line
        return found

    def _add(self, count: int, event: Any) -> None:
        self._count += count
        if self._count > self._most:
            self._refuse(event, f"a file has at most {self._most:,} values, found more")

    def _scalar(self, event: Any) -> Any:
        text, tag = event.value, (event.tag or "").removeprefix(_PREFIX)
        if tag in ("!", "str") or (event.style and not tag):
            return text
        value = _plain(text)
        if not tag:
            return value
        wanted = _TYPES.get(tag)
        if wanted is None:
            self._refuse_tag(event)
        elif wanted is float and type(value) is int:
            return float(value)
        elif type(value) is not wanted:
            self._refuse(event, f"{shown(text)} is not a value of type {tag}")
        return value

    def _refuse_tag(self, event: Any, but: str = "") -> None:
        tag = (event.tag or "!").replace(_PREFIX, "!!")
        if tag not in ("!", f"!!{but}"):
            self._refuse(
                event, f"the tag {shown(tag)} is not supported: write the value without it"
            )

    def _refuse(self, event: Any, problem: str) -> NoReturn:
        raise ConfigError(f"{self._name}, line {_line(event)}: {problem}")


_MISSING, _OPEN = object(), object()


def _type(event: Any) -> str:
    return type(event).__name__


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _plain(text: str) -> Any:
    """The value of a scalar without quotes."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "+-.0123456789" or len(text) > _LONGEST_NUMBER:
        return text
    if _INTEGER.fullmatch(text):
        return int(text, 0)
    return float(text) if _FLOAT.fullmatch(text) else text
