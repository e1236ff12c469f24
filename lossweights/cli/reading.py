"""Reads the configs named on the command line: files, and sections of files."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lossweights.config.files import Source
from lossweights.config.loss_config import LossConfig
from lossweights.criterion.weighted_loss import WeightedLoss
from lossweights.errors import ConfigError, quoted


class Place(NamedTuple):
    """A file, and the dotted path of a config in it, if any."""

    path: Path
    at: str | None

    def __str__(self) -> str:
        return f"{self.path}:{self.at}" if self.at else str(self.path)


class Found(NamedTuple):
    """The criterion that a training would build, its place, and the warnings of building it."""

    place: Place
    criterion: WeightedLoss
    warnings: list[str]


def place_of(argument: str, at: str | None) -> Place:
    """The place that an argument names: `FILE`, with the option `--at`, or `FILE:AT`."""
    path, colon, own = argument.rpartition(":")
    if colon and not Path(argument).exists() and Path(path).exists():
        return Place(Path(path), own)
    return Place(Path(argument), at)


def read(place: Place, changes: Mapping[str, Any]) -> Found:
    """The criterion of the config at a place, or in its only section, after changes to the config.

    Raises:
        ConfigError: If there is no config or several, or if a training would refuse it: the place,
            and below it one line per problem.
    """
    try:
        return _read(place, changes)
    except (ValueError, ImportError) as error:
        raise ConfigError(f"{place}: refused\n{textwrap.indent(str(error), '  ')}") from None


def _read(place: Place, changes: Mapping[str, Any]) -> Found:
    source = Source.of(place.path)
    data, location = source.part(place.at)
    if "terms" not in data and (found := list(_sections(data))):
        sections = [".".join(map(str, (*location, *section))) for section in found]
        if len(sections) > 1:
            raise ConfigError(
                f"{source.place(location)}: there are several configs, {quoted(sections)}: "
                f"write --at {sections[0]}, or {place.path}:{sections[0]}"
            )
        place = Place(place.path, sections[0])
    config = LossConfig.read(place.path, at=place.at)
    try:
        config = config.override(changes)
    except ConfigError as error:
        raise ConfigError(textwrap.indent(str(error), "changed: ")) from None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        criterion = WeightedLoss.from_config(config)
    return Found(place, criterion, [str(warning.message) for warning in caught])


def _sections(data: Mapping[Any, Any]) -> Iterator[tuple[Any, ...]]:
    """The paths of all tables with terms."""
    if isinstance(data.get("terms"), Mapping | list):
        yield ()
        return
    for key, value in data.items():
        if isinstance(value, Mapping):
            for path in _sections(value):
                yield (key, *path)
