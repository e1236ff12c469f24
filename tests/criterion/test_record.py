"""What is called after each step of a criterion, and what is told there."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from lossweights import WeightedLoss
from tests.small_components import losses


def told(criterion: WeightedLoss) -> list[tuple[int, float]]:
    """The steps of which `on_step` tells, with the weight that `metrics` shows then."""
    seen: list[tuple[int, float]] = []
    criterion.on_step(lambda step: seen.append((step, criterion.metrics()["weight/a"])))
    return seen


def test_each_step_is_told_with_what_it_did() -> None:
    criterion = WeightedLoss(terms={"a": {"kind": "warmup", "over": "4 steps"}})
    seen = told(criterion)
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(()))])
    with criterion.follow(optimizer):
        criterion(losses(a=1.0))
        criterion(losses(a=1.0))  # accumulated
        optimizer.step()
    criterion(losses(a=1.0))
    criterion.step()
    assert seen == [(0, 0.0), (1, 0.25)]


def test_only_steps_with_a_training_forward_are_told() -> None:
    criterion = WeightedLoss(terms=["a"])
    seen = told(criterion)
    criterion.step()
    with torch.no_grad():
        criterion(losses(a=1.0))
    criterion.step()
    criterion(losses(a=1.0))
    criterion.step(0)  # no step
    assert seen == []
    criterion(losses(a=1.0))
    criterion.step(3)
    criterion.step()
    assert seen == [(2, 1.0)]


def test_a_step_whose_forward_was_given_no_term_is_told_too() -> None:
    criterion = WeightedLoss(terms={"a": {"optional": True}})
    told: list[tuple[int, dict[str, float]]] = []
    criterion.on_step(lambda step: told.append((step, criterion.metrics(include=["raw", "total"]))))
    for given in ({}, losses(a=2.0), {}):
        criterion(given)
        criterion.step()
    assert told == [(0, {"total": 0.0}), (1, {"raw/a": 2.0, "total": 2.0}), (2, {"total": 0.0})]


def test_what_was_seen_before_the_clock_was_set_or_a_checkpoint_loaded_is_not_told() -> None:
    criterion = WeightedLoss(terms=["a"])
    checkpoint = criterion.state_dict()
    seen = told(criterion)
    for move in (lambda: criterion.set_step(7), lambda: criterion.load_state_dict(checkpoint)):
        criterion(losses(a=1.0))
        move()
        criterion.step()
    assert seen == []


def test_a_step_whose_next_weights_fail_is_not_told_at_a_later_move() -> None:
    def fails(step: int) -> float:
        if step >= 1024:  # weights are computed in blocks
            raise ValueError("too far")
        return 1.0

    criterion = WeightedLoss(terms={"a": fails}, eval_weights="current")
    criterion.set_step(1023)
    seen = told(criterion)
    criterion(losses(a=1.0))
    with pytest.raises(ValueError, match="too far"):
        criterion.step()
    criterion.set_step(5)
    assert seen == []


def test_both_criteria_of_a_clock_are_told() -> None:
    owner = WeightedLoss(terms=["a"])
    guest = WeightedLoss(terms=["a"], clock=owner.clock)
    of_owner, of_guest = told(owner), told(guest)
    guest(losses(a=1.0))
    owner.step()
    owner(losses(a=1.0))
    owner.step()
    assert (of_owner, of_guest) == ([(1, 1.0)], [(0, 1.0)])


def test_a_handle_ends_it_also_from_within() -> None:
    criterion = WeightedLoss(terms=["a"])
    seen: list[str] = []

    def once(step: int) -> None:
        seen.append("once")
        handle.remove()

    handle = criterion.on_step(once)
    criterion.on_step(lambda step: seen.append("each"))
    for _ in range(2):
        criterion(losses(a=1.0))
        criterion.step()
    assert seen == ["once", "each", "each"]


def test_what_a_call_raises_comes_out_of_the_step_which_is_done() -> None:
    criterion = WeightedLoss(terms=["a"])
    criterion.on_step(lambda step: 1 / 0)
    criterion(losses(a=1.0))
    with pytest.raises(ZeroDivisionError):
        criterion.step()
    assert criterion.current_step == 1


def test_copies_of_a_criterion_take_no_calls_along() -> None:
    criterion = WeightedLoss(terms=["a"])
    seen = told(criterion)  # a closure, which pickle could not take
    for twin in (copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
        twin(losses(a=1.0))
        twin.step()
        own = told(twin)
        twin(losses(a=1.0))
        twin.step()
        assert own == [(1, 1.0)]
    assert seen == []
