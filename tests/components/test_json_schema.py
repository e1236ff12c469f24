"""The JSON schema covers every registered kind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from lossweights import (
    Component,
    ConfigError,
    Duration,
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


# The schema and the reader agree


EVERY_FIELD: dict[str, list[Any]] = {
    "terms": [
        {"a": 1.0},
        {"a": 1e39},
        {"a": -1e39},
        {"": 1.0},
        {"a*": 1.0},
        {"a\nb": 1.0},
        {"a b": 1.0, "größe": 2},
        {},
        {f"t{number}": 1 for number in range(1001)},
        [],
        ["a"],
        ["a", "a"],
        ["a*"],
        [""],
        [1],
        {"a": {"schedule": 1.0, "controller": {"kind": "pid", "target": 1.0}}},
        {"a": {"schedule": None, "controller": {"kind": "pid", "target": 1.0}}},
        {"a": {"schedule": 1e39}},
        {"a": {"reduction": "max"}},
        {"a": {"kind": "cyclical", "cycles": 0}},
        {"a": {"kind": "cyclical", "cycles": 2**53}},
        {"a": {"kind": "cyclical", "cycles": 2**53 + 1}},
        {"a": {"kind": "cyclical", "ratio": 0}},
        {"a": {"kind": "exponential"}},
        {"a": {"kind": "exponential", "rate": 0.5}},
        {"a": {"kind": "exponential", "half_life": "2 steps", "rate": None}},
        {"a": {"kind": "exponential", "rate": 0.5, "half_life": "2 steps"}},
        {"a": {"kind": "sequence", "stages": []}},
        {"a": {"kind": "lagrangian"}},
        {"a": {"kind": "lagrangian", "at_most": 1.0}},
        {"a": {"kind": "lagrangian", "at_most": 1.0, "at_least": 1.0}},
        {"a": {"kind": "lagrangian", "at_most": None, "equal_to": 1.0}},
    ],
    "total_steps": [
        0,
        1,
        2**53,
        2**53 + 1,
        "40",
        "4_0",
        "40 epochs",
        "40%",
        "1e4 steps",
        "x",
        None,
    ],
    "total": [
        "2e9 tokens",
        "5 Token",
        "40 epochs",
        "40000 steps",
        "1.5 tokens",
        "40%",
        "40 percent",
        "0.5 dur",
        "40 km",
        40,
        "40",
        None,
    ],
    "steps_per_epoch": [0, 1, 2**53, 2**53 + 1, None],
    "eval_weights": ["final", "last", {}, {"a": 0.5}, {"a": 1e39}],
    "ignore": ["a*", ["a*", "b"], [1], 1],
    "sync": ["auto", "off", False, True],
    "balancer": [
        None,
        "dwa",
        "dwarf",
        {"kind": "dwa", "temperature": 0},
        {"kind": "lr-annealing", "reference": ""},
        {"kind": "random", "seed": 2**64},
        {"kind": "famo", "learning_rate": 3.5e38},
    ],
}


@pytest.mark.parametrize("field", EVERY_FIELD)
def test_the_schema_and_the_reader_agree(field: str, schema: dict[str, Any]) -> None:
    for value in EVERY_FIELD[field]:
        config = {"terms": {"a": 1.0, "b": 1.0}, field: value}
        try:
            LossConfig.read(config)
            is_read = True
        except ConfigError:
            is_read = False
        assert accepts(schema, config) == is_read, config


@given(
    st.one_of(
        st.tuples(
            st.sampled_from(["", " ", "+", "-", "x"]),
            st.sampled_from(
                ["5", "0", "1.5", "2.0", "1_0", "1e2", "1.5e1", ".5", "5.", "", "1e-1"]
            ),
            st.sampled_from(["", " ", "  "]),
            st.sampled_from(
                [
                    "step",
                    "steps",
                    "STEPS",
                    "epoch",
                    "epochs",
                    "ep",
                    "Ep",
                    "%",
                    "percent",
                    "dur",
                    "",
                    "km",
                    "tokens",
                    "Sample",
                    "frame s",
                    "env_steps",
                    "stpes",
                    "eps",
                    "steps x",
                ]
            ),
        ).map("".join),
        st.text(max_size=5),
    )
)
def test_the_schema_knows_durations(schema: dict[str, Any], text: str) -> None:
    try:
        Duration.parse(text)
        is_read = True
    except ValueError:
        is_read = False
    # Not expressed: a number of steps with a negative exponent, such as `10e-1 steps`, `-0`, and
    # words that are almost a known unit.
    is_near = any(text.endswith(word) for word in ("stpes", "eps"))
    if "e-" not in text and not text.startswith("-") and not is_near:
        assert accepts(schema, {"terms": {"a": {"after": text}}}) == is_read


def test_defaults_are_written_as_in_a_config(schema: dict[str, Any]) -> None:
    properties = schema["$defs"]["Schedule.cyclical"]["properties"]
    assert properties["delay"]["default"] == "0 steps"
    assert schema["$defs"]["Balancer.dwa"]["properties"]["every"]["default"] == "1 epoch"

    def defaults(node: Any) -> Iterator[tuple[Any, Any]]:
        if isinstance(node, dict):
            if "default" in node:
                yield node, node["default"]
            for part in node.values():
                yield from defaults(part)
        elif isinstance(node, list):
            for part in node:
                yield from defaults(part)

    for node, default in defaults(schema):
        assert accepts({"$defs": schema["$defs"], **node}, default), node
