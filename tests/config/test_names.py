"""Braces in names: what they expand to, what is refused, and where errors are."""

from __future__ import annotations

import copy
import pickle
import re
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lossweights import ConfigError, LossConfig, Term, WeightedLoss
from lossweights.analysis import calibrate
from lossweights.config.names import NAME_JSON, ByName, by_name, escaped, expanded, read_terms
from tests.fuzzing import many


@pytest.mark.parametrize(
    ("pattern", "names"),
    [  # as GNU bash 5.2.15 prints them
        ("a{0..5}", "a0 a1 a2 a3 a4 a5"),
        ("a{5..0}", "a5 a4 a3 a2 a1 a0"),
        ("{00..11}", "00 01 02 03 04 05 06 07 08 09 10 11"),
        ("{0..10..2}", "0 2 4 6 8 10"),
        ("{10..0..3}", "10 7 4 1"),
        ("{0..5..-2}", "0 2 4"),
        ("{1..3..0}", "1 2 3"),
        ("{-2..2}", "-2 -1 0 1 2"),
        ("{-05..5}", "-05 -04 -03 -02 -01 000 001 002 003 004 005"),
        ("{-02..1}", "-02 -01 000 001"),
        ("{9..011}", "009 010 011"),
        ("{007..3..2}", "007 005 003"),
        ("{0..5..0002}", "0 2 4"),
        ("{1..1}", "1"),
        ("{a..e}", "a b c d e"),
        ("{E..A..2}", "E C A"),
        ("{box,cls}_loss", "box_loss cls_loss"),
        ("{a,b}{1..3}", "a1 a2 a3 b1 b2 b3"),
        ("{1..2}x{3,4}y", "1x3y 1x4y 2x3y 2x4y"),
        ("x{,_2}", "x x_2"),
        ("{-1,+1}", "-1 +1"),
        ("{a.b,c}", "a.b c"),
        ("{1..2,3}", "1..2 3"),
        ("a,b", "a,b"),
    ],
)
def test_braces_expand_as_in_a_shell(pattern: str, names: str) -> None:
    assert expanded(pattern) == names.split()


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("{{x}}", ["{x}"]),
        ("{{{x,y}}}", ["{x}", "{y}"]),
        ("{{0..5}}", ["{0..5}"]),
        ("}}{{", ["}{"]),
        ("a{{{{b", ["a{{b"]),
        ("decoder/{0..1}.ce", ["decoder/0.ce", "decoder/1.ce"]),
        ("a b", ["a b"]),
        ("", [""]),
    ],
)
def test_doubled_braces_are_braces_of_the_name(pattern: str, names: list[str]) -> None:
    assert expanded(pattern) == names


@given(st.text())
def test_an_escaped_name_stands_for_itself(name: str) -> None:
    assert expanded(escaped(name)) == [name]


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("aux_{0", "a single '{' is not a pattern: .* or double the brace .* to the name, '{{'$"),
        ("aux_0}", "a single '}' is not a pattern: .*, '}}'$"),
        ("{{x}", "a single '}' is not a pattern"),
        ("{a,{b,c}}", "a single '{' is not a pattern"),
        ("{x}", r"'\{x\}' is not a pattern: .* double the braces .* to the name, '\{\{x\}\}'$"),
        ("{}", r"'\{\}' is not a pattern"),
        ("{0.5}", r"'\{0.5\}' is not a pattern: write one such as \{0..5\}"),
        ("{0..}", r"'\{0..\}' is not a pattern"),
        ("{0..x}", r"'\{0..x\}' is not a pattern"),
        ("{a..E}", r"'\{a..E\}' is not a pattern"),
        ("{0..5..}", r"'\{0..5..\}' is not a pattern"),
        ("{0 .. 5}", r"'\{0 .. 5\}' is not a pattern"),
        ("{box, cls}_loss", r"'\{box, cls\}' has spaces: write '\{box,cls\}'$"),
        ("{0..999999999}", "stands for 1000000000 names, and a loss has at most 10,000 terms$"),
        ("{0..99}{0..99}{0..1}", "stands for 20000 names"),
        ("{1..999999999999999999}" * 40, "stands for an integer of 23.. bits names"),
        ("{0..9999999999999999999}", "is not a pattern"),  # more digits than an integer of 64 bits
        ("x" * 1000 + "{0..9}", "^a name with braces has at most 1,000 characters$"),
    ],
)
def test_a_wrong_pattern_is_refused_at_once(pattern: str, problem: str) -> None:
    before = time.process_time()
    with pytest.raises(ValueError, match=problem):
        expanded(pattern)
    with pytest.raises(ConfigError, match=problem.removeprefix("^")):
        LossConfig.read({"terms": {pattern: 1.0}})
    assert time.process_time() - before < 1  # seconds, where a thousandth is enough


