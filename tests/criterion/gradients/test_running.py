"""What stays of gradients from one forward pass to the next."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lossweights.components.context import Gradients
from lossweights.criterion.gradients.running import Held

NAMES = ("a", "b", "c")


def gradients(*norms: float, names: tuple[str, ...] = NAMES) -> Gradients:
    found = torch.tensor(norms, dtype=torch.float64)
    return Gradients(
        names,
        {"norms": found, "gramian": found[:, None] * found},
        torch.ones(len(names), dtype=torch.bool),
    )


def recorded(held: Held, *weights: float, names: tuple[str, ...] = NAMES) -> None:
    held.record(torch.tensor(weights), gradients(*weights, names=names))


def test_weights_are_1_at_first() -> None:
    assert Held(NAMES, ()).standing().tolist() == [1, 1, 1]


def test_the_mean_since_the_last_step_stands_and_is_kept() -> None:
    held = Held(NAMES, ())
    recorded(held, 1.0, 2.0, 3.0)
    recorded(held, 3.0, 4.0, 9.0)
    assert held.standing().tolist() == [2, 3, 6]
    held.step_done(scaled=False)
    assert held.standing().tolist() == [2, 3, 6]
    held.step_done(scaled=False)  # without gradients in between
    assert held.standing().tolist() == [2, 3, 6]
    recorded(held, 5.0, 5.0, 5.0)
    held.drop()
    assert held.standing().tolist() == [2, 3, 6]


def test_a_term_that_was_absent_keeps_its_weight() -> None:
    held = Held(NAMES, ())
    recorded(held, 1.0, 2.0, 3.0)
    held.step_done(scaled=False)
    recorded(held, 7.0, 9.0, names=("a", "c"))
    held.step_done(scaled=False)
    assert held.standing().tolist() == [7, 2, 9]


def test_statistics_are_means_over_the_passes_in_which_a_term_was_seen() -> None:
    held = Held(NAMES, ("norms", "gramian"))
    recorded(held, 1.0, 2.0, 3.0)
    recorded(held, 3.0, 5.0, names=("a", "c"))
    found = held.observed()
    assert found.seen.tolist() == [True, True, True]
    assert found.norms.tolist() == [2, 2, 4]
    assert found.gramian.tolist() == [[5, 2, 9], [2, 4, 6], [9, 6, 17]]


def test_what_was_not_seen_is_0_and_said_to_be_unseen() -> None:
    held = Held(NAMES, ("norms", "gramian"))
    assert not held.observed().seen.any()
    recorded(held, 3.0, 5.0, names=("a", "c"))
    found = held.observed()
    assert found.seen.tolist() == [True, False, True]
    assert found.norms.tolist() == [3, 0, 5]
    assert found.gramian.tolist() == [[9, 0, 15], [0, 0, 0], [15, 0, 25]]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_one_that_is_not_finite_spoils_the_mean_of_its_term_alone(bad: float) -> None:
    held = Held(NAMES, ("norms", "gramian"))
    recorded(held, 1.0, 2.0, 3.0)
    weights = torch.ones(3)
    held.record(weights, gradients(1.0, bad, 3.0))
    found = held.observed()
    assert found.seen.tolist() == [True, False, True]
    assert found.norms.tolist() == [1, 0, 3]
    assert found.gramian[1].tolist() == [0, 0, 0]
    held.step_done(scaled=False)
    assert held.standing().isfinite().all()


def _steps(held: Held, count: int, *, overflowed: float = 0.0) -> Tensor:
    for _ in range(count):
        held.record(torch.ones(3), gradients(1.0, 1.0, 1.0))
        held.overflowed(overflowed)
        held.step_done(scaled=True)
    return held.scale.clone()


def test_the_scale_falls_with_each_overflow_and_rises_after_long_calm() -> None:
    held = Held(NAMES, ())
    start = held.scale.item()
    assert _steps(held, 1999) == start
    assert _steps(held, 1) == 2 * start
    assert _steps(held, 3, overflowed=1.0) == start / 4
    assert _steps(held, 1999) == start / 4
    assert _steps(held, 1, overflowed=1.0) == start / 8
    assert _steps(held, 1999) == start / 8
    assert _steps(held, 1) == start / 4
    assert _steps(held, 40, overflowed=1.0) == 1


def test_the_scale_stands_still_where_nothing_is_scaled() -> None:
    held = Held(NAMES, ())
    held.overflowed(1.0)
    held.step_done(scaled=False)
    assert held.scale == 2**16
    assert _steps(held, 1) == 2**16  # the overflow of an earlier step is forgotten


def test_two_terms_that_never_met_have_no_product() -> None:
    held = Held(NAMES, ("gramian",))
    recorded(held, 3.0, 5.0, names=("a", "c"))
    recorded(held, 2.0, names=("b",))
    found = held.observed()
    assert found.seen.tolist() == [True, True, True]
    assert found.gramian.isnan().tolist() == [
        [False, True, False],
        [True, False, True],
        [False, True, False],
    ]
