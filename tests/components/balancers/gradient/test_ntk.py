"""Weights by neural tangent kernels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lossweights import ConfigError, WeightedLoss
from lossweights.components.balancers.gradient.ntk import NTK, ntk_weights, root_gradient_norms
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

STEPS = range(1, 24)  # at step 0 physicsnemo-sym has no weights yet
GRADIENTS = [toy_gradients(THETA, step) for step in STEPS]
LOSSES = torch.stack([toy_losses(THETA, step) for step in STEPS])
PARAMETERS = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)


def residuals(parameters: Tensor) -> list[Tensor]:
    """The residuals of three terms: one, two and four of them."""
    x, y, z = parameters
    return [
        (x * y - z).reshape(1),
        torch.stack([x + y * z, x.exp() - 2 * y]),
        torch.stack([3 * x - z, y.sin(), x * z * z, 4 * y - z]),
    ]


def squares(parameters: Tensor) -> list[Tensor]:
    """The terms: the mean square of the residuals of each."""
    return [each.square().mean() for each in residuals(parameters)]


def kernels() -> list[Tensor]:
    """The neural tangent kernel of each term, divided by the number of its residuals."""
    jacobians = torch.func.jacrev(residuals)(PARAMETERS)
    return [jacobian @ jacobian.T / len(jacobian) for jacobian in jacobians]


def sizes() -> Tensor:
    """What the balancer takes for the size of each kernel."""
    norms = torch.stack([each.norm() for each in torch.func.jacrev(squares)(PARAMETERS)])
    return root_gradient_norms(torch.stack(squares(PARAMETERS)), norms).square()


def test_weights_by_hand() -> None:
    """The gradients of the roots of 9 and 4 are 12 / (2 * 3) and 2 / (2 * 2); -4 counts as 4."""
    losses, norms = torch.tensor([9.0, -4.0, 0.0, 4.0]), torch.tensor([12.0, 2.0, 3.0, 0.0])
    roots = root_gradient_norms(losses, norms)
    assert roots.tolist() == [2, 0.5, 0, 0]
    kept = torch.tensor([1.0, 1.0, 7.0, 5.0])
    assert ntk_weights(roots, kept, 1, "sum").tolist() == [1.25, 5, 7, 5]
    assert ntk_weights(roots, kept, 2, "sum").tolist() == [4.25 / 4, 17, 7, 5]
    assert ntk_weights(roots, kept, 1, "mean").tolist() == [0.625, 2.5, 7, 5]


def test_the_size_is_that_of_the_kernel_along_the_residuals() -> None:
    """The kernel's Rayleigh quotient; for one residual its trace, which the paper has."""
    found = sizes()
    for size, kernel, residual in zip(found, kernels(), residuals(PARAMETERS), strict=True):
        agree(size, residual @ kernel @ residual / residual.square().sum())
        lowest, highest = torch.linalg.eigvalsh(kernel)[[0, -1]]
        assert lowest * (1 - 1e-9) <= size <= highest * (1 + 1e-9)
    agree(found[0], kernels()[0].trace())


def test_the_size_is_the_rate_of_convergence() -> None:
    """A small step down one term's gradient takes off a fraction of 4 k of it."""
    rows = torch.func.jacrev(squares)(PARAMETERS)
    for index, (row, size) in enumerate(zip(rows, sizes(), strict=True)):
        before, after = squares(PARAMETERS)[index], squares(PARAMETERS - 1e-7 * row)[index]
        assert ((before - after) / before / 1e-7).item() == pytest.approx(4 * size, rel=1e-4)


@pytest.mark.parametrize("total", ["sum", "mean"])
def test_terms_of_one_residual_have_the_weights_of_the_traces(total: str) -> None:
    """Then the paper's `sum` and the `mean` of jaxpi, of traces and diagonals, are ours."""
    points = torch.func.jacrev(lambda p: torch.cat(residuals(p)))(PARAMETERS)
    traces = points.square().sum(dim=1)
    losses = torch.cat(residuals(PARAMETERS)).square()
    rows = torch.func.jacrev(lambda p: torch.cat(residuals(p)).square())(PARAMETERS)
    names = [f"t{index}" for index in range(len(rows))]
    balancer = NTK.model_validate({"total": total})
    weights, _ = weights_of(balancer, [of_rows(rows, names)], losses[None])
    whole = traces.sum() if total == "sum" else traces.mean()
    agree(weights[0], whole / traces)


def test_trajectory_of_physicsnemo() -> None:
    weights, _ = weights_of(NTK(size="norm"), [of_rows(rows) for rows in GRADIENTS], LOSSES)
    agree(weights, recorded("ntk-physicsnemo")[1:])


def test_trajectory_in_a_criterion() -> None:
    """With gradients every two steps, and with the weights held between."""
    balancer = {"kind": "ntk", "size": "norm", "every": "2 steps"}
    criterion = WeightedLoss(terms=["a", "b", "c"], balancer=balancer)
    theirs = recorded("ntk-physicsnemo")[1:]
    for index, step in enumerate(STEPS):
        theta = THETA.clone().requires_grad_()
        terms = dict(zip("abc", toy_losses(theta, step), strict=True))
        criterion(terms, shared=theta).backward()
        assert theta.grad is not None
        held = theirs[index - index % 2]
        agree(theta.grad, held @ GRADIENTS[index], relative=1e-5)
        criterion.step()


