"""Run by `torchrun` in two processes, among which the trainers split the data."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed.nn  # before the process group, which its defaults would keep alive
from torch import distributed, nn
from torch.utils.data import DataLoader, DistributedSampler

from lossweights import WeightedLoss
from lossweights.integrations.lightning import LossWeights
from tests.integrations.hugging_face_models import PerItem, TakesAnything
from tests.integrations.hugging_face_models import trainer as hugging_face
from tests.integrations.lightning_modules import Module
from tests.integrations.lightning_modules import trainer as lightning
from tests.integrations.models import LEARNED, STEERED, batches


def trained(folder: Path, size: int, **options: Any) -> dict[str, Any]:
    """What both trainers have made of two configs, with batches of `size` for each process."""
    results = {}
    for name, config in (("steered", STEERED), ("learned", LEARNED)):
        model = TakesAnything(config)
        hugging_face(
            model,
            folder,
            per_device_train_batch_size=size,
            optim="sgd",
            max_grad_norm=0.0,  # or a loss of another scale would look the same
            remove_unused_columns=False,
        ).train()
        results[f"transformers {name}"] = found(model.criterion, model.layer)
        module = Module(config)
        lightning(
            LossWeights(),
            max_epochs=3,
            use_distributed_sampler=False,  # Lightning's own would shuffle
            **options,
        ).fit(module, in_order(size))
        results[f"lightning {name}"] = found(module.criterion, module.terms.layer)
    results["transformers sums"] = trained_by_items(folder, size)
    return results


def trained_by_items(folder: Path, size: int) -> dict[str, Any]:
    """What Trainer has made of a sum over items, more of them on one of two ranks."""
    model = PerItem({**STEERED, "terms": {**STEERED["terms"], "mse": {"accumulates": "sum"}}})
    runner = hugging_face(
        model,
        folder,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=2,
        optim="sgd",
        max_grad_norm=0.0,
        remove_unused_columns=False,
    )
    for index, row in enumerate(runner.train_dataset):  # type: ignore[arg-type]
        if index % 3 == 0:
            row["labels"].fill_(-100)
    runner.train()
    return found(model.criterion, model.layer)


def in_order(size: int) -> DataLoader[Any]:
    """The rows, every second of them for each of two processes."""
    rows: Any = batches().reshape(20, 4)
    ranks, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    sampler: DistributedSampler[Any] = DistributedSampler(rows, ranks, rank, shuffle=False)
    return DataLoader(rows, batch_size=size, sampler=sampler)


def found(criterion: WeightedLoss, layer: nn.Linear) -> dict[str, Any]:
    horizon = criterion.horizon
    return {
        "steps": [criterion.current_step, horizon.total_steps, horizon.steps_per_epoch],
        "weights": torch.tensor(list(criterion.weights.values())).tolist(),
        "layer": layer.weight[0].tolist(),
    }


if __name__ == "__main__":
    into = Path(sys.argv[1])
    results = trained(into / "trainer", size=2, strategy="ddp", devices=2)
    text = json.dumps(results)
    (into / f"{distributed.get_rank()}.json").write_text(text, encoding="utf-8")
    distributed.destroy_process_group()
