"""SoftAdapt."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lossweights import ConfigError, WeightedLoss
from lossweights.components.balancers import SoftAdapt
from lossweights.components.balancers.softadapt import slopes_at_the_end, softadapt_weights
from tests.components.balancers.reference import CASES, LOSSES, agree, recorded, trained, weights_of

TOLERANCE = 1e-6  # theirs divide by the sum + 1e-7
PACKAGE = [name for name in CASES if "SoftAdapt-" in name]


def parameters(name: str) -> tuple[str, float, int, int]:
    """The class, beta, the order of accuracy and the number of points of a recorded case."""
    kind, rest = name.split("-", 1)
    sign, rest = (-1.0, rest[1:]) if rest.startswith("-") else (1.0, rest)
    beta, order, points = rest.split("-")
    return kind, sign * float(beta), int(order), int(points)


def slopes_at_the_start(points: Tensor) -> Tensor:
    """Time backwards: the slope at the end, with its sign changed."""
    return -slopes_at_the_end(points.flip(0))


# The plain functions


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_slopes_are_exact_for_polynomials(order: int) -> None:
    """The derivative of t + t**order at the last of t = 0, ..., order."""
    at = torch.arange(order + 1, dtype=torch.float64)
    slope = slopes_at_the_end((at + at**order).unsqueeze(1))
    assert slope.tolist() == pytest.approx([1 + order * order ** (order - 1)])


def test_weights_by_hand() -> None:
    slopes = torch.tensor([0.0, math.log(3)])
    assert softadapt_weights(slopes, 1).tolist() == pytest.approx([1 / 4, 3 / 4])
    assert softadapt_weights(slopes, -1).tolist() == pytest.approx([3 / 4, 1 / 4])
    assert softadapt_weights(slopes, 0).tolist() == [0.5, 0.5]
    weighted = softadapt_weights(slopes, 1, values=torch.tensor([6.0, 1.0]))
    assert weighted.tolist() == pytest.approx([6 / 9, 3 / 9])


@pytest.mark.parametrize("name", PACKAGE)
def test_recorded_weights(name: str) -> None:
    """The package has the slope at the oldest of the last `order` + 1 points; it divides by s."""
    kind, beta, order, points = parameters(name)
    windows = LOSSES.unfold(0, points, 1).transpose(1, 2)  # a window for each row of theirs
    for window, theirs in zip(windows, recorded(name), strict=False):
        slopes = slopes_at_the_start(window[-order - 1 :])
        if kind == "NormalizedSoftAdapt":
            slopes = slopes / slopes.sum()
        values = window.mean(dim=0) if kind == "LossWeightedSoftAdapt" else None
        agree(softadapt_weights(slopes, beta, values), theirs, relative=TOLERANCE)


# The balancer


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("SoftAdapt-0.1-1-2", {}),
        ("SoftAdapt-10.0-1-2", {"sharpness": 10}),
        ("LossWeightedSoftAdapt-0.1-1-2", {"variant": "loss_weighted"}),
        ("LossWeightedSoftAdapt-10.0-1-2", {"variant": "loss_weighted", "sharpness": 10}),
    ],
)
def test_trajectories_agree_where_the_slope_is_a_difference(
    name: str, table: dict[str, Any]
) -> None:
    theirs = recorded(name)
    ours, _ = weights_of(SoftAdapt.model_validate({"every": "1 steps", **table}))
    agree(ours[:2], torch.full((2, 3), 1 / 3, dtype=torch.float64), relative=TOLERANCE)
    agree(ours[2:], theirs, relative=TOLERANCE)
    ours, _ = trained({"kind": "softadapt", "every": "1 steps", **table})
    agree(ours[2:], theirs[:6], relative=1e-4)


@pytest.mark.parametrize("order", [2, 5])
def test_higher_orders_wait_for_their_points(order: int) -> None:
    ours, _ = weights_of(SoftAdapt(every="1 steps", order=order))
    agree(ours[: order + 1], torch.full((order + 1, 3), 1 / 3).double(), relative=1e-7)
    slopes = slopes_at_the_end(LOSSES[: order + 1])
    agree(ours[order + 1], torch.softmax(0.1 * slopes, dim=0))


def test_normalized_is_free_of_scale_and_keeps_its_order_when_losses_fall() -> None:
    """Where theirs, divided by a negative sum, favours the term that falls fastest."""
    losses = torch.tensor([[10.0, 5.0], [7.0, 4.0], [0.0, 0.0]], dtype=torch.float64)
    balancer = SoftAdapt(every="1 steps", variant="normalized", sharpness=1)
    expected = torch.softmax(torch.tensor([-3 / 4, -1 / 4], dtype=torch.float64), dim=0)
    for scale in (1.0, 1e-6, 1e6):
        agree(weights_of(balancer, losses * scale)[0][2], expected)
    assert expected[0] < expected[1]
    slopes = slopes_at_the_end(losses[:2])
    theirs = softadapt_weights(slopes / slopes.sum(), 1)
    assert theirs[0] > theirs[1]


def test_epochs_are_means() -> None:
    losses = torch.tensor([[1.0, 3.0], [3.0, 3.0], [4.0, 1.0], [6.0, 5.0], [0.0, 0.0]])
    weights, _ = weights_of(SoftAdapt(every="2 steps", sharpness=1), losses)
    torch.testing.assert_close(weights[4], torch.softmax(torch.tensor([3.0, 0.0]), dim=0))


def test_losses_of_0_weigh_nothing_in_the_loss_weighted_variant() -> None:
    losses = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    weights, _ = weights_of(SoftAdapt(every="1 steps", variant="loss_weighted"), losses)
    assert weights[2].tolist() == pytest.approx([0, 1], abs=1e-20)
    weights, _ = weights_of(SoftAdapt(every="1 steps", variant="loss_weighted"), losses * 0)
    assert weights[2].tolist() == [0.5, 0.5]


def test_huge_slopes() -> None:
    assert softadapt_weights(torch.tensor([1e38, -1e38]), 100).tolist() == [1, 0]


def test_a_term_that_came_late_is_weighed_by_the_mean_of_what_was_seen() -> None:
    terms: dict[str, Any] = {"a": 1.0, "late": {"optional": True}}
    table = {"kind": "softadapt", "every": "1 steps", "variant": "loss_weighted", "sharpness": 0}
    criterion = WeightedLoss(terms=terms, balancer=table)
    for step in range(5):
        late = {"late": torch.tensor(6.0)} if step == 4 else {}
        criterion({"a": torch.tensor(2.0)} | late)
        criterion.step()
    assert criterion.weights == pytest.approx({"a": 1 / 4, "late": 3 / 4})


def test_a_term_that_was_never_seen_counts_as_still() -> None:
    terms: dict[str, Any] = {"a": 1.0, "b": 1.0, "never": {"optional": True}}
    for variant in ("original", "normalized", "loss_weighted"):
        criterion = WeightedLoss(
            terms=terms, balancer={"kind": "softadapt", "every": "1 steps", "variant": variant}
        )
        for value in (4.0, 3.0, 2.0):
            criterion({"a": torch.tensor(value), "b": torch.tensor(2.0)})
            criterion.step()
        weights = criterion.weights
        assert weights["never"] == pytest.approx(1 / 3)
        assert 0 < weights["a"] < 1
        assert 0 < weights["b"] < 1


def test_refused() -> None:
    with pytest.raises(ConfigError, match=r"balancer\.order: must be less than or equal to"):
        WeightedLoss(terms=["a"], balancer={"kind": "softadapt", "order": 6})
    message = r"balancer\.variant: must be 'original', 'normalized' or 'loss_weighted'"
    with pytest.raises(ConfigError, match=message):
        WeightedLoss(terms=["a"], balancer={"kind": "softadapt", "variant": "loss-weighted"})
