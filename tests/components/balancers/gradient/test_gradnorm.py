"""GradNorm."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lossweights import ConfigError, WeightedLoss
from lossweights.components.balancers.gradient.gradnorm import GradNorm, gradnorm_gradient
from tests.components.balancers.gradient.norms import (
    HOSTILE,
    THETA,
    goes_without_values,
    gradients,
    hostile_weights,
    initial,
    is_no_number_where_any_is_not,
    moment,
    recorded,
    some_seen,
    toy_gradients,
    toy_losses,
    weights_of,
)
from tests.components.balancers.reference import agree

STEPS = range(24)
NORMS = torch.stack([toy_gradients(THETA, step).norm(dim=1) for step in STEPS])
LOSSES = torch.stack([toy_losses(THETA, step) for step in STEPS])
PROGRESS = LOSSES / LOSSES[0]


def l_grad(weights: Tensor, norms: Tensor, progress: Tensor, asymmetry: float) -> Tensor:
    """The objective of the paper, its targets held constant."""
    weighted = weights * norms
    targets = weighted.mean().detach() * (progress / progress.mean()) ** asymmetry
    return (weighted - targets).abs().sum()


def in_weights(weights: Tensor, step: int, asymmetry: float) -> Tensor:
    """The gradient of the paper's objective in the weights themselves."""
    weighted = weights * NORMS[step]
    relative = gradnorm_gradient(weighted, PROGRESS[step], asymmetry)
    return relative * weighted.mean() / weights


def test_gradient_by_hand() -> None:
    """Norms of 1 and 3 are 1/2 and 3/2 of their mean; what is left of the losses has that ratio."""
    norms, progress = torch.tensor([1.0, 3.0]), torch.tensor([0.2, 0.6])
    assert gradnorm_gradient(norms, progress, 0).tolist() == [-0.5, 1.5]
    assert gradnorm_gradient(norms, progress, 2).tolist() == [0.5, -1.5]


@given(
    norms=st.lists(st.floats(0.01, 100), min_size=2, max_size=5),
    asymmetry=st.floats(0, 3),
    data=st.data(),
)
def test_gradient_is_that_of_the_objective(
    norms: list[float], asymmetry: float, data: st.DataObject
) -> None:
    n = len(norms)
    some = st.lists(st.floats(0.01, 100), min_size=n, max_size=n)
    weights, progress = (torch.tensor(data.draw(some), dtype=torch.float64) for _ in range(2))
    logs = weights.log().requires_grad_()
    sizes = torch.tensor(norms, dtype=torch.float64)
    objective = l_grad(logs.exp(), sizes, progress, asymmetry)
    (objective / (weights * sizes).mean()).backward()  # type: ignore[no-untyped-call]
    assert logs.grad is not None
    found = gradnorm_gradient(weights * sizes, progress, asymmetry)
    terms = (weights * sizes / (weights * sizes).mean()) - (progress / progress.mean()) ** asymmetry
    clear = terms.abs() > 1e-9  # of rounding decides the sign elsewhere
    agree(found[clear], logs.grad[clear])


@pytest.mark.parametrize(
    ("case", "asymmetry", "rate"),
    [("gradnorm-pytorch-0", 0.0, 1e-4), ("gradnorm-pytorch-1.5", -1.5, 1e-5)],
)
def test_descent_in_the_weights(case: str, asymmetry: float, rate: float) -> None:
    """Theirs has the mean over terms for the sum, and the exponent's other sign."""
    weights = torch.ones(3, dtype=torch.float64)
    for step, theirs in enumerate(recorded(case)):
        weights = weights - rate / 3 * in_weights(weights, step, asymmetry)
        weights = 3 * weights / weights.sum()
        agree(weights, theirs)


def test_descent_in_the_logarithms() -> None:
    """Theirs are scaled before the step, so that the recorded ones are not."""
    logs = torch.zeros(3, dtype=torch.float64)
    for step, theirs in enumerate(recorded("gradnorm-physicsnemo")):
        weights = 3 * torch.softmax(logs, dim=0)
        logs = weights.log() - 0.01 * weights * in_weights(weights, step, 1.0)
        agree(logs, theirs, relative=1e-7)


