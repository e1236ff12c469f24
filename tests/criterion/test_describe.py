"""In words: what a config will do."""

from __future__ import annotations

import re
from typing import Any

import pytest

from lossweights import Horizon, LossConfig, WeightedLoss
from lossweights.criterion.diagnostics import describe
from tests import small_components  # noqa: F401  # whose kinds are named below
from tests.components.schedules.examples import ALL_SCHEDULES


def lines(terms: Any, horizon: Horizon, **fields: Any) -> list[str]:
    return describe(LossConfig.read({"terms": terms, **fields}), horizon).splitlines()


def course(term: Any, horizon: Horizon) -> str:
    """What is said of one term, after its factors."""
    line = lines({"kl": term}, horizon)[2]
    return line.rpartition("}: ")[2].removeprefix("kl  2 x 0.25: ").removeprefix("kl  1: ")


def test_a_schedule_that_will_fail_is_told_and_not_raised() -> None:
    table = [1.0] * 2000  # more than is looked at as it is built
    terms: Any = {"nll": 1.0, "kl": lambda step: table[step]}
    criterion = WeightedLoss(terms, total_steps=5000, eval_weights="current")
    assert re.search(r"kl .*: its schedule fails: .* at step 2000", criterion.describe())
    assert criterion.audit() == []  # which is asked in training, and calls no function


@pytest.mark.parametrize(
    ("horizon", "line"),
    [
        (Horizon(), "training: total_steps is not known yet"),
        (Horizon(steps_per_epoch=10), "training: total_steps is not known yet"),
        (Horizon(1000), "training: 1000 steps"),
        (Horizon(1000, 10), "training: 1000 steps, 10 an epoch"),
        (Horizon("4 epochs", 10), "training: 40 steps, 10 an epoch"),
        (Horizon("4 epochs"), "training: 4 epochs, steps_per_epoch is not known yet"),
    ],
)
def test_says_how_long_training_takes(horizon: Horizon, line: str) -> None:
    assert lines(["a"], horizon)[0] == line


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        ("final", "evaluation: each term with its final weight"),
        ("current", "evaluation: each term as in training"),
        ({"a": 0.5}, "evaluation: a 0.5, the others with their final weight"),
    ],
)
def test_says_what_evaluation_uses(rule: Any, line: str) -> None:
    assert lines(["a", "b"], Horizon(), eval_weights=rule)[1] == line


def test_terms_stand_in_their_order_and_in_a_column() -> None:
    found = lines({"reconstruction": 1.0, "kl": 0.5}, Horizon())
    assert found[2:] == ["reconstruction  1: constant", "kl              0.5: constant"]


def test_names_both_factors_of_a_term() -> None:
    term = {"weight": 0.5, "schedule": {"kind": "warmup", "over": "10%"}}
    assert lines({"kl": term}, Horizon(100))[2].startswith("kl  0.5 x {kind: warmup, over: 10%}: ")


@pytest.mark.parametrize(
    ("term", "said"),
    [
        ({"kind": "warmup", "over": "10%"}, "starts at 0, first peaks at 1 in step 10, ends at 1"),
        (
            {"weight": 3, "schedule": {"kind": "cyclical", "cycles": 2}},
            "starts at 0, first peaks at 3 in step 25, ends at 3",
        ),
        (
            {"weight": -1, "schedule": {"kind": "ramp", "start": 1, "stop": 0, "over": "40 steps"}},
            "starts at -1, first peaks at 0 in step 40, ends at 0",
        ),
        (
            {"kind": "ramp", "start": 2, "stop": 0.5, "over": "40 steps"},
            "starts at 2, ends at 0.5",
        ),
        (
            {
                "kind": "piecewise",
                "points": [["0 steps", 2], ["10 steps", 0.5], ["20 steps", 5], ["30 steps", 1]],
            },
            "starts at 2, first peaks at 5 in step 20, is lowest at 0.5 in step 10, ends at 1",
        ),
        ({"schedule": 0.25, "weight": 2}, "0.5 throughout"),
        ({"after": "10%"}, "dormant until step 10, then constant"),
        (
            {"after": "10%", "schedule": {"kind": "warmup", "over": "5 steps"}},
            "dormant until step 10, then starts at 0, first peaks at 1 in step 15, ends at 1",
        ),
        # Training ends before the schedule does.
        (
            {"kind": "warmup", "over": "1000 steps"},
            "starts at 0, ends at 0.1",
        ),
    ],
)
def test_says_where_a_weight_starts_peaks_and_ends(term: Any, said: str) -> None:
    assert course(term, Horizon(100)) == said


