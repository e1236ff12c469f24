"""Durations: how they are written, and what a horizon makes of them."""

from __future__ import annotations

import pickle
import re
from decimal import Decimal
from difflib import get_close_matches
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from lossweights import Duration, Horizon, HorizonError, Ramp, epochs, percent, steps
from lossweights.components.durations import read_total, read_total_steps

KNOWN = ("step", "steps", "epoch", "epochs", "ep", "percent", "dur")
UNITS = st.from_regex(r"[a-zA-Z]{3,12}", fullmatch=True).filter(
    lambda word: not get_close_matches(f"{word.lower().removesuffix('s')}s", KNOWN, cutoff=0.6)
)
ANY_DURATION = st.one_of(
    st.integers(0, 2**53).map(steps),
    st.builds(Duration, st.integers(0, 2**53), UNITS),
    st.builds(Duration, st.integers(0, 10**6).map(lambda n: n * 10**9), st.just("tokens")),
    st.floats(0, 1e9).map(epochs),
    st.integers(0, 10**6).map(epochs),
    st.floats(0, 1e6).map(percent),
)

# Written and read


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("500 steps", steps(500)),
        ("1 step", steps(1)),
        ("40_000 steps", steps(40_000)),
        ("1e3 steps", steps(1000)),
        ("  7  Steps ", steps(7)),
        ("7steps", steps(7)),
        ("500.0 steps", steps(500)),
        ("10 epochs", epochs(10)),
        ("1 epoch", epochs(1)),
        ("10ep", epochs(10)),
        (".5 epochs", epochs(0.5)),
        ("25%", percent(25)),
        ("25 percent", percent(25)),
        ("12.5 %", percent(12.5)),
        ("200%", percent(200)),
        ("0.25dur", percent(25)),
        ("0.07dur", percent(7)),
        ("1dur", percent(100)),
        ("+3 epochs", epochs(3)),
        ("2e9 tokens", Duration(2_000_000_000, "tokens")),
        ("1 Frame", Duration(1, "frames")),
        ("5 samples", Duration(5, "samples")),
        (epochs(3), epochs(3)),
    ],
)
def test_reads(written: object, read: Duration) -> None:
    assert Duration.parse(written) == read
    assert TypeAdapter(Duration).validate_python(written) == read


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        (10, '^10 has no unit: write "10 steps" or "10 epochs"$'),
        ("10", '^\'10\' has no unit: write "10 steps" or "10 epochs"$'),
        (0.5, r'0.5 has no unit: write "50%" or "0.5 epochs"'),
        (
            "10 stpes",
            "'stpes' is not a unit of training; did you mean 'steps'[?] write \"10 steps\"",
        ),
        ("10 epcohs", "did you mean 'epochs'"),
        ("10 epoks", "did you mean 'epochs'"),
        ("10 stepz", "did you mean 'step'"),
        ("10 percentt", "did you mean 'percent'"),
        ("10 batches", "'batches' is not a unit of training: write .* or \"10%\"$"),
        ("10 iteration", "'iteration' is not a unit of training: write .* or \"10%\"$"),
        ("10 minutes", "'minutes' is not a unit of training: write .* or \"10%\"$"),
        ("10k", "'k' is not a unit of training: write .*; a unit of your own"),
        ("10 env_steps", "'env_steps' is not a unit of training"),
        ("10 km", "'km' is not a unit of training: write"),
        ("1.5 steps", "the number of steps must be whole, found 1.5 steps"),
        ("0.1 steps", "the number of steps must be whole, found 0.1 steps"),
        ("-5 steps", "must be from 0 to .*, found -5 steps"),
        ("-1%", "must be from 0 to .*, found -1%"),
        ("1e400 steps", "must be from 0 to .*, found inf steps"),
        ("1e17 epochs", r"to 2\*\*53, found 1e\+17 epochs"),
        ("nan steps", "'nan steps' is not a duration: write"),
        ("steps", "'steps' is not a duration"),
        ("", "'' is not a duration"),
        ("5 steps 3", "is not a duration"),
        ("1_0_ steps 2", "is not a duration"),
        (True, 'a duration is written "500 steps", "10 epochs" or "25%", found True'),
        (None, "a duration is written .* found None"),
        (["5 steps"], "a duration is written"),
        (float("nan"), "'?nan'? is not a duration"),
    ],
)
def test_refuses(written: object, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Duration.parse(written)
    with pytest.raises(ValidationError, match="Value error, "):
        TypeAdapter(Duration).validate_python(written)


@pytest.mark.parametrize("value", [-1, -0.5, float("nan"), float("inf"), 2**53 + 1, 10**400])
def test_refuses_values_that_no_training_has(value: float) -> None:
    with pytest.raises(ValueError, match=r"a duration must be from 0 to 2\*\*53"):
        epochs(value)


@pytest.mark.parametrize("value", [True, "5", None, 1j, Decimal(5)])
def test_is_a_number_of_its_unit(value: object) -> None:
    with pytest.raises(ValueError, match="a duration is a number of epochs, found "):
        epochs(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("unit", ["h", "km", "stepz", "ep", "%", "two words", "", "t0kens"])
def test_a_unit_of_its_own_is_a_word(unit: str) -> None:
    with pytest.raises(ValueError, match="percent or a unit of its own such as tokens, found "):
        Duration(3, unit)


@given(ANY_DURATION)
def test_reads_what_it_writes(duration: Duration) -> None:
    assert Duration.parse(str(duration)) == duration
    namespace = {"steps": steps, "epochs": epochs, "percent": percent, "Duration": Duration}
    assert eval(repr(duration), namespace) == duration  # noqa: S307
    assert pickle.loads(pickle.dumps(duration)) == duration


@pytest.mark.parametrize(
    ("duration", "written"),
    [
        (steps(1), "1 step"),
        (steps(0), "0 steps"),
        (steps(2.0), "2 steps"),  # type: ignore[arg-type]
        (steps(np.int64(5)), "5 steps"),  # type: ignore[arg-type]
        (epochs(np.float32(0.5)), "0.5 epochs"),  # type: ignore[arg-type]
        (epochs(np.float64(1)), "1 epoch"),
        (epochs(Fraction(1, 4)), "0.25 epochs"),  # type: ignore[arg-type]
        (percent(12.5), "12.5%"),
        (percent(1), "1%"),
    ],
)
def test_writes_numbers_of_any_library_plainly(duration: Duration, written: str) -> None:
    assert str(duration) == written
    assert type(duration.value) in (int, float)


def test_equal_lengths_of_one_unit_are_equal() -> None:
    assert epochs(10) == Duration.parse("10.0 epochs")
    assert hash(epochs(10)) == hash(Duration.parse("10.0 epochs"))
    assert epochs(10) != steps(10)


# In steps


@pytest.mark.parametrize(
    ("duration", "length", "whole"),
    [
        ("3 steps", 3, 3),
        ("2 epochs", 600, 600),
        ("0.0015 epochs", 0.45, 0),
        ("25%", 421.5, 422),
        ("0%", 0, 0),
        ("100%", 1686, 1686),
        ("200%", 3372, 3372),
    ],
)
def test_length_in_steps_rounds_halves_up(duration: str, length: float, whole: int) -> None:
    horizon = Horizon(1686, steps_per_epoch=300)
    assert horizon.length(duration) == pytest.approx(length, rel=1e-15)
    assert horizon.steps(duration) == whole
    assert type(horizon.steps(duration)) is int


@given(st.integers(0, 10**6), st.integers(0, 100))
def test_a_whole_percentage_is_exact_where_it_is_whole(total: int, share: int) -> None:
    assert Fraction(Horizon(total).length(percent(share))) == pytest.approx(
        Fraction(total * share, 100), rel=1e-15
    )
    if total * share % 100 == 0:
        assert Horizon(total).length(percent(share)) == total * share // 100


# The horizon


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (None, None),
        (0, 0),
        (40_000, 40_000),
        ("40_000", 40_000),
        (40_000.0, 40_000),
        (" 40000 ", 40_000),
        ("500 steps", 500),
        (steps(500), 500),
        (np.int64(7), 7),
        ("40 epochs", epochs(40)),
    ],
)
def test_total_steps_may_be_written(written: object, read: object) -> None:
    assert read_total_steps(written) == read
    assert Horizon(written).total_steps == read  # type: ignore[arg-type]
    assert type(read_total_steps(written)) is type(read)


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        (-1, "total_steps must be a whole number of at least 0, found -1"),
        (1.5, "total_steps must be a whole number of at least 0, found 1.5"),
        (True, "total_steps must be a whole number of at least 0, found True"),
        (2**53 + 1, r"total_steps must be at most 2\*\*53, found"),
        ([5], r"total_steps must be a whole number of at least 0, found \[5\]"),
        ("25%", 'cannot be a percentage of itself, found 25%: write 40000 or "40 epochs"'),
        ("-3", "'-3' has no unit"),
        ("many", "'many' is not a duration"),
    ],
)
def test_total_steps_refuses(written: object, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Horizon(written)  # type: ignore[arg-type]


@pytest.mark.parametrize("written", ["ten", "0.5", "10 stpes"])
def test_the_message_of_a_total_suggests_no_percentage(written: str) -> None:
    for read in (read_total_steps, read_total):
        with pytest.raises(ValueError, match="epochs") as caught:
            read(written)
        assert "%" not in str(caught.value)
        suggested = re.findall(r'"(.+?)"', str(caught.value).partition(" write ")[2])
        assert suggested
        for each in suggested:
            read(each)


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "many"])
def test_steps_per_epoch_is_a_count(wrong: object) -> None:
    with pytest.raises(
        ValueError, match="steps_per_epoch must be a whole number of at least 1, found"
    ):
        Horizon(100, wrong)  # type: ignore[arg-type]