def test_descent_in_a_softmax() -> None:
    """Theirs begins with the second step, from 1."""
    logits = torch.ones(3, dtype=torch.float64)
    for step, theirs in enumerate(recorded("gradnorm-libmtl")):
        if step > 0:
            weights = 3 * torch.softmax(logits, dim=0)
            gradient = weights * in_weights(weights, step, 1.5)
            logits = logits - 1e-3 * (gradient - weights * gradient.mean())
        agree(logits, theirs, relative=1e-6)


def test_a_step_is_one_of_adam_on_the_logarithms() -> None:
    balancer = GradNorm(asymmetry=0.7, learning_rate=0.05)
    ours, state = weights_of(balancer, NORMS, LOSSES)
    logs = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logs], lr=0.05)
    for step in STEPS:
        agree(ours[step], logs.detach().exp())
        weighted = (logs.exp() * NORMS[step]).mean().detach()
        optimizer.zero_grad()
        objective = l_grad(logs.exp(), NORMS[step], PROGRESS[step], 0.7) / weighted
        objective.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            logs += math.log(3) - logs.logsumexp(dim=0)
    agree(state["weights"], logs.detach().exp())


@pytest.mark.parametrize("asymmetry", [0.0, 1.0])  # under others the targets do not sum to n
def test_norms_come_to_their_targets(asymmetry: float) -> None:
    """Of whatever ratio they are; what is left of the losses decides where."""
    norms = torch.tensor([[1.0, 1e4, 30.0]], dtype=torch.float64).repeat(800, 1)
    losses = torch.tensor([[1.0, 2.0, 3.0]]).repeat(800, 1).double()
    losses[0] = torch.tensor([1.0, 1.0, 6.0])
    weights, _ = weights_of(GradNorm(asymmetry=asymmetry), norms, losses)
    weighted = weights[-1] * norms[-1]
    targets = torch.tensor([1.0, 2.0, 0.5]).double() ** asymmetry
    torch.testing.assert_close(weighted / weighted.sum(), targets / targets.sum(), rtol=0.1, atol=0)


@pytest.mark.parametrize("scale", [1e-30, 1e-9, 1e30])
def test_the_scale_of_all_gradients_does_not_matter(scale: float) -> None:
    weights, _ = weights_of(GradNorm(), NORMS, LOSSES)
    scaled, _ = weights_of(GradNorm(), NORMS * scale, LOSSES)
    agree(scaled, weights)


def test_the_first_step_has_the_size_of_the_learning_rate() -> None:
    weights, _ = weights_of(GradNorm(learning_rate=0.01), NORMS[:1].repeat(2, 1))
    logs = weights[1].log()
    assert (logs.max() - logs.min()).item() == pytest.approx(0.02, rel=1e-3)


@pytest.mark.parametrize("asymmetry", [0.0, 1.5])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_norms(name: str, asymmetry: float) -> None:
    weights = hostile_weights(GradNorm(asymmetry=asymmetry, learning_rate=1), name)
    assert (weights > 0).all()
    n = weights.shape[1]
    torch.testing.assert_close(weights.sum(dim=1), torch.full((len(weights),), n).double())


def test_no_weight_is_lost_for_good() -> None:
    """However long a term was pushed down, as many steps as from the lower bound bring it back."""
    norms = torch.tensor([[1.0, 1e20]] * 3000 + [[1.0, 1.0]] * 1000, dtype=torch.float64)
    weights, _ = weights_of(GradNorm(), norms, dtype=torch.float32)
    assert weights[3000, 1].item() == pytest.approx(1e-6, rel=0.1)
    assert weights[-1].tolist() == pytest.approx([1, 1], rel=0.1)


def test_a_term_whose_gradient_is_0_keeps_its_weight() -> None:
    """And the others balance among themselves, as if it were not there."""
    some = torch.tensor([[1.0, 10.0]], dtype=torch.float64).repeat(50, 1)
    weights, _ = weights_of(GradNorm(), torch.cat((some, 0 * some[:, :1]), dim=1))
    without, _ = weights_of(GradNorm(), some)
    agree(weights[:, 2], torch.ones(50, dtype=torch.float64))
    agree(weights[:, :2], without)


