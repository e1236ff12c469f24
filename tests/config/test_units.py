"""A config that counts tokens, or any other unit: what it may contain, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from lossweights import ConfigError, Duration, Horizon, LossConfig, epochs, steps
from lossweights.config.timeline import Curves, Timeline

WARMUP = {"kind": "warmup", "over": "1e8 tokens"}


def config(term: Any, **fields: Any) -> LossConfig:
    return LossConfig.read({"terms": {"nll": 1.0, "kl": term}, **fields})


@pytest.mark.parametrize(
    ("total", "horizon"),
    [
        ("2e9 tokens", Horizon(total="2e9 tokens")),
        ("1 sample", Horizon(total="1 samples")),
        ("40000 steps", Horizon(total_steps=40_000)),
        ("40 epochs", Horizon(total_steps="40 epochs")),
        (steps(5), Horizon(5)),
        (epochs(0.5), Horizon("0.5 epochs")),
    ],
)
def test_the_total_has_any_unit(total: Any, horizon: Horizon) -> None:
    read = config(1.0, total=total)
    assert read.horizon == horizon
    assert read.unit == read.horizon.unit == horizon.unit
    saved = read.model_dump(mode="json", exclude_unset=True)
    assert LossConfig.read(saved) == read
    assert LossConfig.read(read.model_dump(mode="json")) == read


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"total": "2e9 tokens", "total_steps": 5}, "5 and 2e9 tokens: remove total_steps"),
        ({"total": "0 tokens"}, "total: total must be above 0, found 0 tokens"),
        ({"total": "25%"}, "total cannot be a percentage of itself, found 25%: write"),
        ({"total": 40_000}, '40000 has no unit: write "40000 steps"'),
        ({"total": "2e9 stpes"}, "'stpes' is not a unit of training; did you mean 'steps'"),
        ({"total_steps": "2e9 tokens"}, 'a number of steps, found 2e9 tokens: write total: "2e9'),
        (
            {"total": "2e9 tokens", "steps_per_epoch": 10},
            "steps_per_epoch is for a clock that counts steps, and this one counts tokens: remove",
        ),
    ],
)
def test_a_total_that_says_nothing_is_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        config(1.0, **fields)


SEQUENCE = {"kind": "sequence", "stages": [{"schedule": WARMUP, "over": "50%"}, {"schedule": 1}]}
PLACES: dict[str, dict[str, Any]] = {
    "terms.kl.schedule.over": {"terms": {"kl": WARMUP}},
    "terms.kl.after": {"terms": {"kl": {"after": "5 tokens"}}},
    "terms.kl.controller.response": {
        "terms": {"kl": {"kind": "pid", "target": 1.0, "response": "5 tokens"}}
    },
    "terms.kl.controller.target.over": {"terms": {"kl": {"kind": "pid", "target": WARMUP}}},
    "terms.kl.transform.capacity.over": {
        "terms": {"kl": {"transform": {"kind": "capacity", "capacity": WARMUP}}}
    },
    "terms.kl.schedule.stages[0].schedule.over": {"terms": {"kl": SEQUENCE}},
    "terms.kl.schedule.points[1][0]": {
        "terms": {"kl": {"kind": "piecewise", "points": [["0 steps", 1.0], ["5 tokens", 0.0]]}}
    },
    "balancer.every": {"terms": ["a", "b"], "balancer": {"kind": "dwa", "every": "5 tokens"}},
}


@pytest.mark.parametrize("place", PLACES)
def test_every_duration_is_in_the_unit_of_the_clock(place: str) -> None:
    fields = PLACES[place]
    assert LossConfig.read(fields).unit == "tokens"
    assert LossConfig.read({**fields, "total": "2e9 tokens"}).unit == "tokens"
    with pytest.raises(ConfigError) as caught:
        LossConfig.read({**fields, "total_steps": 100})
    problem = str(caught.value)
    assert problem.startswith(f"the config: {place}: ")
    assert 'but the clock counts steps: write total: "... tokens" for the whole' in problem
    with pytest.raises(ConfigError) as caught:
        LossConfig.read({**fields, "total": "1e6 frames"})
    assert 'but the clock counts frames: write "... frames" or a percentage' in str(caught.value)


@pytest.mark.parametrize("length", ["500 steps", "2 epochs", "5 samples"])
def test_a_clock_of_tokens_counts_nothing_else(length: str) -> None:
    with pytest.raises(ConfigError, match=r"kl\.schedule\.over: .*, but the clock counts tokens: "):
        config({"kind": "warmup", "over": length}, total="2e9 tokens")
    for same in ("10%", "1e6 TOKENS", "1 token", "0 steps"):
        config({"kind": "warmup", "over": "10%", "delay": same}, total="2e9 tokens")


def test_without_a_total_the_durations_say_the_unit_and_agree() -> None:
    assert config(1.0).unit is None
    assert config({"kind": "warmup", "over": "10%"}).unit is None
    assert config(WARMUP).horizon == Horizon(unit="tokens")
    assert config({"kind": "warmup", "over": "1 epochs"}).unit == "steps"
    assert config(1.0, steps_per_epoch=10).unit == "steps"
    two = {"schedule": WARMUP, "after": "5 steps"}
    with pytest.raises(ConfigError, match=r"terms\.kl\.after: 5 steps, but the clock counts tok"):
        LossConfig.read({"terms": {"a": {"schedule": WARMUP}, "kl": two}})


@pytest.mark.parametrize(
    ("component", "place"),
    [
        ({"balancer": "dwa"}, "balancer.every: 1 epoch, but the clock counts tokens"),
        ({"terms": {"kl": {"kind": "exponential", "rate": 0.5}}}, "term 'kl': 1 step, but the"),
    ],
)
def test_a_default_in_steps_or_epochs_is_refused_if_it_counts(component: Any, place: str) -> None:
    """Not in the config, which may never use it."""
    fields = {"terms": ["a", "b"], **component, "total": "2e9 tokens"}
    read = LossConfig.read(fields)
    with pytest.raises(ConfigError, match=place):
        Timeline(read, read.horizon)
    half_life = {"kind": "exponential", "half_life": "1e9 tokens"}
    kept = config(half_life, total="2e9 tokens")
    again = LossConfig.read(kept.model_dump(mode="json"))  # with every default
    assert Timeline(again, again.horizon).row(10**9)[0] == 0.5


def test_overrides_and_curves_take_another_total() -> None:
    read = config({"kind": "warmup", "over": "10%"}, total="2e9 tokens")
    assert read.override({"total": "1e9 frames"}).unit == "frames"
    assert read.override({"total": None, "total_steps": 100}).horizon == Horizon(100)
    with pytest.raises(ConfigError, match="remove total_steps"):
        read.override({"total_steps": 100})
    curves = Curves.of(read, points=11)
    assert curves.steps[-1] == 2 * 10**9 - 1
    assert curves.weights["kl"][1] == pytest.approx(1.0)
    assert Curves.of(read, Horizon(total="1000 samples")).horizon.unit == "samples"
    tokens = config(WARMUP)
    with pytest.raises(ConfigError, match="term 'kl': 1e8 tokens, but the clock counts steps"):
        Curves.of(tokens, Horizon(100))


def test_durations_in_a_unit_of_their_own() -> None:
    assert Duration.parse("1e8 Token") == Duration(10**8, "tokens")
    assert Duration.parse("5 box").unit == Duration.parse("5 boxes").unit == "boxes"
    assert str(Duration(2 * 10**9, "tokens")) == "2e9 tokens"
    assert str(Duration(2_500_000_000, "tokens")) == "2.5e9 tokens"
    assert str(Duration(123_000_000, "tokens")) == "1.23e8 tokens"
    assert str(Duration(123_400_000, "tokens")) == "123400000 tokens"
    assert str(Duration(1, "tokens")) == "1 tokens"
    with pytest.raises(ValueError, match=r"the number of tokens must be whole, found 1\.5 tokens"):
        Duration.parse("1.5 tokens")
