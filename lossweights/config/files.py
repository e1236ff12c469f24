"""Reads configs from mappings and files, and finds the line of an error in them."""

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

_FORMATS = {".json": "JSON", ".toml": "TOML", ".yaml": "YAML", ".yml": "YAML"}


@dataclass(frozen=True)
class Source:
    """The data of a config, and where it comes from.

    Args:
        data: Mappings, lists and scalars.
        name: The name of the file; empty for a mapping.
        text: The text of a YAML file, in which lines can be found.
    """

    data: Any
    name: str = ""
    text: str = ""

    @classmethod
    def of(cls, source: Mapping[str, Any] | str | PathLike[str]) -> Source:
        """Reads a mapping or a file.

        Raises:
            ConfigError: If the file is missing, not well-formed, or of another format.
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
        form = _FORMATS.get(path.suffix.lower())
        try:
            if form == "JSON":
                return cls(json.loads(text, object_pairs_hook=_without_repeats), path.name)
            if form == "TOML":
                return cls(tomllib.loads(text), path.name)
            if form == "YAML":
                return cls(_read_yaml(text, path.name), path.name, text)
        except ConfigError:
            raise
        except (ValueError, RecursionError) as error:  # syntax, a date, an integer too long, depth
            raise ConfigError(f"{path.name} is not well-formed {form}: {error}") from None
        raise ConfigError(f"{path.name}: a config file ends in .json, .toml, .yaml or .yml")

    def part(self, at: str | None) -> tuple[dict[str, Any], Location]:
        """The table at a dotted path, with its location.

        Raises:
            ConfigError: If there is none.
        """
        if at is not None and not isinstance(at, str):
            raise ConfigError(f"at must be a dotted path such as 'training.loss', found {at!r}")
        path: Location = tuple(at.split(".")) if at else ()
        data = self.data
        for depth, key in enumerate(path):
            if not isinstance(data, Mapping) or key not in data:
                keys = list(map(str, data)) if isinstance(data, Mapping) else []
                raise ConfigError(
                    f"{self.place(path[:depth])}: no key {key!r}{did_you_mean(str(key), keys)} "
                    f"(found {quoted(keys)})"
                )
            data = data[key]
        if not isinstance(data, Mapping):
            raise ConfigError(f"{self.place(path)}: a table with `terms` is needed, found {data!r}")
        try:
            return plain(data), path  # this part alone: others of OmegaConf may not resolve
        except RecursionError:
            raise ConfigError(f"{self.place(path)}: a table contains itself") from None

    def place(self, location: Location) -> str:
        """A location as in `elbo.yaml, line 7, terms.kl.schedule`."""
        line = _line_of(self.text, location) if self.text else None
        parts = (self.name, f"line {line}" if line else "", dotted(location))
        return ", ".join(part for part in parts if part) or "the config"


def plain(data: Any) -> Any:
    """Converts mappings and lists of any library to dicts and lists; the rest is unchanged."""
    if isinstance(data, Mapping):
        return {key: plain(value) for key, value in data.items()}
    if isinstance(data, Sequence) and not isinstance(data, str | bytes):
        return [plain(value) for value in data]
    return data


def as_yaml(data: Any) -> str:
    """Data as YAML text; without PyYAML as JSON, which every reader of YAML can read."""
    try:
        import yaml  # noqa: PLC0415  # an extra
    except ImportError:
        return json.dumps(data, indent=2, ensure_ascii=False)
    text: str = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, default_flow_style=None)
    return text.rstrip()


def _without_repeats(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    table: dict[Any, Any] = {}
    for key, value in pairs:
        if key in table:
            raise ValueError(f"{key!r} appears twice in one table; keep one")
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
        """Raises an error for repeated keys, of which PyYAML silently keeps the last."""

        def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
            node = super().compose_mapping_node(anchor)
            keys = [key.value for key, _ in node.value]
            for index, (key, _) in enumerate(node.value):
                if key.value in keys[:index]:
                    problem = f"{key.value!r} appears twice in one table; keep one"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            return node

    try:
        return yaml.load(text, Loader)  # noqa: S506  # a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = str(getattr(error, "problem", None) or error)
        if "mapping values" in problem:
            problem = "more indented than the line before, or a text with `: ` needs quotes"
        raise ConfigError(f"{name}{line}: incomplete or not well-formed YAML: {problem}") from None


def _line_of(text: str, location: Location) -> int | None:
    """The line of a location in a YAML text, or of the nearest table around it."""
    import yaml  # noqa: PLC0415  # an extra

    node, line = yaml.compose(text, yaml.SafeLoader), None
    for part in location:
        if isinstance(node, yaml.MappingNode):
            pairs = [(key, value) for key, value in node.value if key.value == str(part)]
            if not pairs:
                continue  # a shorthand, such as a schedule in place of a term
            line, node = pairs[0][0].start_mark.line + 1, pairs[0][1]
        elif isinstance(node, yaml.SequenceNode) and part in range(len(node.value)):
            node = node.value[int(part)]
            line = node.start_mark.line + 1
        else:
            break
    return line