def test_many_large_patterns_are_refused_at_once() -> None:
    before = time.process_time()
    for config in (
        {"terms": [f"{n}_{{0..9999}}" for n in range(9000)]},
        {"terms": ["a"], "ignore": [f"{n}_{{0..9999}}" for n in range(9000)]},
        {"terms": ["a"], "eval_weights": {f"{n}_{{0..9999}}": 1.0 for n in range(9)}},
        {"terms": {"a{0..9999}": {"kind": "piecewise", "points": [["0 steps", 1.0]] * 9}}},
    ):
        with pytest.raises(ConfigError, match="has at most|at most 10,000 patterns are ignored"):
            LossConfig.read(config)
    assert time.process_time() - before < 10


def test_a_value_counts_for_each_name() -> None:
    points = [[f"{n} steps", 1.0] for n in range(50)]
    with pytest.raises(
        ConfigError, match=r"^terms.a\{0..999\}.*: a config has at most 100,000 val"
    ):
        LossConfig.read({"terms": {"a{0..999}": {"kind": "piecewise", "points": points}}})
    assert LossConfig.read({"terms": {"a{0..99}": {"kind": "piecewise", "points": points}}})


# In a config


def test_terms_and_evaluation_go_by_the_expanded_names() -> None:
    config = LossConfig.read(
        {
            "terms": {"aux_{0..2}": 0.1, "{box,cls}_loss": {"optional": True}, "{{x}}": 2.0},
            "eval_weights": {"aux_{0..1}": 0.5, "{{x}}": 3.0},
        }
    )
    each = {"aux_0": 0.1, "aux_1": 0.1, "aux_2": 0.1}
    losses = {name: Term(optional=True) for name in ("box_loss", "cls_loss")}
    assert list(config.terms) == [*each, *losses, "{x}"]
    assert config == LossConfig(
        terms={**each, **losses, "{{x}}": 2.0},
        eval_weights={"aux_0": 0.5, "aux_1": 0.5, "{{x}}": 3.0},
    )
    criterion = WeightedLoss(config)
    assert criterion.weights == {**each, "box_loss": 1.0, "cls_loss": 1.0, "{x}": 2.0}
    assert criterion.eval()(dict.fromkeys([*each, "{x}"], torch.ones(()))).item() == (
        pytest.approx(0.5 + 0.5 + 0.1 + 3.0)
    )


def test_names_in_a_list_expand() -> None:
    assert list(LossConfig.read({"terms": ["nll", "d{0..1}"]}).terms) == ["nll", "d0", "d1"]


def test_patterns_to_ignore_expand() -> None:
    criterion = WeightedLoss(["a"], ignore=["{acc,f1}_*", "{{x}}"])
    one = torch.ones(())
    assert criterion({"a": one, "acc_top5": one, "f1_macro": one, "{x}": one}).item() == 1.0
    with pytest.raises(ValueError, match="'acc'"):
        criterion({"a": one, "acc": one})
    with pytest.raises(ConfigError, match=r"^ignore: '\{acc\}' is not a pattern"):
        WeightedLoss(["a"], ignore=["{acc}"])


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        (
            {"terms": {"aux_{0..5}": 1, "aux_3": 1}},
            r"^terms: 'aux_\{0..5\}' and 'aux_3' both stand for 'aux_3': write each name once$",
        ),
        (
            {"terms": {"{{x}}": 1, "{{{x,y}}}": 1}},
            r"^terms: '\{\{x\}\}' and '\{\{\{x,y\}\}\}' both",
        ),
        ({"terms": ["{a,b}", "b"]}, r"^terms: '\{a,b\}' and 'b' both stand for 'b'"),
        ({"terms": {"a{,}": 1}}, r"^terms: 'a\{,\}' stands for 'a' twice: write each name once$"),
        ({"terms": {"{,a}": 1}}, r"^terms.\{,a\}: a name must not be empty, found"),
        ({"eval_weights": {"{a,b}": 1, "b": 1}}, r"^eval_weights: '\{a,b\}' and 'b' both stand"),
        ({"eval_weights": {"{a,c}": 1}}, "eval_weights: no term is called 'c'"),
        ({"eval_weights": {"{a": 1}}, r"^eval_weights.\{a: a single '\{' is not a pattern"),
        ({"terms": {"a{0..5999}": 1, "b{0..4999}": 1}}, "at most 10,000 terms, found 11000$"),
    ],
)
def test_wrong_names_are_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        LossConfig.read({"terms": ["a", "b"], **fields})


