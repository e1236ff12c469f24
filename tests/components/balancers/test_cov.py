"""CoV-weighting."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lossweights import ConfigError, WeightedLoss
from lossweights.components.balancers import CoVWeighting
from lossweights.components.balancers.cov import cov_weights
from tests.components.balancers.reference import LOSSES, agree, moment, trained, weights_of


def by_definition(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weights after these losses: statistics of all ratios to the mean of all before."""
    before = np.array([losses[: max(t, 1)].mean(axis=0) for t in range(len(losses))])
    ratios = losses / before
    variation = np.sqrt(ratios.var(axis=0) + 1e-8) / ratios.mean(axis=0)
    return np.asarray(variation / variation.sum())


def test_weights_by_hand() -> None:
    """Deviations of 2 and 3 over means of 4 and 2: 0.5 to 1.5."""
    mean, variance = torch.tensor([4.0, 2.0]), torch.tensor([4.0, 9.0])
    both = torch.tensor([True, True])
    assert cov_weights(mean, variance, both).tolist() == pytest.approx([0.25, 0.75])
    assert cov_weights(-mean, variance, both).tolist() == pytest.approx([0.25, 0.75])


def test_terms_that_are_not_known_have_an_equal_share() -> None:
    mean, variance = torch.tensor([4.0, 2.0, 0.0]), torch.tensor([4.0, 9.0, 0.0])
    weights = cov_weights(mean, variance, torch.tensor([True, True, False]))
    assert weights.tolist() == pytest.approx([1 / 6, 1 / 2, 1 / 3])
    assert cov_weights(mean, variance, torch.zeros(3).bool()).tolist() == pytest.approx([1 / 3] * 3)


def test_running_statistics_are_those_of_the_definition() -> None:
    ours, _ = weights_of(CoVWeighting())
    assert ours[:2].tolist() == [[1 / 3] * 3] * 2
    for step in range(2, len(LOSSES)):
        agree(ours[step], torch.from_numpy(by_definition(LOSSES[:step].numpy())))


def test_trajectory_of_a_criterion() -> None:
    ours, _ = trained({"kind": "cov"})
    for step in range(2, 8):
        theirs = torch.from_numpy(by_definition(LOSSES[:step].numpy()))
        agree(ours[step], theirs, relative=1e-4)


def test_moving_averages_begin_as_plain_means() -> None:
    """1 / (1 - 0.9) = 10 steps long."""
    plain, _ = weights_of(CoVWeighting())
    moving, _ = weights_of(CoVWeighting(smoothing=0.9))
    agree(moving[:11], plain[:11])
    assert not torch.allclose(moving[11:], plain[11:])


def test_moving_averages_forget() -> None:
    """A term that was restless once and stands still since comes to weigh next to nothing."""
    steps = 400
    losses = torch.ones(steps, 2, dtype=torch.float64)
    losses[:50:2, 0] = 3.0
    losses[::2, 1] = 1.5
    moving, _ = weights_of(CoVWeighting(smoothing=0.9), losses)
    plain, _ = weights_of(CoVWeighting(), losses)
    assert moving[-1, 0] < 0.01
    assert plain[-1, 0] > 0.3


def test_a_moving_variance_is_the_weighted_one() -> None:
    """Of the ratios, with weights that decay: as computed from all of them at once."""
    balancer, beta = CoVWeighting(smoothing=0.5), 0.5
    state = {key: tensor.double() for key, tensor in balancer.init(1).items()}
    ratios, mean = [], 0.0
    for step, loss in enumerate([2.0, 3.0, 1.0, 5.0, 4.0]):
        ratios.append(loss / mean if step else 1.0)
        mean += max(1 / (step + 1), 1 - beta) * (loss - mean)
        balancer.update(torch.tensor([loss]).double(), state, moment(step + 1))
    weights = np.array([beta**4, beta**4, beta**3, beta**2, beta])  # of which the sum is 1
    center = weights @ ratios
    assert float(state["ratio_mean"]) == pytest.approx(center)
    assert float(state["ratio_variance"]) == pytest.approx(weights @ (ratios - center) ** 2)


def test_losses_of_0() -> None:
    losses = torch.tensor([[0.0, 1.0], [0.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
    weights, _ = weights_of(CoVWeighting(), torch.cat((losses, losses)))
    assert weights.isfinite().all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(8))


def test_refused() -> None:
    with pytest.raises(ConfigError, match=r"balancer\.smoothing: must be greater than 0"):
        WeightedLoss(terms=["a"], balancer={"kind": "cov", "smoothing": 0})
