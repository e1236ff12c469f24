"""Reads configs from mappings and files, and finds the line of an error in them."""

from __future__ import annotations

import json
import re
import tomllib
from collections import UserString
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from errno import EINVAL
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

from lossweights.components.limits import MOST_VALUES
from lossweights.config.names import ByName, times
from lossweights.config.yaml_text import Lines, read_yaml
from lossweights.errors import ConfigError, did_you_mean, dotted, quoted, shown

Location = tuple[str | int, ...]

_FORMATS = {".json": "JSON", ".toml": "TOML", ".yaml": "YAML", ".yml": "YAML"}


# A config is written by people. Beyond these limits it is damaged, or made to take up memory.
_LARGEST_FILE = 256 * 1024  # bytes
_DEEPEST = 32  # levels of tables and lists
_MOST_VALUES_OF_FILE = 20_000

_TEXTS = (str, bytes, bytearray, memoryview, UserString)  # sequences that are one value

# A dotted key of TOML that is nested too deeply: tomllib takes quadratic time for it.
_DOTTED = re.compile(
    rf"""(?<![\w-])(?:(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){{{_DEEPEST + 1}}}"""
)


@dataclass(frozen=True)
class Source:
    """The data of a config, and where it comes from.

    Args:
        data: Mappings, lists and scalars.
        name: The name of the file; empty for a mapping.
        lines: The lines of the parts of a YAML file.
    """

    data: Any
    name: str = ""
    lines: Lines = field(default_factory=dict)

    @classmethod
    def of(cls, source: Mapping[str, Any] | str | PathLike[str]) -> Source:
        """Reads a mapping or a file.

        Raises:
            ConfigError: If the file is missing, too large, not well-formed, or of another format.
            ImportError: For a YAML file without PyYAML.
        """
        if isinstance(source, Mapping):
            return cls(source)
        if not isinstance(source, str | PathLike):
            raise ConfigError(
                "a config is a LossConfig, a mapping, or the path of a JSON, TOML or YAML file, "
                f"found {type(source).__name__}"
            )
        path = Path(source)
        try:
            with open_file(path) as file:
                raw = file.read(_LARGEST_FILE + 1)
            text = raw.decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            problem = getattr(error, "strerror", None) or error
            raise ConfigError(f"{dotted([str(path)])} cannot be read: {problem}") from None
        name, form = dotted([path.name]), _FORMATS.get(path.suffix.lower())
        if len(raw) > _LARGEST_FILE:
            raise ConfigError(f"{name}: a config file has at most {_LARGEST_FILE:,} bytes")
        try:
            if form == "JSON":
                return cls(json.loads(text, object_pairs_hook=_without_repeats), name)
            if form == "TOML":
                return cls(_read_toml(text), name)
        except RecursionError:
            problem = f"tables and lists are nested more than {_DEEPEST} deep"
            raise ConfigError(f"{name}: {problem}") from None
        except ValueError as error:  # syntax, a date, an integer with too many digits
            raise ConfigError(f"{name} is not well-formed {form}: {error}") from None
        if form == "YAML":
            data, lines = read_yaml(text, name, deepest=_DEEPEST, most=_MOST_VALUES_OF_FILE)
            return cls(data, name, lines)
        raise ConfigError(f"{name}: a config file ends in .json, .toml, .yaml or .yml")

    def part(self, at: str | None) -> tuple[dict[str, Any], Location]:
        """The table at a dotted path, with its location.

        Raises:
            ConfigError: If there is none.
        """
        if at is not None and not isinstance(at, str):
            raise ConfigError(
                f"at must be a dotted path such as 'training.loss', found {shown(at)}"
            )
        path: Location = tuple(at.split(".")) if at else ()
        data = self.data
        for depth, key in enumerate(path):
            if not isinstance(data, Mapping) or key not in data:
                keys = list(map(str, data)) if isinstance(data, Mapping) else []
                near, hint = did_you_mean(key, keys), ""
                if not near and "terms" in keys:
                    hint = f": `terms` is at this level, so leave {shown(key)} out of the path"
                elif not near:
                    hint = f": write the config there, `{_example(path[depth:])}`"
                raise ConfigError(
                    f"{self.place(path[:depth])}: no key {shown(key)}{near} (found {quoted(keys)})"
                    f"{hint}"
                )
            data = data[key]
        if not isinstance(data, Mapping):
            found = "nothing" if data is None else shown(data)
            raise ConfigError(
                f"{self.place(path)}: a table with `terms` is needed, such as "
                f"{{{_example()}}}, found {found}"
            )
        # This part alone: others of OmegaConf may not resolve.
        return plain(data, lambda location: self.place((*path, *location))), path

    def place(self, location: Location) -> str:
        """A location as in `elbo.yaml, line 7, terms.kl.schedule`."""
        line = self._line(location)
        parts = (self.name, f"line {line}" if line else "", dotted(location))
        return ", ".join(part for part in parts if part) or "the config"

    def _line(self, location: Location) -> int | None:
        """The line of a location, or of the nearest table around it."""
        node, line = self.data, None
        for part in location:
            lines = self.lines.get(id(node), {})
            if part in lines:
                line, node = lines[part], node[part]
            elif not isinstance(node, dict):  # else a shorthand: a schedule in place of a term
                break
        return line


