"""What a config says of controllers, transforms and a balancer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from omegaconf import OmegaConf

from lossweights import (
    Capacity,
    ConfigError,
    Controller,
    LossConfig,
    Ramp,
    Schedule,
    Term,
    Warmup,
    WeightedLoss,
    epochs,
)
from lossweights.components.balancers import DWA
from tests.small_components import Counting, Offset, Priced, Recording, Shares

COUNTING = {"kind": "test-counting", "target": 3}


def read(terms: Any, **fields: Any) -> LossConfig:
    return LossConfig.read({"terms": terms, **fields})


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft202012Validator:
    found = LossConfig.model_json_schema()
    jsonschema.Draft202012Validator.check_schema(found)
    return jsonschema.Draft202012Validator(found)


# Written in short


@pytest.mark.parametrize(
    ("written", "term"),
    [
        (COUNTING, Term(controller=Counting(target=3))),
        (Counting(target=3), Term(controller=Counting(target=3))),
        ("test-counting", Term(controller=Counting())),
        ({"controller": COUNTING}, Term(controller=Counting(target=3))),
        ({"controller": "test-counting"}, Term(controller=Counting())),
        (
            {"controller": {**COUNTING, "target": {"kind": "warmup", "over": "5 steps"}}},
            Term(controller=Counting(target=Warmup(over="5 steps"))),
        ),
        ({"kind": "warmup", "over": "5 steps"}, Term(schedule=Warmup(over="5 steps"))),
        ({"transform": "test-offset"}, Term(transform=Offset())),
        (
            {"weight": 2, "transform": {"kind": "capacity", "capacity": 25}},
            Term(weight=2.0, transform=Capacity(capacity=25)),
        ),
    ],
    ids=repr,
)
def test_a_term_may_be_written(written: Any, term: Term) -> None:
    assert read({"kl": written}).terms["kl"] == term


def test_the_published_form_of_a_controller() -> None:
    term = read({"kl": {"kind": "pid", "target": 3}}).terms["kl"]
    assert term.schedule is None
    assert term.controller == Controller.read({"kind": "pid", "target": 3.0})


@pytest.mark.parametrize("written", ["dwa", {"kind": "dwa"}, DWA()])
def test_a_balancer_may_be_written(written: Any) -> None:
    assert read(["a"], balancer=written).balancer == DWA()
    assert WeightedLoss(terms=["a"], balancer=written).config.balancer == DWA()


@pytest.mark.parametrize(
    ("terms", "problem"),
    [
        (
            {"kl": {"kind": "pdi"}},
            "terms.kl.controller: 'pdi' is not a kind of controller; did you m",
        ),
        ({"kl": {"kind": "test-countin"}}, "controller: .* did you mean 'test-counting'"),
        ({"kl": {"kind": "cylical"}}, "terms.kl.schedule: 'cylical' .* did you mean 'cyclical'"),
        ({"kl": {"kind": "zzz"}}, "terms.kl.schedule: 'zzz' is not a kind of schedule"),
        ({"kl": {"kind": 3}}, "terms.kl.schedule: a schedule is a table with a `kind`, found"),
        ({"kl": {**COUNTING, "tarjet": 1}}, "controller.tarjet: unknown field.*did you mean 'tar"),
        ({"kl": {"kind": "pid"}}, "terms.kl.controller.target: this field is needed"),
        (
            {"kl": {**COUNTING, "after": "5 steps"}},
            "'after' beside `kind`: write the controller as a table of its own, `controller: {kind",
        ),
        (
            {"kl": {"kind": "cyclical", "controller": COUNTING}},
            "'controller' beside `kind`: write the schedule as a table of its own",
        ),
        (
            {"kl": {"schedule": 1, "controller": COUNTING}},
            "terms.kl: a term has a schedule or a controller, not both",
        ),
        (
            {"kl": {"transform": {"kind": "capcity"}}},
            "not a kind of transform; did you mean 'capac",
        ),
        ({"kl": {"transform": 3}}, "a transform is a table with a `kind`, found 3"),
        ({"kl": {"controller": {"target": 3}}}, "a controller is a table with a `kind`, found"),
        ({"kl": {"balanced": "perhaps"}}, "terms.kl.balanced: "),
        (
            {"kl": {"transform": "log", "accumulates": "sum"}},
            r"terms.kl: `log` needs the value of a whole step.*: give means, or transform the l",
        ),
    ],
)
def test_a_wrong_term_is_told(terms: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        read(terms)


@pytest.mark.parametrize(
    ("balancer", "problem"),
    [
        (
            "uncertanty",
            "balancer: 'uncertanty' is not a kind of balancer; did you mean 'uncertainty'",
        ),
        ({"kind": "dwa", "temprature": 1}, "balancer.temprature: .*did you mean 'temperature'"),
        ({"kind": "dwa", "temperature": 0}, "balancer.temperature: must be greater than 0"),
        ({"kind": "dwa", "every": 10}, 'balancer.every: 10 has no unit: write "10 steps"'),
        (3, "balancer: a balancer is a table with a `kind`, found 3"),
        ({"dwa": {"temperature": 2}}, r"found {'dwa': .*: write {kind: dwa, \.\.\.}"),
    ],
)
def test_a_wrong_balancer_is_told(balancer: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        read(["a"], balancer=balancer)


# Who is balanced


@pytest.mark.parametrize(
    ("term", "balanced"),
    [
        (Term(), True),
        (Term(schedule=2.0), True),
        (Term(weight=0.0), True),
        (Term(controller=Counting()), False),
        (Term(controller=Counting(), balanced=True), True),
        (Term(balanced=False), False),
    ],
)
def test_two_feedback_loops_on_one_term_only_where_asked(term: Term, balanced: bool) -> None:
    config = read({"z": 1.0, "kl": term}, balancer=Recording())
    assert config.balanced_names == (("kl", "z") if balanced else ("z",))


@pytest.mark.parametrize(
    "terms", [{"a": Term(balanced=False)}, {"a": Counting(), "b": Term(balanced=False)}]
)
def test_a_balancer_without_terms_is_refused(terms: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"balancer: it has no terms, because all .*write balanced: true"
    ):
        read(terms, balancer="dwa")


def test_balanced_without_a_balancer_is_refused() -> None:
    terms = {"a": Term(balanced=True), "b": Term(balanced=False), "c": 1.0}
    with pytest.raises(ConfigError, match="balanced: true for 'a', but there is no balancer: wri"):
        read(terms)
    read({"b": Term(balanced=False)})


# Changed by path


BASE = read(
    {
        "nll": 1.0,
        "kl": {"weight": 0.5, "controller": COUNTING},
        "dim": {"transform": {"kind": "capacity", "capacity": Ramp(start=0, stop=9, over="9%")}},
    },
    balancer={"kind": "dwa", "every": "2 epochs"},
)


@pytest.mark.parametrize(
    ("path", "value", "look"),
    [
        ("kl.controller.target", 4, lambda c: c.terms["kl"].controller.target == Schedule.read(4)),
        ("kl.controller.source", "m", lambda c: c.terms["kl"].controller.source == "m"),
        ("kl.controller", None, lambda c: c.terms["kl"] == Term(weight=0.5)),
        ("kl.balanced", True, lambda c: c.balanced_names == ("dim", "kl", "nll")),
        (
            "dim.transform.capacity.stop",
            7,
            lambda c: c.terms["dim"].transform.capacity.stop == 7,
        ),
        ("dim.transform", "test-offset", lambda c: c.terms["dim"].transform == Offset()),
        ("balancer.temperature", 5, lambda c: c.balancer.temperature == 5),
        ("balancer.every", "1 epochs", lambda c: c.balancer.every == epochs(1)),
        ("balancer", "test-shares", lambda c: c.balancer == Shares()),
        ("balancer", None, lambda c: c.balancer is None),
    ],
)
def test_override_reaches_into_components(path: str, value: Any, look: Any) -> None:
    changed = BASE.override({path: value})
    assert look(changed)
    assert not look(BASE)
    assert LossConfig.read(changed.model_dump()) == changed


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"kl.controller.tarjet": 4}, "terms.kl.controller.tarjet: unknown field"),
        ({"nll.controller.target": 4}, "the table with 'target' is not set: write"),
        ({"kl.schedule": 1.0}, "terms.kl: a term has a schedule or a controller, not both"),
        ({"balancer.tempreature": 5}, "balancer.tempreature: unknown field"),
        ({"balancer": None, "kl.balanced": True}, "balanced: true for 'kl', but there is no bal"),
        ({"balncer": "dwa"}, "no term or field is called 'balncer'; did you mean 'balancer'"),
    ],
)
def test_override_refuses_and_says_what(changes: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        BASE.override(changes)


def test_a_controller_may_take_the_place_of_a_schedule() -> None:
    config = read({"kl": {"kind": "warmup", "over": "5 steps"}})
    changed = config.override({"kl.schedule": None, "kl.controller": COUNTING})
    assert changed.terms["kl"] == Term(controller=Counting(target=3))
    assert config.override({"kl": COUNTING}) == changed


# Files


def test_what_is_saved_reads_back(tmp_path: Path, schema: jsonschema.Draft202012Validator) -> None:
    config = read(
        {
            "a": {"controller": Counting(target=Warmup(over="5%"), source="m"), "balanced": True},
            "b": {"transform": Capacity(capacity=Ramp(start=0, stop=9, over="2 epochs"))},
            "c": {"balanced": False},
        },
        balancer=Priced(price=Warmup(over="5 steps"), initial=0.5),
        sync="off",
    )
    path = tmp_path / "loss.yaml"
    for short in (False, True):
        table = config.model_dump(mode="json", exclude_defaults=short)
        path.write_text(yaml.safe_dump(table))
        assert LossConfig.read(path) == config
        assert LossConfig.read(OmegaConf.create(table)) == config
        assert LossConfig.read(json.loads(json.dumps(table))) == config
        schema.validate(table)
    assert WeightedLoss.from_config(path).config == config


@pytest.mark.parametrize(
    ("written", "accepted"),
    [
        ({"terms": {"kl": {"kind": "pid", "target": 3}}}, True),
        ({"terms": {"kl": {"controller": {"kind": "pid", "target": 3}}}}, True),
        ({"terms": {"kl": {"controller": {"kind": "pid", "target": {"kind": "cyclical"}}}}}, True),
        ({"terms": {"kl": {"controller": "test-counting"}}}, True),
        ({"terms": {"kl": {"transform": "log", "balanced": False}}}, True),
        ({"terms": {"kl": 1}, "balancer": "dwa"}, True),
        ({"terms": {"kl": 1}, "balancer": {"kind": "dwa", "every": "10 epochs"}}, True),
        ({"terms": {"kl": 1}, "balancer": None, "sync": "off"}, True),
        ({"terms": {"kl": {"accumulates": "sum", "reduction": "sum"}}}, True),
        ({"terms": {"kl": {"accumulates": "batch_mean"}}}, False),
        ({"terms": {"kl": {"kind": "pid"}}}, False),
        ({"terms": {"kl": {"controller": "pid"}}}, False),
        ({"terms": {"kl": {"kind": "pid", "target": 3, "tarjet": 3}}}, False),
        ({"terms": {"kl": {"controller": {"kind": "cyclical"}}}}, False),
        ({"terms": {"kl": {"schedule": {"kind": "pid", "target": 3}}}}, False),
        ({"terms": {"kl": {"transform": {"kind": "dwa"}}}}, False),
        ({"terms": {"kl": {"controller": 3}}}, False),
        ({"terms": {"kl": 1}, "balancer": "pid"}, False),
        ({"terms": {"kl": 1}, "balancer": {"kind": "dwa", "every": 10}}, False),
        ({"terms": {"kl": 1}, "balancer": {"temperature": 2}}, False),
        ({"terms": {"kl": 1}, "sync": "on"}, False),
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

    assert (reads(), schema.is_valid(written)) == (accepted, accepted)


def test_a_kind_of_another_family_is_named() -> None:
    message = "'dwa' is a balancer, not a schedule: write `balancer: {kind: dwa, ...}` beside"
    with pytest.raises(ConfigError, match=message):
        WeightedLoss({"kl": {"kind": "dwa"}})
    message = "'plateau' is a controller, not a balancer: write `controller: {kind: plateau, ...}`"
    with pytest.raises(ConfigError, match=message):
        WeightedLoss(["kl"], balancer="plateau")


@pytest.mark.parametrize("written", ["cosine", {"kind": "cosine"}])
def test_a_shape_in_place_of_a_schedule_is_named_with_a_schedule_that_has_it(written: Any) -> None:
    with pytest.raises(ConfigError, match="'cosine' is a shape, not a schedule: write `") as caught:
        LossConfig.read({"terms": {"kl": {"schedule": written}}})
    suggested = yaml.safe_load(str(caught.value).split("`")[1])
    assert LossConfig.read({"terms": {"kl": suggested}}).terms["kl"].schedule is not None


def test_a_misspelt_kind_alone_is_told_from_a_number() -> None:
    with pytest.raises(
        ConfigError, match=r"terms.kl.controller: 'pi' is not a .* did you mean 'pid'"
    ):
        read({"kl": "pi"})


@pytest.mark.parametrize("kind", ["uncertainty", "imtl-l"])
def test_learned_weights_refuse_a_negative_base_weight(kind: str) -> None:
    with pytest.raises(
        ConfigError, match=r"term 'b' has a negative weight.*balanced: false at terms.b"
    ):
        WeightedLoss({"a": 1.0, "b": -1.0}, balancer=kind)
    WeightedLoss({"a": 1.0, "b": {"weight": -1.0, "balanced": False}}, balancer=kind)


@pytest.mark.parametrize(
    ("term", "why"),
    [
        ({"kind": "ramp", "start": 1.0, "stop": -1.0, "over": "50%"}, "its weight goes down to -1"),
        ({"controller": {"kind": "lagrangian", "at_least": 1.0}, "balanced": True}, "a controller"),
        ({"controller": {"kind": "lagrangian", "equal_to": 1.0}, "balanced": True}, "a controller"),
    ],
)
def test_learned_weights_refuse_time_factors_below_zero(term: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=f"term 'b'.*{why}.*balanced: false at terms.b"):
        WeightedLoss({"a": 1.0, "b": term}, balancer="uncertainty", total_steps=100)


def test_a_plateau_needs_a_source() -> None:
    with pytest.raises(ConfigError, match="a plateau needs a source.*source: val_loss"):
        read({"a": {"kind": "plateau"}})


def test_a_transform_without_state_leaves_checkpoints_as_they_were() -> None:
    plain, transformed = WeightedLoss(["a"]), WeightedLoss({"a": {"transform": "log"}})
    transformed.load_state_dict(plain.state_dict())
    assert plain.state_dict().keys() == transformed.state_dict().keys()
