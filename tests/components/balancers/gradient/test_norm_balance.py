"""The balancer of EnCodec."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lossweights import ConfigError, WeightedLoss
from lossweights.components.balancers.gradient.norm_balance import NormBalance, norm_balance_weights
from tests.components.balancers.gradient.norms import (
    HOSTILE,
    ITEM_GRADIENTS,
    goes_without_values,
    hostile_weights,
    initial,
    is_no_number_where_any_is_not,
    moment,
    of_rows,
    recorded,
    some_seen,
    weights_of,
)
from tests.components.balancers.reference import agree

BASE = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)  # whose sum is 3.5, where ours have 3
CASES: list[tuple[str, dict[str, Any]]] = [
    ("encodec-default", {}),
    ("encodec-whole", {"total": 2.0, "smoothing": 0.5, "per_item": False}),
]


def combined(weights: Tensor, step: int) -> Tensor:
    """The gradient of the total, with the weights of the config."""
    return torch.einsum("t,tbf->bf", weights * BASE, ITEM_GRADIENTS[step]).flatten()


def test_weights_by_hand() -> None:
    sums, counts = torch.tensor([2.0, 0.5, 0.0]), torch.tensor([0.5, 0.5, 0.0])
    assert norm_balance_weights(sums, counts, 12.0).tolist() == [1, 4, 1]
    assert norm_balance_weights(sums, counts, "sum").tolist() == [1.25, 5, 1]
    assert norm_balance_weights(sums, counts, "mean").tolist() == [0.625, 2.5, 1]


@pytest.mark.parametrize(("case", "table"), CASES)
def test_trajectory(case: str, table: dict[str, Any]) -> None:
    known = [of_rows(rows) for rows in ITEM_GRADIENTS]
    weights, _ = weights_of(NormBalance.model_validate(table), known)
    for step, theirs in enumerate(recorded(case)):
        agree(combined(weights[step], step) * 3 / 3.5, theirs)


@pytest.mark.parametrize(("case", "table"), CASES)
def test_trajectory_of_a_criterion(case: str, table: dict[str, Any]) -> None:
    terms = dict(zip("abc", (BASE * 3 / 3.5).tolist(), strict=True))
    criterion = WeightedLoss(terms=terms, balancer={"kind": "norm-balance", **table})
    for rows, theirs in zip(ITEM_GRADIENTS, recorded(case), strict=True):
        outputs = torch.ones_like(rows[0]).requires_grad_()
        features = 1 * outputs
        losses = {name: (row * features).sum() for name, row in zip("abc", rows, strict=True)}
        criterion(losses, shared=features).backward()
        assert outputs.grad is not None
        agree(outputs.grad.flatten(), theirs, relative=1e-5)
        criterion.step()


@pytest.mark.parametrize("per_item", [True, False])
def test_norms_sum_to_the_total(per_item: bool) -> None:
    """Without an average exactly, in each forward pass."""
    balancer = NormBalance(total=5, smoothing=0, per_item=per_item)
    known = [of_rows(rows) for rows in ITEM_GRADIENTS]
    weights, _ = weights_of(balancer, known)
    for row, seen in zip(weights, known, strict=True):
        norms = row * (seen.item_norms if per_item else seen.norms)
        agree(norms, torch.full((3,), 5 / 3, dtype=torch.float64))


@pytest.mark.parametrize("per_item", [True, False])
@pytest.mark.parametrize("total", ["mean", "sum"])
def test_norms_become_the_mean_or_the_sum(total: str, per_item: bool) -> None:
    """Weights are the mean of all norms by each, as in jaxpi (e85b694), or the sum, as in PINA."""
    balancer = NormBalance.model_validate({"total": total, "smoothing": 0, "per_item": per_item})
    known = [of_rows(rows) for rows in ITEM_GRADIENTS]
    weights, _ = weights_of(balancer, known)
    for row, seen in zip(weights, known, strict=True):
        norms = seen.item_norms if per_item else seen.norms
        agree(row, (norms.mean() if total == "mean" else norms.sum()) / norms)


def test_the_mean_leaves_the_sum_of_the_norms_as_it_is() -> None:
    balancer = NormBalance(total="mean", smoothing=0)
    norms = torch.tensor([[4.0, 0.5, 1.5]], dtype=torch.float64)
    weights, _ = weights_of(balancer, norms)
    assert (weights * norms).tolist()[0] == pytest.approx([2, 2, 2])


def test_the_mean_is_that_of_averaged_norms() -> None:
    norms = torch.tensor([[1.0, 3.0], [3.0, 1.0]], dtype=torch.float64)
    weights, _ = weights_of(NormBalance(total="mean", smoothing=0.5), norms)
    averaged = torch.tensor([1.75, 1.25]) / 0.75  # half of the last, a quarter of the first
    assert weights[1].tolist() == pytest.approx((averaged.mean() / averaged).tolist())


@pytest.mark.parametrize("total", ["mean", "sum"])
def test_a_term_without_a_gradient_so_far_is_left_out(total: str) -> None:
    balancer = NormBalance.model_validate({"total": total})
    norms = torch.tensor([[0.0, 1.0, 3.0]], dtype=torch.float64)
    weights, _ = weights_of(balancer, norms)
    whole = 2 if total == "mean" else 4
    assert weights[0].tolist() == pytest.approx([1, whole, whole / 3])


def test_terms_that_are_absent_leave_the_total_to_the_others() -> None:
    balancer = NormBalance(smoothing=0)
    state = {key: tensor[:2] for key, tensor in initial(balancer, 3).items()}
    norms = torch.tensor([4.0, 0.5], dtype=torch.float64)
    weights = balancer.weigh(torch.ones(2), state, moment(norms))
    assert (weights * norms).tolist() == pytest.approx([0.5, 0.5])


def test_the_average_is_one_from_the_first_step_on() -> None:
    """Without the correction a norm of 4 would at first count as 0.004."""
    norms = torch.full((3000, 1), 4.0, dtype=torch.float64)
    weights, _ = weights_of(NormBalance(), norms, dtype=torch.float32)
    torch.testing.assert_close(weights, torch.full((3000, 1), 0.25).double(), rtol=1e-4, atol=0)


def test_the_average_has_decaying_weights() -> None:
    norms = torch.rand(30, 2, generator=torch.Generator().manual_seed(0)).double() + 0.1
    weights, _ = weights_of(NormBalance(smoothing=0.8), norms)
    for step, row in enumerate(weights):
        decaying = 0.8 ** torch.arange(step, -1, -1, dtype=torch.float64)
        agree(row, decaying.sum() / (decaying @ norms[: step + 1]) / 2)


def test_the_average_begins_with_the_first_gradient() -> None:
    """A term that is 0 for long would otherwise come a thousand times too large."""
    norms = torch.tensor([[0.0]] * 500 + [[0.5]] + [[1.5]], dtype=torch.float64)
    weights, state = weights_of(NormBalance(), norms, dtype=torch.float32)
    assert weights[:500].flatten().tolist() == [1] * 500
    assert weights[500:].flatten().tolist() == pytest.approx([2, 1], rel=1e-3)
    assert state["norm"].item() == pytest.approx(1 - 0.999**2, rel=1e-4)


def test_a_gradient_of_0_counts_once_there_was_another() -> None:
    norms = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    weights, _ = weights_of(NormBalance(smoothing=0.5), norms)
    assert weights.flatten().tolist() == pytest.approx([1, 3])


def test_terms_that_were_not_seen() -> None:
    balancer = NormBalance(smoothing=0.5)
    state = initial(balancer, 2)
    norms = torch.tensor([2.0, 8.0], dtype=torch.float64)
    for seen in ([True, False], [True, True], [False, True]):
        some_seen(balancer, state, torch.ones(2), norms, seen)
    assert (state["sum"] / state["norm"]).tolist() == [2, 8]
    assert state["norm"].tolist() == [0.75, 0.75]


def test_a_step_is_what_was_weighed() -> None:
    balancer = NormBalance()
    state = initial(balancer, 3)
    now = moment(of_rows(ITEM_GRADIENTS[0]))
    weights = balancer.weigh(torch.ones(3), state, now)
    assert not any(tensor.any() for tensor in state.values())
    balancer.update(torch.ones(3), state, now)
    agree(norm_balance_weights(state["sum"], state["norm"], 1.0), weights)


@pytest.mark.parametrize("smoothing", [0.0, 0.999])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_norms(name: str, smoothing: float) -> None:
    weights = hostile_weights(NormBalance(smoothing=smoothing), name)
    assert (weights > 0).all()
    assert (weights <= 1e12).all()


@pytest.mark.parametrize("total", ["mean", "sum"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_norms_of_which_the_total_is_made(name: str, total: str) -> None:
    weights = hostile_weights(NormBalance.model_validate({"total": total, "smoothing": 0}), name)
    assert (weights > 0).all()
    assert (weights <= 1e30 * (1 + 1e-6)).all()


def test_gradients_that_are_not_finite() -> None:
    is_no_number_where_any_is_not(NormBalance())


def test_nothing_waits_for_the_device() -> None:
    goes_without_values(NormBalance())


def test_norms_that_are_needed() -> None:
    assert NormBalance().statistics == ("item_norms",)
    assert NormBalance(per_item=False).statistics == ("norms",)


def test_parameters_have_no_items() -> None:
    """They are shared by the whole batch: the norm of the whole gradient is there for them."""
    theta = torch.tensor([3.0, 4.0], requires_grad=True)
    whole = WeightedLoss(terms=["a"], balancer={"kind": "norm-balance", "per_item": False})
    whole({"a": theta.square().sum()}, shared=theta).backward()
    assert theta.grad is not None
    assert theta.grad.tolist() == pytest.approx([0.6, 0.8])
    each = WeightedLoss(terms=["a"], balancer="norm-balance")
    with pytest.raises(ValueError, match="no batch axis: give features, or write per_item: false"):
        each({"a": theta.square().sum()}, shared=theta)


def test_refused() -> None:
    for table, message in (
        ({"smoothing": 1}, r"balancer\.smoothing: must be"),
        ({"total": 0}, r"balancer\.total: mean, sum or a number above 0 .* needed, found 0$"),
        ({"total": "median"}, r"balancer\.total: mean, sum or a number .* found 'median'$"),
        ({"total_norm": 5}, r"unknown field 'total_norm'; did you mean 'total'\?"),
    ):
        with pytest.raises(ConfigError, match=message):
            WeightedLoss(terms=["a"], balancer={"kind": "norm-balance", **table})
