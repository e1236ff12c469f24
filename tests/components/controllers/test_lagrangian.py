from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from lossweights import ConfigError, Lagrangian, LossConfig, WeightedLoss
from lossweights.components.controllers.lagrangian import ascend_additively, ascend_exponentially
from tests.components.controllers.plant import (
    column,
    constrained,
    constrained_loss,
    fed,
    moment,
    train,
)


def test_formulas_by_hand() -> None:
    multiplier, violation = torch.tensor([2.0, 2.0]), torch.tensor([0.5, -0.5])
    torch.testing.assert_close(
        ascend_additively(multiplier, violation, 0.1), torch.tensor([2.05, 1.95])
    )
    torch.testing.assert_close(
        ascend_exponentially(multiplier, violation, 2 * math.log(3.0)),
        torch.tensor([6.0, 2 / 3]),
    )


@pytest.mark.parametrize(
    ("bound", "violations", "weight"),
    [
        ("at_most", [1.0, -0.5], 0.1),
        ("at_least", [-1.0, 0.5], -0.1),
        ("equal_to", [1.0, -0.5], 0.1),
    ],
)
def test_signs(bound: str, violations: list[float], weight: float) -> None:
    controller = Lagrangian.read({"kind": "lagrangian", bound: 2.0, "learning_rate": 0.1})
    above = fed(controller, [3.0], **{bound: 2.0})[1]
    below = fed(controller, [1.5], **{bound: 2.0})[1]
    assert [above["violation"].item(), below["violation"].item()] == violations
    broken = below if bound == "at_least" else above
    found = controller.weigh(torch.tensor(math.nan), broken, moment())
    torch.testing.assert_close(found, torch.tensor(weight if bound != "at_least" else -0.05))


def test_a_multiplier_of_an_inequality_stays_at_zero_and_leaves_it_at_once() -> None:
    states = fed(Lagrangian(at_most=1.0, learning_rate=0.5), [-9.0, -9.0, 2.0], at_most=1.0)
    torch.testing.assert_close(column(states, "multiplier"), torch.tensor([0.0, 0.0, 0.0, 0.5]))


def test_a_multiplier_of_an_equality_has_either_sign() -> None:
    states = fed(Lagrangian(equal_to=1.0, learning_rate=0.5), [0.0, 0.0, 4.0], equal_to=1.0)
    torch.testing.assert_close(column(states, "multiplier"), torch.tensor([0.0, -0.5, -1.0, 0.5]))


def test_smoothing_begins_with_the_first_violation() -> None:
    controller = Lagrangian(at_most=0.0, learning_rate=1.0, smoothing=0.75)
    states = fed(controller, [4.0, 8.0, 0.0], at_most=0.0)
    averages = [4.0, 0.75 * 4 + 0.25 * 8, 0.75 * 5]
    assert column(states, "violation").tolist() == [0.0, *averages]
    assert column(states, "multiplier").tolist() == [0.0, 4.0, 9.0, 12.75]


def test_geco_by_hand() -> None:
    controller = Lagrangian(
        at_most=1.0, ascent="exponential", smoothing=0.5, learning_rate=math.log(2.0)
    )
    states = fed(controller, [2.0, 4.0, -3.0], at_most=1.0)  # 1, 3, -4: averages 1, 2, -1
    torch.testing.assert_close(column(states, "multiplier"), torch.tensor([1.0, 2.0, 8.0, 4.0]))


def test_exponential_ascent_comes_back_from_its_bounds() -> None:
    controller = Lagrangian(at_most=0.0, ascent="exponential", learning_rate=1.0, highest=10.0)
    states = fed(controller, [1e30, 1e30, -1.0, -1e30, -1e30, 1.0], at_most=0.0)
    expected = [1.0, 10.0, 10.0, 10 / math.e, 1e-6, 1e-6, 1e-6 * math.e]
    torch.testing.assert_close(column(states, "multiplier"), torch.tensor(expected))


