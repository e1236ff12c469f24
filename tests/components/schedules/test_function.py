"""Functions of the step as schedules."""

from __future__ import annotations

import math

import pytest

from lossweights import ConfigError, Horizon, HorizonError, Schedule, WeightedLoss
from lossweights.components.schedules.function import Function
from tests.small_components import losses


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
    with pytest.raises(HorizonError, match=r"100% of training cannot be .* before total_steps"):
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


def test_a_variable_that_changes_takes_effect_at_the_next_step() -> None:
    box = [0.01]
    product = {"kind": "product", "factors": [lambda step: box[0], 2.0]}
    criterion = WeightedLoss(
        {"a": 1.0, "b": lambda step: box[0], "c": product}, eval_weights="current"
    )
    for step in range(6):
        if step == 3:
            box[0] = 0.1
        assert criterion.weights["b"] == (0.01 if step <= 3 else 0.1)
        assert criterion.weights["c"] == pytest.approx(2 * criterion.weights["b"])
        criterion.step()


def test_a_function_is_called_once_when_its_step_begins_and_for_no_later_one() -> None:
    called: list[int] = []

    def weight(step: int) -> float:
        called.append(step)
        return 1.0

    criterion = WeightedLoss({"a": 1.0, "b": weight}, total_steps=5000, eval_weights="current")
    for step in range(1500):
        assert called == list(range(step + 1))
        criterion(losses(a=1.0, b=1.0))
        _ = criterion.weights
        criterion.step()


def test_a_function_below_0_is_refused_at_its_step_where_a_balancer_cannot_have_it() -> None:
    criterion = WeightedLoss(
        {"a": 1.0, "b": lambda step: 1.0 - step}, balancer="uncertainty", eval_weights="current"
    )
    criterion.step()
    with pytest.raises(ConfigError, match="term 'b': its weight goes down to -1"):
        criterion.step()