def test_terms_that_were_not_seen() -> None:
    """They keep their weights, and the sum stays."""
    balancer = GradNorm()
    state = initial(balancer, 3)
    for step in range(1, 40):
        losses, norms = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 10.0, 100.0])
        some_seen(balancer, state, losses, norms.double(), [True, True, step > 20], step=step)
        if step == 20:
            weights = state["weights"].clone()
            assert weights[0] > 1 > weights[1]
            assert weights[2] == 1
            assert state["first"].tolist() == [1, 2, 0]
            assert state["count"].tolist() == [20, 20, 0]
    assert state["first"].tolist() == [1, 2, 3]
    assert state["weights"][2] < 1
    assert state["weights"].sum().item() == pytest.approx(3)


def test_a_term_that_comes_late_counts_from_its_first_loss() -> None:
    """With a first loss of 1 for that of 8, it would have made no progress, and gained weight."""
    balancer, norms = GradNorm(asymmetry=1), torch.ones(2, dtype=torch.float64)
    state = initial(balancer, 2)
    some_seen(balancer, state, torch.tensor([1.0, 1.0]).double(), norms, [True, False])
    some_seen(balancer, state, torch.tensor([1.0, 8.0]).double(), norms, [True, True])
    assert state["weights"].tolist() == [1, 1]
    some_seen(balancer, state, torch.tensor([1.0, 4.0]).double(), norms, [True, True])
    assert state["weights"][0] > 1 > state["weights"][1]


@pytest.mark.parametrize(
    "losses",
    [
        [[0.0, 0.0, 0.0]],
        [[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]],
        [[0.0, 1.0, 2.0], [1.0, 0.0, 2.0]],
        [[-1.0, 2.0, 1.0], [1.0, -2.0, 1.0]],
        [[1e38, 1e-38, 1.0], [1e-38, 1e38, 1.0]],
    ],
    ids=str,
)
def test_losses_of_0_below_and_of_every_scale(losses: list[list[float]]) -> None:
    values = torch.tensor(losses).repeat(20, 1)
    norms = torch.rand(len(values), 3, generator=torch.Generator().manual_seed(0)).double()
    weights, state = weights_of(GradNorm(), norms, values, dtype=torch.float32)
    assert weights.isfinite().all()
    assert (weights > 0).all()
    assert all(tensor.isfinite().all() for tensor in state.values())


def test_a_loss_that_changed_its_sign_has_nothing_left() -> None:
    norms = torch.ones(2, dtype=torch.float64)
    found = gradnorm_gradient(norms, torch.tensor([0.0, 1.0]), 1.0)
    assert found.tolist() == [1, -1]
    losses = torch.tensor([[1.0, 1.0], [-1.0, 1.0]], dtype=torch.float64)
    _, state = weights_of(GradNorm(), norms.repeat(2, 1), losses)
    assert state["weights"][0] < 1 < state["weights"][1]


def test_losses_that_are_all_0_are_equal() -> None:
    norms = torch.tensor([1.0, 3.0])
    assert gradnorm_gradient(norms, torch.zeros(2), 1.5).tolist() == [-0.5, 1.5]


def test_weigh_leaves_the_state_alone() -> None:
    balancer = GradNorm()
    state = initial(balancer, 2)
    before = {key: tensor.clone() for key, tensor in state.items()}
    found = balancer.weigh(torch.ones(2), state, moment(gradients(torch.ones(2)), 3))
    assert found.tolist() == [1, 1]
    assert all(torch.equal(state[key], before[key]) for key in state)


def test_gradients_that_are_not_finite() -> None:
    is_no_number_where_any_is_not(GradNorm())


def test_nothing_waits_for_the_device() -> None:
    goes_without_values(GradNorm())


def test_in_a_criterion() -> None:
    """The weights of step t weigh its losses; their objective leaves no trace in the gradients."""
    ours, _ = weights_of(GradNorm(), NORMS, LOSSES)
    criterion = WeightedLoss(terms=["a", "b", "c"], balancer="gradnorm")
    for step in range(8):
        theta = THETA.clone().requires_grad_()
        features = 1 * theta
        losses = toy_losses(features, step)
        criterion(dict(zip("abc", losses, strict=True)), shared=features).backward()
        assert theta.grad is not None
        agree(theta.grad, ours[step] @ toy_gradients(THETA, step), relative=1e-5)
        criterion.step()


def test_refused() -> None:
    for field, value in (("asymmetry", -1), ("learning_rate", 0), ("learning_rate", 2)):
        with pytest.raises(ConfigError, match=rf"balancer\.{field}: must be"):
            WeightedLoss(terms=["a"], balancer={"kind": "gradnorm", field: value})
