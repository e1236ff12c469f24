"""What a criterion that adapts tells of itself: reports, metrics, groups and findings."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from lossweights import State, StepContext, Term, WeightedLoss
from lossweights.testing import check_no_sync
from tests.small_components import (
    Comparing,
    Counting,
    Following,
    Offset,
    Priced,
    Recording,
    Shares,
    leaf,
    losses,
)

# Reports


class PricedAsItIs(Priced, kind="test-priced-as-it-is"):
    """What is learned is the weight and the penalty, each as it is."""

    def penalty(self, state: State, now: StepContext) -> torch.Tensor:
        return state["learned"]


@pytest.mark.parametrize("kind", ["uncertainty", "test-priced", "test-priced-as-it-is"])
@pytest.mark.parametrize("reduction", [None, "mean"], ids=["short", "long"])
def test_what_is_reported_is_the_forward_that_was_made(kind: str, reduction: Any) -> None:
    criterion = WeightedLoss(terms={"a": Term(reduction=reduction), "b": 2.0}, balancer=kind)
    optimizer = torch.optim.SGD(criterion.param_groups(lr=0.5))
    total = criterion(losses(a=1.0, b=3.0))
    total.backward()
    parts = criterion.breakdown(losses(a=1.0, b=3.0))
    before = {name: part.item() for name, part in parts.metrics().items()}
    optimizer.step()
    criterion.step()
    assert criterion.metrics() == before
    assert criterion.metrics()["total"] == pytest.approx(total.item())
    report = criterion.report()
    assert report is not None
    assert report.step == 0
    assert {name: part.item() for name, part in report.metrics().items()} == before
    assert criterion.weights["b"] != before["weight/b"]


def test_a_weight_that_moves_between_steps_is_reported_as_it_was() -> None:
    criterion = WeightedLoss(terms={"a": Counting(), "b": 1.0}, balancer=Recording())
    criterion(losses(a=1.0, b=3.0))
    criterion.step()
    assert criterion.metrics(include=["weight"]) == {"weight/a": 1.0, "weight/b": 1.0}
    assert criterion.weights == {"a": 2.0, "b": 2.0}


def test_a_report_shows_penalties_where_there_are_any() -> None:
    criterion = WeightedLoss(terms={"a": 1.0, "b": Term(balanced=False)}, balancer=Priced())
    criterion(losses(a=1.0, b=3.0))
    lines = str(criterion.report()).splitlines()
    columns = ["term", "raw", "value", "weight", "penalty", "weighted", "share"]
    assert lines[1].split() == columns
    assert lines[2].split() == ["a", "1", "1", "1", "1", "2", "25.0%"]
    assert lines[3].split() == ["b", "3", "3", "1", "0", "3", "75.0%"]
    assert lines[4].split() == ["total", "5"]
    criterion = WeightedLoss(terms=["a"], balancer=Recording())
    criterion({"a": leaf(1.0)})
    assert "penalty" not in str(criterion.report())


def test_controllers_are_reported_as_they_are_after_the_step() -> None:
    criterion = WeightedLoss(terms={"train/kl": Counting(), "b": Following()})
    given = {"train/kl": leaf(2.5), "b": leaf(1.0)}
    criterion(given)
    assert criterion.metrics(include=["controller"])["controller/train/kl/observed"] == 0.0
    criterion.step()
    expected = {"coefficient": 2.0, "observed": 2.5, "target": 0.0, "step": 1.0}
    found = criterion.metrics("x/", include=["controller"])
    assert found == {f"x/controller/train/kl/{key}": value for key, value in expected.items()}
    assert found.items() <= criterion.metrics("x/").items()
    report = criterion.report()
    assert report is not None
    state = {key: value.item() for key, value in report.controllers["train/kl"].items()}
    assert (list(report.controllers), state) == (["train/kl"], expected)
    line = "controller of train/kl: coefficient 2, observed 2.5, target 0, step 1"
    assert str(report).splitlines()[-1] == line


def test_metrics_of_controllers_are_copies() -> None:
    criterion = WeightedLoss(terms={"a": Counting()})
    criterion({"a": leaf(1.0)})
    before = criterion.metrics(tensors=True)
    criterion.step()
    assert before["controller/a/coefficient"] == 1.0


def test_a_quantity_that_there_is_not_is_refused_with_the_nearest() -> None:
    criterion = WeightedLoss(terms={"a": Counting()})
    criterion({"a": leaf(1.0)})
    with pytest.raises(ValueError, match="no quantity 'controler'; did you mean 'controller'"):
        criterion.metrics(include=["controler"])
    assert criterion.metrics(include=[]) == {}


def test_a_plain_loss_has_no_controllers_to_report() -> None:
    criterion = WeightedLoss(terms=["a"])
    criterion({"a": leaf(1.0)})
    assert criterion.metrics(include=["controller"]) == {}


# Groups for an optimizer


def test_groups_hold_what_is_learned_without_decay() -> None:
    criterion = WeightedLoss(terms=["a", "b"], balancer="uncertainty")
    (group,) = criterion.param_groups(lr=0.5, foreach=False)
    assert group == {
        "params": [criterion.adaptive.log_variance],
        "weight_decay": 0.0,
        "lr": 0.5,
        "foreach": False,
    }
    assert criterion.param_groups(weight_decay=0.1)[0]["weight_decay"] == 0.1
    assert [name for name, _ in criterion.named_parameters()] == ["adaptive.log_variance"]


def test_there_is_no_group_where_nothing_is_learned() -> None:
    for balancer in (None, Recording(), Shares()):
        assert WeightedLoss(terms=["a"], balancer=balancer).param_groups(lr=1.0) == []


# What looks wrong


def trained(criterion: WeightedLoss, steps: int, lr: float | None = 0.1) -> None:
    groups = [] if lr is None else criterion.param_groups(lr=lr)
    optimizer = torch.optim.SGD([*groups, {"params": [nn.Parameter(torch.ones(()))]}])
    for _ in range(steps):
        criterion({name: leaf(2.0) for name in criterion.config.terms}).backward()
        optimizer.step()
        criterion.step()


def test_learned_weights_that_no_optimizer_has_are_told_after_two_steps() -> None:
    criterion = WeightedLoss(terms=["a", "b"], balancer="uncertainty")
    trained(criterion, 1, lr=None)  # the first of a warm-up has a learning rate of 0
    assert criterion.audit() == []
    trained(criterion, 1, lr=None)
    (finding,) = criterion.audit()
    assert "(log_variance) have not moved in 2 steps" in finding
    assert "criterion.param_groups(lr=1e-2)" in finding


def test_learned_weights_that_move_are_not_told_nor_those_just_loaded() -> None:
    criterion = WeightedLoss(terms=["a", "b"], balancer="uncertainty")
    trained(criterion, 3)
    assert criterion.audit() == []
    criterion.load_state_dict(criterion.state_dict())
    assert criterion.audit() == []
    trained(criterion, 2, lr=None)
    assert "have not moved in 2 steps" in criterion.audit()[0]


def test_learned_weights_just_loaded_are_not_told_on_a_shared_clock_either() -> None:
    owner = WeightedLoss(terms=["a"])
    guest = WeightedLoss(terms=["a", "b"], balancer="uncertainty", clock=owner.clock)
    optimizer = torch.optim.SGD(guest.param_groups(lr=0.1))
    for _ in range(3):
        guest(losses(a=2.0, b=2.0)).backward()
        optimizer.step()
        owner.step()
    guest.load_state_dict(guest.state_dict())
    assert guest.audit() == []


def test_a_metric_that_was_never_given_is_told() -> None:
    criterion = WeightedLoss(terms={"a": Counting(source="m"), "b": Counting(source="n")})
    criterion.observe(n=1.0)
    trained(criterion, 1)
    assert criterion.audit() == []
    trained(criterion, 1)
    (finding,) = criterion.audit()
    assert finding.startswith("metric 'm' was never given to the controller that observes it")
    criterion.observe(m=1.0)
    assert criterion.audit() == []


def test_losses_after_the_step_that_were_never_told_are_told() -> None:
    criterion = WeightedLoss(terms=["a"], balancer=Comparing())
    trained(criterion, 2)
    (finding,) = criterion.audit()
    assert "'test-comparing' learns from the losses after the step and never observed" in finding
    criterion.observe_after({"a": leaf(1.0)})
    assert criterion.audit() == []


def test_nothing_is_said_where_all_is_well() -> None:
    terms: dict[str, Any] = {
        "a": Term(controller=Counting(source="m")),
        "b": Term(transform=Offset(), balanced=True),
        "c": 1.0,
    }
    for balancer in ("uncertainty", "test-recording", "test-shares"):
        criterion = WeightedLoss(terms=terms, balancer=balancer)
        for _ in range(5):
            criterion.observe(m=1.0)
            trained(criterion, 1)
        assert criterion.audit() == []


@pytest.mark.parametrize(("balancer", "adapts"), [("test-recording", 1), ("uncertainty", 0)])
def test_a_clock_that_nobody_moves_is_reported_if_weights_wait_for_it(
    balancer: str, adapts: int
) -> None:
    criterion = WeightedLoss(terms=["a"], balancer=balancer)
    with warnings.catch_warnings(record=True, action="always") as caught:
        for _ in range(200):
            criterion({"a": leaf(1.0)})
    assert ["clock is at step 0" in str(each.message) for each in caught] == [True] * adapts


# What is done where


def test_nothing_waits_for_the_device() -> None:
    for component in (Recording(), Shares(), Priced(), Counting(), Following(), Offset()):
        check_no_sync(component)


@pytest.mark.parametrize("balancer", [None, "test-recording", "test-shares", "uncertainty"])
@pytest.mark.parametrize("reduction", [None, "mean"], ids=["short", "long"])
def test_torch_func_is_refused_before_anything_is_noted(balancer: Any, reduction: Any) -> None:
    terms: dict[str, Any] = {"a": Term(controller=Counting(), reduction=reduction), "b": 1.0}
    criterion = WeightedLoss(terms=terms, balancer=balancer)

    def loss(x: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = criterion({"a": x, "b": x})
        return total

    for transformed, x in (
        (torch.func.grad(loss), torch.tensor(1.0)),
        (torch.func.vmap(loss), torch.ones(3)),
    ):
        with pytest.raises(RuntimeError, match=r"torch.func.*breakdown\(terms\).total"):
            transformed(x)
    assert not criterion.state_dict()["adaptive.observed.totals"].any()
    assert criterion.metrics() == {}


def test_breakdown_works_under_torch_func() -> None:
    criterion = WeightedLoss(terms={"a": 1.0, "b": Counting()}, balancer=Priced(initial=3.0))
    gradient = torch.func.grad(lambda x: criterion.breakdown({"a": x * x, "b": x}).total)
    assert gradient(torch.tensor(2.0)).item() == 3.0 * 4.0 + 1.0
