"""Names of terms: braces in them stand for several names, as in a shell."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Annotated, Any, NamedTuple, NoReturn, TypeVar

from pydantic import AfterValidator, PlainSerializer, WithJsonSchema

from lossweights.components.limits import MOST_TERMS
from lossweights.errors import quoted, shown

T = TypeVar("T")

FIXED = (
    "a config cannot be changed: use config.override({...}) and build a new criterion from the "
    "result"
)

_LONGEST = 1000  # characters of a name with braces, which are written as often as it is expanded
_INTEGER = "-?[0-9]{1,18}"
_ENDS = "|".join(rf"({end})\.\.({end})" for end in (_INTEGER, "[a-z]", "[A-Z]"))
_RANGE = re.compile(rf"(?:{_ENDS})(?:\.\.({_INTEGER}))?")
_PARTS = re.compile(r"[^{}]+|\{\{|\}\}|\{[^{}]*\}|[{}]")
_PADDED = re.compile("-?0[0-9]")

_CONTROL = r"\x00-\x1f\x7f-\x9f\u2028\u2029"
_CHOICE = rf"(?:[^*{{}}, {_CONTROL}](?:[^*{{}},{_CONTROL}]*[^*{{}}, {_CONTROL}])?)?"
_BRACES = rf"\{{(?:{_CHOICE}(?:,{_CHOICE})+|{_RANGE.pattern})\}}"
NAME_JSON = {
    "type": "string",
    "minLength": 1,
    "pattern": rf"^(?:[^*{{}}{_CONTROL}]|\{{\{{|\}}\}}|{_BRACES})*$",
}


class _Choices(NamedTuple):
    """A part of a name: one of some values, each written in a format."""

    values: Sequence[str] | range
    form: str = ""


def expanded(pattern: str) -> list[str]:
    """The names that a name with braces stands for, in the order of a shell.

    Args:
        pattern: `{box,cls}` is each of these texts, `{0..5}` each whole number, down if the first
            is larger, with as many digits if one begins with 0. `{0..10..2}` has steps, `{a..e}`
            letters. Doubled braces, `{{x}}`, are braces of the name.

    Raises:
        ValueError: For a brace that is none of these, or for too many names; says what to write.

    >>> expanded("aux_{08..10}")
    ['aux_08', 'aux_09', 'aux_10']
    >>> expanded("{box,cls}_{1..0}")
    ['box_1', 'box_0', 'cls_1', 'cls_0']
    >>> expanded("{{x}}")
    ['{x}']
    """
    texts = ([format(value, part.form) for value in part.values] for part in _parts(pattern))
    return ["".join(chosen) for chosen in product(*texts)]


def times(key: object) -> int:
    """How many names a key stands for; 1 for a key that is no valid pattern."""
    try:
        return _count(_parts(key)) if isinstance(key, str) else 1
    except ValueError:  # the name is refused where it is read
        return 1


def _parts(pattern: str) -> list[_Choices]:
    if "{" not in pattern and "}" not in pattern:
        return [_Choices([pattern])]
    if len(pattern) > _LONGEST:
        raise ValueError(f"a name with braces has at most {_LONGEST:,} characters")
    parts = [_choices(part) for part in _PARTS.findall(pattern)]
    if (count := _count(parts)) > MOST_TERMS:
        raise ValueError(
            f"{shown(pattern)} stands for {shown(count)} names, and a loss has at most "
            f"{MOST_TERMS:,} terms"
        )
    return parts


def _count(parts: Iterable[_Choices]) -> int:
    return math.prod(len(part.values) for part in parts)


def _choices(part: str) -> _Choices:
    if part in ("{{", "}}") or part[0] not in "{}":
        return _Choices([part[0] if part[0] in "{}" else part])
    if part in "{}":
        raise ValueError(
            f"a single {part!r} is not a pattern: write one such as {{0..5}} or {{box,cls}}, or "
            f"double the brace if it belongs to the name, {part * 2!r}"
        )
    inside = part[1:-1]
    if found := _RANGE.fullmatch(inside):
        return _range(*filter(None, found.groups()))
    texts = inside.split(",")
    if len(texts) == 1:
        raise ValueError(
            f"{shown(part)} is not a pattern: write one such as {{0..5}} or {{box,cls}}, or double "
            f"the braces if they belong to the name, {shown(f'{{{part}}}')}"
        )
    if any(text != text.strip() for text in texts):
        without = ",".join(text.strip() for text in texts)
        raise ValueError(f"{shown(part)} has spaces: write {shown(f'{{{without}}}')}")
    return _Choices(texts)


def _range(first: str, last: str, step: str = "1") -> _Choices:
    if first.isalpha():
        start, stop, form = ord(first), ord(last), "c"
    else:
        padded = _PADDED.match(first) or _PADDED.match(last)
        width = max(len(first), len(last)) if padded else 0
        start, stop, form = int(first), int(last), f"0{width}d"
    by = abs(int(step)) or 1  # as in bash, where the ends give the direction
    down = start > stop
    return _Choices(range(start, stop - 1, -by) if down else range(start, stop + 1, by), form)


def escaped(name: str) -> str:
    """A name as a config contains it: with doubled braces.

    >>> escaped("{x}")
    '{{x}}'
    """
    return name.replace("{", "{{").replace("}", "}}")


def _checked(pattern: str) -> str:
    if "*" in pattern:
        raise ValueError(f"{shown(pattern)} is a pattern: write the name of each one")
    if all("" in part.values for part in _parts(pattern)):
        raise ValueError(f"a name must not be empty, found {shown(pattern)}")
    return pattern


Name = Annotated[str, AfterValidator(_checked), PlainSerializer(escaped), WithJsonSchema(NAME_JSON)]
"""The key of a table by name, as it is written; dumped from the name of a term."""


class ByName(dict[str, T]):
    """Parts of a config by name, without braces that expand. It cannot be changed."""

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError(FIXED)

    __setitem__ = __delitem__ = __ior__ = _refuse
    update = setdefault = pop = popitem = clear = _refuse

    def __reduce__(self) -> tuple[type[ByName[T]], tuple[dict[str, T]]]:
        return ByName, (dict(self),)

    def written(self) -> dict[str, T]:
        """The same parts, by names as a config contains them."""
        return {escaped(name): part for name, part in self.items()}


def by_name(table: Mapping[str, T]) -> ByName[T]:
    """The parts of a table for each of the names that its keys stand for.

    Raises:
        ValueError: If there are too many names, or two keys stand for the same name.

    >>> by_name({"aux_{0..1}": 0.5, "kl": 1.0})
    {'aux_0': 0.5, 'aux_1': 0.5, 'kl': 1.0}
    """
    if (count := sum(map(times, table))) > MOST_TERMS:
        raise ValueError(f"a loss has at most {MOST_TERMS:,} terms, found {count}")
    keys: dict[str, str] = {}
    for key in table:
        for name in expanded(key):
            if name in keys:
                problem = (
                    f"{shown(key)} stands for {shown(name)} twice"
                    if keys[name] == key
                    else f"{shown(keys[name])} and {shown(key)} both stand for {shown(name)}"
                )
                raise ValueError(f"{problem}: write each name once")
            keys[name] = key
    return ByName({name: table[key] for name, key in keys.items()})


def read_terms(
    written: Any, read: Callable[[Any], Mapping[str, T]], fields: Collection[str]
) -> ByName[T]:
    """The terms by name, from what is written at `terms:`.

    Args:
        written: A table by name, or a list of names, each with a weight of 1.
        read: Reads the parts of a table, whose keys are typed `Name`.
        fields: The fields of a term, to find those that are not indented in YAML.

    Raises:
        ValueError: If it is neither of these, is empty, or has wrong names.
    """
    if written is None:
        raise ValueError("no terms here: in YAML, indent them below `terms:`")
    if not isinstance(written, Mapping | list):
        raise ValueError(
            "a table is needed, such as {reconstruction: 1.0}, or a list of names, "
            f"found {shown(written)}"
        )
    if len(written) > MOST_TERMS:
        raise ValueError(f"a loss has at most {MOST_TERMS:,} terms, found {len(written)}")
    if not written:
        raise ValueError("at least one term is needed: write `terms: {reconstruction: 1.0}`")
    for name in written:
        if not isinstance(name, str):
            hint = "quote it"
            if isinstance(name, dict):
                hint = "to give weights, write a table, such as {reconstruction: 1.0}"
            raise ValueError(f"the name of a term must be a string, found {shown(name)}: {hint}")
    if isinstance(written, ByName):
        table: Mapping[str, Any] = written.written()
    elif isinstance(written, list):
        table = _of_list(written)
    else:
        table = _indented(written, fields)
    return by_name(read(table))


def _of_list(names: list[str]) -> dict[str, Any]:
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"listed twice: {quoted(sorted(repeated))}; keep one")
    return dict.fromkeys(names, 1.0)


def _indented(table: Mapping[str, Any], fields: Collection[str]) -> Mapping[str, Any]:
    """The table, unless fields of a term are next to its name."""
    if outside := sorted(table.keys() & fields):
        for name in [name for name, value in table.items() if value is None]:
            raise ValueError(
                f"{shown(name)} has no value, and {quoted(outside)} are next to it: in YAML, "
                f"indent the fields of {shown(name)} below it"
            )
    return table


def terms_json(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The JSON schemas of terms by name: of the table, and of a list of names."""
    size = {"minItems": 1, "maxItems": MOST_TERMS, "uniqueItems": True}
    names = {"type": "array", "items": NAME_JSON, **size}
    size = {"minProperties": 1, "maxProperties": MOST_TERMS}
    return [{**table, "propertyNames": NAME_JSON, **size}, names]


def as_written(fields: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Fields with their values, tables by name as a config contains them."""
    for field, value in fields:
        yield field, value.written() if isinstance(value, ByName) else value
