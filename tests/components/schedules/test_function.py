"""Functions of the step as schedules."""

from __future__ import annotations

import math

import pytest

from lossweights import Horizon, HorizonError, Schedule
from lossweights.components.schedules.function import Function


def test_a_function_is_given_each_step_as_an_int() -> None:
    seen: list[object] = []

    def slow(step: int) -> float:
        seen.append(step)
        return step / 10

    schedule = Schedule.read(slow)
    assert schedule([[0, 5], [2, 2]]).tolist() == [[0.0, 0.5], [0.2, 0.2]]
    assert [type(step) for step in seen] == [int] * 3
    assert schedule.ends(Horizon()) is None


def test_a_function_is_asked_for_no_step_that_training_does_not_reach() -> None:
    table = [0.1, 0.2, 0.3]
    schedule = Schedule.read(lambda step: table[step])
    assert schedule([0, 2, 3, 99], Horizon(3)).tolist() == [0.1, 0.3, 0.3, 0.3]
    assert schedule.final(Horizon(3)) == 0.3
    assert Schedule.read(lambda step: 5.0).final(Horizon(0)) == 5.0


def test_a_function_without_an_end_needs_one_for_its_final() -> None:
    with pytest.raises(
        HorizonError, match=r"the length of training cannot be .* before total_steps"
    ):
        Schedule.read(lambda step: 1.0).final(Horizon())


def test_equal_functions_are_equal_schedules() -> None:
    assert Schedule.read(math.sqrt) == Schedule.read(math.sqrt)
    assert hash(Schedule.read(math.sqrt)) == hash(Function(function=math.sqrt))
    assert Schedule.read(math.sqrt) != Schedule.read(math.exp)


@pytest.mark.parametrize("mode", ["python", "json"])
def test_a_function_cannot_be_saved(mode: str) -> None:
    with pytest.raises(ValueError, match=r"the schedule sqrt is a Python function.*class Mine\("):
        Function(function=math.sqrt).model_dump(mode=mode)
    assert "function" not in Schedule.kinds()


def test_a_function_that_fails_names_the_step() -> None:
    with pytest.raises(ValueError, match=r"failed at step 0: ZeroDivisionError"):
        Schedule.read(lambda step: 1 / step)([0])
    with pytest.raises(ValueError, match="is not finite at step 0"):
        Schedule.read(lambda step: math.nan)([0])
