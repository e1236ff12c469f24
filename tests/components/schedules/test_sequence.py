"""Sequences at their edges; test_properties compares them with their parts."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from lossweights import (
    Constant,
    Cyclical,
    Exponential,
    Horizon,
    HorizonError,
    Product,
    Ramp,
    Repeat,
    Schedule,
    Sequence,
    Stage,
    Warmup,
)


def test_values_either_side_of_each_stage() -> None:
    sequence = Sequence(
        stages=(
            Stage(schedule=0.25, over="3 steps"),
            Stage(schedule=Warmup(over="2 steps"), over="4 steps"),
            Stage(schedule=Exponential(half_life="1 steps")),
        )
    )
    assert sequence(range(10)).tolist() == [0.25] * 3 + [0, 0.5, 1, 1] + [1, 0.5, 0.25]


def test_a_percentage_in_a_stage_is_one_of_the_whole_training() -> None:
    sequence = Sequence(
        stages=(
            Stage(schedule=0.0, over="50%"),
            Stage(schedule=Ramp(start=0.0, stop=1.0, over="25%")),
        )
    )
    assert sequence.curve(8).tolist() == [0, 0, 0, 0, 0, 0.5, 1, 1]


def test_cycles_share_their_stage() -> None:
    sequence = Sequence(
        stages=(
            Stage(schedule=2.0, over="2 steps"),
            Stage(schedule=Cyclical(cycles=2), over="4 steps"),
            Stage(schedule=Cyclical(cycles=1)),
        )
    )
    assert sequence.curve(10).tolist() == [2, 2, 0, 1, 0, 1, 0, 0.5, 1, 1]


def test_a_stage_of_no_length_is_passed_over() -> None:
    sequence = Sequence(stages=(Stage(schedule=9.0, over="0 steps"), Stage(schedule=1.0)))
    assert sequence([0, 1]).tolist() == [1.0, 1.0]


def test_after_the_last_stage_the_weight_stays() -> None:
    cut = Sequence(stages=(Stage(schedule=Warmup(over="8 steps"), over="4 steps"),))
    assert cut([3, 4, 5, 99]).tolist() == [0.375, 0.5, 0.5, 0.5]
    cyclical = Sequence(stages=(Stage(schedule=Cyclical(period="4 steps"), over="6 steps"),))
    assert cyclical([4, 5, 6, 8, 99]).tolist() == [0.0, 0.5, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("last", "end"),
    [
        (Stage(schedule=0.5), 10),
        (Stage(schedule=Warmup(over="4 steps")), 14),
        (Stage(schedule=Warmup(over="4 steps"), over="3 steps"), 13),
        (Stage(schedule=Warmup(over="4 steps"), over="9 steps"), 14),
        (Stage(schedule=Exponential(rate=0.9), over="9 steps"), 19),
        (Stage(schedule=Cyclical(period="2 steps"), over="9 steps"), 19),
        (Stage(schedule=Exponential(rate=0.9)), None),
    ],
    ids=repr,
)
def test_ends_with_its_last_stage(last: Stage, end: int | None) -> None:
    assert Sequence(stages=(Stage(schedule=1.0, over="10 steps"), last)).ends(Horizon()) == end


@pytest.mark.parametrize(
    ("total", "final"), [(0, 0.0), (5, 0.25), (15, 0.25), (20, 0.5), (25, 0.5)]
)
def test_final_where_training_ends_in_any_stage(total: int, final: float) -> None:
    stage = Stage(schedule=Warmup(over="20 steps"), over="10 steps")
    sequence = Sequence(stages=(stage, stage))
    assert sequence.final(Horizon(total)) == final == sequence(total)


def test_final_is_of_a_stage_that_ran() -> None:
    stages = (Stage(schedule=Warmup(over="20 steps"), over="10 steps"), Stage(schedule=7.0))
    assert Sequence(stages=stages).final(Horizon(10)) == 0.5
    assert Sequence(stages=stages).final(Horizon(11)) == 7.0


def test_a_stage_is_asked_for_its_own_steps_alone() -> None:
    stage = Stage(schedule=Schedule.read(lambda step: 1 / (10 - step)), over="10 steps")
    sequence = Sequence(stages=(stage, Stage(schedule=2.0)))
    assert sequence([0, 9, 10, 5000]).tolist() == [0.1, 1.0, 2.0, 2.0]


def test_final_of_cycles_in_the_last_stage_is_their_stop() -> None:
    sequence = Sequence(
        stages=(
            Stage(schedule=Warmup(over="10 steps"), over="10 steps"),
            Stage(schedule=Cyclical(period="7 steps", stop=0.9)),
        )
    )
    assert sequence.final(Horizon(31)) == 0.9
    assert sequence.final(Horizon()) == 0.9


def test_all_stages_but_the_last_need_their_length() -> None:
    with pytest.raises(ValidationError, match="stage 1 is not the last: give it a length"):
        Sequence(
            stages=(
                Stage(schedule=1.0, over="1 steps"),
                Stage(schedule=2.0),
                Stage(schedule=3.0, over="1 steps"),
            )
        )


def test_a_sequence_has_a_stage() -> None:
    with pytest.raises(ValidationError, match="at least 1 item"):
        Sequence(stages=())


def test_stages_are_tables_in_a_file() -> None:
    table = {
        "stages": [{"schedule": "0.5", "over": "10 epochs"}, {"schedule": {"kind": "cyclical"}}]
    }
    assert Sequence.model_validate(table) == Sequence(
        stages=(Stage(schedule=0.5, over="10 epochs"), Stage(schedule=Cyclical()))
    )


def test_cycles_in_the_last_stage_ask_for_the_total() -> None:
    sequence = Sequence(stages=(Stage(schedule=1.0, over="2 steps"), Stage(schedule=Cyclical())))
    with pytest.raises(HorizonError, match="before total_steps is known"):
        sequence([0])


def test_deep_nesting_reads_and_runs() -> None:
    schedule = Constant(value=1.0)
    for _ in range(20):
        nested = Repeat(schedule=Product(factors=(schedule, 2.0)), period="3 steps")
        schedule = Sequence(stages=(Stage(schedule=nested),))  # type: ignore[assignment]
    again = Sequence.model_validate_json(schedule.model_dump_json())
    assert np.unique(again(range(10))).tolist() == [2.0**20]
