"""The step of Adam."""

from __future__ import annotations

import pytest
import torch

from lossweights.components.adam import adam_step

GRADIENTS = torch.randn(30, 3, generator=torch.Generator().manual_seed(0)).double()
SCALES = torch.tensor([1e-6, 1.0, 1e6], dtype=torch.float64)


@pytest.mark.parametrize("shape", [(), (3,)])
def test_steps_are_those_of_torch(shape: tuple[int, ...]) -> None:
    parameter = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([parameter], lr=0.1)
    ours = torch.zeros(3, dtype=torch.float64)
    state = {"count": torch.zeros(shape, dtype=torch.float64)}
    state |= {name: torch.zeros_like(ours) for name in ("first_moment", "second_moment")}
    for gradient in GRADIENTS * SCALES:
        parameter.grad = gradient
        optimizer.step()
        ours -= 0.1 * adam_step(gradient, state)
        torch.testing.assert_close(ours, parameter.detach(), rtol=1e-9, atol=0)


def test_a_late_entry_begins_with_a_whole_step() -> None:
    """With a count of its own: with that of the others the step would be three times as long."""
    state = {"count": torch.tensor([1000.0, 0.0])}
    state |= {name: torch.zeros(2) for name in ("first_moment", "second_moment")}
    step = adam_step(torch.tensor([2.0, 2.0]), state)
    assert step.tolist() == pytest.approx([2 * 0.1 / (4 * 0.001 / (1 - 0.999**1001)) ** 0.5, 1])
