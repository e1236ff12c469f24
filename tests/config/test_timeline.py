"""The timeline: what each row holds, wherever one begins to look."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from lossweights import (
    ConfigError,
    Constant,
    Horizon,
    HorizonError,
    LossConfig,
    Schedule,
    Steps,
    Term,
    Values,
    WeightedLoss,
    percent,
)
from lossweights.config.timeline import BLOCK_STEPS, Timeline
from tests.components.schedules.examples import ALL_SCHEDULES

HORIZON = Horizon(5000, steps_per_epoch=50)
EVERY_EXAMPLE = LossConfig(
    terms={
        f"{number:02}-{after}": Term(
            weight=0.1 * (number + 1), schedule=schedule, after=f"{after} steps"
        )
        for number, schedule in enumerate([None, *ALL_SCHEDULES])
        for after in (0, 7, 1500)
    }
)


def timeline(terms: dict[str, Any], horizon: Horizon = HORIZON) -> Timeline:
    return Timeline(LossConfig.read({"terms": terms}), horizon)


class Table(Schedule, kind="test-table"):
    """A plug-in with a field that cannot be hashed."""

    weights: Annotated[dict[str, float], Field(min_length=1)]

    def values(self, steps: Steps, horizon: Horizon) -> Values:
        return np.full(len(steps), max(self.weights.values()))


# The rows


@pytest.mark.parametrize("step", [0, 6, 7, 1023, 1024, 1499, 1500, 4999, 5000, 12_345])
def test_a_row_is_base_times_schedule_and_0_while_dormant(step: int) -> None:
    found = Timeline(EVERY_EXAMPLE, HORIZON)
    assert found.names == tuple(sorted(EVERY_EXAMPLE.terms))
    for name, value in zip(found.names, found.row(step), strict=True):
        term = EVERY_EXAMPLE.terms[name]
        start = HORIZON.steps(term.after)
        local = HORIZON.local(start)
        factor = 1.0 if term.schedule is None else float(term.schedule(max(step - start, 0), local))
        assert value == (term.weight * factor if step >= start else 0.0)


@settings(max_examples=15)
@given(st.lists(st.integers(0, 6000), min_size=1, max_size=8))
def test_a_row_is_bitwise_the_same_wherever_one_looked_before(steps: list[int]) -> None:
    fresh = {step: Timeline(EVERY_EXAMPLE, HORIZON).row(step).tobytes() for step in set(steps[-2:])}
    visited = Timeline(EVERY_EXAMPLE, HORIZON)
    for step in steps:
        first, block = visited.block(step)
        assert block[step - first].tobytes() == visited.row(step).tobytes()
        assert visited.rows(np.array([step])).tobytes() == visited.row(step).tobytes()
    for step, expected in fresh.items():
        assert visited.row(step).tobytes() == expected


def test_the_size_of_a_block_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = Timeline(EVERY_EXAMPLE, HORIZON)
    expected = [usual.row(step).tobytes() for step in range(0, 5200, 97)]
    monkeypatch.setattr("lossweights.config.timeline.BLOCK_STEPS", 17)
    small = Timeline(EVERY_EXAMPLE, HORIZON)
    assert len(small.block(0)[1]) == 17
    assert [small.row(step).tobytes() for step in range(0, 5200, 97)] == expected


def test_a_training_is_evaluated_in_blocks() -> None:
    seen: list[int] = []

    def watched(step: int) -> float:
        seen.append(step)
        return 1.0

    found = timeline({"a": watched})
    for step in range(3 * BLOCK_STEPS):
        found.row(step)
    assert seen == list(range(3 * BLOCK_STEPS))


def test_terms_lie_in_the_order_of_their_names() -> None:
    found = timeline({"z": 1, "a": 2, "m": 3})
    assert found.names == ("a", "m", "z")
    assert found.row(0).tolist() == [2, 3, 1]


def test_weights_are_computed_in_float64_and_kept_in_float32() -> None:
    """In float32 a ramp over 2**25 steps would stand still from step to step."""
    over = 2**25
    found = timeline({"a": {"kind": "warmup", "over": f"{over} steps"}})
    for step in (1, 3, over - 1):
        assert found.row(step)[0] == step / over
    criterion = WeightedLoss({"a": {"kind": "warmup", "over": f"{over} steps"}})
    for step in (1, 3, over - 1):
        criterion.set_step(step)
        total = criterion({"a": torch.ones((), requires_grad=True)})
        assert total.item() == float(np.float32(step / over))


def test_many_terms() -> None:
    terms: dict[str, Any] = {f"t{number:05}": number / 7 for number in range(900)}
    terms |= {
        f"w{number:05}": {"weight": number, "schedule": {"kind": "warmup", "over": "10%"}}
        for number in range(100)
    }
    found = timeline(terms)
    for step in (0, 250, 4999):
        row = found.row(step)
        assert row[:900].tolist() == [number / 7 for number in range(900)]
        warm = min(step / 500, 1.0)
        assert row[900:].tolist() == [number * warm for number in range(100)]


def test_a_schedule_that_cannot_be_hashed_works() -> None:
    found = timeline(
        {
            "a": {"kind": "test-table", "weights": {"x": 0.5}},
            "b": {"kind": "test-table", "weights": {"x": 0.25}},
            "c": {"kind": "test-table", "weights": {"x": 0.5}},
        }
    )
    assert found.row(3).tolist() == [0.5, 0.25, 0.5]
    assert found.final().tolist() == [0.5, 0.25, 0.5]


def test_terms_that_share_a_schedule_keep_their_own_base_and_start() -> None:
    warmup = {"kind": "warmup", "over": "4 steps"}
    found = timeline(
        {
            "a": {"weight": 2, "schedule": warmup},
            "b": {"weight": 3, "schedule": warmup},
            "c": {"weight": 3, "schedule": warmup, "after": "2 steps"},
        }
    )
    assert found.row(3).tolist() == [1.5, 2.25, 0.75]


# Dormant, left out


def test_dormant_until_after() -> None:
    found = timeline({"a": 1, "b": {"after": "3 steps"}, "c": {"after": "0.1%"}})
    assert found.starts == {"a": 0, "b": 3, "c": 5}
    assert [sorted(found.dormant(step)) for step in (0, 2, 3, 4, 5, 99)] == [
        *(["b", "c"], ["b", "c"], ["c"], ["c"], [], [])
    ]
    assert [found.row(step).tolist() for step in (2, 3, 5)] == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]


def test_a_schedule_waits_for_its_term() -> None:
    terms = {"a": {"schedule": {"kind": "cyclical", "cycles": 2}, "after": "60%"}}
    found = timeline(terms, Horizon(10))
    rows = [found.row(step)[0] for step in range(10)]
    assert rows == [0] * 6 + [0, 1, 0, 1]


def test_left_out_where_a_weight_of_0_is_skipped() -> None:
    terms = {
        "keep": {"schedule": {"kind": "warmup", "over": "4 steps", "delay": "2 steps"}},
        "skip": {
            "schedule": {"kind": "warmup", "over": "4 steps", "delay": "2 steps"},
            "when_zero": "skip",
        },
        "late": {"after": "3 steps", "when_zero": "skip"},
    }
    found = timeline(terms)
    assert [sorted(found.skipped(step)) for step in (0, 2, 3)] == [
        *(["late", "skip"], ["late", "skip"], [])
    ]


@pytest.mark.parametrize(
    ("term", "patterned"),
    [
        (1.0, False),
        ({"after": "0 steps"}, False),
        ({"weight": 0.0}, False),
        ({"after": "1 steps"}, True),
        ({"when_zero": "skip"}, True),
    ],
)
def test_says_whether_the_terms_change(term: Any, patterned: bool) -> None:
    assert timeline({"a": 1.0, "b": term}).is_patterned is patterned


# The end


def test_final_is_base_times_the_schedules_own() -> None:
    found = Timeline(EVERY_EXAMPLE, HORIZON)
    final = found.final()
    assert final.dtype == np.float32
    for name, value in zip(found.names, final, strict=True):
        term = EVERY_EXAMPLE.terms[name]
        local = HORIZON.local(HORIZON.steps(term.after))
        factor = 1.0 if term.schedule is None else term.schedule.final(local)
        assert value == np.float32(term.weight * factor)


def test_final_of_what_never_settles_needs_the_end() -> None:
    with pytest.raises(HorizonError, match=r"term 'a': 100% of training .* before total_steps"):
        timeline({"a": lambda step: 1.0}, Horizon()).final()
    settled = timeline({"a": {"kind": "warmup", "over": "4 steps"}}, Horizon())
    assert settled.final().tolist() == [1.0]


# What goes wrong


@pytest.mark.parametrize(
    ("term", "lacks"),
    [
        ({"kind": "warmup", "over": "25%"}, "total_steps"),
        ({"kind": "warmup", "over": "2 epochs"}, "steps_per_epoch"),
        ({"kind": "cyclical"}, "total_steps"),
        ({"after": "3 epochs"}, "steps_per_epoch"),
        ({"after": "1%"}, "total_steps"),
    ],
)
def test_a_missing_horizon_names_the_term(term: Any, lacks: str) -> None:
    with pytest.raises(HorizonError, match=f"^term 'kl': .* before {lacks} is known"):
        timeline({"a": 1.0, "kl": term}, Horizon())


@pytest.mark.parametrize(
    ("term", "problem"),
    [
        ({"weight": -1e20, "schedule": 1e19}, r"at step 0 is -1e\+39, too large for float32"),
        (
            {
                "weight": 1e20,
                "schedule": {"kind": "ramp", "start": 0, "stop": 1e20, "over": "9 steps"},
            },
            r"its weight at step 1 is 1.11111e\+39, too large for float32",
        ),
        (lambda step: float("nan"), "is not finite at step 0"),
        (
            {"kind": "piecewise", "points": [["0 steps", 1.0], ["1 epochs", 2.0], ["0%", 3.0]]},
            "the times of `points` must rise",
        ),
    ],
)
def test_a_weight_that_cannot_be_names_the_term(term: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=f"^term 'kl': .*{problem}"):
        timeline({"a": 1.0, "kl": term})


def test_float32_holds_up_to_its_largest() -> None:
    largest = float(np.finfo(np.float32).max)
    assert timeline({"a": largest}).row(0)[0] == largest
    total = WeightedLoss({"a": largest})({"a": torch.ones((), requires_grad=True)})
    assert total.item() == largest


def test_a_final_weight_too_large_for_float32_is_told_at_once() -> None:
    ramp = {"kind": "ramp", "start": 0, "stop": 1e20, "over": "100%"}
    with pytest.raises(
        ConfigError, match=r"term 'kl': its final weight is 1e\+40, which float32 cannot"
    ):
        timeline({"kl": {"weight": 1e20, "schedule": ramp}}, Horizon(10**9)).final()


# Overruns


@pytest.mark.parametrize(
    ("term", "sentence"),
    [
        (
            {"kind": "warmup", "over": "150 steps"},
            (
                "term 'kl' ends too late: its schedule ends at step 150, training at 100, "
                "with a weight of 0.666667; shorten {kind: warmup, over: 150 steps} at "
                "terms.kl.schedule, or train longer"
            ),
        ),
        (
            {"weight": 2, "schedule": {"kind": "warmup", "over": "80%"}, "after": "40%"},
            (
                "term 'kl' ends too late: its schedule ends at step 120, training at 100, with "
                "a weight of 1.5; shorten {kind: warmup, over: 80%} at terms.kl.schedule, or train "
                "longer"
            ),
        ),
        (
            {"kind": "warmup", "over": "100.5%"},
            (
                "term 'kl' ends too late: its schedule ends at step 101, training at 100, "
                "with a weight of 0.995025; shorten {kind: warmup, over: 100.5%} at "
                "terms.kl.schedule, or train longer"
            ),
        ),
        (
            {"weight": 2, "after": "100%"},
            (
                "term 'kl' is dormant for the whole training: terms.kl.after is 100%, training "
                "takes 100 steps"
            ),
        ),
    ],
)
def test_what_would_not_arrive_is_told(term: Any, sentence: str) -> None:
    assert timeline({"a": 1.0, "kl": term}, Horizon(100)).overruns() == [sentence]


@pytest.mark.parametrize(
    "term",
    [
        1.0,
        {"kind": "warmup", "over": "100%"},
        {"kind": "warmup", "over": "60 steps", "delay": "40 steps"},
        {"kind": "cyclical", "cycles": 7},
        {"kind": "cyclical", "period": "30 steps"},
        {"kind": "exponential", "half_life": "90 steps"},
        {"after": "99 steps"},
        lambda step: step,
    ],
)
def test_what_arrives_or_never_would_is_not_told(term: Any) -> None:
    assert timeline({"kl": term}, Horizon(100)).overruns() == []


def test_nothing_is_told_of_a_training_whose_end_is_not_known() -> None:
    term = {"kind": "warmup", "over": "150 steps"}
    assert timeline({"kl": term}, Horizon()).overruns() == []
    assert timeline({"kl": term}, Horizon("2 epochs")).overruns() == []
    assert timeline({"kl": term}, Horizon(0)).overruns() == []


def test_a_config_may_be_built_in_python() -> None:
    config = LossConfig(terms={"a": Term(schedule=Constant(value=2.0), after=percent(50))})
    assert Timeline(config, Horizon(4)).row(2).tolist() == [2.0]
