from __future__ import annotations

from typing import Any

import pytest
import torch

from lossweights import AugmentedLagrangian, ConfigError, LossConfig
from lossweights.components.controllers.augmented_lagrangian import augmented_weight
from tests.components.controllers.plant import (
    column,
    constrained,
    constrained_loss,
    fed,
    moment,
    train,
)


def test_formula_by_hand() -> None:
    multiplier, penalty = torch.tensor(1.0), torch.tensor(2.0)
    violation = torch.tensor([0.5, -0.25, -0.5, -3.0])
    inequality = augmented_weight(multiplier, penalty, violation, inequality=True)
    assert inequality.tolist() == [2.0, 0.5, 0.0, 0.0]
    equality = augmented_weight(multiplier, penalty, violation, inequality=False)
    assert equality.tolist() == [2.0, 0.5, 0.0, -5.0]


@pytest.mark.parametrize("bound", ["at_most", "at_least", "equal_to"])
@pytest.mark.parametrize("value", [0.0, 1.0, 1.75, 2.5, 9.0])
def test_the_gradient_is_that_of_the_augmented_lagrangian(bound: str, value: float) -> None:
    controller = AugmentedLagrangian.read(
        {"kind": "augmented-lagrangian", bound: 2.0, "penalty": 3.0, "initial": 1.0}
    )
    x = torch.tensor(value, requires_grad=True)
    g = 2.0 - x if bound == "at_least" else x - 2.0
    if bound == "equal_to":
        function = 1.0 * g + 3.0 / 2 * g**2
    else:
        function = (torch.relu(1.0 + 3.0 * g) ** 2 - 1.0) / (2 * 3.0)
    (gradient,) = torch.autograd.grad(function, x)
    weight = controller.weigh(x.detach(), controller.init(), moment(**{bound: 2.0}))
    torch.testing.assert_close(weight, gradient)


def test_learning_rate_is_the_penalty_where_none_is_given() -> None:
    textbook = AugmentedLagrangian(at_most=1.0, penalty=4.0)
    assert fed(textbook, [1.5], at_most=1.0)[1]["multiplier"] == 2.0
    slower = AugmentedLagrangian(at_most=1.0, penalty=4.0, learning_rate=0.5)
    assert fed(slower, [1.5], at_most=1.0)[1]["multiplier"] == 0.25


@pytest.mark.parametrize(
    ("bound", "values", "penalties"),
    [
        ("at_most", [1.5, 1.25, 0.0, 1.75], [1.0, 2.0, 2.0, 2.0, 4.0]),
        ("at_least", [1.5, 1.25, 0.5, 0.0], [1.0, 1.0, 1.0, 2.0, 4.0]),
        ("equal_to", [1.5, 0.5, 1.25, 0.75], [1.0, 2.0, 4.0, 4.0, 4.0]),
    ],
)
def test_the_penalty_grows_above_the_tolerance(
    bound: str, values: list[float], penalties: list[float]
) -> None:
    controller = AugmentedLagrangian.read(
        {"kind": "augmented-lagrangian", bound: 1.0, "growth": 2.0, "tolerance": 0.25}
    )
    assert column(fed(controller, values, **{bound: 1.0}), "penalty").tolist() == penalties


def test_the_penalty_grows_to_its_bound() -> None:
    controller = AugmentedLagrangian(at_most=0.0, growth=10.0, highest_penalty=50.0)
    penalties = column(fed(controller, [1.0] * 3, at_most=0.0), "penalty")
    assert penalties.tolist() == [1.0, 10.0, 50.0, 50.0]


@pytest.mark.parametrize(
    ("fields", "total", "multiplier"),
    [
        ({"at_most": 1.0}, 1.0, 1.0),
        ({"at_most": 5.0}, 3.0, 0.0),
        ({"at_least": 5.0}, 5.0, 1.0),
        ({"equal_to": 5.0}, 5.0, -1.0),
        ({"at_most": 1.0, "growth": 1.01, "highest_penalty": 4.0}, 1.0, 1.0),
    ],
    ids=str,
)
def test_converges_to_the_constrained_optimum(
    fields: dict[str, Any], total: float, multiplier: float
) -> None:
    criterion = constrained_loss({"kind": "augmented-lagrangian", "learning_rate": 0.1, **fields})
    parameter = torch.zeros(2)
    end = train(criterion, parameter, constrained, 600)
    assert end["sum"].item() == pytest.approx(total, abs=1e-3)
    moved = (3.0 - total) / 2
    torch.testing.assert_close(
        parameter.detach(), torch.tensor([2 - moved, 1 - moved]), rtol=0, atol=1e-3
    )
    weight = criterion.breakdown(end).weight["sum"].item()
    assert weight == pytest.approx(moved, abs=1e-3)
    found = criterion.metrics(include=["controller"])
    assert found["controller/sum/multiplier"] == pytest.approx(multiplier, abs=1e-3)


def test_weighs_with_the_value_of_the_same_forward_pass() -> None:
    criterion = constrained_loss(AugmentedLagrangian(at_most=1.0, penalty=2.0))
    objective = torch.tensor(10.0)
    for value, total in [(3.0, 10 + 4 * 3), (1.5, 10 + 1 * 1.5), (0.0, 10.0)]:
        assert criterion({"objective": objective, "sum": torch.tensor(value)}).item() == total


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "one bound is needed, found none"),
        ({"at_most": 1.0, "source": "val_kl"}, "drop `source`, or write kind: lagrangian"),
        ({"at_most": 1.0, "penalty": 5.0, "highest_penalty": 2.0}, "found 5 and 2"),
        ({"at_most": 1.0, "penalty": 0.0}, "greater than 0"),
        ({"at_most": 1.0, "growth": 0.5}, "greater than or equal to 1"),
        ({"at_most": 1.0, "initial": -1.0}, "initial between them"),
    ],
)
def test_refuses(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LossConfig.read({"terms": {"kl": {"kind": "augmented-lagrangian", **fields}}})
