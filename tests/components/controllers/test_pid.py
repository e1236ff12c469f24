from __future__ import annotations

import math

import pytest
import torch

from lossweights import PID, ConfigError, HorizonError, LossConfig
from lossweights.components.controllers.pid import pi_control
from tests.components.controllers.plant import column, fed, tradeoff, tradeoff_loss, train

ONE = torch.tensor(1.0)
ZERO = torch.tensor(0.0)


def test_formula_by_hand() -> None:
    weight, integral = pi_control(
        error=torch.tensor(math.log(3.0)),  # 1 / (1 + e^log 3) is a quarter
        integral=torch.tensor(0.5),
        change=torch.tensor(0.125),
        proportional=0.2,
        lowest=0.1,
        highest=1.0,
    )
    torch.testing.assert_close(integral, torch.tensor(0.375))
    torch.testing.assert_close(weight, torch.tensor(0.1 + 0.05 + 0.375))


@pytest.mark.parametrize(("error", "part"), [(-1e30, 0.01), (0.0, 0.005), (1e30, 0.0)])
def test_proportional_part_is_bounded_for_any_error(error: float, part: float) -> None:
    weight, _ = pi_control(torch.tensor(error), torch.tensor(0.5), ZERO, 0.01, 0.0, 1.0)
    torch.testing.assert_close(weight, torch.tensor(0.5 + part))


def test_integral_stops_at_either_bound() -> None:
    weight, integral = pi_control(-ONE, torch.tensor(0.9), torch.tensor(-5.0), 0.0, 0.0, 1.0)
    assert weight == integral == 1.0
    weight, integral = pi_control(ONE, torch.tensor(0.1), torch.tensor(5.0), 0.0, 0.0, 1.0)
    assert weight == integral == 0.0
    weight, integral = pi_control(ZERO, torch.tensor(0.1), torch.tensor(5.0), 0.5, 0.0, 1.0)
    assert weight == 0.0
    torch.testing.assert_close(integral, torch.tensor(-0.25))  # less the half of 0.5


def test_within_its_bounds_it_is_the_papers_sum_of_errors() -> None:
    observed = [3.0, 5.0, 4.5, 2.0]
    states = fed(PID(target=2.5, integral=0.01), observed, target=2.5)
    errors = [2.5 - value for value in observed]
    for n, state in enumerate(states[1:], start=1):
        expected = 0.01 / (1 + math.exp(errors[n - 1])) - 0.01 * sum(errors[:n])
        assert state["error"] == errors[n - 1]
        assert state["coefficient"].item() == pytest.approx(expected, abs=1e-6)
        assert state["integral"].item() == pytest.approx(-0.01 * sum(errors[:n]), abs=1e-6)


def test_defaults_are_those_of_the_paper() -> None:
    (_, state) = fed(PID(target=1.0), [101.0], target=1.0)
    assert state["coefficient"].item() == pytest.approx(0.01 + 1e-4 * 100, rel=1e-5)


def test_windup_is_undone_at_once() -> None:
    """After a hundred steps far over the target, the first one under it lowers the weight."""
    observed = [9.0] * 100 + [1.0] * 2
    states = fed(PID(target=2.0, integral=0.1, proportional=0.0), observed, target=2.0)
    weights = column(states, "coefficient")
    assert weights[100] == 1.0
    torch.testing.assert_close(weights[101:], torch.tensor([0.9, 0.8]))


def test_windup_downwards_is_undone_at_once() -> None:
    observed = [1.0] * 100 + [3.0]
    states = fed(PID(target=2.0, integral=0.1, proportional=0.0), observed, target=2.0)
    weights = column(states, "coefficient")
    assert weights[100] == 0.0
    torch.testing.assert_close(weights[101], torch.tensor(0.1))


def test_response_is_the_time_from_bound_to_bound() -> None:
    control = PID(target=2.0, response="10 steps", proportional=0.0, lowest=1.0, highest=3.0)
    weights = column(fed(control, [4.0] * 11, target=2.0), "coefficient")
    expected = torch.linspace(1.0, 3.0, 11)
    torch.testing.assert_close(weights, torch.cat([expected, torch.tensor([3.0])]))
    faster = column(fed(control, [400.0], target=2.0), "coefficient")
    assert faster[1] == weights[1]  # a larger error is as large as the target
    slower = column(fed(control, [3.0], target=2.0), "coefficient")
    torch.testing.assert_close(slower[1], torch.tensor(1.1))


