"""The weights of a config before training are those that training has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lossweights import Horizon, HorizonError, LossConfig, WeightedLoss
from lossweights.config.timeline import Curves, to_draw

GROUP: dict[str, Any] = {
    "weight": 0.5,
    "schedule": {"kind": "warmup", "over": "50%"},
    "terms": {
        "late": {"weight": 2.0, "after": "30%"},
        "same": {"weight": -2.0},
        "warm": {"kind": "warmup", "over": "20%"},
        "nothing": 0.0,
        "inner": {"weight": 4.0, "after": "10%", "terms": {"x": 3.0, "y": {"after": "5%"}}},
    },
}
TERMS: dict[str, Any] = {
    "constant": 2.0,
    "nothing": 0.0,
    "warm": {"weight": -0.5, "schedule": {"kind": "warmup", "over": "2 epochs"}},
    "late": {"weight": 3.0, "after": "7 steps"},
    "late and warm": {"after": "30%", "schedule": {"kind": "warmup", "over": "5 steps"}},
    "cyclical": {"kind": "cyclical", "cycles": 3},
    "late and cyclical": {"after": "10 steps", "schedule": {"kind": "cyclical", "cycles": 3}},
    "steered": {"weight": 4.0, "controller": {"kind": "pid", "target": 1.0, "response": "5%"}},
}


@pytest.mark.filterwarnings("ignore:term:UserWarning")
@pytest.mark.parametrize("total_steps", [1, 2, 40])
def test_they_are_the_weights_of_training_at_each_step(total_steps: int) -> None:
    terms = {name: term for name, term in TERMS.items() if name != "steered"} | {"group": GROUP}
    config = LossConfig.read({"terms": terms, "total_steps": total_steps, "steps_per_epoch": 5})
    curves = Curves.of(config)
    assert curves.steps.tolist() == list(range(total_steps))
    criterion = WeightedLoss.from_config(config)
    for step in curves.steps.tolist():
        criterion.set_step(step)
        found = {name: weights[step] for name, weights in curves.weights.items()}
        assert found == pytest.approx(criterion.weights, rel=1e-7)
    assert not any(np.signbit(curves.weights["nothing"]))


def test_members_whose_weight_in_their_group_does_not_change_are_known() -> None:
    config = LossConfig.read({"terms": {"group": GROUP}, "total_steps": 40})
    inside = {"late": None, "same": -2.0, "warm": None, "nothing": 0.0, "inner": None}
    assert Curves.of(config).parts == {
        "group": {f"group/{name}": part for name, part in inside.items()},
        "group/inner": {"group/inner/x": 3.0, "group/inner/y": 1.0},
    }
    balanced = config.override({"balancer": "uncertainty", "terms.other": 1.0})
    assert Curves.of(balanced).adaptive == {*config.all_terms, "other"}
    without = Curves.of(config.override({"group": 0.0, "terms.b": {"weight": 0.0, "terms": ["x"]}}))
    assert without.parts == {"b": {"b/x": 1.0}}


def test_a_picture_has_one_curve_for_members_that_change_alike() -> None:
    inside = {"a{0..2}": {"kind": "warmup", "over": "50%"}, "b": 2.0, "c": GROUP["terms"]["warm"]}
    terms = {"one": {"terms": inside}, "two": {"terms": inside}, "b": 1.0}
    config = LossConfig.read({"terms": terms, "total_steps": 40})
    drawn = {
        "one": [],
        "one/a0": ["one/a1", "one/a2"],
        "one/c": [],
        "two": [],
        "two/a0": ["two/a1", "two/a2"],
        "two/c": [],
        "b": [],
    }
    assert to_draw([Curves.of(config)]) == drawn
    other = config.override({"one.terms.a1.weight": 3.0, "two.terms.b": GROUP["terms"]["warm"]})
    drawn |= {"one/a0": ["one/a2"], "one/a1": [], "two/b": []}
    assert to_draw([Curves.of(config), Curves.of(other)]) == drawn


def test_terms_that_find_their_weight_in_training_are_named() -> None:
    config = LossConfig.read(
        {
            "terms": {**TERMS, "exempt": {"balanced": False}},
            "balancer": "uncertainty",
            "total_steps": 100,
            "steps_per_epoch": 10,
        }
    )
    assert Curves.of(config).adaptive == set(TERMS)
    assert Curves.of(config.override({"balancer": None})).adaptive == {"steered"}
    assert set(Curves.of(config).weights["steered"]) == {4.0}


def test_a_long_training_is_shown_in_so_many_points_its_ends_among_them() -> None:
    config = LossConfig.read({"terms": {"kl": {"kind": "warmup", "over": "100%"}}})
    curves = Curves.of(config, Horizon(total_steps=10**9), points=11)
    assert curves.steps.tolist() == np.linspace(0, 10**9 - 1, 11).round().tolist()
    np.testing.assert_allclose(curves.weights["kl"], np.linspace(0, 1, 11), atol=1e-8)
    assert Curves.of(config, Horizon(total_steps=9), points=0).steps.tolist() == [0, 8]


def test_a_horizon_comes_before_that_of_the_config_and_is_completed_by_it() -> None:
    terms = {"kl": {"kind": "warmup", "over": "1 epochs"}}
    config = LossConfig.read({"terms": terms, "total_steps": "3 epochs", "steps_per_epoch": 10})
    assert Curves.of(config).steps[-1] == 29
    assert Curves.of(config, Horizon(steps_per_epoch=4)).steps[-1] == 11
    longer = Curves.of(config, Horizon("5 epochs"))
    assert longer.steps[-1] == 49
    assert longer.weights["kl"][[5, 10]].tolist() == [0.5, 1.0]


@pytest.mark.parametrize(
    ("term", "moves_until"),
    [
        (1.0, 0),
        ({"after": "3000 steps"}, 3000),
        ({"kind": "warmup", "over": "5000 steps"}, 5000),
        (
            {"after": "3000 steps", "schedule": {"kind": "warmup", "over": "5000 steps"}},
            8000,
        ),
        ({"kind": "cyclical", "period": "2000 steps"}, 2 * 2000),
    ],
)
def test_without_an_end_all_that_moves_is_shown(term: Any, moves_until: int) -> None:
    last = Curves.of(LossConfig.read({"terms": {"a": 1.0, "b": term}})).steps[-1]
    assert moves_until < last <= max(2 * moves_until, 20_000)
    assert last >= 1000


def test_what_cannot_be_counted_in_steps_says_what_it_needs() -> None:
    config = LossConfig.read({"terms": {"kl": {"kind": "warmup", "over": "10%"}}})
    with pytest.raises(HorizonError, match="^term 'kl': 10% .* before total_steps is known"):
        Curves.of(config)
    assert Curves.of(config, Horizon(total_steps=20)).weights["kl"].tolist()[:3] == [0, 0.5, 1]
