"""Declarations and kinds: registering, reading and refusing."""

from __future__ import annotations

import importlib.metadata
import pickle
import re
import sys
from decimal import Decimal
from fractions import Fraction
from importlib.resources import files
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
import pydantic_core
import pytest
import yaml
from pydantic import Field, ValidationError

from lossweights import (
    AdaptiveKL,
    Balancer,
    Component,
    Constant,
    Controller,
    Cyclical,
    Duration,
    Horizon,
    LossConfig,
    Ramp,
    Schedule,
    Shape,
    Steps,
    Term,
    Transform,
    Values,
    Warmup,
    percent,
    steps,
)
from lossweights.components.declaration import Declaration, load_plugins

pytestmark = pytest.mark.usefixtures("registries_as_before")


class Half(Schedule):
    """Not registered: a base for the classes of these tests."""

    def values(self, steps: Steps, horizon: Horizon) -> Values:
        return np.full(len(steps), 0.5)


# Registering


def test_subclassing_with_a_kind_registers_it_everywhere_at_once() -> None:
    class Mine(Half, kind="mine"):
        over: Duration | str = "3 steps"

    assert Schedule.kinds()["mine"] is Schedule.of_kind("mine") is Mine
    assert "mine" not in Shape.kinds()
    config = LossConfig.read({"terms": {"a": {"kind": "mine", "over": "2 epochs"}}})
    assert config.terms["a"].schedule == Mine(over="2 epochs")
    nested = {"kind": "product", "factors": [{"kind": "mine"}, {"kind": "mine"}]}
    assert Schedule.read(nested)([0]).tolist() == [0.25]


def test_a_subclass_without_a_kind_is_a_base() -> None:
    assert Half.kind == ""
    assert Half not in Schedule.kinds().values()

    class Mine(Half, kind="mine"): ...

    class Other(Mine):
        """Does not take the kind of the class that it extends."""

    assert Other.kind == ""
    assert Schedule.of_kind("mine") is Mine


@pytest.mark.parametrize(
    "kind", ["Mine", "my_kind", "9-lives", "-mine", "mine-", "a--b", "mein schönes", "mine\n"]
)
def test_a_kind_is_kebab_case(kind: str) -> None:
    with pytest.raises(
        TypeError, match="Mine: a kind must be kebab-case such as 'half-life', found"
    ):

        class Mine(Half, kind=kind): ...

    assert kind not in Schedule.kinds()


def test_a_kind_needs_all_its_methods() -> None:
    with pytest.raises(TypeError, match=r"Mine \(kind 'mine'\) lacks the method 'values'"):

        class Mine(Schedule, kind="mine"): ...

    assert "mine" not in Schedule.kinds()


def test_another_class_of_a_kind_is_refused_and_both_are_named() -> None:
    with pytest.raises(
        TypeError,
        match=r"kind 'ramp' of Schedule is already lossweights\.components\.schedules\.ramp\.Ramp: "
        r"give .*test_declaration.*\.Mine another kind",
    ):

        class Mine(Half, kind="ramp"): ...

    assert Schedule.of_kind("ramp") is Ramp


def test_the_same_class_defined_again_takes_the_place_of_the_first() -> None:
    """A notebook cell that is run twice."""

    def cell(value: float) -> type[Schedule]:
        class Mine(Half, kind="mine"):
            height: float = value

        return Mine

    cell(1.0)
    again = cell(2.0)
    assert Schedule.of_kind("mine") is again
    assert repr(Schedule.read({"kind": "mine", "height": 1.0})) == "Mine(height=1.0)"


def test_families_have_kinds_of_their_own() -> None:
    assert "exponential" in Schedule.kinds().keys() & Shape.kinds().keys()
    assert issubclass(Schedule.of_kind("exponential"), Schedule)
    assert issubclass(Shape.of_kind("exponential"), Shape)
    with pytest.raises(ValueError, match="'cyclical' is a schedule, not a shape: write"):
        Shape.of_kind("cyclical")


def test_kinds_are_listed_in_order_and_as_a_copy() -> None:
    kinds = Schedule.kinds()
    assert list(kinds) == sorted(kinds)
    kinds.clear()
    assert Schedule.kinds()


# Plug-ins


class Point:
    """What `importlib.metadata.entry_points` gives for an installed plug-in."""

    def __init__(self, name: str, load: Any) -> None:
        self.name, self.value, self._load, self.loads = name, f"{name}:module", load, 0

    def load(self) -> None:
        self.loads += 1
        self._load()


