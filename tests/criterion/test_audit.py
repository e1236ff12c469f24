"""What an audit finds in a training, and what warns by itself."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from lossweights import WeightedLoss
from tests.small_components import losses

OPTIONAL = {"a": {"optional": True}, "b": {"optional": True}}


def tasks() -> tuple[Tensor, dict[str, Tensor]]:
    g = torch.tensor([1.0, 0.5], requires_grad=True)
    return g, {"a": g.square().sum(), "b": (2 * g[0] - g[1]).square()}


def train(criterion: WeightedLoss, calls: list[tuple[str, ...]], steps: int = 10) -> list[str]:
    """Trains with the terms of each call, and returns the warnings."""
    with warnings.catch_warnings(record=True, action="always") as caught:
        for _ in range(steps):
            for names in calls:
                g, terms = tasks()
                criterion({name: terms[name] for name in names}, shared=[g]).backward()
            criterion.step()
    return [str(each.message) for each in caught]


# Terms that are compared, given one at a time

COMPARE = ["pcgrad", "upgrad", "imtl-g", "mgda", "cagrad", "nash-mtl", "geometric", "stch"]


@pytest.mark.parametrize("balancer", COMPARE)
@pytest.mark.parametrize("calls", [[("a",), ("b",)], [("a",), ("a",), ("b",)]])
def test_a_balancer_that_compares_terms_warns_once_if_they_come_alone(
    balancer: str, calls: list[tuple[str, ...]]
) -> None:
    criterion = WeightedLoss(OPTIONAL, balancer=balancer)
    (message,) = train(criterion, calls)
    assert f"the balancer {balancer!r} compares the terms of one call" in message
    assert "'a', 'b'" in message
    assert "criterion({'a': a, 'b': b}, ...)" in message
    assert message in criterion.audit()


def test_famo_warns_too() -> None:
    criterion = WeightedLoss(OPTIONAL, balancer="famo")
    for step in range(10):
        for name in ("a", "b"):
            criterion(losses(**{name: 1.0})).backward()
        with warnings.catch_warnings(record=True, action="always") as caught:
            criterion.step()
        assert ["'famo' compares" in str(each.message) for each in caught] == [True] * (step == 3)
        criterion.observe_after(losses(a=1.0, b=1.0))


def test_a_task_a_step_warns_too() -> None:
    criterion = WeightedLoss(OPTIONAL, balancer="pcgrad")
    found: list[str] = []
    for _ in range(5):
        found += train(criterion, [("a",)], 1) + train(criterion, [("b",)], 1)
    assert ["one call" in message for message in found] == [True]


@pytest.mark.parametrize(
    ("balancer", "calls"),
    [
        ("pcgrad", [("a", "b")]),
        ("pcgrad", [("a",), ("b",), ("a", "b")]),  # at times together
        ("pcgrad", [("a",)]),  # one term was never given, which is another finding
        (
            {"kind": "norm-balance", "per_item": False},
            [("a",), ("b",)],
        ),
        ("moving-average", [("a",), ("b",)]),  # these learn from means over the step
        ("uncertainty", [("a",), ("b",)]),
        (None, [("a",), ("b",)]),
    ],
)
def test_nothing_is_said_where_it_does_no_harm(balancer: Any, calls: Any) -> None:
    criterion = WeightedLoss(OPTIONAL, balancer=balancer)
    assert [note for note in train(criterion, calls) if "one call" in note] == []
    assert not any("one call" in finding for finding in criterion.audit())


# A criterion that is not called


def test_a_criterion_whose_clock_moves_and_that_is_never_called_is_found() -> None:
    criterion = WeightedLoss({"a": 1.0, "b": {"kind": "warmup", "over": "4 steps"}})
    for _ in range(10):
        criterion.eval()
        criterion(losses(a=1.0, b=1.0))  # an evaluation is no training
        criterion.train()
        criterion.step()
    (finding,) = criterion.audit()
    assert "the clock made 10 steps" in finding
    assert "never called in training" in finding
    criterion(losses(a=1.0, b=1.0))
    criterion.step()
    assert criterion.audit() == []


def test_loading_and_setting_the_clock_are_no_steps() -> None:
    criterion = WeightedLoss(["a"])
    for step in range(10):
        criterion.set_step(step)
        criterion.load_state_dict(criterion.state_dict())
    assert criterion.audit() == []


def test_a_criterion_that_is_dormant_need_not_be_called() -> None:
    owner = WeightedLoss(["a"])
    late = WeightedLoss({"b": {"after": "20 steps"}}, clock=owner.clock)
    for _ in range(10):
        owner(losses(a=1.0))
        owner.step()
    assert late.audit() == []


# A term that is no longer given


def test_a_term_that_was_given_once_and_then_never_again_is_found() -> None:
    criterion = WeightedLoss({"a": 1.0, "b": {"optional": True}})
    criterion(losses(a=1.0, b=1.0))
    criterion.step()
    for _ in range(20):
        criterion(losses(a=1.0))
        criterion.step()
    (finding,) = criterion.audit()
    assert finding.startswith("term 'b' was given before, but not in the last 20 steps")
    assert "terms.b" in finding


def test_a_term_that_comes_every_sixteenth_step_is_not_missed() -> None:
    criterion = WeightedLoss({"a": 1.0, "b": {"optional": True}})
    for step in range(160):
        criterion(losses(a=1.0, b=1.0) if step % 16 == 0 else losses(a=1.0))
        criterion.step()
        if step > 20:
            assert criterion.audit() == []
    for _ in range(80):
        criterion(losses(a=1.0))
        criterion.step()
    assert ["'b' was given before" in finding for finding in criterion.audit()] == [True]


def test_a_term_that_is_over_is_not_missed() -> None:
    ends = {"kind": "ramp", "start": 1.0, "stop": 0.0, "over": "5 steps"}
    criterion = WeightedLoss({"a": 1.0, "b": {"schedule": ends, "when_zero": "skip"}})
    for step in range(40):
        criterion(losses(a=1.0, b=1.0) if step < 5 else losses(a=1.0))
        criterion.step()
    assert criterion.audit() == []


# A total that is not finite


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_total_that_is_not_finite_in_the_last_step_is_found(bad: float) -> None:
    criterion = WeightedLoss({"a": 1.0, "b": 0.5})
    for step in range(80):
        criterion(losses(a=1.0, b=1.0 if step == 20 else bad))
        n = step + 1 if step < 20 else min(step - 20, 50)
        expected = [] if n == 0 else [f"each of the last {n} steps" if n > 1 else "the last step"]
        for _ in range(2):  # the forward pass of a step that is going on, and the step
            found = criterion.audit()
            assert len(found) == len(expected)
            for finding, when in zip(found, expected, strict=True):
                assert finding == (
                    f"the total was nan or inf in {when}, because of 'b': to find where it "
                    "begins, write on_nonfinite: raise"
                )
            if criterion.current_step == step:
                criterion.step()


def test_a_compiled_criterion_reports_a_total_that_is_not_finite() -> None:
    criterion = WeightedLoss({"a": 1.0, "b": 0.5})
    compiled = torch.compile(criterion, backend="eager", fullgraph=True)
    compiled(losses(a=1.0, b=float("nan")))
    (finding,) = criterion.audit()
    assert "in the last step, because of 'b'" in finding
    criterion.step()
    compiled(losses(a=1.0, b=1.0))
    assert criterion.audit() == []


# A clock that does not move


@pytest.mark.parametrize("moves", [True, False])
def test_a_first_step_that_does_not_come_is_found_after_20_passes(moves: bool) -> None:
    weight: Any = {"kind": "warmup", "over": "9 steps"} if moves else 0.5
    criterion = WeightedLoss({"a": 1.0, "b": weight})
    for n in range(1, 60):
        criterion(losses(a=1.0, b=1.0))  # a warning would be an error
        found = criterion.audit()
        assert [each.split(",")[0] for each in found] == (
            [f"{n} forward passes in training"] if n >= 20 else []
        )
    assert criterion.report().notes == ()


def test_many_batches_of_a_step_are_no_fault_once_the_clock_has_moved() -> None:
    criterion = WeightedLoss({"a": 1.0, "b": {"kind": "warmup", "over": "9 steps"}})
    criterion(losses(a=1.0, b=1.0))
    criterion.step()
    for _ in range(199):
        criterion(losses(a=1.0, b=1.0))
    assert criterion.audit() == []
    with pytest.warns(UserWarning, match="200 forward passes"):
        criterion(losses(a=1.0, b=1.0))
    (finding,) = criterion.audit()
    assert "200 forward passes in training, but the clock is at step 1" in finding


def test_nor_before_the_first_step_of_an_optimizer_that_is_followed() -> None:
    criterion = WeightedLoss({"a": 1.0, "b": {"kind": "warmup", "over": "9 steps"}})
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    criterion.follow(optimizer)
    for _ in range(199):
        criterion(losses(a=1.0, b=1.0))
    assert criterion.audit() == []
    criterion(losses(a=1.0, b=1.0))
    assert "200 forward passes" in criterion.audit()[0]


# A term without a gradient


def detached(criterion: WeightedLoss, passes: int, batches: int = 1) -> list[int]:
    """Passes after which an audit finds that `b` carries no gradient."""
    found = []
    for n in range(1, passes + 1):
        criterion({"a": losses(a=1.0)["a"], "b": torch.tensor(1.0)})
        if n % batches == 0:
            criterion.step()
        if any(each.startswith("term 'b' carries no gradient") for each in criterion.audit()):
            found.append(n)
    return found


def test_a_term_without_a_gradient_is_found_from_the_first_pass_on() -> None:
    assert detached(WeightedLoss({"a": 1.0, "b": 0.5}), 40) == list(range(1, 41))


@pytest.mark.parametrize("batches", [1, 2, 4, 16])
def test_or_soon_after_its_weight_leaves_0(batches: int) -> None:
    terms: dict[str, Any] = {"a": 1.0, "b": {"kind": "warmup", "over": "50 steps"}}
    found = detached(WeightedLoss(terms), 40, batches)
    first = batches + 1  # the first pass with a weight above 0
    assert first <= found[0] <= 2 * first
    assert found == list(range(found[0], 41))


def test_a_compiled_criterion_looks_at_each_pass() -> None:
    criterion = WeightedLoss({"a": 1.0, "b": {"after": "4 steps"}})
    compiled = torch.compile(criterion, backend="eager", fullgraph=True)
    for step in range(8):  # the fifth is the first with a weight above 0
        compiled({"a": losses(a=1.0)["a"], "b": torch.tensor(1.0)})
        assert len(criterion.audit()) == (step >= 4)
        criterion.step()


@pytest.mark.parametrize("start", [33, 40, 70])
def test_or_within_32_passes_of_a_later_start(start: int) -> None:
    terms: dict[str, Any] = {"a": 1.0, "b": {"after": f"{start} steps"}}
    found = detached(WeightedLoss(terms), start + 40)
    assert start < found[0] <= start + 32


# Evaluation


@pytest.mark.parametrize("when_zero", ["keep", "skip"])
def test_a_term_of_weight_0_in_evaluation_need_not_be_given_there(when_zero: str) -> None:
    terms: dict[str, Any] = {"a": 1.0, "gp": {"weight": 10.0, "when_zero": when_zero}}
    criterion = WeightedLoss(terms, eval_weights={"gp": 0})
    with pytest.raises(ValueError, match="'gp' is missing"):
        criterion(losses(a=2.0))
    with torch.no_grad():
        assert criterion(losses(a=2.0)) == 2.0
        assert not criterion.is_active("gp")
    criterion.eval()
    assert criterion(losses(a=2.0)) == 2.0
    assert criterion(losses(a=2.0, gp=float("nan"))) == 2.0
    assert criterion.breakdown(losses(a=2.0)).total == 2.0


def test_a_final_weight_of_0_need_not_be_given_either() -> None:
    ends = {"kind": "ramp", "start": 1.0, "stop": 0.0, "over": "5 steps"}
    criterion = WeightedLoss({"a": 1.0, "b": ends}).eval()
    assert criterion(losses(a=2.0)) == 2.0


def test_with_current_weights_the_weight_of_the_step_decides() -> None:
    rises = {"kind": "warmup", "over": "4 steps"}
    held = {"controller": {"kind": "lagrangian", "at_most": 5.0}}
    criterion = WeightedLoss({"a": 1.0, "b": rises, "c": held}, eval_weights="current").eval()
    assert criterion(losses(a=2.0)) == 2.0
    assert not criterion.is_active("b")
    assert not criterion.is_active("c")
    criterion.step()
    assert criterion.is_active("b")
    with pytest.raises(ValueError, match="'b' is missing"):
        criterion(losses(a=2.0))
    criterion.train()
    with pytest.raises(ValueError, match="'c' is missing"):
        criterion(losses(a=2.0, b=1.0))


# Balancers by gradients: what they show, use and load


@pytest.mark.parametrize("every", [1, 3, 10])
@pytest.mark.parametrize("after", [0, 3, 5, 10, 11])
def test_live_weights_those_of_the_step_and_those_of_a_checkpoint_agree(
    every: int, after: int
) -> None:
    terms: dict[str, Any] = {"a": 0.7, "b": 1.0, "c": {"after": f"{after} steps"}}

    def made() -> WeightedLoss:
        return WeightedLoss(terms, balancer={"kind": "dualproj", "every": f"{every} steps"})

    criterion, g = made(), torch.tensor([1.0, 0.5], requires_grad=True)
    for step in range(25):
        given = {"a": g.square().sum(), "b": (2 * g[0] - g[1]).square(), "c": -g.sum()}
        if step < after:
            del given["c"]
        shown, loaded = criterion.weights, made()
        assert shown["c"] == 0 or step >= after  # known, although the others are not
        loaded.load_state_dict(criterion.state_dict())
        assert str(loaded.weights) == str(shown)  # nan is equal to nan
        criterion(given, shared=[g]).backward()
        used = criterion.metrics(include=["weight"])
        for name, weight in shown.items():
            assert math.isnan(weight) or weight == used.get(f"weight/{name}", 0.0)
        criterion.step()


def test_a_sum_that_is_too_large_for_float32_is_found() -> None:
    criterion = WeightedLoss({"a": 1.0, "b": 1.0})
    for _ in range(60):
        criterion(losses(a=3e38, b=3e38))
        criterion.step()
    (finding,) = criterion.audit()
    assert "although each term is finite: their sum is too large for float32" in finding


# What is not known yet


def test_a_function_that_is_0_now_may_change() -> None:
    called: list[int] = []

    def weight(step: int) -> float:
        called.append(step)
        return 0.0

    criterion = WeightedLoss({"a": 1.0, "b": weight}, total_steps=100_000)
    criterion(losses(a=1.0, b=1.0))
    before = len(called)
    assert criterion.audit() == []
    assert len(called) == before


def test_an_optional_term_whose_weight_ended_at_0_is_not_missed() -> None:
    ends = {"kind": "ramp", "start": 1.0, "stop": 0.0, "over": "5 steps"}
    criterion = WeightedLoss({"a": 1.0, "b": {"schedule": ends, "optional": True}})
    for step in range(40):
        criterion(losses(a=1.0, b=1.0) if step < 5 else losses(a=1.0))
        criterion.step()
    assert criterion.audit() == []


def test_a_compiled_criterion_reports_that_nobody_moves_its_clock() -> None:
    criterion = WeightedLoss({"a": 1.0, "b": {"kind": "warmup", "over": "9 steps"}})
    compiled = torch.compile(criterion, backend="eager", fullgraph=True)
    for _ in range(250):
        compiled(losses(a=1.0, b=1.0))
    (finding,) = criterion.audit()
    assert finding.startswith("250 forward passes in training, but the clock is at step 0")


def test_a_controller_that_observes_a_term_that_is_left_out_is_found() -> None:
    held = {"kind": "lagrangian", "at_most": 1.0, "source": "s"}
    criterion = WeightedLoss({"a": 1.0, "s": {"after": "9 steps"}, "kl": held})
    assert any("the controller of 'kl' observes 's'" in finding for finding in criterion.audit())
    criterion.set_step(9)
    assert not any("observes 's'" in finding for finding in criterion.audit())
