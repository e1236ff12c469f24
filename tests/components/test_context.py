"""What a component is told of the time."""

from __future__ import annotations

import pytest
import torch

from lossweights import Horizon, HorizonError, StepContext


def at(before: int, step: int, horizon: Horizon | None = None) -> StepContext:
    horizon = horizon or Horizon(100, steps_per_epoch=10)
    return StepContext({}, step=step, before=before, horizon=horizon)


def test_it_holds_the_step_the_horizon_and_the_fields() -> None:
    moment = StepContext({"target": torch.tensor(3.0)}, step=7, before=6, horizon=Horizon(100))
    assert (moment.step, moment.horizon.total_steps, moment["target"].item()) == (7, 100, 3.0)


@pytest.mark.parametrize(
    ("before", "step", "every", "passed"),
    [
        (0, 1, "1 steps", True),
        (8, 9, "10 steps", False),
        (9, 10, "10 steps", True),
        (10, 11, "10 steps", False),
        (9, 35, "10 steps", True),
        (11, 19, "10 steps", False),
        (9, 10, "1 epochs", True),
        (10, 11, "1 epochs", False),
        (4, 5, "0.5 epochs", True),
        (24, 25, "25%", True),
        (25, 26, "25%", False),
        (0, 1, "0 steps", True),  # less than a step is a step
        (5, 5, "1 steps", False),
        (30, 0, "10 steps", False),  # back in time
    ],
)
def test_a_multiple_is_passed_when_it_is_reached(
    before: int, step: int, every: str, passed: bool
) -> None:
    assert at(before, step).passed(every) is passed


def test_a_length_that_cannot_be_counted_is_refused() -> None:
    with pytest.raises(HorizonError, match="10% of training cannot be converted.*total_steps"):
        at(0, 1, Horizon()).passed("10%")


def test_inside_a_forward_pass_there_are_fields_alone() -> None:
    moment = StepContext({"target": torch.tensor(3.0)})
    assert moment["target"].item() == 3.0
    for look in (lambda: moment.step, lambda: moment.horizon, lambda: moment.passed("1 steps")):
        with pytest.raises(RuntimeError, match="not known inside a forward pass: keep what"):
            look()
