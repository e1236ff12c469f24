"""Random numbers that follow from a seed and a step."""

from __future__ import annotations

import pytest
import torch

from lossweights.components.random import fraction, generator


def test_fractions_follow_from_seed_and_step() -> None:
    first = [fraction(1, step) for step in range(1000)]
    assert first == [fraction(1, step) for step in range(1000)]
    assert len({*first, *(fraction(2, step) for step in range(1000))}) == 2000


def test_fractions_are_even_and_steps_have_nothing_in_common() -> None:
    values = torch.tensor([fraction(0, step) for step in range(4000)])
    counts = torch.histc(values, bins=10, min=0, max=1)
    assert counts.tolist() == pytest.approx([400] * 10, abs=80)
    correlation = torch.corrcoef(torch.stack((values[1:], values[:-1])))[0, 1]
    assert correlation == pytest.approx(0, abs=0.06)


def test_generators_do_not_draw_from_each_other() -> None:
    ours, again, next_one = (torch.rand(1000, generator=generator(0, step)) for step in (5, 5, 6))
    assert torch.equal(ours, again)
    assert torch.isin(next_one, ours).float().mean() < 0.01
