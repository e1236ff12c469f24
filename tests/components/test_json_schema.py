"""The JSON schema covers every registered kind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import jsonschema
import numpy as np
import pytest
from pydantic import Field, ValidationError

from lossweights import (
    Component,
    Horizon,
    LossConfig,
    Schedule,
    Sequence,
    Shape,
    Steps,
    Values,
)
from lossweights.components.declaration import Declaration
from tests.components.schedules.examples import ALL_SCHEDULES, ALL_SHAPES, Negated

pytestmark = pytest.mark.usefixtures("registries_as_before")


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return LossConfig.model_json_schema()


def accepts(schema: dict[str, Any], instance: Any) -> bool:
    return bool(jsonschema.Draft202012Validator(schema).is_valid(instance))


def config_of(schedule: Any) -> dict[str, Any]:
    return {"terms": {"a": {"schedule": schedule}}}


def test_the_schema_is_one_and_every_reference_in_it_leads_somewhere() -> None:
    schema = LossConfig.model_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert "lossweights-family" not in repr(schema)

    def references(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if "$ref" in node:
                yield node["$ref"]
            for part in node.values():
                yield from references(part)
        elif isinstance(node, list):
            for part in node:
                yield from references(part)

    found = set(references(schema))
    assert found <= {f"#/$defs/{name}" for name in schema["$defs"]}
    for family in (Schedule, Shape):
        assert {f"#/$defs/{family.__name__}.{kind}" for kind in family.kinds()} <= found


@pytest.mark.parametrize("schedule", ALL_SCHEDULES, ids=repr)
def test_the_schema_accepts_every_schedule_as_it_is_saved(
    schedule: Schedule, schema: dict[str, Any]
) -> None:
    for table in (
        schedule.model_dump(mode="json"),
        schedule.model_dump(mode="json", exclude_unset=True),
    ):
        assert accepts(schema, config_of(table))
        assert accepts(schema, {"terms": {"a": table}})
        assert accepts(schema, config_of({"kind": "test-negated", "schedule": table}))
        assert not accepts(schema, config_of({**table, "wieght": 1.0}))
        assert not accepts(schema, config_of({**table, "kind": "zzz"}))
        assert not accepts(schema, config_of({k: v for k, v in table.items() if k != "kind"}))


@pytest.mark.parametrize("shape", ALL_SHAPES, ids=repr)
def test_the_schema_accepts_every_shape(shape: Shape, schema: dict[str, Any]) -> None:
    for written in (shape.model_dump(mode="json"), shape.kind):
        assert accepts(schema, config_of({"kind": "cyclical", "shape": written}))
    assert not accepts(schema, config_of({"kind": "cyclical", "shape": "zzz"}))


def test_the_schema_of_a_kind_covers_what_it_nests() -> None:
    schema = Sequence.model_json_schema()
    stages = [
        {"schedule": {"kind": "cyclical", "shape": "cosine"}, "over": "3 epochs"},
        {"schedule": 1},
    ]
    assert accepts(schema, {"kind": "sequence", "stages": stages})
    assert not accepts(schema, {"kind": "sequence", "stages": [{"schedule": {"kind": "no"}}]})
    assert accepts(Negated.model_json_schema(), {"kind": "test-negated", "schedule": 3.0})


def test_the_schema_covers_a_kind_that_was_registered_after_it_was_first_asked_for() -> None:
    assert not accepts(LossConfig.model_json_schema(), config_of({"kind": "late"}))

    class Late(Schedule, kind="late"):
        depth: Annotated[int, Field(ge=1)] = 1
        inner: Schedule | None = None

        def values(self, steps: Steps, horizon: Horizon) -> Values:
            return np.full(len(steps), 0.5)

    schema = LossConfig.model_json_schema()
    assert accepts(schema, config_of({"kind": "late", "inner": {"kind": "late", "depth": 2}}))
    assert not accepts(schema, config_of({"kind": "late", "inner": {"kind": "late", "depth": 0}}))


def test_a_family_of_ones_own_is_covered_as_well() -> None:
    class Flavour(Component):
        """A family that has no shorthand."""

    class Sweet(Flavour, kind="sweet"):
        grams: float = 1.0

    class Cake(Declaration):
        flavour: Flavour

    assert Cake.model_validate({"flavour": {"kind": "sweet", "grams": 2}}).flavour == Sweet(grams=2)
    schema = Cake.model_json_schema()
    assert accepts(schema, {"flavour": {"kind": "sweet"}})
    assert not accepts(schema, {"flavour": 3.0})
    with pytest.raises(ValidationError, match=r"a flavour is a table with a `kind`, found 3.0"):
        Cake.model_validate({"flavour": 3.0})