@pytest.mark.parametrize(
    ("term", "said"),
    [
        ({"kind": "warmup", "over": "50 steps"}, "starts at 0, first peaks at 1 in step 50"),
        ({"kind": "cyclical", "period": "50 steps"}, "starts at 0, first peaks at 1 in step 25"),
        ({"kind": "exponential", "half_life": "5 steps"}, "starts at 1, ends at 0"),
        (
            {"kind": "warmup", "over": "25%"},
            "not known yet, 25% of training cannot be converted to steps before total_steps is",
        ),
        (
            {"after": "2 epochs"},
            "not known yet, 2 epochs cannot be converted to steps before steps_",
        ),
    ],
)
def test_says_what_is_known_before_the_length_of_training_is(term: Any, said: str) -> None:
    assert course(term, Horizon()).startswith(said)


def test_says_what_else_is_asked_of_a_term() -> None:
    term = {"optional": True, "reduction": "mean", "accumulates": "sum", "when_zero": "skip"}
    assert lines({"kl": term}, Horizon())[2] == (
        "kl  1: constant; optional; reduced by mean; each forward pass gives a part of its value; "
        "left out of the sum while its weight is 0"
    )


def test_a_training_of_very_many_steps_is_sampled() -> None:
    said = course({"kind": "cyclical", "cycles": 2}, Horizon(10**12))
    assert re.fullmatch(r"starts at 0, first peaks at 1 in step 250000\d{6}, ends at 1", said)


@pytest.mark.parametrize("total", [0, 1, 2, 103])
def test_every_schedule_is_described_in_a_line(total: int) -> None:
    terms = {f"t{number}": schedule for number, schedule in enumerate(ALL_SCHEDULES)}
    found = lines(terms, Horizon(total, steps_per_epoch=10))
    assert len(found) == 2 + len(terms)
    for line, (name, schedule) in zip(found[2:], terms.items(), strict=True):
        assert line.startswith(name)
        assert f" x {schedule}: " in line
        final = schedule.final(Horizon(total, steps_per_epoch=10)) + 0.0  # no -0
        assert line.endswith((f"ends at {final:g}", f": {final:g} throughout"))


@pytest.mark.parametrize(
    ("term", "balanced", "said"),
    [
        (
            {"kind": "test-counting", "target": 3},
            "'z'",
            "1 x {kind: test-counting, target: 3}: steered by its own value; not balanced",
        ),
        (
            {"weight": 0.5, "after": "9%", "controller": {"kind": "test-counting", "source": "m"}},
            "'z'",
            (
                "0.5 x {kind: test-counting, source: m}: dormant until step 9, "
                "then steered by m; not balanced"
            ),
        ),
        (
            {"controller": "test-counting", "balanced": True},
            "'kl', 'z'",
            "1 x test-counting: steered by its own value",
        ),
        ({"transform": "test-offset"}, "'kl', 'z'", "1: constant; its value through test-offset"),
        ({"balanced": False, "optional": True}, "'z'", "1: constant; not balanced; optional"),
    ],
)
def test_says_what_adapts(term: Any, balanced: str, said: str) -> None:
    found = lines({"kl": term, "z": 1.0}, Horizon(100), balancer={"kind": "dwa", "temperature": 3})
    assert found[1:] == [
        "evaluation: each term with its final weight, controllers and balancer at 1",
        f"balancer: {{kind: dwa, temperature: 3}}, of {balanced}",
        f"kl  {said}",
        "z   1: constant",
    ]


def test_a_controller_alone_stands_at_1_in_evaluation() -> None:
    found = lines({"kl": {"kind": "test-counting"}}, Horizon())
    assert found[1].endswith("final weight, controllers and balancer at 1")
    assert found[2] == "kl  1 x test-counting: steered by its own value"