VIOLATIONS = (3 * torch.randn(200, generator=torch.Generator().manual_seed(0)) + 1).tolist()


@pytest.mark.parametrize(("bound", "sign"), [("at_most", 1), ("at_least", -1)])
@pytest.mark.parametrize("learning_rate", [3e-4, 3e-3, 0.1])
def test_exponential_ascent_with_adam_is_that_of_torch_on_the_logarithm(
    bound: str, sign: int, learning_rate: float
) -> None:
    """As soft actor-critic learns its temperature: torch's Adam on log alpha."""
    controller = Lagrangian.model_validate(
        {
            bound: 2.0,
            "ascent": "exponential",
            "optimizer": "adam",
            "learning_rate": learning_rate,
            "lowest": 1e-12,
            "highest": 1e12,
        }
    )
    states = fed(controller, [2.0 + sign * each for each in VIOLATIONS], **{bound: 2.0})
    log_alpha = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.Adam([log_alpha], lr=learning_rate)
    alphas = [1.0]
    for violation in VIOLATIONS:
        optimizer.zero_grad()
        (-log_alpha * violation).backward()
        optimizer.step()
        alphas.append(log_alpha.exp().item())
    torch.testing.assert_close(
        column(states, "multiplier"), torch.tensor(alphas), rtol=1e-4, atol=0
    )


def test_additive_ascent_with_adam_is_that_of_torch() -> None:
    controller = Lagrangian(equal_to=0.0, optimizer="adam", learning_rate=0.03, smoothing=0.5)
    states = fed(controller, VIOLATIONS, equal_to=0.0)
    multiplier = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.Adam([multiplier], lr=0.03)
    expected, average = [0.0], VIOLATIONS[0]
    for violation in VIOLATIONS:
        average = 0.5 * average + 0.5 * violation
        multiplier.grad = torch.tensor(-average)
        optimizer.step()
        expected.append(multiplier.item())
    torch.testing.assert_close(column(states, "multiplier"), torch.tensor(expected))


def test_the_temperature_of_soft_actor_critic() -> None:
    """A Gaussian policy with the return -7 x^2.

    An entropy H is held by alpha = 14 exp(2 H - log(2 pi e)), 14 times the variance. The target
    is the one that needs 0.07. Entropies are estimated from 64 samples, as -log pi.
    """
    alpha = 0.07
    target = 0.5 * math.log(alpha / 14 * 2 * math.pi * math.e)
    temperature = {
        "kind": "lagrangian",
        "at_least": target,
        "ascent": "exponential",
        "optimizer": "adam",
        "learning_rate": 3e-3,
    }
    criterion = WeightedLoss({"return": -1.0, "entropy": temperature})
    log_std, log_alpha = (torch.zeros((), requires_grad=True) for _ in range(2))
    optimizer = torch.optim.Adam([log_std], lr=3e-2)
    theirs = torch.optim.Adam([log_alpha], lr=3e-3)
    criterion.follow(optimizer)
    torch.manual_seed(0)
    seen, expected = [], []
    for _ in range(2500):
        policy = torch.distributions.Normal(torch.zeros(()), log_std.exp())
        actions = policy.rsample((64,))
        entropy = -policy.log_prob(actions).mean()  # type: ignore[no-untyped-call]
        optimizer.zero_grad()
        criterion({"return": -7 * actions.square().mean(), "entropy": entropy}).backward()
        optimizer.step()
        log_alpha.grad = (entropy - target).detach()
        theirs.step()
        seen.append(-criterion.weights["entropy"])
        expected.append(log_alpha.exp().item())
    assert seen == pytest.approx(expected, rel=1e-4)
    assert seen[-500:] == pytest.approx([alpha] * 500, rel=0.03)


