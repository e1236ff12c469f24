"""`complement`: a weight that is what another one leaves of a total."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lossweights import ConfigError, HorizonError, LossConfig, WeightedLoss
from lossweights.analysis import calibrate
from lossweights.components.durations import Horizon
from lossweights.config.timeline import Curves, Timeline, weight_of
from tests.components.schedules.examples import ALL_SCHEDULES

HORIZON = Horizon(103, steps_per_epoch=10)
STEPS = np.arange(150)


def config_of(soft: Any, **hard: Any) -> LossConfig:
    """Terms `soft` and `hard`, the second as the complement of the first."""
    term = {key: hard.pop(key) for key in ("weight", "after") if key in hard}
    schedule = {"kind": "complement", "of": "soft", **hard}
    return LossConfig.read({"terms": {"soft": soft, "hard": {"schedule": schedule, **term}}})


def weights(config: LossConfig, name: str, horizon: Horizon = HORIZON) -> list[float]:
    timeline = Timeline(config, horizon)
    values: list[float] = timeline.rows(STEPS)[:, timeline.names.index(name)].tolist()
    return values


@pytest.mark.parametrize("schedule", ALL_SCHEDULES, ids=repr)
@pytest.mark.parametrize("fields", [{}, {"weight": 0.5}, {"after": "37%"}], ids=repr)
def test_both_weights_add_up(schedule: Any, fields: dict[str, Any]) -> None:
    config = config_of({"schedule": schedule, **fields}, total=9.5)
    soft, hard = weights(config, "soft"), weights(config, "hard")
    assert hard == [9.5 - weight for weight in soft]
    found = [weight_of(config, name, HORIZON) for name in ("soft", "hard")]
    assert found[1].final() == 9.5 - found[0].final()
    assert found[1].end() == found[0].end()


def test_the_total_is_1_by_default() -> None:
    criterion = WeightedLoss(config_of({"kind": "warmup", "over": "4 steps"}))
    criterion.set_step(1)
    assert criterion.weights == {"soft": 0.25, "hard": 0.75}
    total = criterion({"soft": torch.tensor(8.0), "hard": torch.tensor(4.0)})
    assert total == 8.0 * 0.25 + 4.0 * 0.75


def test_an_override_of_one_moves_both() -> None:
    config = config_of({"kind": "ramp", "start": 1, "stop": 0.5, "over": "4 steps"})
    changed = config.override({"soft.schedule.stop": 0.0, "soft.weight": 0.8})
    assert weights(changed, "hard")[::2][:3] == pytest.approx([0.2, 0.6, 1.0])
    with pytest.raises(ConfigError, match="'soft' has a controller"):
        config.override({"soft": {"kind": "pid", "target": 3.0}})
    with pytest.raises(
        ConfigError,
        match=r"terms\.hard\.schedule\.of: no term or scheduled number is called 'softer'",
    ):
        config.override({"hard.schedule.of": "softer"})


def test_the_step_is_that_of_training_if_either_begins_late() -> None:
    soft = {"schedule": {"kind": "warmup", "over": "10 steps"}, "after": "2 steps"}
    config = config_of(soft, weight=2.0, after="7 steps")
    assert weights(config, "soft")[:9] == pytest.approx([0, 0, 0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert weights(config, "hard")[:9] == pytest.approx([0.0] * 7 + [1.0, 0.8])
    assert weight_of(config, "hard", HORIZON).end() == 12
    assert weight_of(config_of(0.5, after="7 steps"), "hard", HORIZON).end() == 7
    assert Timeline(config, HORIZON).dormant(6) == {"hard"}


def test_a_complement_of_a_complement_follows_the_first() -> None:
    third = {"kind": "complement", "of": "hard", "total": 2.0}
    terms = config_of({"kind": "warmup", "over": "10 steps"}).terms
    config = LossConfig.read({"terms": {**terms, "a-third": third}})
    assert weights(config, "a-third") == [2 - (1 - weight) for weight in weights(config, "soft")]


def test_a_held_term_has_a_held_complement() -> None:
    config = config_of({"kind": "warmup", "over": "2 epochs", "every": "1 epochs"})
    assert weights(config, "hard")[8:22] == [1.0] * 2 + [0.5] * 10 + [0.0] * 2


# Functions


def test_a_function_is_called_once_a_step_for_both() -> None:
    called: list[int] = []

    def soft(step: int) -> float:
        called.append(step)
        return float(np.random.default_rng(len(called)).random())

    criterion = WeightedLoss(config_of(soft).override({"total_steps": 50}))
    del called[:]
    for step in range(1, 20):
        criterion.step()
        found = criterion.weights
        assert found["soft"] + found["hard"] == pytest.approx(1.0)
        assert called == list(range(1, step + 1))


def test_a_variable_that_a_function_reads_moves_both() -> None:
    now = {"soft": 0.25}
    criterion = WeightedLoss(config_of(lambda step: now["soft"]).override({"total_steps": 50}))
    now["soft"] = 0.75
    criterion.step()
    assert criterion.weights == {"soft": 0.75, "hard": 0.25}


# Evaluation and reports


def test_evaluation_has_final_weights() -> None:
    config = config_of({"kind": "cyclical", "cycles": 3, "stop": 0.75})
    criterion = WeightedLoss(config.override({"total_steps": 10})).eval()
    with torch.no_grad():
        assert criterion({"soft": torch.tensor(0.0), "hard": torch.tensor(1.0)}) == 0.25


def test_a_function_has_the_same_final_weight_for_both() -> None:
    values = iter([0.5, 0.25, 0.125, 1.0, 0.75])
    config = config_of(lambda step: next(values))
    hard, soft = Timeline(config, Horizon(10)).final()
    assert hard == 1 - soft


def test_curves_and_describe() -> None:
    config = config_of({"kind": "warmup", "over": "50%"}).override({"total_steps": 10})
    curves = Curves.of(config)
    assert curves.weights["hard"].tolist() == pytest.approx(1 - curves.weights["soft"])
    described = WeightedLoss(config).describe()
    assert "hard  1 x {kind: complement, of: soft}: starts at 1, ends at 0" in described


def test_one_sentence_says_that_both_end_too_late() -> None:
    config = config_of({"kind": "warmup", "over": "20 steps"})
    (sentence,) = Timeline(config, Horizon(10)).overruns()
    assert sentence.startswith("term 'soft' ends too late")
    config = config_of(0.5, after="9 steps")
    assert Timeline(config, Horizon(10)).overruns() == []
    assert "'hard' is dormant" in Timeline(config, Horizon(9)).overruns()[0]


def test_what_the_other_term_needs_is_asked_for() -> None:
    config = config_of({"kind": "warmup", "over": "50%"})
    criterion = WeightedLoss(config)
    with pytest.raises(HorizonError, match="term 'soft': 50% of training"):
        _ = criterion.weights
    criterion.bind(total_steps=10)
    assert criterion.weights == {"soft": 0.0, "hard": 1.0}


def test_calibration_keeps_the_term_of_a_complement() -> None:
    config = LossConfig.read({"terms": {"nll": 1.0, **config_of(0.5).terms}})
    batches = [{"nll": 1.0, "soft": 10.0, "hard": 10.0}]
    found = calibrate(WeightedLoss(config), batches)
    assert found.config.terms["soft"] == config.terms["soft"]
    assert "'hard' is its complement" in str(found)


# What is refused


@pytest.mark.parametrize(
    ("terms", "problem"),
    [
        (
            {"soft": 0.5, "hard": {"kind": "complement", "of": "sotf"}},
            r"terms\.hard\.schedule\.of: no term .* is called 'sotf'; did you mean 'soft'\?",
        ),
        (
            {"hard": {"kind": "complement", "of": "hard"}},
            r"terms\.hard\.schedule\.of: a term cannot be its own complement, 'hard' of 'hard'",
        ),
        (
            {
                "a": {"kind": "complement", "of": "b"},
                "b": {"kind": "complement", "of": "c"},
                "c": {"kind": "complement", "of": "b"},
            },
            r"terms\.a\.schedule\.of: .* 'b' of 'c' of 'b': give one of them another schedule",
        ),
        (
            {"soft": {"kind": "manual"}, "hard": {"kind": "complement", "of": "soft"}},
            r"terms\.hard\.schedule\.of: 'soft' has a controller, .* name a term without one",
        ),
        (
            {
                "soft": {"kind": "manual"},
                "b": {"kind": "complement", "of": "soft"},
                "a": {"kind": "complement", "of": "b"},
            },
            r"terms\.b\.schedule\.of: 'soft' has a controller",
        ),
        (
            {"soft": 0.5, "hard": {"kind": "complement", "of": "soft", "every": "1 epochs"}},
            r"terms\.hard\.schedule\.every: a complement follows the other term at each step: wri",
        ),
        (
            {
                f"t{number:03}": {"kind": "complement", "of": f"t{number + 1:03}"}
                for number in range(2000)
            }
            | {"t2000": 0.5},
            "more than 100 complements of each other",
        ),
    ],
)
def test_a_complement_without_a_weight_is_refused(terms: Mapping[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        LossConfig.read({"terms": terms})


COMPLEMENT = {"kind": "complement", "of": "nll"}


@pytest.mark.parametrize(
    ("part", "place"),
    [
        ({"kind": "product", "factors": [0.5, COMPLEMENT]}, "schedule"),
        ({"kind": "repeat", "cycles": 2, "schedule": COMPLEMENT}, "schedule"),
        (
            {
                "kind": "sequence",
                "stages": [{"schedule": 1, "over": "5%"}, {"schedule": COMPLEMENT}],
            },
            "schedule",
        ),
        ({"kind": "pid", "target": COMPLEMENT}, "controller"),
        ({"transform": {"kind": "capacity", "capacity": COMPLEMENT}}, "transform"),
    ],
)
def test_a_complement_inside_another_component_is_refused(part: Any, place: str) -> None:
    message = (
        rf"terms\.kl\.{place}: a complement is the whole schedule of .* give it one of its own"
    )
    with pytest.raises(ConfigError, match=message):
        LossConfig.read({"terms": {"nll": 0.5, "kl": part}})


@pytest.mark.parametrize(
    ("soft", "total", "problem"),
    [
        (
            1.5,
            1.0,
            r"'hard': it goes down to -0\.5, because 'soft' goes up to 1\.5",
        ),
        (
            0.5,
            0.25,
            r"and their total is 0\.25: write `total: 0\.5`, or lower 'soft'",
        ),
        (
            {"kind": "piecewise", "points": [["2000 steps", 0], ["3000 steps", 3], ["80%", 0]]},
            2.0,
            "goes up to 2.9",
        ),
        (0.5, -1.0, "goes down to -1.5"),
    ],
)
def test_a_weight_below_0_is_refused(soft: Any, total: float, problem: str) -> None:
    config = config_of(soft, total=total).override({"total_steps": 6000})
    with pytest.raises(ConfigError, match=problem):
        WeightedLoss(config)


def test_a_function_that_goes_above_the_total_is_refused_at_its_step() -> None:
    criterion = WeightedLoss(config_of(lambda step: step / 4).override({"eval_weights": "current"}))
    for _ in range(4):
        criterion.step()
    assert criterion.weights == {"soft": 1.0, "hard": 0.0}
    with pytest.raises(ConfigError, match=r"'hard': it goes down to -0\.25"):
        criterion.step()


def test_steps_that_do_not_count_may_be_above_the_total() -> None:
    falling = {"kind": "ramp", "start": 2.0, "stop": 0.0, "over": "10 steps"}
    assert weights(config_of(falling, after="5 steps"), "hard")[:7] == pytest.approx(
        [0.0] * 5 + [0.0, 0.2]
    )
    rising = {"kind": "ramp", "start": 0.0, "stop": 2.0, "over": "20 steps"}
    assert weights(config_of(rising), "hard", Horizon(10))[10] == 0.0


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_rounding_is_not_a_weight_below_0(part: float, base: float) -> None:
    soft = {"schedule": part, "weight": base}
    (hard, _), *_ = Timeline(config_of(soft, total=part * base), HORIZON).rows(STEPS)
    assert hard == 0.0


def test_a_sum_that_rounds_is_its_own_total() -> None:
    thirds = {"kind": "product", "factors": [3.0, 0.1]}  # 0.30000000000000004
    assert weights(config_of(thirds, total=0.3), "hard")[0] == pytest.approx(0.0, abs=1e-15)