def test_weights_are_averaged_from_1_on() -> None:
    """As in jaxpi, whose momentum is 0.9."""
    known = [of_rows(rows) for rows in GRADIENTS]
    plain, _ = weights_of(NTK(), known, LOSSES)
    averaged, state = weights_of(NTK(smoothing=0.9), known, LOSSES)
    running = torch.ones(3, dtype=torch.float64)
    for ours, each in zip(averaged, plain, strict=True):
        running = 0.9 * running + 0.1 * each
        agree(ours, running)
    agree(state["weights"], running)


@pytest.mark.parametrize("size", ["trace", "norm"])
def test_the_scale_of_a_loss_matters_as_much_as_it_speeds_it_up(size: str) -> None:
    """A loss times 9 converges 9 times as fast, and has a ninth of the weight beside the others."""
    balancer = NTK.model_validate({"size": size})
    rows, losses = GRADIENTS[0].clone(), LOSSES[0].clone()
    before, _ = weights_of(balancer, [of_rows(rows)], losses[None])
    rows[1] *= 9
    losses[1] *= 9
    after, _ = weights_of(balancer, [of_rows(rows)], losses[None])
    ratio = (after[0, 1] / after[0, 0]) / (before[0, 1] / before[0, 0])
    assert ratio.item() == pytest.approx(1 / 9 if size == "trace" else 1 / 3)


@pytest.mark.parametrize("total", ["sum", "mean"])
def test_a_term_that_is_0_keeps_its_weight_and_counts_for_none(total: str) -> None:
    balancer = NTK.model_validate({"total": total})
    kept = torch.tensor([7.0, 1.0, 1.0])
    for losses, norms in (([0.0, 1.0, 4.0], [3.0, 1.0, 2.0]), ([2.0, 1.0, 4.0], [0.0, 1.0, 2.0])):
        now = moment(torch.tensor(norms, dtype=torch.float64))
        weights = balancer.weigh(torch.tensor(losses), {"weights": kept}, now)
        assert weights.tolist() == [7, *([2, 2] if total == "sum" else [1, 1])]


def test_if_all_are_0_all_keep_their_weights() -> None:
    weights = NTK().weigh(
        torch.zeros(2), {"weights": torch.tensor([5.0, 2.0])}, moment(torch.ones(2))
    )
    assert weights.tolist() == [5, 2]


def test_absent_terms_leave_the_total_to_the_others() -> None:
    norms = torch.tensor([4.0, 2.0], dtype=torch.float64)
    state = {"weights": torch.ones(2)}
    weights = NTK(size="norm").weigh(torch.ones(2), state, moment(gradients(norms, ["a", "c"])))
    assert weights.tolist() == [1.5, 3]


def test_terms_that_were_not_seen() -> None:
    balancer = NTK(size="norm")
    state = initial(balancer, 3)
    norms = torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64)
    some_seen(balancer, state, torch.ones(3), norms, [True, True, False])
    assert state["weights"].tolist() == [1.5, 3, 1]


def test_a_step_is_what_was_weighed() -> None:
    balancer = NTK(smoothing=0.5)
    state = initial(balancer, 3)
    now = moment(of_rows(GRADIENTS[0]))
    weights = balancer.weigh(LOSSES[0], state, now)
    assert state["weights"].tolist() == [1, 1, 1]
    balancer.update(LOSSES[0], state, now)
    assert torch.equal(state["weights"], weights)


@pytest.mark.parametrize("size", ["trace", "norm"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_norms(name: str, size: str) -> None:
    weights = hostile_weights(NTK.model_validate({"size": size}), name)
    assert (weights > 0).all()
    assert (weights <= 1e30 * (1 + 1e-6)).all()


def test_gradients_that_are_not_finite() -> None:
    is_no_number_where_any_is_not(NTK())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_losses_that_are_not_finite(bad: float) -> None:
    losses, now = torch.tensor([bad, 1.0]), moment(torch.ones(2, dtype=torch.float64))
    assert not NTK().weigh(losses, {"weights": torch.ones(2)}, now).isfinite().all()


def test_nothing_waits_for_the_device() -> None:
    goes_without_values(NTK())


def test_by_default_gradients_are_taken_every_1000_steps() -> None:
    criterion = WeightedLoss(terms=["a"], balancer="ntk")
    x = torch.ones(1, requires_grad=True)
    criterion({"a": x.square().sum()}, shared=x)
    for step in range(1, 1001):
        criterion.step()
        assert bool(torch.tensor(criterion.weights["a"]).isnan()) == (step == 1000)


@pytest.mark.parametrize(
    ("field", "value"), [("smoothing", 1), ("total", 2.0), ("size", "eigenvalue")]
)
def test_refused(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"balancer\.{field}: must be"):
        WeightedLoss(terms=["a"], balancer={"kind": "ntk", field: value})