CASES: list[tuple[dict[str, Any], float, float]] = [
    ({"at_most": 1.0}, 1.0, 1.0),
    ({"at_most": 5.0}, 3.0, 0.0),  # kept anyway
    ({"at_least": 5.0}, 5.0, -1.0),
    ({"at_least": 1.0}, 3.0, 0.0),
    ({"equal_to": 1.0}, 1.0, 1.0),
    ({"equal_to": 5.0}, 5.0, -1.0),
    ({"at_most": 1.0, "ascent": "exponential"}, 1.0, 1.0),
    ({"at_least": 5.0, "ascent": "exponential", "initial": 0.1}, 5.0, -1.0),
    ({"at_most": 1.0, "ascent": "exponential", "smoothing": 0.9, "initial": 5.0}, 1.0, 1.0),
    ({"at_most": 1.0, "optimizer": "adam", "learning_rate": 0.005}, 1.0, 1.0),
]


@pytest.mark.parametrize(("fields", "total", "weight"), CASES, ids=str)
def test_converges_to_the_constrained_optimum(
    fields: dict[str, Any], total: float, weight: float
) -> None:
    criterion = constrained_loss({"kind": "lagrangian", "learning_rate": 0.03, **fields})
    parameter = torch.zeros(2)
    end = train(criterion, parameter, constrained, 1000)
    assert end["sum"].item() == pytest.approx(total, abs=1e-3)
    assert criterion.weights["sum"] == pytest.approx(weight, abs=1e-3)
    moved = (3.0 - total) / 2
    torch.testing.assert_close(
        parameter.detach(), torch.tensor([2 - moved, 1 - moved]), rtol=0, atol=1e-3
    )


def test_follows_a_scheduled_bound() -> None:
    ramp = {"kind": "ramp", "start": 3.0, "stop": 1.0, "over": "50%"}
    criterion = constrained_loss(
        {"kind": "lagrangian", "at_most": ramp, "learning_rate": 0.02}, total_steps=2000
    )
    end = train(criterion, torch.zeros(2), constrained, 2000)
    assert end["sum"].item() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
    ("fields", "accuracy", "sign"),
    [
        ({"at_least": 0.9, "direction": "opposite"}, 0.4, 1),
        ({"at_least": 0.9, "direction": "same"}, 0.4, -1),
        ({"at_most": 0.9}, 1.4, 1),
        ({"at_most": 0.9, "direction": "opposite"}, 1.4, -1),
    ],
)
def test_watches_a_metric(fields: dict[str, Any], accuracy: float, sign: int) -> None:
    controller = {"kind": "lagrangian", "source": "metric", "learning_rate": 1.0, **fields}
    criterion = constrained_loss(controller)
    criterion.observe(metric=accuracy)
    criterion({"objective": torch.tensor(1.0), "sum": torch.tensor(55.0)})
    criterion.step()
    assert criterion.weights["sum"] == pytest.approx(0.5 * sign)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "one bound is needed, found none: write `at_most: 1.5`"),
        ({"at_most": 1.0, "at_least": 0.5}, "one bound is needed, found 'at_most', 'at_least'"),
        ({"equal_to": 1.0, "ascent": "exponential"}, "write at_most or at_least"),
        ({"at_most": 1.0, "lowest": -1.0}, "the multiplier of at_most must be at least 0"),
        ({"at_most": 1.0, "ascent": "exponential", "lowest": 0.0}, "cannot leave 0"),
        ({"at_most": 1.0, "ascent": "exponential", "initial": 0.0}, "initial between them"),
        ({"at_most": 1.0, "initial": -1.0}, "initial between them"),
        ({"at_most": 1.0, "highest": 1e13}, "none beyond 1e12"),
        ({"at_most": 1.0, "smoothing": 1.0}, "less than 1"),
        ({"at_most": 1.0, "direction": "opposite"}, "name it in `source`"),
        ({"at_least": 0.9, "source": "accuracy"}, "write direction: opposite"),
        ({"at_mots": 1.0}, "unknown field 'at_mots'.*at_most"),
    ],
)
def test_refuses(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LossConfig.read({"terms": {"kl": {"kind": "lagrangian", **fields}}})
