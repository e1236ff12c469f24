"""Learning-rate annealing."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from lossweights import ConfigError, WeightedLoss
from lossweights.components.balancers.gradient.lr_annealing import (
    LRAnnealing,
    annealed_ratios,
)
from tests.components.balancers.gradient.norms import (
    HOSTILE,
    THETA,
    goes_without_values,
    gradients,
    hostile_weights,
    initial,
    is_no_number_where_any_is_not,
    moment,
    of_rows,
    recorded,
    some_seen,
    toy_gradients,
    toy_losses,
    weights_of,
)
from tests.components.balancers.reference import agree

GRADIENTS = [toy_gradients(THETA, step) for step in range(24)]


def test_ratios_by_hand() -> None:
    means, weights = torch.tensor([0.5, 8.0, 0.0, 1e-9]), torch.tensor([1.0, 1.0, 3.0, 1.0])
    found = annealed_ratios(torch.tensor(4.0), means, weights, highest=1e3)
    assert found.tolist() == [8, 0.5, 3, 1e3]


@pytest.mark.parametrize(
    ("case", "smoothing", "every"), [("annealing-0.01", 0.99, 1), ("annealing-0.1-5", 0.9, 5)]
)
def test_trajectory_with_the_mean_of_the_reference(case: str, smoothing: float, every: int) -> None:
    """Theirs weigh the step that they were computed in, and add 1e-8 to each denominator."""
    balancer = LRAnnealing(reference="a", smoothing=smoothing, statistic="mean", compared="plain")
    ours, state = weights_of(balancer, [of_rows(rows) for rows in GRADIENTS[::every]])
    agree(ours, recorded(case)[::every], relative=1e-7)
    agree(state["weights"], ours[-1])


@pytest.mark.parametrize("compared", ["weighted", "plain"])
def test_trajectory_by_the_definition(compared: Literal["weighted", "plain"]) -> None:
    """The paper's: the largest entry of the reference over the mean of each, averaged from 1 on."""
    balancer = LRAnnealing(reference="b", compared=compared)
    ours, _ = weights_of(balancer, [of_rows(rows) for rows in GRADIENTS])
    lambdas = torch.ones(3, dtype=torch.float64)
    for weights, rows in zip(ours, GRADIENTS, strict=True):
        others = (lambdas[:, None] * rows if compared == "weighted" else rows).abs().mean(dim=1)
        lambdas = 0.9 * lambdas + 0.1 * rows[1].abs().max() / others
        lambdas[1] = 1
        agree(weights, lambdas)


def test_plain_gradients_come_to_the_size_of_the_reference() -> None:
    rows = torch.tensor([[3.0, -4.0], [0.1, 0.3], [-50.0, 10.0]], dtype=torch.float64)
    balancer = LRAnnealing(reference="a", compared="plain")
    weights, _ = weights_of(balancer, [of_rows(rows)] * 300)
    means = (weights[-1, :, None] * rows).abs().mean(dim=1)
    assert means.tolist() == pytest.approx([3.5, 4, 4])


def test_weighted_ones_come_half_the_way_to_it() -> None:
    """Weights settle at the square roots of those that would bring them there."""
    rows = torch.tensor([[3.0, -4.0], [0.1, 0.3], [-50.0, 10.0]], dtype=torch.float64)
    weights, _ = weights_of(LRAnnealing(reference="a"), [of_rows(rows)] * 300)
    assert weights[-1].tolist() == pytest.approx([1, (4 / 0.2) ** 0.5, (4 / 30) ** 0.5])


def test_a_step_is_what_was_weighed() -> None:
    balancer = LRAnnealing(reference="a")
    state = initial(balancer, 3)
    now = moment(of_rows(GRADIENTS[0]))
    before = state["weights"].clone()
    weights = balancer.weigh(torch.ones(3), state, now)
    assert torch.equal(state["weights"], before)
    balancer.update(torch.ones(3), state, now)
    assert torch.equal(state["weights"], weights)


def test_micro_batches_are_each_averaged_with_the_last_step() -> None:
    balancer = LRAnnealing(reference="a", smoothing=0.5)
    state = initial(balancer, 2)
    for sizes in ([4.0, 1.0], [4.0, 2.0]):
        known = gradients(torch.tensor(sizes, dtype=torch.float64), ["a", "b"])
        weights = balancer.weigh(torch.ones(2), state, moment(known))
        assert weights.tolist() == [1, 0.5 + 0.5 * 4 / sizes[1]]