@pytest.mark.parametrize(("value", "weight"), [(1e-3, 0.1), (0.0, 0.0)])
def test_response_to_a_target_of_zero(value: float, weight: float) -> None:
    control = PID(target=0.0, response="10 steps", proportional=0.0)
    (_, state) = fed(control, [value], target=0.0)
    torch.testing.assert_close(state["coefficient"], torch.tensor(weight))


def test_initial_weight_is_where_the_integral_goes_on_from() -> None:
    control = PID(target=2.0, integral=0.1, proportional=0.0, lowest=0.25, initial=0.5)
    weights = column(fed(control, [2.0, 3.0], target=2.0), "coefficient")
    torch.testing.assert_close(weights, torch.tensor([0.5, 0.5, 0.6]))


def test_opposite_direction_raises_the_weight_below_the_target() -> None:
    control = PID(
        target=0.9, integral=0.1, proportional=0.0, source="accuracy", direction="opposite"
    )
    (_, state) = fed(control, [0.4], target=0.9)
    torch.testing.assert_close(state["coefficient"], torch.tensor(0.05))


@pytest.mark.parametrize("start", [0.0, 10.0])
def test_holds_its_target(start: float) -> None:
    criterion = tradeoff_loss(PID(target=2.0, response="10%", highest=4.0), total_steps=1000)
    end = train(criterion, torch.tensor(start), tradeoff, 1000)
    assert end["kl"].item() == pytest.approx(2.0, rel=0.01)
    assert criterion.weights["kl"] == pytest.approx(1.0, rel=0.01)


def test_follows_a_scheduled_target() -> None:
    ramp = {"kind": "ramp", "start": 4.0, "stop": 0.5, "over": "50%"}
    criterion = tradeoff_loss(
        {"kind": "pid", "target": ramp, "response": "10%", "highest": 5.0}, total_steps=1000
    )
    end = train(criterion, torch.tensor(0.0), tradeoff, 1000)
    assert end["kl"].item() == pytest.approx(0.5, rel=0.01)
    assert criterion.weights["kl"] == pytest.approx(3.0, rel=0.01)


def test_the_papers_gain_is_too_small_for_a_short_training() -> None:
    """As its documentation says: 1e-4 a step does not get there in 2,000 steps."""
    criterion = tradeoff_loss(PID(target=2.0, highest=4.0), total_steps=2000)
    end = train(criterion, torch.tensor(0.0), tradeoff, 2000)
    assert end["kl"].item() > 3.0


def test_watches_a_metric() -> None:
    criterion = tradeoff_loss(PID(target=1.0, integral=0.1, proportional=0.0, source="val_kl"))
    terms = {"nll": ONE, "kl": torch.tensor(77.0)}
    for value in (3.0, None, 2.0):
        if value is not None:
            criterion.observe(val_kl=value)
        criterion(terms)
        criterion.step()
    assert criterion.weights["kl"] == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "target"),
        ({"integral": 1e-3, "response": "5%"}, "drop one of them"),
        ({"response": "0 steps"}, "a length above 0"),
        ({"lowest": 1.0, "highest": 1.0}, "lowest < highest"),
        ({"initial": 2.0}, "found lowest 0, highest 1, initial 2"),
        ({"proportional": 0.0, "integral": 0.0}, "would never move: write integral: 0.001"),
        ({"proportional": -0.01}, "greater than or equal to 0"),
        ({"derivative": 0.1}, "unknown field 'derivative'"),
        ({"kp": 0.1}, "unknown field 'kp'"),
    ],
)
def test_refuses(fields: dict[str, object], message: str) -> None:
    target = {"target": 2.0} if fields else {}
    with pytest.raises(ConfigError, match=message):
        LossConfig.read({"terms": {"kl": {"kind": "pid", **target, **fields}}})


def test_response_in_percent_needs_the_length_of_training() -> None:
    criterion = tradeoff_loss(PID(target=2.0, response="5%"))
    with pytest.raises(HorizonError, match="total_steps"):
        criterion({"nll": ONE, "kl": ONE})