def install(monkeypatch: pytest.MonkeyPatch, *points: Point) -> None:
    def entry_points(*, group: str) -> tuple[Point, ...]:
        return points if group == "lossweights.plugins" else ()

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)


def define() -> None:
    class Pluggy(Half, kind="pluggy"): ...


def test_an_unknown_kind_loads_the_plugins_once(monkeypatch: pytest.MonkeyPatch) -> None:
    point = Point("pluggy", define)
    install(monkeypatch, point)
    assert Schedule.read({"kind": "ramp", "start": 0, "stop": 1, "over": "1 steps"})
    assert point.loads == 0
    assert Schedule.read({"kind": "pluggy"})([0]).tolist() == [0.5]
    with pytest.raises(
        ValueError, match="'plugy' is not a kind of schedule; did you mean 'pluggy'"
    ):
        Schedule.read({"kind": "plugy"})
    assert "pluggy" in Schedule.kinds()
    assert point.loads == 1


def test_the_json_schema_knows_the_kinds_of_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Point("pluggy", define))
    assert "Schedule.pluggy" in LossConfig.model_json_schema()["$defs"]


def test_a_broken_plugin_is_named_where_a_kind_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ImportError("no module named 'gone'")

    install(monkeypatch, Point("broken", fail), Point("pluggy", define))
    assert Schedule.of_kind("pluggy").kind == "pluggy"
    with pytest.raises(
        ValueError,
        match=r"'gone-kind' is not a kind .*the plug-in 'broken' failed to load: ImportError",
    ):
        Schedule.of_kind("gone-kind")
    assert "broken" in load_plugins()


def test_reading_a_config_imports_nothing_that_it_names() -> None:
    for kind in ("antigravity", "antigravity:Schedule", "this.s"):
        with pytest.raises(ValueError, match="is not a kind of schedule"):
            Schedule.read({"kind": kind})
    assert "antigravity" not in sys.modules


# Reading


