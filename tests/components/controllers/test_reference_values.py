"""Agreement with other implementations, on values recorded from their code.

`reference_values.json` names the implementations and calls. Violations are those of three
constraints side by side, so each is fed to a controller of its own with a bound of 0.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lossweights import AdaptiveKL, AugmentedLagrangian, Lagrangian
from tests.components.controllers.plant import column, fed, moment

REFERENCE: dict[str, Any] = json.loads(
    Path(__file__).with_name("reference_values.json").read_text(encoding="utf-8")
)
COOPER = REFERENCE["cooper"]
VIOLATIONS = torch.tensor(COOPER["violations"])


def agree(ours: Tensor, theirs: list[Any]) -> None:
    torch.testing.assert_close(ours, torch.tensor(theirs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("case", "initial"),
    [("lagrangian", [0.0, 0.0, 0.0]), ("lagrangian-initial", [1.0, 0.5, 0.0])],
)
@pytest.mark.parametrize("constraint", [0, 1, 2])
@pytest.mark.parametrize("bound", ["at_most", "at_least"])
def test_dual_ascent(case: str, initial: list[float], constraint: int, bound: str) -> None:
    sign = 1 if bound == "at_most" else -1
    controller = Lagrangian.read(
        {"kind": "lagrangian", bound: 0.0, "learning_rate": 0.1, "initial": initial[constraint]}
    )
    values = (sign * VIOLATIONS[:, constraint]).tolist()
    states = fed(controller, values, **{bound: 0.0})
    expected = COOPER["cases"][case]
    agree(column(states, "multiplier"), [row[constraint] for row in expected["multiplier"]])
    weights = [sign * controller.weigh(torch.tensor(0.0), state, moment()) for state in states]
    agree(torch.stack(weights[:-1]), [row[constraint] for row in expected["weight"]])


@pytest.mark.parametrize(
    ("case", "bound", "fields"),
    [
        ("augmented", "at_most", {}),
        ("augmented", "at_least", {}),
        ("augmented-equality", "equal_to", {"growth": 1.1, "tolerance": 0.05}),
    ],
)
@pytest.mark.parametrize("constraint", [0, 1, 2])
def test_augmented_lagrangian(
    case: str, bound: str, fields: dict[str, float], constraint: int
) -> None:
    """Weights are the gradients by the violation that cooper's Lagrangian has."""
    sign = -1 if bound == "at_least" else 1
    controller = AugmentedLagrangian.read(
        {"kind": "augmented-lagrangian", bound: 0.0, "learning_rate": 1.0, **fields}
    )
    values = sign * VIOLATIONS[:, constraint]
    states = fed(controller, values.tolist(), **{bound: 0.0})
    expected = COOPER["cases"][case]
    agree(column(states, "multiplier"), [row[constraint] for row in expected["multiplier"]])
    agree(column(states[:-1], "penalty"), [row[constraint] for row in expected["penalty"]])
    weights = [
        sign * controller.weigh(value, state, moment(**{bound: 0.0}))
        for value, state in zip(values, states[:-1], strict=True)
    ]
    agree(torch.stack(weights), [row[constraint] for row in expected["weight"]])


@pytest.mark.parametrize("case", REFERENCE["adaptive_kl"]["cases"][:2], ids=lambda c: c["horizon"])
def test_adaptive_kl(case: dict[str, Any]) -> None:
    gain = case["n_steps"] / case["horizon"]
    controller = AdaptiveKL(target=case["target"], initial=case["init_kl_coef"], gain=gain)
    states = fed(controller, REFERENCE["adaptive_kl"]["kl"], target=case["target"])
    agree(column(states, "coefficient"), case["values"])


def test_adaptive_kl_whose_sign_would_turn_is_refused() -> None:
    case = REFERENCE["adaptive_kl"]["cases"][2]
    assert min(case["values"]) < 0
    with pytest.raises(ValueError, match="reverse its sign"):
        AdaptiveKL(target=case["target"], gain=case["n_steps"] / case["horizon"])
