"""Groups: terms that hold terms, as a config declares them."""

import pickle
from typing import Any

import numpy as np
import pytest

from lossweights import ConfigError, Horizon, LossConfig, Ramp, Term
from lossweights.config.timeline import Curves, Timeline

DEEP = {
    "task": 1.0,
    "deep": {
        "weight": 0.5,
        "terms": {"d{0..1}": 1.0, "inner": {"weight": 3.0, "terms": ["x", "y"]}},
    },
}


def read(terms: dict[str, Any], **fields: Any) -> LossConfig:
    return LossConfig.read({"terms": terms, **fields})


def test_members_are_named_after_their_groups() -> None:
    config = read(DEEP)
    assert [*config.terms] == ["task", "deep"]
    names = ["task", "deep", "deep/d0", "deep/d1", "deep/inner", "deep/inner/x", "deep/inner/y"]
    assert [*config.all_terms] == names
    assert config.groups == {
        "deep": ("deep/d0", "deep/d1", "deep/inner"),
        "deep/inner": ("deep/inner/x", "deep/inner/y"),
    }
    assert [term.weight for term in config.lineage("deep/inner/x")] == [0.5, 3.0, 1.0]
    assert config.lineage("deep/inner/z") == config.lineage("x") == []


def test_a_config_with_groups_is_read_again_from_what_it_dumps_and_prints() -> None:
    config = read(DEEP | {"odd": {"terms": {"{{x}}": 2.0}}})
    assert LossConfig.read(config.model_dump()) == config
    assert LossConfig.read(config.model_dump(mode="json", exclude_defaults=True)) == config
    assert pickle.loads(pickle.dumps(config)) == config
    yaml = pytest.importorskip("yaml")
    assert LossConfig.read(yaml.safe_load(str(config))) == config
    assert repr(config.terms["odd"]) == "Term(terms={'{{x}}': Term(weight=2.0)})"


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"terms": {}}, "terms.deep.terms: at least one term is needed"),
        ({"terms": ["a", "a"]}, "terms.deep.terms: listed twice: 'a'"),
        ({"terms": {"a": "x"}}, "terms.deep.terms.a"),
        ({"terms": {"": 1}}, "terms.deep.terms.'': a name must not be empty"),
        ({"terms": ["a"], "transform": "log"}, "a group has no `transform`"),
        ({"terms": ["a"], "reduction": "mean"}, "a group has no `reduction`"),
        ({"terms": {"a": {"kind": "pid", "target": 1}}}, "'a' is a member of a group and cannot"),
        ({"terms": {"a": {"balanced": False}}}, "`balanced` applies to the whole group"),
        ({"terms": {"a": {"accumulates": "sum"}}}, "`accumulates` applies to the whole group"),
        ({"terms": ["a"], "a": 1.0}, "unknown field 'a'"),
        ({"kind": "pid", "target": 1, "terms": ["a"]}, r"'terms' beside `kind`"),
    ],
)
def test_what_a_group_cannot_be_is_explained(group: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read({"deep": group})


@pytest.mark.parametrize(
    "terms",
    [
        {"a/b": 1.0, "a": {"terms": ["b"]}},
        {"a": {"terms": {"b/c": 1.0, "b": {"terms": ["c"]}}}},
    ],
)
def test_two_terms_cannot_have_one_name(terms: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="two terms are called 'a/b"):
        read(terms)


def test_a_name_with_a_slash_is_still_a_name() -> None:
    config = read({"a/b": 2.0, "a": 1.0, "c": {"terms": ["d/e"]}})
    assert [*config.all_terms] == ["a/b", "a", "c", "c/d/e"]
    assert config.lineage("a/b") == [Term(weight=2.0)]


def test_members_count_as_terms() -> None:
    with pytest.raises(ConfigError, match="at most 10,000 terms, found 10,002"):
        read({"{a,b}": {"terms": {"x{1..5000}": 1.0}}})


def test_a_controller_cannot_observe_a_member() -> None:
    kl = {"kind": "pid", "target": 1.0, "source": "deep/d0"}
    with pytest.raises(ConfigError, match=r"source 'deep/d0' is a member of a group: observe"):
        read(DEEP | {"kl": kl})


def test_a_member_can_have_a_weight_in_evaluation() -> None:
    assert read(DEEP, eval_weights={"deep/d0": 0.0}).eval_weights == {"deep/d0": 0.0}
    with pytest.raises(ConfigError, match="no term is called 'deep/d7'; did you mean 'deep/d"):
        read(DEEP, eval_weights={"deep/d7": 0.0})


@pytest.mark.parametrize(
    "path", ["deep/inner/x.weight", "deep.terms.inner.terms.x.weight", "terms.deep/inner/x.weight"]
)
def test_override_changes_a_member(path: str) -> None:
    changed = read(DEEP).override({path: 7.0})
    assert changed.all_terms["deep/inner/x"].weight == 7.0
    assert changed.override({path: 1.0}) == read(DEEP)


@pytest.mark.parametrize("path", ["terms.deep/inner/z", "deep.terms.inner.terms.z"])
def test_override_adds_a_member(path: str) -> None:
    changed = read(DEEP).override({path: 7.0})
    assert [*changed.terms] == ["task", "deep"]
    assert changed.groups["deep/inner"] == ("deep/inner/x", "deep/inner/y", "deep/inner/z")
    assert changed.all_terms["deep/inner/z"] == Term(weight=7.0)


def test_override_expands_braces_among_members() -> None:
    changed = read(DEEP).override({"deep/d{0..1}.weight": 7.0})
    assert [changed.all_terms[f"deep/d{i}"].weight for i in (0, 1)] == [7.0, 7.0]


def test_a_misspelt_member_is_not_added() -> None:
    with pytest.raises(
        ConfigError, match=r"'deep/d2'; did you mean 'deep/d\d'.*to add one, write all of it"
    ):
        read(DEEP).override({"deep/d2": 7.0})


def test_a_member_waits_for_itself_and_for_its_groups() -> None:
    ramp = {"kind": "ramp", "start": 0.0, "stop": 1.0, "over": "4 steps"}
    terms = {
        "a": {"after": "10 steps", "terms": {"early": ramp, "late": ramp | {}}},
        "b": 1.0,
    }
    config = read(terms).override(
        {"a/late": {"schedule": ramp, "after": "20 steps"}, "a/early": {"schedule": ramp}}
    )
    timeline = Timeline(config, Horizon(40))
    assert timeline.starts == {"a": 10, "a/early": 10, "a/late": 20, "b": 0}
    place = {name: index for index, name in enumerate(timeline.all_names)}
    early, late = place["a/early"], place["a/late"]
    assert [timeline.row(step)[early] for step in (9, 10, 12, 14)] == [0.0, 0.0, 0.5, 1.0]
    assert [timeline.row(step)[late] for step in (14, 20, 22)] == [0.0, 0.0, 0.5]
    assert timeline.dormant(5) == {"a", "a/early", "a/late"}
    assert timeline.dormant(15) == {"a/late"}


def test_curves_multiply_the_weights_along_a_path() -> None:
    ramp = Ramp(start=0.0, stop=1.0, over="4 steps")
    config = read(
        {"g": {"weight": 3.0, "schedule": ramp, "terms": {"h": {"weight": 2.0, "terms": ["x"]}}}}
    )
    weights = Curves.of(config, Horizon(4)).weights
    np.testing.assert_allclose(weights["g"], [0.0, 0.75, 1.5, 2.25])
    np.testing.assert_allclose(weights["g/h"], 2 * weights["g"])
    np.testing.assert_allclose(weights["g/h/x"], 2 * weights["g"])


def test_a_schedule_of_a_member_that_ends_too_late_is_named() -> None:
    late = {"terms": {"x": {"kind": "warmup", "over": "100 steps"}}}
    (sentence,) = Timeline(read({"a": 1.0, "g": late}), Horizon(50)).overruns()
    assert sentence.startswith("term 'g/x' ends too late")
    assert "terms.g/x.schedule" in sentence