def test_a_total_in_epochs_waits_for_their_length() -> None:
    assert Horizon("1.5 epochs", steps_per_epoch=101).span == 152
    waiting = Horizon("40 epochs")
    assert not waiting.is_bounded
    with pytest.raises(HorizonError, match=r"10% of training .* before steps_per_epoch is known"):
        waiting.length("10%")
    with pytest.raises(HorizonError, match=r"100% of training .* before steps_per_epoch"):
        _ = waiting.span


def test_an_unknown_length_is_asked_for_by_name() -> None:
    assert Horizon().length("5 steps") == 5
    with pytest.raises(HorizonError, match=r"^10% of training .* before total_steps is known"):
        Horizon(steps_per_epoch=10).length("10%")
    with pytest.raises(HorizonError, match=r"^2 epochs cannot .* before steps_per_epoch is known"):
        Horizon(100).length("2 epochs")


def test_local_time_ends_with_its_stage_or_with_training() -> None:
    horizon = Horizon(100, steps_per_epoch=10)
    assert horizon.local(30).span == 70
    assert horizon.local(30, 20).span == 20
    assert horizon.local(30, 500).span == 500
    assert horizon.local(130).span == 0
    assert horizon.local(30).local(50).span == 20
    assert horizon.local(30, 20).local(5).span == 15