@pytest.mark.parametrize("compared", ["weighted", "plain"])
@pytest.mark.parametrize("statistic", ["max", "mean"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_norms(name: str, statistic: str, compared: str) -> None:
    table = {
        "kind": "lr-annealing",
        "reference": "t00",
        "statistic": statistic,
        "compared": compared,
    }
    weights = hostile_weights(LRAnnealing.model_validate(table), name)
    assert (weights >= 0).all()
    assert (weights <= 1e6).all()
    torch.testing.assert_close(weights[:, 0], torch.ones(len(weights)).double())


@pytest.mark.parametrize("sizes", [[0.0, 2.0, 3.0], [2.0, 0.0, 0.0]], ids=str)
def test_a_gradient_of_0_says_nothing(sizes: list[float]) -> None:
    """Neither the reference's, by which all keep their weights, nor another's."""
    balancer = LRAnnealing(reference="t00")
    state = initial(balancer, 3)
    state["weights"].copy_(torch.tensor([1.0, 7.0, 0.3]))
    now = moment(torch.tensor(sizes, dtype=torch.float64))
    assert balancer.weigh(torch.ones(3), state, now).tolist() == pytest.approx([1, 7, 0.3])


def test_without_the_reference_all_keep_their_weights() -> None:
    balancer = LRAnnealing(reference="a")
    state = {"weights": torch.tensor([5.0, 0.25])}
    now = moment(gradients(torch.tensor([1.0, 2.0]), ["b", "c"]))
    assert balancer.weigh(torch.ones(2), state, now).tolist() == [5, 0.25]


def test_terms_that_were_not_seen() -> None:
    balancer = LRAnnealing(reference="t01", smoothing=0, compared="plain")
    state = initial(balancer, 3)
    norms = torch.tensor([2.0, 8.0, 1.0], dtype=torch.float64)
    some_seen(balancer, state, torch.ones(3), norms, [True, True, False])
    assert state["weights"].tolist() == [4, 1, 1]
    some_seen(balancer, state, torch.ones(3), norms, [True, False, True])
    assert state["weights"].tolist() == [4, 1, 1]
    some_seen(balancer, state, torch.ones(3), norms, [False, True, True])
    assert state["weights"].tolist() == [4, 1, 8]


def test_gradients_that_are_not_finite() -> None:
    is_no_number_where_any_is_not(LRAnnealing(reference="t00"))


def test_nothing_waits_for_the_device() -> None:
    goes_without_values(LRAnnealing(reference="t01"))


def test_in_a_criterion() -> None:
    ours, _ = weights_of(LRAnnealing(reference="b"), [of_rows(rows) for rows in GRADIENTS])
    criterion = WeightedLoss(
        terms=["a", "b", "c"], balancer={"kind": "lr-annealing", "reference": "b"}
    )
    for step in range(8):
        theta = THETA.clone().requires_grad_()
        losses = toy_losses(theta, step)
        criterion(dict(zip("abc", losses, strict=True)), shared=theta).backward()
        assert theta.grad is not None
        agree(theta.grad, ours[step] @ GRADIENTS[step], relative=1e-5)
        criterion.step()


def test_the_reference_is_a_balanced_term() -> None:
    message = r"balancer: reference 'residul' is not a balanced term; did you mean 'residual'\? "
    with pytest.raises(ConfigError, match=message + r"\(balanced: 'boundary', 'residual'\)"):
        WeightedLoss(
            terms=["residual", "boundary"],
            balancer={"kind": "lr-annealing", "reference": "residul"},
        )
    with pytest.raises(ConfigError, match="reference 'residual' is not a balanced term"):
        WeightedLoss(
            terms={"residual": {"balanced": False}, "boundary": 1.0, "initial": 1.0},
            balancer={"kind": "lr-annealing", "reference": "residual"},
        )


def test_refused() -> None:
    for field, value in (
        ("smoothing", 1),
        ("highest", 0),
        ("statistic", "median"),
        ("compared", "squared"),
    ):
        table = {"kind": "lr-annealing", "reference": "a", field: value}
        with pytest.raises(ConfigError, match=rf"balancer\.{field}: must be"):
            WeightedLoss(terms=["a"], balancer=table)
    swings = {"kind": "lr-annealing", "reference": "a", "smoothing": 0}
    with pytest.raises(
        ConfigError, match=r"oscillates forever: write smoothing: 0\.9, or compared: p"
    ):
        WeightedLoss(terms=["a"], balancer=swings)
    with pytest.raises(ConfigError, match=r"balancer\.reference: this field is needed"):
        WeightedLoss(terms=["a"], balancer="lr-annealing")
