"""Models for a Hugging Face Trainer, its data, and a quiet trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, PrinterCallback
from transformers import TrainingArguments as Arguments

from lossweights import WeightedLoss
from lossweights.integrations.transformers import WeightedTrainer
from tests.integrations.models import SCHEDULED, Model, batches

ROWS = batches(10).reshape(20, 4)


class Plain(Model):
    """A module that returns its own total."""

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"loss": self.criterion(super().forward(x)), "logits": labels}


class TakesAnything(Plain):
    """What Trainer takes to divide by the number of items itself."""

    def forward(self, x: Tensor, labels: Tensor, **_: Any) -> dict[str, Tensor]:  # type: ignore[override]
        return super().forward(x, labels)


class PerItem(Model):
    """A mean over the items of a window: labels of -100 are none."""

    def forward(  # type: ignore[override]
        self, x: Tensor, labels: Tensor, num_items_in_batch: Tensor | None = None
    ) -> dict[str, Tensor]:
        terms, kept = super().forward(x), labels != -100
        errors = (self.layer(x) - x.sum(dim=-1, keepdim=True)).square()
        count = kept.sum() if num_items_in_batch is None else num_items_in_batch
        terms["mse"] = errors[kept].sum() / count
        return {"loss": self.criterion(terms), "logits": labels}


class Bert(BertForSequenceClassification):  # type: ignore[no-untyped-call]
    """A model of Transformers, with dropout, that adds terms to its own loss."""

    def __init__(self, config: dict[str, Any] = SCHEDULED) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            super().__init__(
                BertConfig(
                    vocab_size=16,
                    hidden_size=8,
                    num_hidden_layers=1,
                    num_attention_heads=2,
                    intermediate_size=8,
                    max_position_embeddings=8,
                    num_labels=1,  # type: ignore[call-arg]
                )
            )
        self.criterion = WeightedLoss(**config)

    def forward(self, x: Tensor, labels: Tensor, **_: Any) -> dict[str, Tensor]:
        outputs = super().forward(input_ids=(x > 0).long(), labels=labels.float())
        size = outputs.logits.abs()
        terms = {"mse": outputs.loss, "l1": size.mean(), "size": size.square().mean()}
        return {"loss": self.criterion(terms), "logits": outputs.logits}


def trainer(
    model: nn.Module, folder: Path, kind: type[WeightedTrainer] = WeightedTrainer, **options: Any
) -> WeightedTrainer:
    """Three epochs of ten batches, without a word."""
    of_trainer = {
        key: options.pop(key)
        for key in ("optimizers", "compute_loss_func", "callbacks", "per_step")
        if key in options
    }
    settings = {
        "per_device_train_batch_size": 2,
        "num_train_epochs": 3,
        "learning_rate": 1e-2,
        "logging_steps": 5,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    data = [{"x": row, "labels": row.sum(dim=-1, keepdim=True)} for row in ROWS]
    made = kind(
        model,
        Arguments(str(folder), **{**settings, **options}),
        train_dataset=data,
        eval_dataset=data[:4],
        **of_trainer,
    )
    made.remove_callback(PrinterCallback)
    return made
