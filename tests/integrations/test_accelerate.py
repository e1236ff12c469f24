"""Accelerate needs no adapter: its optimizer can be followed, its checkpoints keep a criterion."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor
from torch.utils.data import DataLoader

from lossweights import WeightedLoss
from tests.integrations.models import (
    CONFIGS,
    SCHEDULED,
    SUMS,
    Parts,
    Terms,
    assert_same,
    batches,
    layer_of_windows,
    steps_of,
)


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """All accelerators of a process share a state, which is not the next test's."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


class Training:
    """The loop of the docs, two epochs of ten batches; it may begin in the middle."""

    def __init__(
        self, config: dict[str, Any] = SCHEDULED, accumulate: int = 1, size: int = 2
    ) -> None:
        self.accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
        terms, self.criterion = Terms(), WeightedLoss(**config)
        self.inner = torch.optim.Adam(
            [{"params": terms.parameters()}, *self.criterion.param_groups(lr=1e-1)], lr=1e-2
        )
        rows: Any = batches().reshape(20, 4)
        loader: DataLoader[Tensor] = DataLoader(rows, batch_size=size)
        self.terms, self.optimizer, self.loader = self.accelerator.prepare(
            terms, self.inner, loader
        )
        self.criterion.follow(self.optimizer)
        each = -(-len(self.loader) // accumulate)
        self.criterion.bind(total_steps=2 * each, steps_per_epoch=each)
        self.accelerator.register_for_checkpointing(self.criterion)

    def run(self, first: int = 0, save_at: int | None = None, folder: Path | None = None) -> None:
        for index in range(first, 2 * len(self.loader)):
            if index in (first, len(self.loader)):
                skipped = skip_first_batches(self.loader, index % len(self.loader))
                loader = iter(skipped)
            if index == save_at:
                self.accelerator.save_state(str(folder))
            x = next(loader)
            with self.accelerator.accumulate(self.terms):
                self.accelerator.backward(self.criterion(self.terms(x)))
                self.optimizer.step()
                self.optimizer.zero_grad()


@pytest.mark.parametrize(("accumulate", "steps"), [(1, 20), (5, 4)])
def test_accumulation_is_counted_in_steps(accumulate: int, steps: int) -> None:
    training = Training(accumulate=accumulate)
    training.run()
    assert training.criterion.current_step == steps_of(training.inner) == steps
    assert training.criterion.horizon.total_steps == steps


def test_backward_divides_by_the_accumulated_batches() -> None:
    small = Training(accumulate=5)
    small.run()
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    large = Training(size=10)
    large.run()
    assert small.criterion.current_step == large.criterion.current_step == 4
    torch.testing.assert_close(
        small.terms.layer.weight, large.terms.layer.weight, rtol=1e-5, atol=1e-6
    )


def test_a_sum_is_not_divided_by_the_accumulated_batches() -> None:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
    rows: Any = batches().reshape(20, 4)
    model, criterion = Parts([4] * 8 + [2] * 2), WeightedLoss(**SUMS)
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    made = accelerator.prepare(model, inner, DataLoader(rows, batch_size=2))
    terms, optimizer, loader = made
    criterion.follow(optimizer)
    criterion.divided_by = accelerator.gradient_accumulation_steps
    for x in loader:
        with accelerator.accumulate(terms):
            accelerator.backward(criterion(terms(x)))
            optimizer.step()
            optimizer.zero_grad()
    wanted = layer_of_windows(batches(), [(4, 4), (4, 4), (2, 4)])
    torch.testing.assert_close(model.layer.weight, wanted, rtol=0, atol=1e-6)


def test_steps_that_the_scaler_skips_are_not_counted() -> None:
    accelerator = Accelerator(cpu=True)
    # As with fp16, which Accelerate has for GPUs only; far too large, to see it skip.
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    terms, criterion = Terms(), WeightedLoss(**SCHEDULED, total_steps=20)
    inner = torch.optim.Adam(terms.parameters())
    model, optimizer = accelerator.prepare(terms, inner)
    criterion.follow(optimizer)
    skipped = 0
    for x in [*batches(), *batches()]:
        accelerator.backward(criterion(model(x)))
        optimizer.step()
        optimizer.zero_grad()
        skipped += optimizer.step_was_skipped
    assert 0 < skipped == 20 - criterion.current_step
    assert criterion.current_step == steps_of(inner)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_resume_is_exact(config: dict[str, Any], accumulate: int, tmp_path: Path) -> None:
    """In the middle of an epoch, of the training and of a warm-up."""
    whole = Training(config, accumulate)
    whole.run(save_at=6, folder=tmp_path)
    resumed = Training(config, accumulate)
    resumed.accelerator.load_state(str(tmp_path))
    assert resumed.criterion.current_step == 6 // accumulate
    resumed.run(first=6)
    assert_same(resumed.terms, whole.terms)
    assert_same(resumed.criterion, whole.criterion)
    assert resumed.criterion.weights == whole.criterion.weights
