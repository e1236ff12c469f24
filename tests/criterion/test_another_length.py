"""A length of training that changes in the middle of it, or that training exceeds."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from lossweights import WeightedLoss
from tests.small_components import losses

RAMP: dict[str, Any] = {"kind": "warmup", "over": "100%"}
LATE: dict[str, Any] = {"weight": 1.0, "after": "80%"}
FALL = {"kind": "ramp", "start": 1.0, "stop": 0.0, "over": "100%"}
CYCLES = {"kind": "cyclical", "cycles": 4}
STEPS = {"kind": "warmup", "over": "10000 steps"}


@contextmanager
def warned() -> Iterator[list[str]]:
    found: list[str] = []
    with warnings.catch_warnings(record=True, action="always") as caught:
        yield found
    found += [str(each.message) for each in caught]


def finished(terms: dict[str, Any], step: int = 10_000, **options: Any) -> dict[str, Any]:
    """The state of a training."""
    criterion = WeightedLoss(terms, **{"total_steps": 10_000, **options})
    criterion.set_step(step)
    return criterion.state_dict()


@pytest.mark.parametrize(
    ("term", "change"),
    [
        (RAMP, "from 1 to 0.666667"),
        (LATE, "from 1 to 0"),
        (FALL, "from 0 to 0.333333"),
    ],
    ids=["warmup", "after", "decay"],
)
def test_a_longer_training_names_each_weight_that_jumps(term: dict[str, Any], change: str) -> None:
    terms: dict[str, Any] = {"a": 1.0, "kl": term, "still": STEPS}
    longer = WeightedLoss(terms, total_steps=15_000)
    with warned() as found:
        longer.load_state_dict(finished(terms))
    (message,) = found
    assert f"term 'kl' {change}" in message
    assert "at step 10000" in message
    assert "was 10000 steps and is 15000 steps now" in message
    assert 'such as "10000 steps" in place of "100%"' in message
    assert "still" not in message
    # What the message proposes keeps the weight.
    kept = {key: re.sub(r"(\d+)%", r"\g<1>00 steps", str(x)) for key, x in term.items()}
    with warned() as found:
        ours = WeightedLoss({**terms, "kl": kept}, total_steps=15_000)
        ours.load_state_dict(finished({**terms, "kl": kept}))
    assert found == []


@pytest.mark.parametrize(
    ("terms", "total"),
    [
        ({"a": 1.0, "kl": RAMP}, 10_000),
        ({"a": 1.0, "kl": STEPS}, 15_000),
        ({"a": 1.0, "kl": CYCLES}, 12_500),  # at the top of a cycle for both
    ],
    ids=["the same length", "steps", "by chance"],
)
def test_nothing_is_said_if_no_weight_changes(terms: dict[str, Any], total: int) -> None:
    ours = WeightedLoss(terms, total_steps=total)
    with warned() as found:
        ours.load_state_dict(finished(terms, 8_750 if terms["kl"] is CYCLES else 10_000))
        expected = WeightedLoss(terms, total_steps=10_000)
        expected.set_step(ours.current_step)
    assert ours.weights == expected.weights
    assert found == []


def test_a_length_that_is_bound_after_the_load_is_compared_too() -> None:
    ours = WeightedLoss({"a": 1.0, "kl": RAMP})
    with warned() as found:
        ours.load_state_dict(finished({"a": 1.0, "kl": RAMP}))
        assert found == []
        ours.bind(total_steps=20_000)
    assert ["term 'kl' from 1 to 0.5" in each for each in found] == [True]


def test_a_second_bind_warns_and_the_first_does_not() -> None:
    ours = WeightedLoss({"a": 1.0, "kl": RAMP})
    with warned() as found:
        ours.bind(total_steps=10_000)
        ours.bind(total_steps=8_000)  # training has not begun
        ours.set_step(4_000)
        ours.bind(total_steps=8_000)
    assert found == []
    with warned() as found:
        ours.bind(total_steps=10_000)
    assert ["term 'kl' from 0.5 to 0.4" in each for each in found] == [True]


def test_epochs_of_another_length_are_compared() -> None:
    terms = {"kl": {"kind": "warmup", "over": "4 epochs"}}
    ours = WeightedLoss(terms, steps_per_epoch=200)
    with warned() as found:
        ours.load_state_dict(finished(terms, 200, total_steps=None, steps_per_epoch=100))
    (message,) = found
    assert "was unknown (100 an epoch) and is unknown (200 an epoch) now" in message
    assert "term 'kl' from 0.5 to 0.25" in message


def test_scheduled_fields_of_components_are_compared() -> None:
    target = {"kind": "ramp", "start": 0.0, "stop": 10.0, "over": "100%"}
    terms = {"kl": {"kind": "pid", "target": target}}
    ours = WeightedLoss(terms, total_steps=20_000)
    with warned() as found:
        ours.load_state_dict(finished(terms))
    (message,) = found
    assert "terms.kl.controller.target from 10 to 5" in message


def test_each_criterion_of_a_clock_speaks_of_its_own_weights() -> None:
    def both(total: int, own: int) -> torch.nn.ModuleList:
        owner = WeightedLoss({"a": RAMP}, total_steps=total)
        guest = WeightedLoss({"b": LATE}, clock=owner.clock)
        with_own = WeightedLoss({"c": RAMP}, clock=owner.clock, total_steps=own)
        return torch.nn.ModuleList([owner, guest, with_own])

    old = both(10_000, own=20_000)
    old[0].set_step(9_000)  # type: ignore[operator]
    for total, own, changed in (
        (15_000, 20_000, ["'a'", "'b'"]),
        (10_000, 40_000, ["'c'"]),
        (15_000, 40_000, ["'a'", "'b'", "'c'"]),
        (10_000, 20_000, []),
    ):
        for order in ([0, 1, 2], [2, 1, 0]):
            new = both(total, own)
            with warned() as found:
                for index in order:
                    new[index].load_state_dict(old[index].state_dict())
            assert len(found) == len(changed)
            assert all(any(name in each for each in found) for name in changed)


def test_a_checkpoint_without_a_length_loads() -> None:
    state = finished({"kl": RAMP})
    del state["horizon"]
    ours = WeightedLoss({"kl": RAMP}, total_steps=15_000)
    with warned() as found:
        ours.load_state_dict(state)
    assert found == []
    assert ours.current_step == 10_000


def test_a_clock_past_the_end_warns_once() -> None:
    ours = WeightedLoss({"a": 1.0, "kl": RAMP}, total_steps=3)
    with warned() as found:
        for _ in range(3):
            ours(losses(a=1.0, kl=1.0))
            ours.step()
        assert found == []
        for _ in range(3):
            ours(losses(a=1.0, kl=1.0))
            ours.step()
    (message,) = found
    assert "at step 4, past its end at 3" in message
    assert "'kl'" in message
    assert any("past its end" in finding for finding in ours.audit())


def test_a_warning_that_is_an_error_loses_no_callback() -> None:
    ours = WeightedLoss({"a": 1.0, "kl": RAMP}, total_steps=1)
    seen: list[int] = []
    ours.on_step(seen.append)
    with warnings.catch_warnings(action="error"):
        ours(losses(a=1.0, kl=1.0))
        ours.step()
        ours(losses(a=1.0, kl=1.0))
        with pytest.raises(UserWarning, match="past its end"):
            ours.step()
    assert seen == [0, 1]


def test_a_clock_past_the_end_does_not_matter_without_a_schedule() -> None:
    ours = WeightedLoss({"a": 1.0, "b": {"after": "50%"}}, total_steps=2)
    with warned() as found:
        for _ in range(5):
            ours.step()
    assert found == []


@pytest.mark.parametrize("schedule", [RAMP, 1.0], ids=["moving", "constant"])
def test_a_clock_that_nobody_moves_warns_once_after_200_forward_passes(schedule: Any) -> None:
    ours = WeightedLoss({"a": 1.0, "kl": schedule}, total_steps=10)
    with warned() as found:
        for _ in range(199):
            ours(losses(a=1.0, kl=1.0))
    assert found == []
    with warned() as found:
        for _ in range(300):
            ours(losses(a=1.0, kl=1.0))
    # Constant weights do not need the clock. Metrics do, which are means over a step.
    assert ["criterion.follow(optimizer)" in each for each in found] == [True] * (schedule is RAMP)
    with warned() as found:
        ours.metrics()
        ours.metrics()
    assert ["metrics are means" in each for each in found] == [True] * (schedule is not RAMP)


def test_many_accumulated_batches_are_no_forgotten_clock() -> None:
    ours = WeightedLoss({"a": 1.0, "kl": RAMP}, total_steps=10)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(()))])
    ours.follow(optimizer)
    with warned() as found:
        for _ in range(3):
            for _ in range(256):
                ours(losses(a=1.0, kl=1.0))
            optimizer.step()
    assert found == []
    with warned() as found:  # an optimizer that makes no step
        for _ in range(2000):
            ours(losses(a=1.0, kl=1.0))
    assert ["2000 forward passes" in each for each in found] == [True]


def test_steps_in_between_begin_the_count_again() -> None:
    ours = WeightedLoss({"a": 1.0, "kl": RAMP}, total_steps=10)
    with warned() as found:
        for _ in range(5):
            for _ in range(150):
                ours(losses(a=1.0, kl=1.0))
            ours.step()
    assert found == []
