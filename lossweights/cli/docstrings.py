"""What a component's docstring and fields say, in the words of a config."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from lossweights.components.declaration import Component
from lossweights.components.durations import Duration

_SECTION = re.compile(r"^(Args|Attributes|Raises|Returns):$")
_YEAR = re.compile(r"\b(19|20)\d\d\b")
_BOUNDS = {Ge: (">=", "ge"), Gt: (">", "gt"), Le: ("<=", "le"), Lt: ("<", "lt")}
_WORDS = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    Duration: "duration",
    NoneType: "none",
}


class Field(NamedTuple):
    """A field of a kind, as a user is told of it.

    Args:
        name: As it is written in a config.
        type: What it takes, in words.
        default: As it would be written; empty where the field is needed.
        meaning: From the docstring, or the field's own description; empty where neither tells.
    """

    name: str
    type: str
    default: str
    meaning: str


def summary(cls: type) -> str:
    """The first paragraph of a class's docstring on one line; empty without a docstring."""
    paragraphs = _paragraphs(cls)
    return " ".join(paragraphs[0].split()) if paragraphs else ""


def short_summary(cls: type) -> str:
    """The summary without a formula that ends it.

    >>> from lossweights import Warmup
    >>> short_summary(Warmup)
    'From 0 to 1 along `shape`, then flat.'
    """
    return re.sub(r"\s*[:,] \$[^$]+\$\.$", ".", summary(cls))


def sources(cls: type) -> list[str]:
    """The paragraphs of the docstring that name a paper or code, known by its year."""
    return [" ".join(p.split()) for p in _paragraphs(cls)[1:] if _YEAR.search(p)]


def fields(cls: type[Component]) -> list[Field]:
    """The fields of a kind, those that are needed first."""
    meanings: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        meanings |= _arguments(base)
    found = [
        Field(
            name,
            type_in_words(field.annotation, field.metadata),
            "" if field.is_required() else written(field.get_default(call_default_factory=True)),
            meanings.get(name, field.description or ""),
        )
        for name, field in cls.model_fields.items()
    ]
    return sorted(found, key=lambda field: field.default != "")


def written(value: Any) -> str:  # noqa: PLR0911  # one a type
    """A default as it would stand in a config.

    >>> from lossweights import Cyclical, steps
    >>> written(None), written(0.5), written(steps(500)), written(Cyclical(cycles=4))
    ('none', '0.5', '500 steps', '{kind: cyclical, cycles: 4}')
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Component):
        table = value.model_dump(mode="json", exclude_defaults=True)
        if table.keys() == {"kind"}:
            return str(table["kind"])
        if table.keys() == {"kind", "value"}:  # a constant schedule is written as its number
            return written(table["value"])
        return f"{{{', '.join(f'{key}: {part}' for key, part in table.items())}}}"
    return str(value)


def type_in_words(annotation: Any, metadata: Sequence[Any] = ()) -> str:  # noqa: PLR0911  # one a type
    """What a field takes.

    >>> from lossweights import Schedule
    >>> type_in_words(Annotated[float, Ge(0), Lt(1)] | None), type_in_words(Duration | str)
    ('number >= 0 and < 1 or none', 'duration')
    >>> type_in_words(tuple[Schedule, ...]), type_in_words(Literal["min", "max"])
    ('list of (schedule or number)', 'min | max')
    """
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_in_words(parts[0], [*metadata, *parts[1:]])
    if origin in (Union, UnionType):
        members = [part for part in parts if part is not NoneType]
        if any(_is_read_from_text(part) for part in members):
            members = [part for part in members if part is not str]
        words = [type_in_words(part, metadata) for part in members]
        return " or ".join([*words, "none"] if NoneType in parts else words)
    if origin is Literal:
        return " | ".join(str(part) for part in parts)
    if origin is list or (origin is tuple and parts[-1] is ...):
        inner = type_in_words(parts[0])
        return f"list of ({inner})" if " or " in inner else f"list of {inner}"
    if origin is tuple:
        return f"[{', '.join(type_in_words(part) for part in parts)}]"
    if isinstance(annotation, type) and issubclass(annotation, Component):
        family = annotation.family.__name__.lower()
        return f"{family} or number" if family == "schedule" else family
    name = getattr(annotation, "__name__", str(annotation)).lower()
    return f"{_WORDS.get(annotation, name)} {' and '.join(_bounds(metadata))}".rstrip()


def _is_read_from_text(part: Any) -> bool:
    return isinstance(part, type) and issubclass(part, Duration | Component)


def _bounds(metadata: Sequence[Any]) -> Iterator[str]:
    for mark in metadata:
        if isinstance(mark, FieldInfo):
            yield from _bounds(mark.metadata)
        elif type(mark) in _BOUNDS:
            sign, attribute = _BOUNDS[type(mark)]
            yield f"{sign} {getattr(mark, attribute):g}"


def _paragraphs(cls: type) -> list[str]:
    """The prose of a class's own docstring: no sections, no examples."""
    text = inspect.cleandoc(cls.__dict__.get("__doc__") or "")
    kept = []
    for paragraph in re.split(r"\n\s*\n", text):
        is_section = _SECTION.match(paragraph.split("\n", 1)[0])
        if paragraph.strip() and not is_section and not paragraph.startswith((">>>", " ")):
            kept.append(paragraph)
    return kept


def _arguments(cls: type) -> dict[str, str]:
    """The `Args` section of a class's own docstring: name and meaning."""
    text = inspect.cleandoc(cls.__dict__.get("__doc__") or "")
    found: dict[str, str] = {}
    name, inside = "", False
    for line in text.splitlines():
        if _SECTION.match(line):
            inside = line == "Args:"
        elif inside and (match := re.match(r" {4}(\w+): (.*)", line)):
            name = match[1]
            found[name] = match[2]
        elif inside and name and line.startswith(" " * 8):
            found[name] += f" {line.strip()}"
        elif line.strip():
            inside = False
    return found
