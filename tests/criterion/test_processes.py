"""Criteria in other processes, of `torch.multiprocessing` with spawn."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing import get_context

from lossweights import Warmup, WeightedLoss
from lossweights.testing.training import Training
from tests.test_adaptive_properties import EXAMPLES

States = list[dict[str, Tensor]]


def advance(criteria: list[WeightedLoss]) -> States:
    """One step of each; the state and the weights after it."""
    found = []
    for criterion in criteria:
        criterion.step()
        weights = torch.tensor(list(criterion.weights.values()))
        found.append({**criterion.state_dict(), "weights": weights})
    return found


def advance_and_answer(criteria: list[WeightedLoss], tasks: Any, answers: Any) -> None:
    """The same of criteria that are an argument, and of others from a queue."""
    states = advance(criteria) + advance(tasks.get())
    # By value: tensors would be gone with this process.
    answers.put([{key: tensor.numpy() for key, tensor in state.items()} for state in states])


def in_the_middle_of_a_step() -> list[WeightedLoss]:
    """A criterion of every kind, and one of schedules alone with terms without gradient."""
    plain = WeightedLoss({"a": Warmup(over="4 steps"), "b": 1.0})
    plain({"a": torch.ones(()), "b": torch.ones(())})
    criteria = [plain]
    for example in {type(example): example for example in EXAMPLES}.values():
        if not type(example).__module__.startswith("tests."):  # slow to import in the process
            training = Training(example).run(range(2))
            training.forward(2)
            criteria.append(training.criterion)
    return criteria


def assert_same(ours: States, theirs: States) -> None:
    for state, other in zip(ours, theirs, strict=True):
        assert state.keys() == other.keys()
        for key, tensor in state.items():
            assert torch.equal(tensor.nan_to_num(), torch.as_tensor(other[key]).nan_to_num()), key


def test_every_criterion_goes_to_another_process_and_shares_no_state_with_it() -> None:
    ours = in_the_middle_of_a_step()
    before = [criterion.state_dict() for criterion in ours]
    context = get_context("spawn")
    tasks, answers = context.SimpleQueue(), context.SimpleQueue()
    process = context.Process(target=advance_and_answer, args=(ours, tasks, answers))
    process.start()
    tasks.put(ours)
    found = answers.get()
    process.join()
    assert process.exitcode == 0
    assert_same([criterion.state_dict() for criterion in ours], before)
    after = advance(ours)
    assert_same(after, found[: len(ours)])
    assert_same(after, found[len(ours) :])


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))], ids=["deepcopy", "pickle"]
)
def test_every_copy_in_the_middle_of_a_step_goes_on_alike(copied: Callable[[Any], Any]) -> None:
    ours = in_the_middle_of_a_step()
    copies = copied(ours)
    after = advance(ours)
    assert_same(after, advance(copies))
