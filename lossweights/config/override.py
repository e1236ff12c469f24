"""A declaration with a value changed in its depths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from lossweights.errors import ConfigError


def changed(owner: Any, path: Sequence[str], value: Any, whole: str) -> Any:
    """`owner` as data, with the value at `path` replaced; it is validated when all is changed.

    Args:
        owner: A declaration, or a part of one.
        path: Where in it, a name or an index a step.
        value: What is to stand there.
        whole: The path as it was written, for errors.

    Raises:
        ConfigError: For a path that leads nowhere.
    """
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(owner, tuple | list) and head.isdecimal() and int(head) < len(owner):
        index = int(head)
        return [*owner[:index], changed(owner[index], rest, value, whole), *owner[index + 1 :]]
    if isinstance(owner, BaseModel):
        fields = type(owner).model_fields
        known: Mapping[str, Any] = {name: getattr(owner, name) for name in fields}
        owner = {name: known[name] for name in owner.model_fields_set} | _kind_of(owner)
        if rest and head not in owner and head in known:
            owner[head] = known[head]  # a default that is changed within
    if isinstance(owner, dict) and (head in owner or not rest):
        return {**owner, head: changed(owner.get(head), rest, value, whole)}
    if owner is None:
        problem = "nothing is set there yet: give the whole table"
    else:
        problem = f"{owner!r} has no parts by that name"
    raise ConfigError(f"{whole}: there is nothing at {head!r}, {problem}")


def _kind_of(owner: BaseModel) -> dict[str, str]:
    kind = getattr(owner, "kind", "")
    return {"kind": kind} if kind else {}
