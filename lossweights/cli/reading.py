"""Configs as they are named on the command line: files, and sections of files."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lossweights.config.files import Source
from lossweights.config.loss_config import LossConfig
from lossweights.criterion.weighted_loss import WeightedLoss
from lossweights.errors import ConfigError, quoted


class Place(NamedTuple):
    """Where a declaration is looked for.

    Args:
        path: The file.
        at: The section, or None.
    """

    path: Path
    at: str | None

    def __str__(self) -> str:
        return f"{self.path}:{self.at}" if self.at else str(self.path)


class Found(NamedTuple):
    """What stands at a place.

    Args:
        place: The section too, where it was looked for and found.
        criterion: As a training would build it.
        warnings: What building it warned of.
    """

    place: Place
    criterion: WeightedLoss
    warnings: list[str]


def place_of(argument: str, at: str | None) -> Place:
    """The place that an argument names: a file, or `FILE:AT`."""
    path, colon, own = argument.rpartition(":")
    if colon and not Path(argument).exists() and Path(path).exists():
        return Place(Path(path), own)
    return Place(Path(argument), at)


def read(place: Place, changes: Mapping[str, Any]) -> Found:
    """The criterion declared at a place, or in its only section, with changes made to it.

    Raises:
        ConfigError: For a file without a declaration or with several, and for all that a training
            would refuse: the place, and under it a line each.
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
                f"{source.place(location)}: which declaration? there are {quoted(sections)}: "
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
    """The paths of all tables that have terms."""
    if isinstance(data.get("terms"), Mapping | list):
        yield ()
        return
    for key, value in data.items():
        if isinstance(value, Mapping):
            for path in _sections(value):
                yield (key, *path)


def labels(places: Sequence[Place]) -> list[str]:
    """A short and distinct name for each: the file's, with its section where it has one."""
    names = {place.path.name for place in places}
    if len(names) == len({place.path for place in places}):
        places = [Place(Path(place.path.name), place.at) for place in places]
    return [str(place) for place in places]
