"""JSON schemas that list the registered kinds of every family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic.json_schema import GenerateJsonSchema, model_json_schema

from lossweights.components.durations import DURATION_JSON, Duration
from lossweights.components.limits import LARGEST_FLOAT32

if TYPE_CHECKING:
    from lossweights.components.declaration import Component

FAMILY = "lossweights-family"  # a key for the kinds of the family that it names

NUMBER = {"type": "number", "minimum": -LARGEST_FLOAT32, "maximum": LARGEST_FLOAT32}
NOT_NULL = {"not": {"type": "null"}}


class Generator(GenerateJsonSchema):
    """Writes a default duration as a config does."""

    def encode_default(self, dft: Any) -> Any:
        return str(dft) if isinstance(dft, Duration) else super().encode_default(dft)


def one_given(*fields: str) -> dict[str, Any]:
    """The rule that exactly one of some fields is given; null counts as not given."""
    return {"oneOf": [{"required": [f], "properties": {f: NOT_NULL}} for f in fields]}


def with_kinds(schema: dict[str, Any], families: Mapping[str, type[Component]]) -> dict[str, Any]:
    """Adds all kinds of every family that a JSON schema mentions to its `$defs`."""
    definitions: dict[str, Any] = schema.setdefault("$defs", {})

    def resolve(node: Any) -> Any:
        if isinstance(node, list):
            return [resolve(part) for part in node]
        if not isinstance(node, dict):
            return node
        if FAMILY in node:
            family = node[FAMILY]
            if family not in definitions:
                definitions[family] = {}  # ends the recursion of kinds that nest their family
                define(families[family])
            return {"$ref": f"#/$defs/{family}"}
        return {key: resolve(part) for key, part in node.items()}

    def define(family: type[Component]) -> None:
        for kind, member in family.kinds().items():
            described = model_json_schema(member, schema_generator=Generator)
            for name, part in described.pop("$defs", {}).items():
                definitions.setdefault(name, resolve(part))
            definitions[f"{family.__name__}.{kind}"] = resolve(described)
        definitions[family.__name__] = {
            "anyOf": family.shorthand_json_schemas()
            + [{"$ref": f"#/$defs/{family.__name__}.{kind}"} for kind in family.kinds()]
        }

    for name in list(definitions):
        definitions[name] = resolve(definitions[name])
    whole = resolve(schema | {"$defs": {}}) | {"$defs": definitions}
    shared: dict[str, Any] = _with_references(whole)
    shared["$defs"]["Duration"] = DURATION_JSON
    return shared


def _with_references(node: Any) -> Any:
    """A schema in which each duration refers to one definition."""
    if isinstance(node, list):
        return [_with_references(part) for part in node]
    if not isinstance(node, dict):
        return node
    if node.items() >= DURATION_JSON.items():
        rest = {key: part for key, part in node.items() if key not in DURATION_JSON}
        return {"$ref": "#/$defs/Duration", **rest}
    return {key: _with_references(part) for key, part in node.items()}
