from __future__ import annotations

from typing import Any

import pytest
import torch

from lossweights import AdaptiveKL, ConfigError, LossConfig
from lossweights.components.controllers.adaptive_kl import relative_error
from tests.components.controllers.plant import column, fed, tradeoff, tradeoff_loss, train


def test_formula_by_hand() -> None:
    values = torch.tensor([0.0, 5.9, 6.0, 6.6, 7.2, 7.3, -3.0])
    expected = torch.tensor([-0.2, -0.1 / 6, 0.0, 0.1, 0.2, 0.2, -0.2])
    torch.testing.assert_close(relative_error(values, torch.tensor(6.0), 0.2), expected)


def test_a_target_that_came_down_to_zero() -> None:
    values = torch.tensor([0.0, 1e-20, 3e38])
    expected = torch.tensor([-0.2, 0.2, 0.2])
    torch.testing.assert_close(relative_error(values, torch.tensor(0.0), 0.2), expected)


def test_paper_defaults() -> None:
    states = fed(AdaptiveKL(target=6.0), [60.0, 0.0, 6.0], target=6.0)
    expected = torch.tensor([0.2, 0.2 * 1.02, 0.2 * 1.02 * 0.98, 0.2 * 1.02 * 0.98])
    torch.testing.assert_close(column(states, "coefficient"), expected)
    torch.testing.assert_close(column(states, "error"), torch.tensor([0.0, 0.2, -0.2, 0.0]))


def test_comes_back_from_its_bounds() -> None:
    controller = AdaptiveKL(target=1.0, gain=2.5, lowest=0.1, highest=0.3)
    weights = column(fed(controller, [9.0, 9.0, 0.0, 0.0, 9.0], target=1.0), "coefficient")
    torch.testing.assert_close(weights, torch.tensor([0.2, 0.3, 0.3, 0.15, 0.1, 0.15]))


@pytest.mark.parametrize("start", [0.0, 10.0])
def test_holds_its_target(start: float) -> None:
    criterion = tradeoff_loss(AdaptiveKL(target=2.0, gain=0.2))
    end = train(criterion, torch.tensor(start), tradeoff, 800)
    assert end["kl"].item() == pytest.approx(2.0, rel=0.01)
    assert criterion.weights["kl"] == pytest.approx(1.0, rel=0.01)


def test_moves_only_where_its_metric_was_given() -> None:
    criterion = tradeoff_loss(AdaptiveKL(target=1.0, gain=1.0, source="rollout_kl"))
    weights = []
    for step in range(4):
        if step % 2 == 0:
            criterion.observe(rollout_kl=50.0)
        criterion({"nll": torch.tensor(1.0), "kl": torch.tensor(0.0)})
        criterion.step()
        weights.append(criterion.weights["kl"])
    assert weights == pytest.approx([0.24, 0.24, 0.288, 0.288])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "target"),
        ({"target": 0.0}, "the target of a KL must be above 0, found 0"),
        ({"target": 6.0, "gain": 5.0}, r"below 1 / clip = 5, such as 0\.1"),
        ({"target": 6.0, "gain": 10.0}, "by -1 when the KL is far below its target"),
        ({"target": 6.0, "gain": 1.0, "clip": 1.0}, "reverse its sign"),
        ({"target": 6.0, "lowest": 0.0}, "greater than 0"),
        ({"target": 6.0, "initial": 1e7}, "initial between them"),
        ({"target": 6.0, "horizon": 10000}, "unknown field 'horizon'"),
    ],
)
def test_refuses(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LossConfig.read({"terms": {"kl": {"kind": "adaptive-kl", **fields}}})


def test_the_largest_gain_that_is_allowed_keeps_the_sign() -> None:
    controller = AdaptiveKL(target=1.0, gain=4.99)
    assert fed(controller, [0.0] * 50, target=1.0)[-1]["coefficient"] > 0
