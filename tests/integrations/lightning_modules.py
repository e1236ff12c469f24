"""LightningModules with criteria, a loader that can go on within an epoch, a quiet trainer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lossweights import WeightedLoss
from tests.integrations.models import SCHEDULED, Terms, batches


class Loader:
    """Ten batches, and a state, so that a training can go on within an epoch."""

    def __init__(self) -> None:
        self.batches, self.start, self.next = batches(), 0, 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Tensor]:
        start, self.start = self.start, 0
        for index in range(start, len(self.batches)):
            self.next = index + 1
            yield self.batches[index]

    def state_dict(self) -> dict[str, int]:
        return {"next": self.next % len(self.batches)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.start = state["next"]


class Module(LightningModule):
    """One optimizer, automatic optimization."""

    def __init__(self, config: dict[str, Any] = SCHEDULED) -> None:
        super().__init__()
        self.terms = Terms()
        self.criterion = WeightedLoss(**config)

    def training_step(self, x: Tensor, _: int) -> Tensor:
        loss: Tensor = self.criterion(self.terms(x))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        learned = self.criterion.param_groups(lr=1e-1)
        return torch.optim.Adam([{"params": self.terms.parameters()}, *learned], lr=1e-2)


class Validated(Module):
    """The same with validation."""

    def __init__(self, config: dict[str, Any] = SCHEDULED) -> None:
        super().__init__(config)
        self.validated: list[float] = []

    def validation_step(self, x: Tensor, _: int) -> None:
        self.validated.append(float(self.criterion(self.terms(x))))


class TwoOptimizers(LightningModule):
    """The critic steps twice for each step of the generator."""

    def __init__(self, total_steps: int | None = 10) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.critic = Terms(), Terms()
        self.generator_loss = WeightedLoss(**SCHEDULED, total_steps=total_steps)
        self.critic_loss = WeightedLoss(**SCHEDULED, total_steps=total_steps)

    def training_step(self, x: Tensor, _: int) -> None:
        generator, critic = self.optimizers()  # type: ignore[attr-defined]
        for terms, criterion, optimizer in (
            (self.critic, self.critic_loss, critic),
            (self.critic, self.critic_loss, critic),
            (self.generator, self.generator_loss, generator),
        ):
            self.manual_backward(criterion(terms(x)))
            optimizer.step()
            optimizer.zero_grad()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.Adam(part.parameters()) for part in (self.generator, self.critic)]


def trainer(*callbacks: Callback, **options: Any) -> Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 5,
    }
    return Trainer(accelerator="cpu", callbacks=list(callbacks), **{**quiet, **options})
