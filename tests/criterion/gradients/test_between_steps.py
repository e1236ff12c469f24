"""Weights and statistics from gradients between one forward pass and the next."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lossweights import GradientBalancer, State, StepContext
from lossweights.components.context import Gradients
from lossweights.components.durations import Horizon
from lossweights.criterion.distributed import ProcessGroup
from lossweights.criterion.gradients.weights import GradientStep, GradientWeights
from lossweights.criterion.slots import Slot

NAMES = ("a", "b", "c")


class OfNorms(GradientBalancer, kind="test-of-norms"):
    """Reads norms and the Gramian, in `update` too."""

    needs = ("norms", "gramian")

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        return torch.ones_like(losses)

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        """Learns nothing."""


def built(every: str = "1 step") -> GradientWeights:
    slot = Slot("balancer", OfNorms(every=every), NAMES, {})
    return GradientWeights(slot, ProcessGroup("off"), may_lack=True)


def current(held: GradientWeights) -> list[float]:
    weights: list[float] = held.current(NAMES).tolist()
    return weights


def gradients(*norms: float, names: tuple[str, ...] = NAMES) -> Gradients:
    found = torch.tensor(norms, dtype=torch.float64)
    return Gradients(
        names,
        {"norms": found, "gramian": found[:, None] * found},
        torch.ones(len(names), dtype=torch.bool),
    )


def record(
    held: GradientWeights, weights: Tensor, found: Gradients, scale: Tensor | None = None
) -> None:
    held.record(GradientStep(weights, weights, found, scale=scale))


def recorded(held: GradientWeights, *weights: float, names: tuple[str, ...] = NAMES) -> None:
    record(held, torch.tensor(weights), gradients(*weights, names=names))


def test_weights_are_1_at_first() -> None:
    assert current(built()) == [1, 1, 1]


def test_the_mean_since_the_last_step_stands_and_is_kept() -> None:
    held = built()
    recorded(held, 1.0, 2.0, 3.0)
    recorded(held, 3.0, 4.0, 9.0)
    assert current(held) == [2, 3, 6]
    held.step_done()
    assert current(held) == [2, 3, 6]
    held.step_done()  # without gradients in between
    assert current(held) == [2, 3, 6]
    recorded(held, 5.0, 5.0, 5.0)
    held.discard()
    assert current(held) == [2, 3, 6]


def test_a_term_that_was_absent_keeps_its_weight() -> None:
    held = built()
    recorded(held, 1.0, 2.0, 3.0)
    held.step_done()
    recorded(held, 7.0, 9.0, names=("a", "c"))
    held.step_done()
    assert current(held) == [7, 2, 9]


def test_statistics_are_means_over_the_passes_in_which_a_term_was_seen() -> None:
    held = built()
    recorded(held, 1.0, 2.0, 3.0)
    recorded(held, 3.0, 5.0, names=("a", "c"))
    found = held.observed()
    assert found.seen.tolist() == [True, True, True]
    assert found.norms.tolist() == [2, 2, 4]
    assert found.gramian.tolist() == [[5, 2, 9], [2, 4, 6], [9, 6, 17]]


def test_what_was_not_seen_is_0_and_said_to_be_unseen() -> None:
    held = built()
    assert not held.observed().seen.any()
    recorded(held, 3.0, 5.0, names=("a", "c"))
    found = held.observed()
    assert found.seen.tolist() == [True, False, True]
    assert found.norms.tolist() == [3, 0, 5]
    assert found.gramian.tolist() == [[9, 0, 15], [0, 0, 0], [15, 0, 25]]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_one_that_is_not_finite_spoils_the_mean_of_its_term_alone(bad: float) -> None:
    held = built()
    recorded(held, 1.0, 2.0, 3.0)
    weights = torch.ones(3)
    record(held, weights, gradients(1.0, bad, 3.0))
    found = held.observed()
    assert found.seen.tolist() == [True, False, True]
    assert found.norms.tolist() == [1, 0, 3]
    assert found.gramian[1].tolist() == [0, 0, 0]
    held.step_done()
    assert held.current(NAMES).isfinite().all()


def _steps(held: GradientWeights, count: int, *, norm: float = 1.0) -> Tensor:
    for _ in range(count):
        scale = held.tensors["scale"].clone()
        record(held, torch.ones(3), gradients(1.0, norm, 1.0), scale)
        held.step_done()
    return held.tensors["scale"].clone()


def test_the_scale_falls_with_each_overflow_and_rises_after_long_calm() -> None:
    held = built()
    start = held.tensors["scale"].item()
    assert _steps(held, 1999) == start
    assert _steps(held, 1) == 2 * start
    assert _steps(held, 3, norm=torch.inf) == start / 4
    assert _steps(held, 1999) == start / 4
    assert _steps(held, 1, norm=torch.inf) == start / 8
    assert _steps(held, 1999) == start / 8
    assert _steps(held, 1) == start / 4
    assert _steps(held, 40, norm=torch.inf) == 1


def test_the_scale_stands_still_where_nothing_is_scaled() -> None:
    held = built()
    record(held, torch.ones(3), gradients(1.0, torch.inf, 1.0))
    held.step_done()
    assert held.tensors["scale"] == 2**16
    assert _steps(held, 1) == 2**16  # the overflow of an earlier step is forgotten


def test_two_terms_that_never_met_have_no_product() -> None:
    held = built()
    recorded(held, 3.0, 5.0, names=("a", "c"))
    recorded(held, 2.0, names=("b",))
    found = held.observed()
    assert found.seen.tolist() == [True, True, True]
    assert found.gramian.isnan().tolist() == [
        [False, True, False],
        [True, False, True],
        [False, True, False],
    ]


def test_a_term_that_wakes_between_a_forward_pass_and_its_step_has_no_weight_yet() -> None:
    held = built(every="100 steps")
    held.show(0, 0, Horizon(), inactive={"c"})
    record(held, torch.tensor([2.0, 3.0]), gradients(1.0, 1.0, names=("a", "b")))
    held.show(0, 0, Horizon(), inactive=())
    held.step_done()
    held.show(1, 0, Horizon(), inactive=())
    assert held.is_due
