"""Reading a declaration from a mapping or a file, and finding the place of an error in it."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from lossweights.errors import ConfigError, did_you_mean, dotted, quoted

Location = tuple[str | int, ...]


@dataclass(frozen=True)
class Source:
    """Data as it was read, with what is needed to name a place in it.

    Args:
        data: Mappings, lists and scalars.
        name: The file's name, or nothing.
        text: The text of a YAML file, from which lines are told.
    """

    data: Any
    name: str = ""
    text: str = ""

    @classmethod
    def of(cls, source: Mapping[str, Any] | str | PathLike[str]) -> Source:
        """From a mapping or a path.

        Raises:
            ConfigError: For a file that is missing, of another format, or not well-formed.
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
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} cannot be read: {error}") from None
        suffix = path.suffix.lower()
        if suffix == ".json":
            return cls(_read_json(text, path.name), path.name)
        if suffix == ".toml":
            try:
                return cls(tomllib.loads(text), path.name)
            except (ValueError, RecursionError) as error:  # TOMLDecodeError, a date, depth
                raise ConfigError(f"{path.name} is not well-formed TOML: {error}") from None
        if suffix in (".yaml", ".yml"):
            return cls(_read_yaml(text, path.name), path.name, text)
        raise ConfigError(f"{path.name}: a config file ends in .json, .toml, .yaml or .yml")

    def part(self, at: str | None) -> tuple[dict[str, Any], Location]:
        """The table at a dotted path, with its location.

        Raises:
            ConfigError: Where there is no table.
        """
        if at is not None and not isinstance(at, str):
            raise ConfigError(f"at is a dotted path such as 'training.loss', found {at!r}")
        path: Location = tuple(at.split(".")) if at else ()
        data = self.data
        for depth, key in enumerate(path):
            if not isinstance(data, Mapping) or key not in data:
                keys = list(map(str, data)) if isinstance(data, Mapping) else []
                raise ConfigError(
                    f"{self.place(path[:depth])}: there is no {key!r} here"
                    f"{did_you_mean(str(key), keys)} (there are {quoted(keys)})"
                )
            data = data[key]
        if not isinstance(data, Mapping):
            raise ConfigError(f"{self.place(path)}: a table with `terms` is needed, found {data!r}")
        try:
            return plain(data), path  # only now: what lies elsewhere may not resolve
        except RecursionError:
            raise ConfigError(f"{self.place(path)}: a table holds itself") from None

    def place(self, location: Location) -> str:
        """`elbo.yaml, line 7, terms.kl.schedule`: where a location is."""
        line = _line_of(self.text, location) if self.text else None
        parts = (self.name, f"line {line}" if line else "", dotted(location))
        return ", ".join(part for part in parts if part) or "the config"


def plain(data: Any) -> Any:
    """Mappings and lists of any library as dicts and lists; all else as it is."""
    if isinstance(data, Mapping):
        return {key: plain(value) for key, value in data.items()}
    if isinstance(data, Sequence) and not isinstance(data, str | bytes):
        return [plain(value) for value in data]
    return data


def _read_json(text: str, name: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: _without_repeats(pairs, name))
    except ConfigError:  # a ValueError too, and told already
        raise
    except (ValueError, RecursionError) as error:  # JSONDecodeError, an integer too long, depth
        raise ConfigError(f"{name} is not well-formed JSON: {error}") from None


def _without_repeats(pairs: Iterable[tuple[Any, Any]], name: str) -> dict[Any, Any]:
    table: dict[Any, Any] = {}
    for key, value in pairs:
        if key in table:
            raise ConfigError(f"{name}: {key!r} stands twice in one table; keep one")
        table[key] = value
    return table


def _read_yaml(text: str, name: str) -> Any:
    try:
        import yaml  # noqa: PLC0415  # an extra
    except ImportError:
        raise ImportError(
            f"{name}: reading YAML needs PyYAML; pip install 'lossweights[yaml]'"
        ) from None

    class Loader(yaml.SafeLoader):
        """YAML's own loader keeps the last of two equal keys and says nothing."""

        def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
            node = super().compose_mapping_node(anchor)
            keys = [key.value for key, _ in node.value]
            for index, (key, _) in enumerate(node.value):
                if key.value in keys[:index]:
                    line = key.start_mark.line + 1
                    raise ConfigError(f"{name}, line {line}: {key.value!r} stands twice; keep one")
            return node

    try:
        return yaml.load(text, Loader)  # noqa: S506  # a SafeLoader
    except ConfigError:
        raise
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        if "mapping values" in str(problem):
            problem = (
                "it is indented further than the line before, or a text with `: ` lacks quotes"
            )
        raise ConfigError(
            f"{name}{line}: the YAML breaks off or is not well-formed: {problem}"
        ) from None
    except (ValueError, RecursionError) as error:  # a date that is none, an integer too long, depth
        raise ConfigError(f"{name} is not well-formed YAML: {error}") from None


def _line_of(text: str, location: Location) -> int | None:
    """The line of a YAML text on which a location stands, or the nearest table around it."""
    import yaml  # noqa: PLC0415  # an extra

    node, line = yaml.compose(text, yaml.SafeLoader), None
    for part in location:
        if isinstance(node, yaml.MappingNode):
            pairs = [(key, value) for key, value in node.value if key.value == str(part)]
            if not pairs:
                continue  # a shorthand, such as a schedule that stands where its term would
            line, node = pairs[0][0].start_mark.line + 1, pairs[0][1]
        elif (
            isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value)
        ):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line