def _example(path: Sequence[str | int] = ()) -> str:
    """A small config, at a path, for messages."""
    text = "terms: {reconstruction: 1.0}"
    for key in reversed(path):
        text = f"{key}: {{{text}}}"
    return text


def open_file(path: Path) -> BinaryIO:
    """Opens a regular file; others, such as devices and pipes, have no end or never begin.

    Raises:
        OSError: If there is no such file, or it is not regular.
    """
    try:
        if path.exists() and not path.is_file():
            raise OSError(EINVAL, "it is not a regular file", str(path))
        return path.open("rb")
    except ValueError as error:  # a path with NUL or with half a character
        raise OSError(EINVAL, str(error), str(path)) from None


def plain(data: Any, place: Callable[[Location], str] = dotted) -> Any:
    """Converts mappings and lists of any library to dicts and lists; the rest is unchanged.

    Raises:
        ConfigError: For data that contains itself, is nested too deeply, has too many values, or
            cannot be read; `place` names the location.
    """
    path: list[Any] = []
    around: set[int] = set()
    count = 0

    def refusal(problem: str) -> ConfigError:
        return ConfigError(f"{place(tuple(path)) or 'the config'}: {problem}")

    def entries(value: Any) -> Iterator[tuple[Any, Any]]:
        try:
            yield from _entries(value)
        except Exception as error:  # of another library, such as a missing value of OmegaConf
            raise refusal(f"this part cannot be read: {error}") from error

    def copied(value: Any, uses: int = 1) -> Any:
        nonlocal count
        count += uses
        if count > MOST_VALUES:
            raise refusal(f"a config has at most {MOST_VALUES:,} values, found more")
        if not isinstance(value, Mapping | Sequence) or isinstance(value, _TEXTS):
            return value
        if id(value) in around:
            raise refusal("a table or list contains itself")
        if len(path) > _DEEPEST:
            raise refusal(f"tables and lists are nested more than {_DEEPEST} deep")
        around.add(id(value))
        copy: dict[Any, Any] = {}
        for key, part in entries(value):
            path.append(key)
            copy[key] = copied(part, uses * times(key))
            path.pop()
        around.remove(id(value))
        return copy if isinstance(value, Mapping) else list(copy.values())

    return copied(data)


def _entries(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, ByName):
        return value.written().items()
    return value.items() if isinstance(value, Mapping) else enumerate(value)


def as_yaml(data: Any) -> str:
    """Data as YAML text; without PyYAML as JSON, which every reader of YAML can read."""
    try:
        import yaml  # noqa: PLC0415  # an extra
    except ImportError:
        return json.dumps(data, indent=2, ensure_ascii=False)
    text: str = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, default_flow_style=None)
    return text.rstrip()


def _read_toml(text: str) -> dict[str, Any]:
    if _DOTTED.search(text):
        raise RecursionError
    return tomllib.loads(text)


def _without_repeats(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    table: dict[Any, Any] = {}
    for key, value in pairs:
        if key in table:
            raise ValueError(f"{shown(key)} appears twice in one table; keep one")
        table[key] = value
    return table
