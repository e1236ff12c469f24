"""ReLoBRaLo."""

from __future__ import annotations

import pytest
import torch

from lossweights import ConfigError, WeightedLoss
from lossweights.components.balancers import ReLoBRaLo
from lossweights.components.balancers.relobralo import relobralo_weights
from lossweights.components.numerics import relative_weights
from tests.components.balancers.reference import (
    LOSSES,
    agree,
    moment,
    recorded,
    trained,
    weights_of,
)

# Recorded with 1e-8 added to each denominator, which ours has not.
TOLERANCE = 1e-6


def test_weights_by_hand() -> None:
    weights, last, first = torch.tensor([[1.2, 0.8], [0.5, 1.5], [0.2, 1.8]])
    assert relobralo_weights(weights, last, None, 0.9).tolist() == pytest.approx([1.13, 0.87])
    assert relobralo_weights(weights, last, first, 0.9).tolist() == pytest.approx([0.23, 1.77])


def test_trajectory_without_lookback() -> None:
    """Theirs weigh the losses that they were computed from, ours those of the next step."""
    theirs = recorded("relobralo-no-lookback")
    table = {"smoothing": 0.95, "temperature": 1, "saudade": 1}
    ours, _ = weights_of(ReLoBRaLo.model_validate(table))
    agree(ours[1:], theirs[:-1], relative=TOLERANCE)
    ours, _ = trained({"kind": "relobralo", **table})
    agree(ours[1:], theirs[:7], relative=1e-5)


def test_trajectory_with_lookbacks() -> None:
    """Each recorded step is one of two, by a draw that was not recorded: both happen."""
    theirs = recorded("relobralo-lookback")
    lookbacks = []
    for step in range(1, len(LOSSES)):
        last = relative_weights(LOSSES[step], LOSSES[step - 1], 0.5)
        first = relative_weights(LOSSES[step], LOSSES[0], 0.5)
        plain = relobralo_weights(theirs[step - 1], last, None, 0.9)
        looking = relobralo_weights(theirs[step - 1], last, first, 0.9)
        found = [torch.allclose(ours, theirs[step], rtol=TOLERANCE) for ours in (plain, looking)]
        assert sum(found) == 1 or step == 1
        lookbacks.append(found[1])
    assert {True, False} == set(lookbacks)


def test_saudade_is_how_seldom_it_looks_back() -> None:
    """With `smoothing` at 1 the weights move in lookbacks alone."""
    balancer = ReLoBRaLo(smoothing=1, saudade=0.8, seed=5)
    losses = torch.linspace(1, 1.5, 2000)[:, None] * torch.tensor([1.0, 2.0])
    losses[:, 1] = 2.0
    weights, _ = weights_of(balancer, losses)
    share = (weights[2:] != weights[1:-1]).any(dim=1).float().mean()
    assert share == pytest.approx(0.2, abs=0.03)


def test_never_and_always() -> None:
    losses = torch.tensor([[1.0, 1.0], [2.0, 1.0], [2.0, 1.0]])
    never, _ = weights_of(ReLoBRaLo(smoothing=1, saudade=1), losses.repeat(50, 1))
    assert never.tolist() == [[1.0, 1.0]] * 150
    always, _ = weights_of(ReLoBRaLo(smoothing=1, saudade=0), losses)
    assert always[0].tolist() == always[1].tolist() == [1, 1]
    torch.testing.assert_close(always[2], 2 * torch.softmax(torch.tensor([2.0, 1.0]), dim=0))


def test_lookbacks_follow_from_the_seed() -> None:
    runs = [weights_of(ReLoBRaLo(saudade=0.5, smoothing=0.9, seed=seed))[0] for seed in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_weights_sum_to_n() -> None:
    weights, _ = weights_of(ReLoBRaLo(saudade=0.5, smoothing=0.5))
    torch.testing.assert_close(weights.sum(dim=1), torch.full((24,), 3.0, dtype=torch.float64))


def test_a_term_begins_with_the_first_value_that_was_seen() -> None:
    """State of terms that were not seen is put back by the criterion: here by hand."""
    balancer = ReLoBRaLo(saudade=1, smoothing=0)
    state = balancer.init(2)
    for step, late in enumerate((1.0, 1.0, 50.0), start=1):
        kept = {key: tensor[1].clone() for key, tensor in state.items()}
        balancer.update(torch.tensor([2.0, late]), state, moment(step))
        if step < 3:
            for key, value in kept.items():
                state[key][1] = value
    assert state["weights"].tolist() == [1, 1]
    assert state["first"].tolist() == state["last"].tolist() == [2, 50]


@pytest.mark.parametrize("field", ["smoothing", "saudade"])
def test_refused(field: str) -> None:
    message = rf"balancer\.{field}: must be less than or equal to 1"
    with pytest.raises(ConfigError, match=message):
        WeightedLoss(terms=["a"], balancer={"kind": "relobralo", field: 1.5})