def test_a_member_comes_back_as_it_is() -> None:
    ramp = Ramp(start=0.0, stop=1.0, over="1 steps")
    assert Schedule.read(ramp) is ramp


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({}, "a schedule is a table with a `kind`, found {}; there are 'complement', 'constant'"),
        ({"cycles": 3}, "a schedule is a table with a `kind`, found {'cycles': 3}"),
        ({"kind": 3}, "a schedule is a table with a `kind`, found {'kind': 3}"),
        ({"kind": None}, "a schedule is a table with a `kind`"),
        ({"kind": "Ramp"}, "'Ramp' is not a kind of schedule; did you mean 'ramp'"),
        ({"kind": "zzz"}, "'zzz' is not a kind of schedule: there are 'complement'"),
        ({"kind": ""}, "'' is not a kind of schedule: there are"),
    ],
)
def test_a_table_needs_a_kind_that_there_is(table: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Schedule.read(table)


def test_a_class_reads_a_table_of_its_own_kind_alone() -> None:
    table = {"kind": "warmup", "over": "3 steps"}
    assert Warmup.model_validate(table) == Warmup(over="3 steps")
    with pytest.raises(ValidationError, match="Ramp is of kind 'ramp', found 'warmup'"):
        Ramp.model_validate(table)
    assert table == {"kind": "warmup", "over": "3 steps"}


def test_an_unknown_field_is_named_with_the_nearest() -> None:
    with pytest.raises(ValidationError) as caught:
        Schedule.read({"kind": "warmup", "ovr": "3 steps", "over": "3 steps", "x": 1})
    assert [(problem["loc"], problem["msg"]) for problem in caught.value.errors()] == [
        (
            ("ovr",),
            (
                "unknown field 'ovr'; did you mean 'over'? "
                "('warmup' has 'every', 'delay', 'over', 'shape')"
            ),
        ),
        (("x",), "unknown field 'x' ('warmup' has 'every', 'delay', 'over', 'shape')"),
    ]


class Typed(Half, kind="test-typed"):
    number: float = 0.0
    count: int = 0
    bounded: Annotated[float, Field(ge=0)] | None = None
    either: float | str = 0.0
    many: tuple[float, ...] = ()
    table: dict[str, float] = Field(default_factory=dict)


@pytest.mark.parametrize("field", ["number", "count", "bounded", "many", "table"])
@pytest.mark.parametrize("wrong", [True, False, float("nan"), float("inf"), "-inf", "x"], ids=repr)
def test_numbers_are_numbers_wherever_they_stand(field: str, wrong: object) -> None:
    value = {"many": [1.0, wrong], "table": {"a": wrong}}.get(field, wrong)
    with pytest.raises(ValidationError, match=rf"\n{field}"):
        Typed.model_validate({field: value})


def test_numeric_strings_are_numbers() -> None:
    read = Typed.model_validate({"number": "1e-3", "count": "12", "bounded": "2", "many": ["1"]})
    assert (read.number, read.count, read.bounded, read.many) == (1e-3, 12, 2.0, (1.0,))


def test_defaults_are_validated_too() -> None:
    class Mine(Half, kind="mine"):
        over: Duration | str = "3 stpes"

    with pytest.raises(ValidationError, match="did you mean 'steps'"):
        Mine()


def test_repr_shows_what_differs_from_the_defaults() -> None:
    assert repr(Typed()) == "Typed()"
    assert repr(Typed(number=1.0, count=0, many=(2.0,))) == "Typed(number=1.0, many=(2.0,))"


@pytest.mark.parametrize("family", [Schedule, Shape, Controller, Balancer, Transform])
def test_every_kind_is_shown_as_a_config_contains_it(family: type[Component]) -> None:
    text = files("lossweights.cli").joinpath("examples.yaml").read_text("utf-8")
    examples = yaml.safe_load(text).get(family.__name__.lower(), {})
    for kind, cls in family.kinds().items():
        if cls.__module__.startswith("lossweights."):
            component = family.read({"kind": kind, **examples.get(kind, {})})
            assert family.read(yaml.safe_load(str(component))) == component


@pytest.mark.parametrize("name", ["a b", "off", "1", "a: b", "x#y", "é", "größe", 'q"t', "~", "-"])
def test_a_name_is_quoted_if_yaml_would_read_it_differently(name: str) -> None:
    term = Term(weight=0.5, controller=AdaptiveKL(target=3.0, source=name))
    assert Term.model_validate(yaml.safe_load(str(term))) == term


def test_a_term_is_shown_as_a_config_contains_it() -> None:
    assert str(Term(weight=0.5)) == "0.5"
    assert str(Term(schedule=Ramp(start=0, stop=1, over=percent(10)))) == (
        "{schedule: {kind: ramp, start: 0, stop: 1, over: 10%}}"
    )


@pytest.mark.parametrize(
    ("cls", "values", "fields", "instead"),
    [
        (Ramp, (0, 1, "100 steps"), {}, "Ramp(start=0, stop=1, over='100 steps')"),
        (Ramp, (0,), {"stop": 1}, "Ramp(start=0, stop=1)"),
        (Cyclical, (4,), {}, "Cyclical(cycles=4)"),
        (Term, (0.5,), {}, "Term(weight=0.5)"),
        (LossConfig, ({"kl": 1.0},), {}, "LossConfig(terms={'kl': 1.0})"),
    ],
)
def test_values_without_names_are_refused_with_the_call_to_write(
    cls: Any, values: tuple[object, ...], fields: dict[str, object], instead: str
) -> None:
    said = f"{cls.__name__} takes its fields by name: {instead}"
    with pytest.raises(TypeError, match=f"^{re.escape(said)}$"):
        cls(*values, **fields)


def test_what_is_unhashable_says_so_and_the_rest_is_equal_by_value() -> None:
    assert hash(Constant(value=1.0)) == hash(Constant(value=1.0))
    assert Constant(value=1.0) != Constant(value=2.0)
    with pytest.raises(TypeError, match="unhashable type: 'dict'"):
        hash(Typed())
    assert Typed(table={"a": 1.0}) == Typed(table={"a": 1.0})


def test_pickles_with_its_class() -> None:
    assert pickle.loads(pickle.dumps(Typed(count=3))) == Typed(count=3)


def test_a_table_without_kinds_keeps_the_same_rules() -> None:
    class Table(Declaration):
        weight: float = 1.0

    with pytest.raises(ValidationError, match=r"unknown field 'wight'; did you mean 'weight'\?"):
        Table.model_validate({"wight": 1.0})
    with pytest.raises(ValidationError, match="a number is needed, found True"):
        Table.model_validate({"weight": True})
    with pytest.raises(ValidationError, match="frozen"):
        Table().weight = 2.0  # type: ignore[misc]


def test_core_schemas_have_the_format_that_is_rewritten() -> None:
    """pydantic does not document the format of its core schemas: a new version may change it."""
    versions = f"pydantic {pydantic.VERSION}, pydantic-core {pydantic_core.__version__}"

    class Table(Declaration):
        number: Annotated[float, Field(ge=0)] | None = None
        nested: tuple[dict[str, int], ...] = ()
        over: Duration | str = "1 steps"

    def problem(table: dict[str, Any]) -> str:
        try:
            return f"none in {Table.model_validate(table)}"
        except ValidationError as error:
            return str(error)

    assert "a number is needed, found True" in problem({"number": True}), versions
    assert "a number is needed, found True" in problem({"nested": [{"a": True}]}), versions
    assert "'3' has no unit" in problem({"over": "3"}), versions


# Types of fields


@pytest.mark.parametrize(
    "annotation",
    [
        Duration | int,
        Duration | Literal["auto"] | None,
        Duration | list[float],
        Schedule | Duration,
        dict[str, Duration | float],
    ],
    ids=str,
)
def test_a_duration_or_component_reads_text_alone(annotation: Any) -> None:
    """Otherwise the other types would be accepted by the class, and by no config."""
    with pytest.raises(TypeError, match=r"reads text, so it can be combined with str and None al"):

        class Mine(Half, kind="mine"):
            length: annotation


@pytest.mark.parametrize(
    ("annotation", "written", "read"),
    [
        (Duration | str | None, "3 steps", steps(3)),
        (tuple[Duration | str, ...], ["3 steps"], (steps(3),)),
        (list[float], ["1e-3", 2], [1e-3, 2.0]),
        (tuple[Schedule, ...], [0.5], (Constant(value=0.5),)),
        (dict[str, Schedule], {"a": 0.5}, {"a": Constant(value=0.5)}),
        (float | str, "x", "x"),
    ],
    ids=str,
)
def test_fields_of_many_types(annotation: Any, written: Any, read: Any) -> None:
    class Mine(Half, kind="mine"):
        field: annotation

    config = LossConfig.read({"terms": {"a": {"kind": "mine", "field": written}}})
    assert config.terms["a"].schedule == Mine(field=read)
    assert LossConfig.read(config.model_dump(mode="json")) == config


def test_a_controller_has_no_lists_of_schedules() -> None:
    """`now[...]` has the values of fields that are schedules themselves."""
    with pytest.raises(
        TypeError, match=r"Mine: now\[...\] has the values of fields typed Schedule"
    ):

        class Mine(Controller):
            targets: tuple[Schedule, ...] = ()


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("number", 3.5e38, r"3.5e\+38 is too large for float32: write a number up to 3.4e\+38"),
        ("number", -1e300, r"-1e\+300 is too large for float32"),
        ("number", 10**400, "an integer of 1329 bits is too large for float32"),
        ("number", Fraction(10**400, 3), "finite number"),
        ("number", "017", "found '017', which some programs read as octal: write it without the 0"),
        ("number", b"1", "a number is needed, found b'1'"),
        ("number", np.True_, "a number is needed, found np.True_"),
        ("count", 2**53 + 1, "9007199254740993 is too large: write up to 2..53"),
        ("count", Decimal("1e99999999"), "finite number"),
        ("text", b"a", "valid string"),
        ("text", "a\nb", r"text cannot contain '\\n', found 'a\\nb'"),
        ("text", "\ud800", r"text cannot contain '\\ud800'"),
        ("positive", 1e-40, "1e-40 is too small for float32: write at least 1.18e-38"),
    ],
)
def test_values_fit_where_they_go(field: str, value: object, problem: str) -> None:
    class Mine(Declaration):
        number: float = 0.0
        count: int = 0
        text: str = ""
        positive: Annotated[float, Field(gt=0)] = 1.0

    with pytest.raises(ValidationError, match=problem):
        Mine.model_validate({field: value})


def test_float32_holds_what_is_accepted() -> None:
    class Mine(Declaration):
        number: float = 0.0
        positive: Annotated[float, Field(gt=0)] = 1.0

    largest, smallest = np.finfo(np.float32).max, np.finfo(np.float32).tiny
    mine = Mine(number=float(largest), positive=float(smallest))
    assert (np.float32(mine.number), np.float32(mine.positive)) == (largest, smallest)
    assert Mine(number=-float(largest), positive=Fraction(1, 4)).positive == 0.25


def test_a_component_that_is_nested_too_deeply_is_refused() -> None:
    deep: Any = 1.0
    for _ in range(500):
        deep = {"kind": "product", "factors": [deep]}
    with pytest.raises(ValidationError, match="nested too deeply"):
        Schedule.read(deep)
