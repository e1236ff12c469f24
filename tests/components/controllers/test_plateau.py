from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lossweights import ConfigError, LossConfig, Plateau, WeightedLoss
from lossweights.components.controllers.plateau import is_better
from tests.components.controllers.plant import column, fed


def test_better_is_better_by_more_than_the_margin() -> None:
    best = torch.tensor(1.0)
    values = torch.tensor([0.5, 0.75, 1.0, 1.25, 1.5])
    smaller = is_better(values, best, 0.25, largest=False)
    assert smaller.tolist() == [True, False, False, False, False]
    larger = is_better(values, best, 0.25, largest=True)
    assert larger.tolist() == [False, False, False, False, True]


def test_by_hand() -> None:
    values = [3.0, 2.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0]
    states = fed(Plateau(source="metric", factor=2.0, patience=1), values)
    assert column(states, "coefficient").tolist() == [1, 1, 1, 1, 2, 2, 2, 2, 4, 4]
    assert column(states, "best").tolist() == [0, 3, 2, 2, 2, 2, 1, 1, 1, 1]
    assert column(states, "waited").tolist() == [0, 0, 0, 1, 0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold_mode", ["relative", "absolute"])
@pytest.mark.parametrize(("patience", "cooldown"), [(0, 0), (2, 0), (1, 3), (3, 2)])
def test_agrees_with_the_scheduler_of_torch(
    mode: str, threshold_mode: str, patience: int, cooldown: int
) -> None:
    """On values above 0, a noisy wave; compared with torch's own class as it is installed."""
    values = [2 + math.sin(0.3 * t) + 0.3 * math.cos(2.1 * t) for t in range(120)]
    common: dict[str, Any] = {
        "mode": mode,
        "factor": 0.8,
        "patience": patience,
        "threshold": 0.05,
        "cooldown": cooldown,
    }
    ours = fed(
        Plateau.model_validate(
            {**common, "source": "m", "threshold_mode": threshold_mode, "lowest": 0.01}
        ),
        values,
    )
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    common["threshold_mode"] = threshold_mode[:3]
    theirs = ReduceLROnPlateau(optimizer, min_lr=0.01, **common)
    rates = [1.0]
    for value in values:
        theirs.step(value)
        rates.append(optimizer.param_groups[0]["lr"])
    assert len(set(rates)) > 2
    torch.testing.assert_close(column(ours, "coefficient"), torch.tensor(rates))


@pytest.mark.parametrize(
    ("mode", "values", "bests"),
    [
        ("min", [-10.0, -9.9995, -10.5], [-10.0, -10.0, -10.5]),
        ("max", [-10.0, -9.0], [-10.0, -9.0]),
    ],
)
def test_a_relative_threshold_below_zero(
    mode: str, values: list[float], bests: list[float]
) -> None:
    """-9.9995 is worse than -10, though it is below -10 * (1 - 1e-4)."""
    states = fed(Plateau.read({"kind": "plateau", "mode": mode, "source": "metric"}), values)
    torch.testing.assert_close(column(states[1:], "best"), torch.tensor(bests))


@pytest.mark.parametrize(("factor", "bound"), [(2.0, 5.0), (0.5, 0.3)])
def test_stays_within_its_bounds(factor: float, bound: float) -> None:
    controller = Plateau(source="metric", factor=factor, patience=0, lowest=0.3, highest=5.0)
    assert fed(controller, [1.0] * 10)[-1]["coefficient"].item() == pytest.approx(bound)


@pytest.mark.parametrize(("lowest", "cut"), [(0.0, 0.0), (0.3, 0.3), (-1.0, 0.0)])
def test_a_factor_of_zero_cuts_off_for_good(lowest: float, cut: float) -> None:
    controller = Plateau(source="metric", factor=0.0, patience=1, lowest=lowest)
    states = fed(controller, [2.0, 2.0, 2.0, 1.0, 0.5, 0.5, 0.5, 0.1])
    expected = torch.tensor([1.0, 1.0, 1.0, *[cut] * 6])
    torch.testing.assert_close(column(states, "coefficient"), expected)


def test_a_term_that_was_cut_off_need_not_be_in_the_sum() -> None:
    aux = {
        "controller": {"kind": "plateau", "source": "val_loss", "factor": 0, "patience": 0},
        "when_zero": "skip",
    }
    criterion = WeightedLoss({"task": 1.0, "aux": aux})
    for _ in range(2):
        criterion.observe(val_loss=1.0)
        criterion({"task": torch.tensor(1.0), "aux": torch.tensor(1.0)})
        criterion.step()
    assert criterion.weights == {"task": 1.0, "aux": 0.0}
    assert criterion({"task": torch.tensor(1.0), "aux": torch.tensor(torch.inf)}).item() == 1.0


def test_counts_observations_of_its_metric_and_no_steps() -> None:
    plateau = Plateau(factor=0.5, patience=1, source="val_loss")
    criterion = WeightedLoss(terms={"nll": 1.0, "aux": {"weight": 3.0, "controller": plateau}})
    weights = []
    for step in range(9):
        if step % 3 == 2:
            criterion.observe(val_loss=torch.tensor(0.7))
        criterion({"nll": torch.tensor(1.0), "aux": torch.tensor(1.0)})
        criterion.step()
        weights.append(criterion.weights["aux"])
    assert weights == [3.0] * 8 + [1.5]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"factor": 1.0}, "changes nothing: write 0.5 to halve"),
        ({"factor": 0.5, "lowest": 1.0}, "never move: 1 times 0.5, between 1 and 1e[+]06, is 1;"),
        ({"factor": 2.0, "highest": 1.0}, "never move: 1 times 2, between 0 and 1, is 1;"),
        ({"initial": 0.0}, "never move: 0 times 0.1"),
        ({"factor": -0.5}, "greater than or equal to 0"),
        ({"factor": 0.0, "lowest": 1.0}, "never move: 1 times 0, between 1 and 1e[+]06, is 1;"),
        ({"mode": "lowest"}, "'min' or 'max'"),
        ({"patience": -1}, "greater than or equal to 0"),
        ({"initial": 0.5, "lowest": 1.0}, "initial between them"),
    ],
)
def test_refuses(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LossConfig.read({"terms": {"aux": {"kind": "plateau", "source": "m", **fields}}})
