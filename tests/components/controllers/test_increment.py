from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from lossweights import ConfigError, Increment, LossConfig, WeightedLoss
from lossweights.components.controllers.increment import incremented
from tests.components.controllers.plant import column, fed, moment, tradeoff, tradeoff_loss, train


def test_formula_by_hand() -> None:
    errors = torch.tensor([-9.0, -0.5, -0.4, 0.0, 0.5, 0.6, 9.0])
    expected = torch.tensor([0.75, 1.0, 1.0, 1.0, 1.0, 1.25, 1.25])
    torch.testing.assert_close(incremented(torch.tensor(1.0), errors, 0.25, 0.5), expected)
    at_target = incremented(torch.tensor(1.0), torch.tensor(0.0), 0.25, 0.0)
    assert at_target == 1.0


def test_up_above_the_target_down_below_it_and_back_from_its_bounds() -> None:
    controller = Increment(target=1.0, step_size=0.25, lowest=0.5, highest=1.0)
    states = fed(controller, [2.0, 9.0, 1.1, 0.0, -9.0, 0.9, 1.0, 3.0], target=1.0)
    weights = [0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.5, 0.5, 0.75]
    assert column(states, "coefficient").tolist() == weights


def test_opposite_reverses_the_error() -> None:
    controller = Increment(target=1.0, step_size=0.25, direction="opposite", source="accuracy")
    states = fed(controller, [0.5, 0.75, 2.0], target=1.0)
    assert column(states, "error").tolist() == [0.0, 0.5, 0.25, -1.0]
    assert column(states, "coefficient").tolist() == [0.0, 0.25, 0.5, 0.25]
    assert controller.weigh(torch.tensor(math.nan), states[2], moment()) == 0.5


ENTROPIES = (0.2 + 0.1 * torch.randn(300, generator=torch.Generator().manual_seed(0))).tolist()


@pytest.mark.parametrize(
    ("step_size", "highest"),
    [(0.005, 1.0), (1e-4, 0.005)],  # TRL and the paper; the scripts of Skywork-OR1
)
def test_adaptive_entropy_control(step_size: float, highest: float) -> None:
    """The rule of TRL 0.30 and of the authors' code, with the gate, on the same entropies."""
    controller = Increment(
        target=0.2, step_size=step_size, highest=highest, direction="opposite", gated=True
    )
    criterion = WeightedLoss(terms={"policy": 1.0, "entropy": controller})
    coefficient = 0.0
    for entropy in ENTROPIES:
        criterion({"policy": torch.tensor(1.0), "entropy": torch.tensor(entropy)})
        criterion.step()
        change = step_size if entropy < 0.2 else -step_size
        coefficient = min(max(coefficient + change, 0.0), highest)
        applied = coefficient if entropy <= 0.2 else 0.0
        assert criterion.weights["entropy"] == pytest.approx(-applied, abs=1e-7)
    assert coefficient > 0


def test_a_gate_is_open_before_the_first_observation() -> None:
    controller = Increment(target=1.0, initial=0.5, gated=True)
    assert controller.weigh(torch.tensor(math.nan), controller.init(), moment()) == 0.5


def test_a_held_up_term_is_subtracted_in_evaluation_too() -> None:
    criterion = WeightedLoss({"policy": 1.0, "entropy": Increment(target=1, direction="opposite")})
    one = {"policy": torch.tensor(1.0), "entropy": torch.tensor(0.25)}
    assert criterion.eval()(one).item() == 0.75


@pytest.mark.parametrize("start", [0.0, 10.0])
def test_holds_its_target(start: float) -> None:
    """To within the swing of its steps."""
    controller = Increment(target=2.0, step_size=0.005, highest=5.0)
    criterion = tradeoff_loss(controller)
    end = train(criterion, torch.tensor(start), tradeoff, 1500)
    assert end["kl"].item() == pytest.approx(2.0, rel=0.1)
    assert criterion.weights["kl"] == pytest.approx(1.0, rel=0.1)


def test_within_the_tolerance_it_stands_still() -> None:
    criterion = tradeoff_loss(Increment(target=2.0, tolerance=0.1, step_size=0.005))
    train(criterion, torch.tensor(0.0), tradeoff, 1500)
    weight = criterion.weights["kl"]
    train(criterion, torch.tensor(4 / (1 + weight)), tradeoff, 20)
    assert criterion.weights["kl"] == weight
    assert 8 / (1 + weight) ** 2 == pytest.approx(2.0, abs=0.11)


def test_moves_only_where_its_metric_was_given() -> None:
    criterion = tradeoff_loss(Increment(target=1.0, source="rollout_kl", step_size=0.25))
    weights = []
    for step in range(4):
        if step % 2 == 0:
            criterion.observe(rollout_kl=50.0)
        criterion({"nll": torch.tensor(1.0), "kl": torch.tensor(0.0)})
        criterion.step()
        weights.append(criterion.weights["kl"])
    assert weights == [0.25, 0.25, 0.5, 0.5]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "target"),
        ({"target": 1.0, "step_size": 0.0}, "greater than 0"),
        ({"target": 1.0, "tolerance": -1.0}, "greater than or equal to 0"),
        ({"target": 1.0, "initial": 2.0}, "initial between them"),
        ({"target": 1.0, "lowest": 1.0}, "lowest < highest"),
        ({"target": 1.0, "direction": "up"}, "'same' or 'opposite'"),
    ],
)
def test_refuses(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LossConfig.read({"terms": {"kl": {"kind": "increment", **fields}}})


@pytest.mark.parametrize(
    "controller",
    [
        {"kind": "increment", "target": 1.0, "lowest": -1.0},
        {"kind": "increment", "target": 1.0, "direction": "opposite", "initial": 0.5},
        {"kind": "pid", "target": 1.0, "lowest": -1.0},
        {"kind": "plateau", "source": "m", "initial": -1.0, "lowest": -2.0},
    ],
)
def test_a_weight_below_zero_is_known_and_can_be_loaded(controller: dict[str, Any]) -> None:
    criterion = WeightedLoss({"nll": 1.0, "kl": controller})
    assert criterion.weights["kl"] < 0
    criterion.load_state_dict(criterion.state_dict())
    with pytest.raises(ConfigError, match="'kl' has a controller that may go below 0"):
        WeightedLoss(
            {"nll": 1.0, "kl": {"controller": controller, "balanced": True}}, balancer="uncertainty"
        )