def test_a_problem_of_several_terms_is_reported_once_at_its_key(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        'terms:\n  nll: 1.0\n  "aux_{0..5}": {weight: x, wieght: 1}\n  "d_{0..5": 1.0\n'
        'eval_weights:\n  "aux_{0..2}": y\n'
    )
    with pytest.raises(ConfigError) as caught:
        LossConfig.read(path)
    places = [re.split(r": |\(", line)[0] for line in str(caught.value).splitlines()]
    assert places == [
        "a.yaml, line 3, terms.aux_{0..5}.weight",
        "a.yaml, line 3, terms.aux_{0..5}.wieght",
        "a.yaml, line 4, terms.d_{0..5",
        "a.yaml, line 6, eval_weights.aux_{0..2}",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("terms:\n  {box,cls}_loss: 1.0", "line 2: .*: put a name that begins with a brace in quo"),
        ("terms: {aux_{0..5}: 1.0}", "line 1: .*, or a name with braces needs quotes$"),
    ],
)
def test_a_name_without_quotes_in_yaml(text: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=problem):
        LossConfig.read(path)


# Without control characters: for Python's regular expressions `$` is also before a last "\n".
PRINTED = st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"])
PATTERNS = st.text(st.sampled_from("{},.0{19}a-* b")) | st.text(PRINTED, max_size=4)


@many
@given(PATTERNS)
def test_the_schema_and_the_reader_agree_on_names(pattern: str) -> None:
    problem = ""
    try:
        LossConfig.read({"terms": {pattern: 1.0}})
    except ConfigError as error:
        problem = str(error)
    if not re.search("stands for|must not be empty, found '{", problem):  # what a schema cannot see
        assert jsonschema_accepts(pattern) == (not problem)


def jsonschema_accepts(name: str) -> bool:
    return jsonschema.Draft202012Validator(NAME_JSON).is_valid(name)


def test_the_schema_has_braces_in_names() -> None:
    schema = jsonschema.Draft202012Validator(LossConfig.model_json_schema())
    for good in ("aux_{0..5}", "{box,cls}_loss", "{{x}}", "d/{00..11..2}.{a..c}", "x{,_2}"):
        assert schema.is_valid({"terms": {good: 1.0}, "eval_weights": {good: 1.0}})
        assert schema.is_valid({"terms": [good]})
    for bad in ("aux_{0..5", "aux_{0.5}", "{x}", "a*", "", "{a, b}"):
        assert not schema.is_valid({"terms": {bad: 1.0}})
        assert not schema.is_valid({"terms": [bad]})


NAMES = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"], exclude_characters="*"), min_size=1
)


@many
@given(st.lists(st.sampled_from(["{x}", "a{b", "}{", "{0..1}", "x"]) | NAMES, unique=True))
def test_a_config_comes_back_as_it_is(names: list[str]) -> None:
    weights = ByName({name: float(n) for n, name in enumerate(["a", *names])})
    config = LossConfig(terms=weights, eval_weights=weights)
    assert list(config.terms) == [*dict.fromkeys(["a", *names])]
    for saved in (config.model_dump(), config.model_dump(mode="json", exclude_defaults=True)):
        assert LossConfig.read(saved) == config
    assert LossConfig.model_validate_json(config.model_dump_json()) == config
    assert LossConfig(terms=config.terms, eval_weights=config.eval_weights) == config
    assert config.override({"total_steps": 5}).override({"total_steps": None}) == config
    assert eval(repr(config)) == config  # noqa: S307
    assert LossConfig.read(yaml.safe_load(str(config))) == config


# Overriding


@pytest.fixture
def config() -> LossConfig:
    return LossConfig.read(
        {"terms": {"nll": 1.0, "aux_{0..2}": {"kind": "warmup", "over": "5 steps"}, "{{x}}": 1.0}}
    )


