"""What is proposed from a few batches: the shares that were wanted, and nothing else touched."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lossweights import HorizonError, LossConfig, WeightedLoss
from lossweights.analysis import Calibration, calibrate

SIZES = {"a": 50.0, "b": 0.2, "c": 3.0}


def shares_in_training(config: LossConfig, batch: dict[str, Any]) -> dict[str, float]:
    """The shares of the terms under a config at the end of training."""
    criterion = WeightedLoss.from_config(config)
    if config.total_steps is not None:
        criterion.set_step(int(str(config.total_steps)))
    breakdown = criterion.breakdown({name: torch.as_tensor(v) for name, v in batch.items()})
    return {name: float(share) for name, share in breakdown.share.items()}


def notes(found: Calibration) -> dict[str, str]:
    return {name: term.note for name, term in found.terms.items() if term.note}


# What is proposed


@given(
    sizes=st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=5),
    olds=st.lists(st.sampled_from([1.0, -1.0, 0.03, 40.0]), min_size=5, max_size=5),
    parts=st.lists(st.floats(0.1, 1.0), min_size=5, max_size=5),
    are_given=st.booleans(),
)
def test_terms_get_the_shares_that_are_wanted(
    sizes: list[float], olds: list[float], parts: list[float], are_given: bool
) -> None:
    batch = {f"t{index}": size for index, size in enumerate(sizes)}
    terms = dict(zip(batch, olds, strict=False))
    total = sum(parts[: len(sizes)])
    wanted = {name: part / total for name, part in zip(batch, parts, strict=False)}
    found = calibrate(WeightedLoss(terms), [batch], wanted if are_given else None)
    after = shares_in_training(found.config, batch)
    for name, share in after.items():
        expected = wanted[name] if are_given else 1 / len(sizes)
        assert share == pytest.approx(expected, rel=0.12)  # two digits: up to 5% each
        assert found.terms[name].share == pytest.approx(share, rel=1e-4)
    before = shares_in_training(LossConfig.read({"terms": terms}), batch)
    largest = max(before, key=lambda name: before[name])
    weights = {name: term.weight for name, term in found.config.terms.items()}
    for name, old in terms.items():
        assert found.terms[name].old_share == pytest.approx(before[name], rel=1e-4)
        assert math.copysign(1, weights[name]) == math.copysign(1, old)
        assert float(f"{weights[name]:.1e}") == pytest.approx(weights[name], rel=1e-12)
    if before[largest] > 1.01 * sorted(before.values())[-2]:
        assert weights[largest] == terms[largest]


def test_terms_that_are_not_named_share_what_is_left() -> None:
    found = calibrate(WeightedLoss(list(SIZES)), [SIZES], shares={"a": 0.8})
    after = shares_in_training(found.config, SIZES)
    assert after == pytest.approx({"a": 0.8, "b": 0.1, "c": 0.1}, rel=0.03)


def test_a_schedule_counts_as_it_ends_and_stays() -> None:
    kl = {"weight": 2.0, "schedule": {"kind": "ramp", "start": 0, "stop": 0.5, "over": "50%"}}
    criterion = WeightedLoss({"nll": 1.0, "kl": kl}, total_steps=100)
    found = calibrate(criterion, [{"nll": 8.0, "kl": 4.0}])
    assert found.terms["kl"].old_share == pytest.approx(4 / 12)
    assert found.terms["kl"].weight == 4.0
    assert found.config == criterion.config.override({"kl.weight": 4.0})


@pytest.mark.parametrize("eval_weights", ["final", "current", {"kl": 9.0}])
def test_a_transform_counts_as_its_schedule_ends(eval_weights: Any) -> None:
    ramp = {"kind": "ramp", "start": 0, "stop": 25, "over": "100%"}
    kl = {"transform": {"kind": "capacity", "capacity": ramp}}
    criterion = WeightedLoss({"nll": 1.0, "kl": kl}, total_steps=100, eval_weights=eval_weights)
    found = calibrate(criterion, [{"nll": 30.0, "kl": 20.0}])
    assert found.terms["kl"].typical == 5.0
    assert found.terms["kl"].weight == 6.0


def test_terms_of_each_example_are_reduced_as_declared() -> None:
    kl = {"reduction": "batch_mean", "transform": {"kind": "free-bits", "threshold": 0.5}}
    values = torch.tensor([[0.1, 2.0], [0.3, 4.0]])
    found = calibrate(WeightedLoss({"nll": 1.0, "kl": kl}), [{"nll": 7.0, "kl": values}])
    assert found.terms["kl"].typical == 3.5


def test_the_typical_value_is_a_median_that_one_batch_does_not_move() -> None:
    values = [2.0, -3.0, 1e9, math.nan, -math.inf, 4.0, 1.0]
    found = calibrate(WeightedLoss(["a", "b"]), [{"a": value, "b": 1.0} for value in values])
    term = found.terms["a"]
    assert term.typical == 3.0
    assert notes(found) == {"a": "nan or inf in 2 of them, which are ignored"}


def test_batches_may_lack_terms_optional_or_dormant_or_not() -> None:
    terms: Any = {"a": 1.0, "b": {"optional": True}, "late": {"after": "10 steps"}, "c": 1.0}
    batches: list[Any] = [
        {"a": 1.0, "b": None, "late": 5.0},
        {"a": 1.0, "b": 2.0},
        {"a": 1.0, "b": 2.0},
    ]
    found = calibrate(WeightedLoss(terms), batches)
    assert {name: term.weight for name, term in found.terms.items()} == {
        "a": 5.0, "b": 2.5, "late": 1.0, "c": 1.0
    }  # fmt: skip
    assert notes(found) == {
        "b": "in 2 of 3 batches",
        "late": "in 1 of 3 batches",
        "c": "keeps its weight: the term was never given, or never finite",
    }


@pytest.mark.parametrize(
    ("term", "value", "note"),
    [
        (1.0, 0.0, "the term was 0 in most batches"),
        (0.0, 1.0, "it is 0 at the end of training"),
        ({"kind": "ramp", "start": 1, "stop": 0, "over": "5 steps"}, 1.0, "it is 0 at the end"),
        (
            {"kind": "pid", "target": 1.0, "response": "5 steps"},
            1.0,
            "the controller 'pid' adjusts",
        ),
        ({"transform": "relative"}, 500.0, "the transform 'relative' compensates for its size"),
        (1.0, math.nan, "the term was never given, or never finite"),
        (1.0, 1e-30, "it is practically 0 compared to 'b'"),
    ],
)
def test_a_term_that_cannot_take_part_keeps_its_weight(term: Any, value: float, note: str) -> None:
    criterion = WeightedLoss({"odd": term, "b": 1.0, "c": 1.0}, total_steps=100)
    found = calibrate(criterion, [{"odd": value, "b": 8.0, "c": 2.0}])
    assert f"keeps its weight: {note}" in notes(found)["odd"]
    assert found.config == criterion.config.override({"c.weight": 4.0})
    assert [found.terms[name].share for name in ("odd", "b", "c")] == [0.0, 0.5, 0.5]


def test_balanced_terms_keep_theirs_and_the_others_are_fitted() -> None:
    terms: Any = {"a": 1.0, "b": 1.0, "c": {"balanced": False}, "d": {"balanced": False}}
    criterion = WeightedLoss(terms, balancer="uncertainty")
    found = calibrate(criterion, [{"a": 1.0, "b": 100.0, "c": 4.0, "d": 1.0}])
    assert found.config == criterion.config.override({"d.weight": 4.0})
    assert "the balancer 'uncertainty' compensates for its size" in notes(found)["a"]
    with pytest.raises(
        ValueError, match="no term can be calibrated: 'a' keeps its weight: the balancer"
    ):
        calibrate(WeightedLoss(["a", "b"], balancer="dwa", steps_per_epoch=1), [{"a": 1.0}])


# What is refused


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ({"A": 0.5}, "shares: no term is called 'A'; did you mean 'a'?"),
        ({"a": 0.0}, "shares: 'a' needs a share above 0 and up to 1, found 0.0"),
        ({"a": math.nan}, "shares: 'a' needs a share above 0 and up to 1, found nan"),
        ({"a": True}, "shares: 'a' needs a share above 0 and up to 1, found True"),
        ({"a": "0.5"}, "shares: 'a' needs a share above 0 and up to 1, found '0.5'"),
        ({"a": 0.9, "b": 0.1}, "their sum is 1, which leaves nothing for 'c'"),
        ({"a": 0.5, "b": 0.2, "c": 0.2}, "shares: their sum must be 1, found 0.9"),
        ({"kl": 0.5}, "shares: 'kl' cannot have one, it keeps its weight: the controller"),
    ],
)
def test_shares_that_cannot_be(shares: Any, words: str) -> None:
    kl = {"kind": "pid", "target": 1.0, "response": "5 steps"}
    criterion = WeightedLoss({"a": 1.0, "b": 1.0, "c": 1.0, "kl": kl})
    with pytest.raises(ValueError, match=re.escape(words)):
        calibrate(criterion, [{**SIZES, "kl": 1.0}], shares)


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        ([], "at least one batch is needed, found none"),
        ({"a": 1.0}, "several dicts of losses, .* found one dict"),
        (3, "several dicts of losses, .* found int"),
        ([[1.0, 2.0]], "the terms are passed in one mapping by name"),
        ([{"a": 1.0, "bb": 1.0}], "'bb' is not a term of this loss; did you mean 'b'"),
        ([{"a": 1.0, "b": torch.ones(2)}], r"term 'b' has shape \(2,\), a scalar is needed"),
    ],
)
def test_batches_that_cannot_be(batches: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        calibrate(WeightedLoss(["a", "b"]), batches)


@pytest.mark.parametrize(
    "term",
    [
        {"kind": "warmup", "over": "10%"},
        {"after": "10%"},
        {"schedule": lambda step: 1.0 + step},
        {"transform": {"kind": "capacity", "capacity": {"kind": "warmup", "over": "10%"}}},
    ],
)
@pytest.mark.parametrize("eval_weights", ["final", "current"])
def test_the_length_of_training_is_asked_for(term: Any, eval_weights: Any) -> None:
    criterion = WeightedLoss({"a": 1.0, "b": term}, eval_weights=eval_weights)
    with pytest.raises(HorizonError, match=r"'?b\b.* total_steps is known.*bind\("):
        calibrate(criterion, [{"a": 1.0, "b": 1.0}])
    criterion.bind(total_steps=100)
    assert calibrate(criterion, [{"a": 1.0, "b": 1.0}]).rows == 1


def test_what_ends_after_training_is_not_told_again() -> None:
    capacity = {"kind": "ramp", "start": 0, "stop": 4, "over": "200 steps"}
    terms: Any = {"a": 1.0, "b": {"transform": {"kind": "capacity", "capacity": capacity}}}
    with pytest.warns(UserWarning, match="ends too late"):
        criterion = WeightedLoss(terms, total_steps=100)
    calibrate(criterion, [{"a": 1.0, "b": 1.0}])  # without a word


# What is not touched


def generator() -> Iterator[dict[str, Tensor]]:
    yield {name: torch.tensor(size, requires_grad=True) for name, size in SIZES.items()}


@pytest.mark.parametrize("batches", [generator, generator(), [SIZES], lambda: [SIZES]])
def test_a_list_a_generator_or_what_returns_one(batches: Any) -> None:
    found = calibrate(WeightedLoss(list(SIZES)), batches)
    assert [term.weight for term in found.terms.values()] == [1.0, 250.0, 17.0]


# Groups


def test_a_group_is_calibrated_as_one_term() -> None:
    inside = {
        "late": {"weight": 2.0, "schedule": {"kind": "warmup", "over": "50%"}},
        "in": {"weight": 0.5, "terms": ["x", "y"]},
    }
    terms: dict[str, Any] = {"task": 1.0, "deep": {"weight": 4.0, "terms": inside}}
    batch: dict[str, Any] = {"task": 100.0, "deep": {"late": 3.0, "in": {"x": 1.0, "y": 7.0}}}
    found = calibrate(WeightedLoss(terms, total_steps=10), [batch], {"deep": 0.2})
    assert [*found.terms] == ["task", "deep"]
    assert found.terms["deep"].typical == 2.0 * 3.0 + 0.5 * (1.0 + 7.0)
    assert found.config.terms["deep"].weight == 2.5
    assert found.config.terms["deep"].terms == LossConfig.read({"terms": terms}).terms["deep"].terms
    criterion = WeightedLoss.from_config(found.config)
    criterion.bind(total_steps=10)
    criterion.set_step(10)
    flat = {"task": 100.0, "deep/late": 3.0, "deep/in/x": 1.0, "deep/in/y": 7.0}
    tensors = {name: torch.tensor(value) for name, value in flat.items()}
    assert float(criterion.breakdown(tensors).share["deep"]) == pytest.approx(0.2)
    with pytest.raises(HorizonError, match=r"'deep/late': .* call criterion\.bind"):
        calibrate(WeightedLoss(terms), [batch])
    with pytest.raises(ValueError, match="shares: 'deep/late' is a member of a group"):
        calibrate(WeightedLoss(terms, total_steps=10), [batch], {"deep/late": 0.5})


def test_groups_that_compensate_for_their_size_keep_their_weight() -> None:
    pid = {"kind": "pid", "target": 1.0, "response": "10 steps"}
    terms: dict[str, Any] = {
        "a": 1.0,
        "b": 1.0,
        "steered": {"controller": pid, "terms": ["x"]},
        "adapts": {"terms": {"in": {"terms": {"x": {"transform": "relative"}}}}},
    }
    batch: dict[str, Any] = {"a": 1.0, "b": 9.0, "steered/x": 1.0, "adapts/in/x": 1.0}
    found = calibrate(WeightedLoss(terms), [batch])
    assert notes(found) == {
        "steered": "keeps its weight: the controller 'pid' adjusts it",
        "adapts": "keeps its weight: the transform 'relative' of a member compensates for its size",
    }
    balanced = WeightedLoss({"a": {"balanced": False}, "g": {"terms": ["x"]}}, balancer="dwa")
    found = calibrate(balanced, [{"a": 1.0, "g/x": 2.0}])
    assert notes(found) == {"g": "keeps its weight: the balancer 'dwa' compensates for its size"}


def test_nothing_of_the_criterion_changes() -> None:
    kl = {"kind": "lagrangian", "at_most": 1.0}
    terms: Any = {"a": 1.0, "b": 1.0, "c": {"transform": "relative"}, "kl": kl}
    criterion = WeightedLoss(terms, total_steps=100)
    batch = {name: torch.tensor(3.0, requires_grad=True) for name in terms}
    for _ in range(3):
        criterion(batch).backward()
        criterion.step()
    gradients = {name: value.grad for name, value in batch.items()}
    state, report, config = criterion.state_dict(), str(criterion.report()), criterion.config
    before = {key: value.clone() for key, value in state.items() if isinstance(value, Tensor)}
    calibrate(criterion, [batch] * 5)
    after = criterion.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert (criterion.current_step, criterion.training) == (3, True)
    assert (str(criterion.report()), criterion.config) == (report, config)
    assert {name: value.grad for name, value in batch.items()} == gradients


# What is shown


@pytest.mark.parametrize(
    "term",
    [
        2.5,
        {"weight": 1e-5},
        {"kind": "cyclical", "cycles": 4, "shape": {"kind": "power", "exponent": 2.0}},
        {"weight": 3.0, "after": "2 epochs", "when_zero": "skip", "optional": True},
        {"kind": "piecewise", "points": [["0 steps", 0.5], ["50%", 1.0]]},
        {"kind": "pid", "target": 1.0, "response": "5%"},
        {"transform": {"kind": "free-bits", "threshold": 0.5}, "reduction": "batch_mean"},
        {"weight": 3.0, "terms": {"{{x}}": 1.0, "y": {"weight": 2.0, "optional": True}}},
        {
            "after": "5%",
            "terms": {"in": {"terms": {"x": 1e-5, "y": {"kind": "cyclical", "cycles": 2}}}},
        },
    ],
)
def test_the_terms_that_are_shown_are_those_of_the_config(term: Any) -> None:
    names = {"a": 1.0, "on": 1.0, "b: 'c'": term}  # `on` is yes in YAML
    criterion = WeightedLoss(names, total_steps=1000, steps_per_epoch=10)
    odd: Any = torch.ones(2, 2) if "reduction" in str(term) else 7.0
    if "terms" in str(term):
        odd = {"in": {"x": 1.0, "y": 2.0}} if "in" in term["terms"] else {"{x}": 1.0, "y": 2.0}
    found = calibrate(criterion, [{"a": 1.0, "on": 30.0, "b: 'c'": odd}])
    _, text = str(found).split("\n\n")
    whole = yaml.safe_load(text) | {"total_steps": 1000, "steps_per_epoch": 10}
    assert LossConfig.read(whole) == found.config


@pytest.mark.parametrize("name", ["\U0001d6fc", "\U0001f600 x", "é", "1e3", "<<", "null", "- a"])
def test_any_name_can_be_pasted(name: str) -> None:
    found = calibrate(WeightedLoss({"a": 1.0, name: 1.0}), [{"a": 1.0, name: 30.0}])
    _, text = str(found).split("\n\n")
    assert LossConfig.read(yaml.safe_load(text)) == found.config


def test_without_pyyaml_the_terms_are_shown_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    kl = {"kind": "warmup", "over": "10 steps"}
    found = calibrate(WeightedLoss({"é": 1.0, "kl": kl}), [{"é": 1.0, "kl": 30.0}])
    monkeypatch.setitem(sys.modules, "yaml", None)
    _, text = str(found).split("\n\n")
    assert LossConfig.read(json.loads(text)) == found.config
    assert '"é"' in text


def test_a_function_of_the_step_cannot_be_shown_and_is_said_so() -> None:
    function: Callable[[int], float] = lambda step: 1.0
    found = calibrate(
        WeightedLoss({"a": 1.0, "b": function}, total_steps=9), [{"a": 3.0, "b": 1.0}]
    )
    lines = str(found).splitlines()
    assert "b: a file cannot contain its function; add its other fields" in lines
    assert "  b: {weight: 3.0}" in lines
    assert found.config.terms["b"].schedule is not None


def test_the_table_has_a_line_for_each_term_and_the_notes() -> None:
    criterion = WeightedLoss({"reconstruction": 1.0, "kl": 0.5, "size": {"optional": True}})
    text = str(calibrate(criterion, [{"reconstruction": 90.0, "kl": 3.0}]))
    assert text.splitlines()[:5] == [
        "1 batch",
        "term               typical    weight   share   proposed   share",
        "reconstruction          90         1   98.4%          1   50.0%",
        "kl                       3       0.5    1.6%         30   50.0%",
        "size                     -         1    0.0%          1    0.0%",
    ]
    assert "size: keeps its weight: the term was never given, or never finite" in text
