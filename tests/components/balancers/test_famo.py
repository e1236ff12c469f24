"""FAMO."""

from __future__ import annotations

import inspect

import pytest
import torch

from lossweights import ConfigError, WeightedLoss
from lossweights.components.balancers import FAMO
from lossweights.components.balancers.famo import famo_gradient, famo_weights
from tests.components.balancers.reference import AFTER, LOSSES, agree, recorded, trained, weights_of
from tests.small_components import losses

MINIMUM = torch.tensor([0.01, 1.0, 0.05], dtype=torch.float64)


def test_weights_by_hand() -> None:
    """Shares of 1/4 and 3/4 over losses of 1 and 2: 2/8 to 3/8."""
    logits = torch.tensor([0.0, torch.tensor(3.0).log()])
    assert famo_weights(torch.tensor([1.0, 2.0]), logits).tolist() == pytest.approx([0.4, 0.6])


def test_gradient_by_hand() -> None:
    """Gains of log 4 and 0 with equal shares: their mean is log 2."""
    before, after = torch.tensor([4.0, 5.0]), torch.tensor([1.0, 5.0])
    half = torch.tensor(2.0).log().item() / 2
    assert famo_gradient(before, after, torch.zeros(2)).tolist() == pytest.approx([half, -half])


def test_weights_and_gradient_are_those_of_the_objective() -> None:
    logits = torch.tensor([0.3, -1.0, 0.2], dtype=torch.float64, requires_grad=True)
    losses = LOSSES[0].clone().requires_grad_()
    share = torch.softmax(logits, dim=0)
    norm = (share / losses).sum().detach()
    ((share.detach() * losses.log()).sum() / norm).backward()  # type: ignore[no-untyped-call]
    assert losses.grad is not None
    agree(famo_weights(LOSSES[0], logits.detach()), losses.grad, relative=1e-7)
    gain = LOSSES[0].log() - AFTER[0].log()
    (share @ gain).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    agree(famo_gradient(LOSSES[0], AFTER[0], logits.detach()), logits.grad, relative=1e-7)


@pytest.mark.parametrize(
    ("name", "weight_decay"),
    [("famo-1e-3", 1e-3), ("famo-1e-5", 1e-5), ("famo-1e-2", 1e-2), ("famo-libmtl", 1e-3)],
)
def test_trajectory_in_float64(name: str, weight_decay: float) -> None:
    weights, state = weights_of(FAMO(weight_decay=weight_decay), after=AFTER)
    agree(weights, recorded(name))
    if name == "famo-1e-3":
        agree(state["logits"], recorded("famo-1e-3-logits")[-1])


def test_other_lower_bounds_are_shifts() -> None:
    balancer = FAMO(learning_rate=0.1)
    weights, _ = weights_of(balancer, LOSSES - MINIMUM, AFTER - MINIMUM)
    agree(weights, recorded("famo-minimum"))


@pytest.mark.parametrize(
    ("name", "weight_decay"), [("famo-1e-3", 1e-3), ("famo-1e-5", 1e-5), ("famo-1e-2", 1e-2)]
)
def test_trajectory_of_a_criterion(name: str, weight_decay: float) -> None:
    weights, _ = trained({"kind": "famo", "weight_decay": weight_decay})
    agree(weights, recorded(name)[:8], relative=1e-4)


def test_weights_sum_to_1() -> None:
    weights, _ = trained({"kind": "famo"})
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(8))


def test_weights_stand_still_without_the_losses_after() -> None:
    weights, state = weights_of(FAMO())
    assert state["logits"].tolist() == [0, 0, 0]
    agree(weights, torch.nn.functional.normalize(1 / LOSSES, p=1, dim=1), relative=1e-7)


def test_losses_of_0_and_below() -> None:
    losses = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -5.0]])
    weights, state = weights_of(FAMO(), losses, losses.flip(0))
    assert weights.isfinite().all()
    assert all(tensor.isfinite().all() for tensor in state.values())


def test_default_decay_is_the_one_of_torchjd() -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    default = inspect.signature(scalarization.FAMO).parameters
    ours = FAMO()
    assert ours.weight_decay == default["weight_decay"].default
    assert ours.learning_rate == default["lr"].default


def test_refused() -> None:
    with pytest.raises(ConfigError, match=r"balancer\.weight_decay: must be greater than"):
        WeightedLoss(terms=["a"], balancer={"kind": "famo", "weight_decay": -1})
    with pytest.raises(ConfigError, match=r"balancer\.learning_rate: must be greater"):
        WeightedLoss(terms=["a"], balancer={"kind": "famo", "learning_rate": 0})


def test_the_losses_after_a_step_are_those_of_its_terms() -> None:
    """Also if another term wakes at the next step."""
    criterion = WeightedLoss({"a": 1.0, "b": 1.0, "late": {"after": "2 steps"}}, balancer="famo")
    for _ in range(4):
        terms = losses(a=1.0, b=2.0)
        if criterion.is_active("late"):
            terms |= losses(late=3.0)
        criterion(terms).backward()
        criterion.step()
        criterion.observe_after(terms)
    assert criterion.is_active("late")
