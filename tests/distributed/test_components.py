"""Every controller, transform and balancer has the same state on all ranks: the mean's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, distributed

from lossweights.components.balancers import GradientBalancer
from lossweights.testing.training import Adaptive, Training
from tests.distributed.pool import Pool
from tests.test_adaptive_properties import EXAMPLES

STEPS = 12


def run_rank(component: Adaptive) -> dict[str, Tensor]:
    """Losses of its own on each rank."""
    training = Training(component)
    for step in range(STEPS):
        training.forward(step, factor=1 + 0.5 * distributed.get_rank())
        training.step(step)
    return training.criterion.state_dict()


def run_alone(component: Adaptive) -> dict[str, Tensor]:
    """The losses of two ranks, one after the other."""
    training = Training(component)
    for step in range(STEPS):
        for rank in range(2):
            training.forward(step, factor=1 + 0.5 * rank, share=0.5)
        training.step(step)
    return training.criterion.state_dict()


@pytest.mark.parametrize("component", EXAMPLES, ids=repr)
def test_state_is_the_same_on_all_ranks(pool: Pool, component: Adaptive) -> None:
    first, second = pool.run(2, run_rank, component)
    assert first.keys() == second.keys()
    assert [key for key in first if not torch.equal(first[key], second[key])] == []
    if not isinstance(component, GradientBalancer):  # to which two micro-batches are not one batch
        torch.testing.assert_close(first, run_alone(component), rtol=1e-4, atol=1e-5)
