"""LightningCLI: criterion and callback from a YAML file, with changes on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningCLI
from torch import Tensor

from lossweights import WeightedLoss
from tests.integrations.lightning_modules import Loader
from tests.integrations.models import Terms

# What Lightning calls in jsonargparse has newer names there.
pytestmark = pytest.mark.filterwarnings(
    "ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"
)

FILE = """
seed_everything: 0
trainer:
  max_epochs: 2
  log_every_n_steps: 5
  accelerator: cpu
  logger: false
  enable_checkpointing: false
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    - class_path: lossweights.integrations.lightning.LossWeights
      init_args: {prefix: fit/, include: [weight]}
model:
  criterion:
    class_path: lossweights.WeightedLoss
    init_args:
      terms:
        mse: 1.0
        l1: {weight: 0.5, schedule: {kind: warmup, over: 50%}}
        size: 1e-1
      balancer: uncertainty
optimizer:
  class_path: torch.optim.Adam
  init_args: {lr: 1e-2}
"""


class Module(LightningModule):
    """Any criterion; its optimizer comes from the file too."""

    def __init__(self, criterion: WeightedLoss) -> None:
        super().__init__()
        self.terms = Terms()
        self.criterion = criterion

    def training_step(self, x: Tensor, _: int) -> Tensor:
        loss: Tensor = self.criterion(self.terms(x))
        return loss


class Data(LightningDataModule):
    """Ten batches."""

    def train_dataloader(self) -> Any:
        return Loader()


def fitted(folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> LightningCLI:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", ["train.py"])  # not those of pytest
    (folder / "config.yaml").write_text(FILE, encoding="utf-8")
    return LightningCLI(
        Module, Data, args=["fit", "--config=config.yaml", *arguments], save_config_callback=None
    )


def test_a_file_says_it_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli = fitted(tmp_path, monkeypatch)
    criterion = cli.model.criterion
    assert criterion.current_step == criterion.horizon.total_steps == 20
    assert criterion.config.terms["size"].weight == 0.1
    assert set(cli.trainer.callback_metrics) == {
        f"fit/weight/{name}" for name in ("mse", "l1", "size")
    }
    # All parameters of the module, and so the learned weights too, are the optimizer's.
    (learned,) = criterion.parameters()
    assert torch.count_nonzero(learned) == learned.numel() > 0


def test_the_command_line_changes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = "--model.criterion.init_args.terms.l1={kind: warmup, over: 1 epochs}"
    cli = fitted(tmp_path, monkeypatch, changed, "--trainer.max_epochs=3")
    criterion = cli.model.criterion
    assert criterion.config.terms["l1"].weight == 1.0
    assert criterion.horizon.total_steps == 30


def test_a_wrong_file_is_refused_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((SystemExit, ValueError)) as refused:
        fitted(tmp_path, monkeypatch, "--model.criterion.init_args.terms={kl: {kind: cylical}}")
    assert "did you mean 'cyclical'" in capsys.readouterr().err + str(refused.value)