def test_braces_in_a_path_change_several_terms(config: LossConfig) -> None:
    changed = config.override(
        {"aux_{0..1}.weight": 0.5, "terms.{aux_2,nll}.optional": True, "{{x}}.weight": 3.0}
    )
    assert [term.weight for term in changed.terms.values()] == [1.0, 0.5, 0.5, 1.0, 3.0]
    assert [name for name, term in changed.terms.items() if term.optional] == ["nll", "aux_2"]
    assert changed.terms["aux_0"].schedule == config.terms["aux_0"].schedule


def test_a_term_is_added(config: LossConfig) -> None:
    changed = config.override({"terms.new": 0.5, "terms.d{0..1}": {"weight": 2, "after": "1%"}})
    assert list(changed.terms) == [*config.terms, "new", "d0", "d1"]
    assert changed.terms["d1"] == Term(weight=2, after="1%")
    assert {**config.terms} == {name: changed.terms[name] for name in config.terms}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"aux_{0..1}.weight": 1, "aux_1.weight": 2}, "'aux_{0..1}.weight' and 'aux_1.weight' bo"),
        ({"nll.weight": 1, "terms.nll.weight": 2}, "'nll.weight' and 'terms.nll.weight' both ch"),
        ({5: 1}, "a path is text, such as 'kl.weight', found 5"),
        ({"aux_{0..1.weight": 1}, "aux_{0..1.weight: a single '{' is not a pattern"),
        ({"aux_{0..9}.weight": 1}, "aux_3.weight: no term or field is called 'aux_3'"),
        ({"aux_{0..999999}.weight": 1}, "stands for 1000000 names"),
        ({"terms.new": 1, "terms.new.weight": 2}, "terms.new.weight: no term or field is called"),
    ],
)
def test_wrong_paths_are_refused(config: LossConfig, changes: dict[Any, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(problem)):
        config.override(changes)


def test_a_problem_of_several_paths_is_reported_once(config: LossConfig) -> None:
    with pytest.raises(ConfigError) as caught:
        config.override({"aux_{0..2}.weight": "x", "aux_{0..1}.wieght": 1, "nll.weight": "x"})
    places = [line.split(": ")[0] for line in str(caught.value).splitlines()]
    assert places == ["terms.nll.weight", "aux_{0..2}.weight", "aux_{0..1}.wieght"]


# A config cannot be changed


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.__setitem__("nll", 2.0),
        lambda table: table.__delitem__("nll"),
        lambda table: table.pop("nll"),
        lambda table: table.popitem(),
        lambda table: table.clear(),
        lambda table: table.update(nll=2.0),
        lambda table: table.setdefault("new", 2.0),
        lambda table: table.__ior__({"nll": 2.0}),
    ],
)
def test_the_tables_of_a_config_cannot_be_changed(change: Any) -> None:
    config = LossConfig.read({"terms": ["nll", "kl"], "eval_weights": {"nll": 1.0}})
    before = config.model_dump()
    for same in (
        config,
        copy.copy(config),
        copy.deepcopy(config),
        pickle.loads(pickle.dumps(config)),
        LossConfig.model_validate_json(config.model_dump_json()),
        config.override({"nll.weight": 1.0}),
        copy.deepcopy(WeightedLoss(config)).config,
        calibrate(WeightedLoss(config), [{"nll": torch.ones(()), "kl": torch.ones(())}]).config,
    ):
        for table in (same.terms, same.eval_weights):
            with pytest.raises(
                TypeError, match=r"use config.override\(\{...\}\) and build a new cr"
            ):
                change(table)
    assert config.model_dump() == before


def test_a_copy_of_a_table_can_be_changed() -> None:
    config = LossConfig.read({"terms": ["nll", "kl"]})
    terms = {**config.terms}
    del terms["kl"]
    assert list(LossConfig(terms=terms).terms) == ["nll"]
    assert list(config.terms | {"new": Term()}) == ["nll", "kl", "new"]


def test_the_config_of_a_criterion_cannot_be_replaced() -> None:
    criterion = WeightedLoss(["nll", "kl"])
    with pytest.raises(
        AttributeError, match=r"use config.override\(\{...\}\) and build a new crite"
    ):
        criterion.config = LossConfig.read({"terms": ["nll"]})
    assert list(criterion.config.terms) == ["nll", "kl"]


# In a part of a config that is read by the same function


def test_terms_can_be_read_without_a_config() -> None:
    found = read_terms({"d{0..1}": 1.0, "{{x}}": 2.0}, dict, fields=["weight"])
    assert found == {"d0": 1.0, "d1": 1.0, "{x}": 2.0}
    assert read_terms(found, dict, fields=[]) == found
    assert by_name({"a": 1}) == {"a": 1}
