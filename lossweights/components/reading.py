"""Rules of reading that pydantic has no setting for."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic_core import (
    ErrorDetails,
    InitErrorDetails,
    PydanticCustomError,
    core_schema,
)

from lossweights.errors import did_you_mean, quoted


def strict(schema: Any) -> Any:
    """Two rules of reading that pydantic has no setting for, laid into a class's schema.

    Numbers refuse bools. And of `Duration | str` the duration alone validates: the other
    members of such a union are what it can be written as, named for the type checker.
    """
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict) or schema.get("metadata", {}).get("strict"):
        return schema
    if schema.get("type") in ("float", "int"):
        return core_schema.no_info_before_validator_function(
            _refuse_bool,
            schema,
            metadata={"strict": True},
        )
    if schema.get("type") == "union":
        for choice in schema["choices"]:
            if isinstance(choice, dict) and choice.get("metadata", {}).get("reads_all"):
                return choice
    kept = ("cls", "function", "config", "default", "metadata", "ref", "serialization")
    return {key: part if key in kept else strict(part) for key, part in schema.items()}


def _refuse_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"a number is needed, found {value}")
    return value


def in_our_words(cls: type[BaseModel], problem: ErrorDetails) -> InitErrorDetails:
    """A problem to raise again; an unknown field in words of ours."""
    location, kind = problem["loc"], problem["type"]
    if kind == "extra_forbidden" and len(location) == 1:
        fields = cls.model_fields
        owner = repr(cls.kind) if getattr(cls, "kind", "") else cls.__name__  # type: ignore[attr-defined]
        message = (
            f"unknown field {location[0]!r}{did_you_mean(str(location[0]), fields)} "
            f"({owner} has {quoted(fields)})"
        )
        return {
            "type": PydanticCustomError("unknown_field", message),
            "loc": location,
            "input": problem["input"],
        }
    if kind == "unknown_field":
        same = PydanticCustomError("unknown_field", problem["msg"])
        return {"type": same, "loc": location, "input": problem["input"]}
    return {"type": kind, "loc": location, "input": problem["input"], "ctx": problem.get("ctx", {})}
