"""The declaration: shorthands, what is refused and where, overriding, saving."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from types import MappingProxyType
from typing import Any

import jsonschema
import numpy as np
import pytest
from omegaconf import OmegaConf
from pydantic import ValidationError

from lossweights import (
    ConfigError,
    Constant,
    Cyclical,
    Exponential,
    Horizon,
    LossConfig,
    Ramp,
    Schedule,
    Term,
    Warmup,
    WeightedLoss,
    epochs,
    percent,
    steps,
)
from lossweights.components.balancers import DWA
from lossweights.components.schedules import CosineShape
from tests.components.schedules.examples import ALL_SCHEDULES

WARMUP = {"kind": "warmup", "over": "5 steps"}


def read_term(written: Any) -> Term:
    return LossConfig.read({"terms": {"a": written}}).terms["a"]


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(LossConfig.model_json_schema())


# Shorthands


def test_one_name_to_ignore_needs_no_list() -> None:
    assert LossConfig.read({"terms": ["a"], "ignore": "acc*"}).ignore == ("acc*",)


@pytest.mark.parametrize(
    ("written", "term"),
    [
        (2, Term(weight=2.0)),
        (0, Term(weight=0.0)),
        (-1.5, Term(weight=-1.5)),
        ("1e-3", Term(weight=0.001)),
        (np.float32(0.5), Term(weight=0.5)),
        ({}, Term()),
        ({"weight": "2"}, Term(weight=2.0)),
        (Term(weight=3.0), Term(weight=3.0)),
        (WARMUP, Term(schedule=Warmup(over="5 steps"))),
        ({"schedule": WARMUP}, Term(schedule=Warmup(over="5 steps"))),
        (Warmup(over="5 steps"), Term(schedule=Warmup(over="5 steps"))),
        ({"schedule": 0.5}, Term(schedule=Constant(value=0.5))),
        ({"schedule": "0.5"}, Term(schedule=Constant(value=0.5))),
        ({"schedule": None}, Term()),
        ({"after": "10%"}, Term(after=percent(10))),
        (math.sqrt, Term(schedule=math.sqrt)),
        ({"schedule": math.sqrt}, Term(schedule=math.sqrt)),
    ],
)
def test_a_term_may_be_written(written: Any, term: Term) -> None:
    assert read_term(written) == term


def test_a_list_of_names_gives_each_the_weight_1() -> None:
    names = ["kl", "nll", "a.b", "with space"]
    config = LossConfig.read({"terms": names})
    assert config.terms == dict.fromkeys(names, Term())
    assert LossConfig(terms=("kl", "nll", "a.b", "with space")) == config


def test_terms_keep_their_order() -> None:
    assert list(LossConfig.read({"terms": ["z", "a", "m"]}).terms) == ["z", "a", "m"]


def test_python_and_files_say_the_same() -> None:
    in_python = LossConfig(
        terms={
            "nll": 1.0,
            "kl": Term(weight=0.5, schedule=Cyclical(cycles=4, shape="cosine"), after=epochs(2)),
        },
        total_steps=epochs(40),
    )
    in_a_file = LossConfig.read(
        {
            "terms": {
                "nll": 1.0,
                "kl": {
                    "weight": 0.5,
                    "schedule": {"kind": "cyclical", "cycles": 4, "shape": "cosine"},
                    "after": "2 epochs",
                },
            },
            "total_steps": "40 epochs",
        }
    )
    assert in_python == in_a_file


def test_a_config_comes_back_as_it_is() -> None:
    config = LossConfig.read({"terms": ["a"]})
    assert LossConfig.read(config) is config


@pytest.mark.parametrize(
    "build", [LossConfig.read, WeightedLoss.from_config, lambda table: WeightedLoss(**table)]
)
def test_a_config_is_validated_once(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, ...]] = []
    monkeypatch.setattr(DWA, "check_terms", lambda self, names: seen.append(names))
    built = build({"terms": ["a", "b"], "balancer": "dwa", "steps_per_epoch": 5})
    WeightedLoss(built if isinstance(built, LossConfig) else built.config)
    assert seen == [("a", "b")]


@pytest.mark.parametrize("mapping", [OrderedDict, MappingProxyType, OmegaConf.create])
def test_mappings_of_any_library_are_read(mapping: Any) -> None:
    inner = mapping({"kind": "piecewise", "points": [["0 steps", 1.0], ["5 steps", 0.5]]})
    config = LossConfig.read(mapping({"terms": mapping({"a": inner, "b": 2}), "ignore": ["acc*"]}))
    assert config.terms["a"].schedule == Schedule.read(
        {"kind": "piecewise", "points": (("0 steps", 1), ("5 steps", 0.5))}
    )
    assert config.ignore == ("acc*",)


def test_omegaconf_is_read_with_its_interpolations_resolved() -> None:
    config = OmegaConf.create(
        {
            "epochs": 3,
            "loss": {"terms": {"kl": "${beta}"}, "total_steps": "${epochs} epochs"},
            "beta": 2,
        }
    )
    read = LossConfig.read(config, at="loss")
    assert read == LossConfig(terms={"kl": Term(weight=2.0)}, total_steps=epochs(3))


# The horizon


@pytest.mark.parametrize(
    ("fields", "horizon"),
    [
        ({}, Horizon()),
        ({"total_steps": 100}, Horizon(100)),
        ({"total_steps": "1_000"}, Horizon(1000)),
        ({"total_steps": "40 epochs"}, Horizon("40 epochs")),
        ({"total_steps": "40 epochs", "steps_per_epoch": 5}, Horizon(200, 5)),
        ({"total_steps": None, "steps_per_epoch": "5"}, Horizon(steps_per_epoch=5)),
    ],
)
def test_knows_the_length_of_training_as_far_as_it_is_said(
    fields: dict[str, Any], horizon: Horizon
) -> None:
    config = LossConfig.read({"terms": ["a"], **fields})
    assert Horizon(config.total_steps, config.steps_per_epoch) == horizon


# What is refused, and where


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        (None, "terms.a: this term has no value: write its weight, such as 1.0"),
        (True, "terms.a.weight: a number is needed, found True"),
        (math.nan, "terms.a.weight: a finite number is needed, found nan"),
        ("inf", "terms.a.weight: a finite number is needed, found 'inf'"),
        ("much", "terms.a.weight: a number is needed, found 'much'"),
        ([1.0], r"terms.a.weight: a number is needed, found \[1.0\]"),
        (
            {"weight": WARMUP},
            r"terms.a.weight: a number is needed, .*: write `schedule: {kind: warmup, \.\.\.}`",
        ),
        (
            {"weight": {"kind": "pid", "target": 1}},
            r"terms.a.weight: a number is needed, .*: write `controller: {kind: pid, \.\.\.}`",
        ),
        ({"weight": {"a": 1.0}}, "terms.a.weight: a number is needed, found {'a': 1.0}$"),
        ({"weight": {"kind": "dwa"}}, "terms.a.weight: a number is needed, found {'kind': 'dwa'}$"),
        ({"wieght": 1}, r"terms.a.wieght: unknown field 'wieght'; did you mean 'weight'\?"),
        ({"after": 10}, 'terms.a.after: 10 has no unit: write "10 steps" or "10 epochs"'),
        ({"reduction": "avg"}, "terms.a.reduction: must be 'mean', 'sum' or 'batch_mean'"),
        ({"optional": "perhaps"}, "terms.a.optional: true or false is needed"),
        (
            {"when_zero": "drop"},
            "terms.a.when_zero: must be 'keep' or 'skip', found 'drop'",
        ),
        ({"accumulates": "total"}, "terms.a.accumulates: must be 'mean' or 'sum', found"),
        ({"kind": "cyclic"}, "terms.a.schedule: 'cyclic' is not a kind .* did you mean 'cyclical'"),
        ({**WARMUP, "over": 5}, "terms.a.schedule.over: 5 has no unit"),
        (
            {**WARMUP, "weight": 2, "after": "1%"},
            (
                r"terms.a: 'after', 'weight' beside `kind`: write the schedule as a table of "
                r"its own, `schedule: \{kind: warmup, \.\.\.\}`"
            ),
        ),
        ({"schedule": True}, "terms.a.schedule: a schedule is a table with a `kind`, found True"),
        (
            {"schedule": "cyclical"},
            "terms.a.schedule: a kind belongs in a table: write {kind: cyclical}",
        ),
        (
            {
                "kind": "sequence",
                "stages": [{"schedule": 1, "over": "5 steps"}, {"schedule": WARMUP | {"x": 1}}],
            },
            r"terms.a.schedule.stages\[1\].schedule.x: unknown field 'x'",
        ),
        ({"kind": "product", "factors": [1, {"kind": "no"}]}, r"schedule.factors\[1\]: 'no' is no"),
        ({**WARMUP, "shape": "cosin"}, "terms.a.schedule.shape: 'cosin' is not a kind of shape"),
        (
            {**WARMUP, "shape": {"kind": "power", "exponent": 0}},
            "terms.a.schedule.shape.exponent: must be greater than 0, found 0",
        ),
    ],
)
def test_a_wrong_term_is_named_by_its_place(written: Any, problem: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"^{problem}" if "schedule.factors" not in problem else problem
    ):
        read_term(written)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        (
            {"terms": {}},
            "terms: at least one term is needed: write `terms: {reconstruction: 1.0}`",
        ),
        ({"terms": []}, "terms: at least one term is needed"),
        ({"terms": {"": 1}}, "terms.'': a name must not be empty, found ''"),
        (
            {"terms": {"loss_ce_*": 1}},
            r"terms.loss_ce_\*: 'loss_ce_\*' is a pattern: write the name of",
        ),
        ({"terms": ["a", "b", "a"]}, "terms: listed twice: 'a'; keep one"),
        ({"terms": "a"}, r"terms: a table is needed, .* or a list of names, found 'a'"),
        ({"terms": {"a"}.union()}, "terms: a table is needed, .* found {'a'}"),
        ({"terms": None}, "terms: no terms here: in YAML, indent them below `terms:`"),
        (
            {"terms": {"kl": None, "schedule": "warmup", "weight": 1}},
            "terms: 'kl' has no value, and 'schedule', 'weight' are next to it: in YAML",
        ),
        (
            {"terms": [{"a": 2.0}]},
            "terms: the name .*, found {'a': 2.0}: to give weights, write a table, such as {rec",
        ),
        ({"terms": {1: 2.0}}, "terms: the name of a term must be a string, found 1: quote it"),
        (
            {"total_steps": -1},
            "total_steps: total_steps must be a whole number of at least 1, found -1",
        ),
        ({"total_steps": 1.5}, "total_steps: total_steps must be a whole number"),
        ({"total_steps": True}, "total_steps: total_steps must be a whole number"),
        ({"total_steps": "25%"}, "total_steps: total_steps cannot be a percentage of itself"),
        (
            {"terms": {"a": {"kind": "piecewise", "points": [1, []]}}},
            r"points\[0\]: a list is needed, found 1\n(.*\[1\]\[.\]: this field is needed\n?){2}$",
        ),
        (
            {"terms": {"a": {"kind": "piecewise", "points": []}}},
            r"points: a list of at least 1 is needed, found \[\]$",
        ),
        ({"steps_per_epoch": 0}, "steps_per_epoch: must be greater than or equal to 1"),
        ({"steps_per_epoch": True}, "steps_per_epoch: a number is needed, found True"),
        (
            {"eval_weights": "fnal"},
            r"eval_weights: 'fnal' is not a rule .*; did you mean 'final'\?",
        ),
        (
            {"eval_weights": {"a": 1e300}},
            r"^eval_weights.a: 1e\+300 is too large for float32: write",
        ),
        ({"eval_weights": 1.0}, "eval_weights: 1.0 is not a rule for evaluation"),
        ({"eval_weights": {"b": 1}}, r"eval_weights: no term is called 'b' \(the terms are 'a'\)"),
        ({"eval_weights": {"a": True}}, "^eval_weights.a: a number is needed, found True"),
        ({"on_nonfinite": "crash"}, "on_nonfinite: must be 'propagate', 'raise' or"),
        (
            {"total_step": 5},
            r"total_step: unknown field 'total_step'; did you mean 'total_steps'\?",
        ),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        LossConfig.read({"terms": ["a"], **fields})


def test_only_the_part_that_is_read_need_resolve() -> None:
    whole = OmegaConf.create({"data": "${oc.env:NO_SUCH_VARIABLE}", "loss": {"terms": ["a"]}})
    assert list(LossConfig.read(whole, at="loss").terms) == ["a"]


def test_terms_that_lie_deeper_are_found() -> None:
    whole = {"model": {"loss": {"terms": ["a"]}}}
    with pytest.raises(ConfigError, match=r"inside 'loss': read it with at='model.loss'"):
        LossConfig.read(whole, at="model")
    with pytest.raises(ConfigError, match=r"read it with at='loss'"):
        LossConfig.read(whole["model"])


def test_every_problem_is_told_at_once() -> None:
    table = {"terms": {"a": {"weight": "x", "after": 3}, "b": {"kind": "rmap"}}, "total_steps": -1}
    with pytest.raises(ConfigError) as caught:
        LossConfig.read(table)
    lines = str(caught.value).splitlines()
    places = [line.split(":")[0] for line in lines]
    assert places == ["terms.a.weight", "terms.a.after", "terms.b.schedule", "total_steps"]


@pytest.mark.parametrize("source", [None, 3, ["a"], b"elbo.yaml"])
def test_a_source_is_a_mapping_or_a_path(source: Any) -> None:
    with pytest.raises(ConfigError, match="a config is a LossConfig, a mapping, or the path of"):
        LossConfig.read(source)


def test_a_wrong_config_is_a_value_error() -> None:
    assert issubclass(ConfigError, ValueError)


def test_what_was_given_is_left_as_it_was() -> None:
    table: dict[str, Any] = {"terms": {"a": {"kind": "warmup", "over": "5 steps"}}}
    before = json.dumps(table)
    LossConfig.read(table)
    assert json.dumps(table) == before


def test_a_config_is_frozen() -> None:
    config = LossConfig.read({"terms": ["a"]})
    with pytest.raises(ValidationError, match="frozen"):
        config.total_steps = 5  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        config.terms["a"].weight = 5.0  # type: ignore[misc]


# Overriding

BASE = LossConfig.read(
    {
        "terms": {
            "nll": 1.0,
            "kl": {"weight": 0.5, "schedule": {"kind": "cyclical", "shape": {"kind": "power"}}},
            "kl.weight": 3.0,
            "points": {
                "kind": "piecewise",
                "points": [["0 steps", 1.0], ["5 steps", 2.0]],
            },
            "stages": {
                "kind": "sequence",
                "stages": [{"schedule": WARMUP, "over": "9 steps"}, {"schedule": 1}],
            },
        },
        "eval_weights": {"nll": 1.0},
        "total_steps": 100,
    }
)


@pytest.mark.parametrize(
    ("path", "value", "look"),
    [
        ("total_steps", "40 epochs", lambda c: c.total_steps == epochs(40)),
        ("steps_per_epoch", 7, lambda c: c.steps_per_epoch == 7),
        ("eval_weights", "current", lambda c: c.eval_weights == "current"),
        ("eval_weights.kl", 2, lambda c: c.eval_weights == {"nll": 1.0, "kl": 2.0}),
        ("terms", ["nll", "x"], lambda c: list(c.terms) == ["nll", "x"]),
        ("nll", 2, lambda c: c.terms["nll"] == Term(weight=2.0)),
        ("terms.nll", WARMUP, lambda c: c.terms["nll"].schedule == Warmup(over="5 steps")),
        ("nll.weight", "1e-3", lambda c: c.terms["nll"].weight == 1e-3),
        ("nll.schedule", WARMUP, lambda c: c.terms["nll"].schedule == Warmup(over="5 steps")),
        ("kl.after", "10%", lambda c: c.terms["kl"].after == percent(10)),
        ("kl.schedule", None, lambda c: c.terms["kl"].schedule is None),
        ("kl.schedule.cycles", 8, lambda c: c.terms["kl"].schedule.cycles == 8),
        ("kl.schedule.shape", "cosine", lambda c: c.terms["kl"].schedule.shape == CosineShape()),
        ("kl.schedule.shape.exponent", 3, lambda c: c.terms["kl"].schedule.shape.exponent == 3),
        ("points.schedule.points.1.1", 9, lambda c: c.terms["points"].schedule(5) == 9),
        ("points.schedule.points.1.0", "2 steps", lambda c: c.terms["points"].schedule(2) == 2),
        (
            "stages.schedule.stages.0.schedule.over",
            "2 steps",
            lambda c: c.terms["stages"].schedule(1) == 0.5,
        ),
        ("stages.optional", True, lambda c: c.terms["stages"].optional),
        # The longest name of a term wins: "kl.weight" is one, and its own weight is below it.
        ("kl.weight.weight", 9, lambda c: c.terms["kl.weight"].weight == 9),
        ("kl.weight", 9, lambda c: c.terms["kl.weight"] == Term(weight=9.0)),
    ],
)
def test_override_changes_what_the_path_names_and_nothing_else(
    path: str, value: Any, look: Any
) -> None:
    before = BASE.model_dump_json()
    changed = (
        BASE.override({path: value})
        if path != "terms"
        else BASE.override({"eval_weights": "final", path: value})
    )
    assert look(changed)
    assert not look(BASE)
    assert BASE.model_dump_json() == before
    assert LossConfig.read(changed.model_dump()) == changed
    if path != "terms":
        untouched = {"nll", "kl", "kl.weight", "points", "stages"} - {
            name for name in BASE.terms if path.removeprefix("terms.").startswith(name)
        }
        assert all(changed.terms[name] == BASE.terms[name] for name in untouched)


def test_changes_that_belong_together_are_validated_together() -> None:
    config = LossConfig.read({"terms": {"a": {"kind": "exponential", "rate": 0.9}}})
    changes = {"a.schedule.rate": None, "a.schedule.half_life": "10 steps"}
    assert config.override(changes).terms["a"].schedule == Exponential(half_life="10 steps")
    renamed = {"terms": ["c"], "eval_weights": {"c": 1}}
    assert config.override(renamed) == LossConfig.read(renamed)


def test_a_kind_can_be_overridden_where_the_fields_fit() -> None:
    config = LossConfig.read({"terms": {"a": {"kind": "warmup", "over": "10 steps"}}})
    changes = {"a.schedule.kind": "ramp", "a.schedule.start": 1, "a.schedule.stop": 2}
    ramp = Ramp(start=1.0, stop=2.0, over="10 steps")
    assert config.override(changes).terms["a"].schedule == ramp


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("lk.weight", 1, r"lk.weight: no term or field is called 'lk'; did you mean 'kl'\?"),
        ("lk.weight", 1, "; to add one, write all of it at terms.lk$"),
        ("terms.lk.weight", 1, r"called 'lk'; did you mean 'kl'.* write all of it at terms.lk$"),
        ("terms.", 1, "^terms.'': a name must not be empty, found ''$"),
        ("terms.new*", 1, r"^terms.new\*: 'new\*' is a pattern: write the name of each one$"),
        ("terms.new", None, "^terms.new: this term has no value: write its weight, such as 1.0$"),
        ("", 1, "no term or field is called ''"),
        ("total_step", 1, r"did you mean 'total_steps'\?"),
        ("kl.wieght", 1, r"terms.kl.wieght: unknown field 'wieght'; did you mean 'weight'\?"),
        ("kl.schedule.cycels", 1, r"unknown field 'cycels'; did you mean 'cycles'\?"),
        ("nll.schedule.cycles", 1, "the table with 'cycles' is not set: write the whole"),
        ("nll.weight.x", 1, "nll.weight.x: 1.0 has no part 'x'"),
        ("points.schedule.points.2.1", 1, "has no part '2'"),
        ("points.schedule.points.-1.1", 1, "has no part '-1'"),
        ("nll.weight", True, "terms.nll.weight: a number is needed, found True"),
        ("nll.weight", None, "terms.nll.weight: a number is needed"),
        ("kl.schedule.cycles", 0, "terms.kl.schedule.cycles: must be greater than"),
        ("points.schedule.points.0.0", "9 steps", "the times of `points` must rise, found 9 steps"),
        ("eval_weights.lk", 1, r"eval_weights: no term is called 'lk'; did you mean 'kl'\?"),
        ("terms", ["x"], "eval_weights: no term is called 'nll'"),
    ],
)
def test_override_refuses_and_says_what(path: str, value: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        BASE.override({path: value})


def test_override_takes_several_changes_and_tables_of_any_library() -> None:
    changed = BASE.override(
        OmegaConf.create({"kl": {"schedule": {"kind": "warmup", "over": "1%"}}, "total_steps": 5})
    )
    assert changed.terms["kl"] == Term(schedule=Warmup(over="1%"))
    assert changed.total_steps == 5
    assert BASE.override({}) == BASE


def test_override_keeps_functions() -> None:
    config = LossConfig.read({"terms": {"a": math.sqrt, "b": 1.0}}).override({"b": 2.0})
    assert config.terms["a"].schedule == Schedule.read(math.sqrt)


# Saving


@pytest.mark.parametrize("schedule", ALL_SCHEDULES, ids=repr)
def test_every_kind_survives_the_files_of_a_config(
    schedule: Schedule, schema: jsonschema.Draft202012Validator
) -> None:
    config = LossConfig(
        terms={
            "bare": Term(schedule=schedule),
            "full": Term(
                weight=0.1,
                schedule=schedule,
                after=percent(5),
                reduction="batch_mean",
                optional=True,
                when_zero="skip",
            ),
        },
        total_steps=epochs(30),
        steps_per_epoch=7,
        eval_weights={"bare": 0.5},
        on_nonfinite="skip_term",
        ignore=("acc*",),
    )
    for table in (
        config.model_dump(),
        config.model_dump(exclude_defaults=True),
        config.model_dump(exclude_unset=True),
        config.model_dump(exclude_none=True),
        json.loads(config.model_dump_json()),
        OmegaConf.create(config.model_dump(mode="json")),
    ):
        assert LossConfig.read(table) == config
    assert schema.is_valid(json.loads(config.model_dump_json()))


def test_what_was_left_out_is_left_out_of_a_small_dump() -> None:
    config = LossConfig.read({"terms": {"nll": 1, "kl": {"schedule": WARMUP, "after": "2 epochs"}}})
    assert config.model_dump(exclude_defaults=True) == {
        "terms": {
            "nll": {},
            "kl": {"schedule": {"kind": "warmup", "over": "5 steps"}, "after": "2 epochs"},
        }
    }


def test_a_function_cannot_be_saved_and_says_what_to_write() -> None:
    config = LossConfig(terms={"a": Term(schedule=lambda step: 1.0)})
    with pytest.raises(ValueError, match=r"<lambda> is a Python function.*`class Mine\(Schedule"):
        config.model_dump_json()


@pytest.mark.parametrize(
    ("written", "accepted"),
    [
        ({"terms": ["a", "b"]}, True),
        ({"terms": {"a": 1, "b": {"weight": 1}, "c": {"kind": "cyclical"}}}, True),
        ({"terms": {"a": {"schedule": {"kind": "cyclical"}, "after": "10ep"}}}, True),
        ({"terms": {"a": 1}, "total_steps": "40 epochs", "eval_weights": {"a": 1}}, True),
        ({"terms": {"a": {"after": 5}}}, False),
        ({"terms": {"a": {"kind": "cyclic"}}}, False),
        ({"terms": {"a": {"wieght": 1}}}, False),
        ({"terms": {"a": 1}, "eval_weights": "fnal"}, False),
        ({"terms": {"a": 1}, "total_steps": -1}, False),
        ({"terms": ["a", "a"]}, False),
        ({"terms": [1]}, False),
        ({"total_steps": 5}, False),
    ],
)
def test_the_schema_and_the_reader_agree(
    written: dict[str, Any], accepted: bool, schema: jsonschema.Draft202012Validator
) -> None:
    def reads() -> bool:
        try:
            LossConfig.read(written)
        except ConfigError:
            return False
        return True

    assert reads() == schema.is_valid(written) == accepted


def test_durations_and_schedules_may_be_given_as_objects() -> None:
    config = LossConfig.read({"terms": {"a": {"schedule": Ramp(start=0, stop=1, over=steps(5))}}})
    assert config.terms["a"] == read_term(
        {"kind": "ramp", "start": 0, "stop": 1, "over": "5 steps"}
    )


def test_yaml_reads_off_as_false() -> None:
    for off in ("off", False):
        assert LossConfig.read({"terms": ["a"], "sync": off}).sync == "off"
    with pytest.raises(ConfigError, match="sync: must be 'auto' or 'off', found True"):
        LossConfig.read({"terms": ["a"], "sync": True})


# Scheduled numbers


def numbers(**scheduled: Any) -> LossConfig:
    return LossConfig.read({"terms": {"kl": 1.0, "x.y": 1.0}, "scheduled": scheduled})


def test_a_number_is_a_schedule_a_number_or_a_function() -> None:
    ramp = {"kind": "ramp", "start": 4.0, "stop": 1.0, "over": "50%"}
    found = numbers(temperature=ramp, ratio=0.3, late=lambda step: 1.0).scheduled
    assert found["temperature"] == Ramp(start=4.0, stop=1.0, over="50%")
    assert found["ratio"] == Constant(value=0.3)
    assert found["late"].at(3) == 1.0
    config = numbers(temperature=ramp, ratio=0.3)
    saved = config.model_dump(mode="json", exclude_defaults=True)
    assert LossConfig.read(json.loads(json.dumps(saved))) == config
    assert LossConfig.read({"terms": ["kl"]}).scheduled == {}


@pytest.mark.parametrize(
    ("scheduled", "problem"),
    [
        (None, "^scheduled: a table is needed, .* found None: in YAML, indent the numbers"),
        (
            ["ratio"],
            r"^scheduled: a table is needed, such as {ratio: 0.3}, found \['ratio'",
        ),
        ({1: 2.0}, "^scheduled: the name of a number must be a string, found 1: quote it"),
        ({"": 2.0}, "^scheduled.*: a name must not be empty"),
        ({"a*": 2.0}, r"^scheduled.*: 'a\*' is a pattern: write the name of each one"),
        ({"a\n": 2.0}, "text cannot contain"),
        (
            {"a": {"kind": "rmap"}},
            "^scheduled.a: 'rmap' is not a kind of schedule; did you mean 'ra",
        ),
        ({"a": {"kind": "pid", "target": 1.0}}, "^scheduled.a: 'pid' is a controller, not a sch"),
        ({"a": {"weight": 1.0}}, "^scheduled.a: a schedule is a table with a `kind`"),
        (dict.fromkeys(map(str, range(10_001)), 1.0), "at most 10,000 numbers are scheduled"),
    ],
)
def test_a_table_of_numbers_is_refused_with_what_to_write(scheduled: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        LossConfig.read({"terms": ["kl"], "scheduled": scheduled})


@pytest.mark.parametrize("path", ["scheduled.a.b.stop", "a.b.stop"])
def test_a_number_is_overridden_by_its_name(path: str) -> None:
    config = numbers(**{"a.b": Ramp(start=4.0, stop=1.0, over="50%"), "a": 2.0})
    changed = config.override({path: 0.5})
    assert changed.scheduled["a.b"] == Ramp(start=4.0, stop=0.5, over="50%")
    assert changed.override({path: 1.0}) == config
    assert config.override({"scheduled.a": 3.0}).scheduled["a"] == Constant(value=3.0)


def test_an_override_can_add_a_number() -> None:
    assert numbers(a=1.0).override({"scheduled.b": 2.0}) == numbers(a=1.0, b=2.0)
    assert numbers(a=1.0).override({"scheduled": {"b": 2.0}}) == numbers(b=2.0)


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        (
            "kl.value",
            "'kl' is a term and a scheduled number: write terms.kl.value or scheduled.kl.v",
        ),
        (
            "temprature.stop",
            "no term or field .*did you mean 'temperature'.* numbers are 'kl', 'temp",
        ),
        (
            "scheduled.tempratur.stop",
            "no scheduled number is called 'tempratur'; did you mean 'temp",
        ),
        ("scheduled.temperature.stp", "unknown field 'stp'; did you mean 'stop'"),
        ("terms.temperature.stop", "no term or field is called 'temperature'"),
    ],
)
def test_a_path_that_fits_nothing_or_two_things_is_refused(path: str, problem: str) -> None:
    config = numbers(kl=2.0, temperature=Ramp(start=4.0, stop=1.0, over="50%"))
    with pytest.raises(ConfigError, match=problem):
        config.override({path: 1.0})


def test_a_term_and_a_number_of_one_name_are_told_apart_by_their_table() -> None:
    config = numbers(kl=2.0)
    assert config.override({"terms.kl": 3.0}).terms["kl"] == Term(weight=3.0)
    assert config.override({"scheduled.kl": 3.0}).scheduled["kl"] == Constant(value=3.0)


def test_numbers_beside_a_config_are_refused() -> None:
    assert WeightedLoss(["kl"], scheduled={"a": 2.0}).scheduled["a"] == 2.0
    with pytest.raises(ConfigError, match="'scheduled' cannot be passed with a LossConfig: set it"):
        WeightedLoss(numbers(), scheduled={"a": 2.0})
    with pytest.raises(ConfigError, match=r"^scheduled: a table is needed"):
        WeightedLoss(["kl"], scheduled=["a"])  # type: ignore[arg-type]
