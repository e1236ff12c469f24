"""The names of terms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from lossweights.errors import quoted, shown

MOST_TERMS = 10_000

_TEXT = {"type": "string"}
_NAME = _TEXT | {"minLength": 1, "pattern": r"^[^*\x00-\x1f\x7f-\x9f\u2028\u2029]*$"}


def by_name(terms: Any, fields: Collection[str]) -> Any:
    """Terms by name, from a table or a list of names, each of weight 1.

    Args:
        terms: What is written at `terms`.
        fields: The fields of a term, for a hint about indentation.

    Raises:
        ValueError: Unless it is a table or a list with names that terms may have.
    """
    if terms is None:
        raise ValueError("no terms here: in YAML, indent them below `terms:`")
    if isinstance(terms, dict | list) and len(terms) > MOST_TERMS:
        raise ValueError(f"a loss has at most {MOST_TERMS:,} terms, found {len(terms)}")
    for name in terms if isinstance(terms, dict | list) else ():
        if not isinstance(name, str):
            found = f"found {shown(name)}: quote it"
            raise ValueError(f"the name of a term must be a string, {found}")
    if isinstance(terms, dict) and (found_fields := sorted(terms.keys() & set(fields))):
        for name in [name for name, value in terms.items() if value is None]:
            raise ValueError(
                f"{shown(name)} has no value, and {quoted(found_fields)} are next to it: in YAML, "
                f"indent the fields of {shown(name)} below it"
            )
    if not isinstance(terms, Mapping | list):
        raise ValueError(
            "a table by name is needed, such as {reconstruction: 1.0}, or a list of names, "
            f"found {shown(terms)}"
        )
    if not terms:
        raise ValueError("at least one term is needed: write `terms: {reconstruction: 1.0}`")
    if "" in terms:
        raise ValueError("the name of a term must not be empty, found ''")
    if pattern := next((name for name in terms if "*" in name), ""):
        raise ValueError(f"{shown(pattern)} is a pattern: write the name of each term")
    if isinstance(terms, Mapping):
        return terms
    if repeated := [name for name, count in Counter(terms).items() if count > 1]:
        raise ValueError(f"listed twice: {quoted(sorted(repeated))}; keep one")
    return dict.fromkeys(terms, 1.0)


def terms_json(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The JSON schemas of terms by name, from that of the table, and of a list of names."""
    size = {"minItems": 1, "maxItems": MOST_TERMS, "uniqueItems": True}
    names = {"type": "array", "items": _NAME, **size}
    size = {"minProperties": 1, "maxProperties": MOST_TERMS}
    return [{**table, "propertyNames": _NAME, **size}, names]
