"""JSON schemas that list the registered kinds of every family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic.json_schema import model_json_schema

if TYPE_CHECKING:
    from lossweights.components.declaration import Component

FAMILY = "lossweights-family"  # a key for the kinds of the family that it names


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
            described = model_json_schema(member)
            for name, part in described.pop("$defs", {}).items():
                definitions.setdefault(name, resolve(part))
            definitions[f"{family.__name__}.{kind}"] = resolve(described)
        definitions[family.__name__] = {
            "anyOf": family.shorthand_json_schemas()
            + [{"$ref": f"#/$defs/{family.__name__}.{kind}"} for kind in family.kinds()]
        }

    for name in list(definitions):
        definitions[name] = resolve(definitions[name])
    return resolve(schema | {"$defs": {}}) | {"$defs": definitions}  # type: ignore[no-any-return]