def test_a_percentage_in_local_time_is_one_of_training() -> None:
    assert Horizon(100).local(30, 20).steps("25%") == 25
    assert Horizon(100).local(30).local(7).steps("25%") == 25


def test_local_time_in_a_training_without_end_has_none() -> None:
    assert not Horizon().local(30).is_bounded
    assert Horizon().local(30, 20).span == 20


def test_a_field_takes_durations_and_their_text_alike() -> None:
    assert Ramp(start=0, stop=1, over="3 epochs") == Ramp(start=0, stop=1, over=epochs(3))
    assert Ramp(start=0, stop=1, over=epochs(3)).model_dump()["over"] == "3 epochs"


@pytest.mark.parametrize(
    "written",
    ["1" * 300_000 + "! 1", "1" + " " * 300_000 + "!", "1" + "_" * 300_000 + "!", "." * 300_000],
    ids=lambda text: text[:3],
)
def test_long_text_is_refused_soon(written: str) -> None:
    """In quadratic time, 300,000 characters would take hours."""
    for read in (Duration.parse, read_total_steps):
        with pytest.raises(ValueError, match="is not a duration: write") as caught:
            read(written)
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize("value", [10**5000, Fraction(10**5000, 3)], ids=["int", "fraction"])
def test_huge_numbers_are_refused(value: Any) -> None:
    for read in (epochs, Duration.parse, read_total_steps):
        with pytest.raises(ValueError, match=r"must be|no unit|is not a duration") as caught:
            read(value)
        assert len(str(caught.value)) < 400
