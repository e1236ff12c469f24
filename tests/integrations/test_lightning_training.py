"""Lightning: what a training logs, keeps in its checkpoints, validates with and warns of."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LearningRateFinder, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lossweights import WeightedLoss
from lossweights.integrations.lightning import LossWeights
from tests.integrations.lightning_modules import Loader, Module, TwoOptimizers, Validated, trainer
from tests.integrations.models import CONFIGS, LEARNED, SCHEDULED, TOKENS, assert_same, batches


def test_metrics_are_logged_at_the_interval_and_computed_only_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = Module()
    taken: list[int] = []
    real = WeightedLoss.metrics

    def metrics(self: WeightedLoss, *args: Any, **kwargs: Any) -> Any:
        assert kwargs["tensors"], "floats would wait for the device"
        taken.append(self.current_step)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(WeightedLoss, "metrics", metrics)
    callback = LossWeights(prefix="fit/", include=["weight", "raw", "scheduled"])
    trainer(callback, logger=CSVLogger(tmp_path), max_epochs=2).fit(module, Loader())
    assert taken == [5, 10, 15, 20]
    rows = rows_of(tmp_path)
    # In the step of number 4, the fifth, the warm-up over 10 steps to 0.5 is at 0.2.
    assert [float(row["fit/weight/l1"]) for row in rows] == pytest.approx([0.2, 0.45, 0.5, 0.5])
    temperatures = [float(row["fit/scheduled/temperature"]) for row in rows]
    assert temperatures == pytest.approx([2.8, 1.3, 1.0, 1.0])
    keys = {key for row in rows for key in row if key.startswith("fit/")}
    expected = {f"fit/{what}/{term}" for what in ("weight", "raw") for term in SCHEDULED["terms"]}
    assert keys == expected | {"fit/scheduled/temperature"}


def rows_of(folder: Path) -> list[dict[str, str]]:
    (path,) = folder.rglob("metrics.csv")
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_several_criteria_are_logged_by_name() -> None:
    runner = trainer(LossWeights(optimizer=0, include=["total"]), max_epochs=1)
    runner.fit(TwoOptimizers(), Loader())
    logged = set(runner.logged_metrics | runner.callback_metrics)
    assert logged == {"train/generator_loss/total", "train/critic_loss/total"}


# What the second training is told of the first, whose checkpoints it shall find there.
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_resume_is_exact(config: dict[str, Any], accumulate: int, tmp_path: Path) -> None:
    """In the middle of an epoch, of the training, of a warm-up, and with a validation before."""

    def fit(module: Validated, ckpt_path: Path | None = None) -> Trainer:
        keep = ModelCheckpoint(tmp_path, every_n_train_steps=6 // accumulate, save_top_k=-1)
        runner = trainer(
            LossWeights(),
            keep,
            enable_checkpointing=True,
            max_epochs=2,
            accumulate_grad_batches=accumulate,
        )
        runner.fit(module, Loader(), batches(2), ckpt_path=ckpt_path, weights_only=True)
        return runner

    whole, resumed = Validated(config), Validated(config)
    first = fit(whole)
    (half,) = tmp_path.glob(f"epoch=0-step={6 // accumulate}.ckpt")
    second = fit(resumed, half)
    assert resumed.criterion.current_step == second.global_step == first.global_step
    assert_same(resumed, whole)
    assert resumed.criterion.weights == whole.criterion.weights
    assert resumed.validated[-2:] == whole.validated[-2:]


# The second training finds the checkpoints of the first.
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_clock_that_counts_tokens_is_moved_by_them_and_resumed(tmp_path: Path) -> None:
    def fit(module: Module, ckpt_path: Path | None = None) -> None:
        keep = ModelCheckpoint(tmp_path, every_n_train_steps=3, save_top_k=-1)
        callbacks = LossWeights(per_step=lambda: 1000), keep
        runner = trainer(*callbacks, enable_checkpointing=True, max_epochs=2)
        runner.fit(module, Loader(), ckpt_path=ckpt_path, weights_only=True)

    whole, resumed = Module(TOKENS), Module(TOKENS)
    fit(whole)
    assert whole.criterion.current_step == 20_000
    assert str(whole.criterion.horizon) == "20000 tokens"  # no steps of the trainer
    fit(resumed, tmp_path / "epoch=0-step=3.ckpt")
    assert_same(resumed, whole)
    assert resumed.criterion.weights == whole.criterion.weights


def test_what_a_step_takes_is_given_where_it_is_needed() -> None:
    with pytest.raises(ValueError, match="the clock counts tokens: write how many an optimizer"):
        trainer(LossWeights(), max_epochs=1).fit(Module(TOKENS), Loader())
    with pytest.raises(ValueError, match="per_step is for a clock that counts another unit"):
        trainer(LossWeights(per_step=1000), max_epochs=1).fit(Module(), Loader())
    moved = Module(TOKENS)
    moved.criterion.set_step(500)
    with pytest.warns(UserWarning, match="is at 500 tokens: to begin its schedules at 0 tokens"):
        trainer(LossWeights(per_step=1000), max_epochs=1).fit(moved, Loader())


def test_validation_uses_the_weights_of_evaluation_and_moves_nothing() -> None:
    module = Validated()
    held = batches(1)
    runner = trainer(LossWeights(), max_epochs=1, val_check_interval=2)
    runner.fit(module, Loader(), held)
    final = {"mse": 1.0, "l1": 0.5, "size": 0.1}
    with torch.no_grad():
        terms = module.terms(held[0])
    assert module.validated[-1] == pytest.approx(float(sum(final[n] * terms[n] for n in final)))
    assert len(module.validated) == 6  # one of them the sanity check, before the first step
    assert module.criterion.current_step == 10


def test_learned_weights_that_no_optimizer_has_are_told_of_at_once() -> None:
    class Forgets(Module):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.terms.parameters())

    with pytest.warns(UserWarning, match="the learned weights of") as caught:
        trainer(LossWeights(), max_epochs=1).fit(Forgets(LEARNED), Loader())
    told = [str(warning.message) for warning in caught if "learned weights" in str(warning)]
    assert told[0].startswith("the learned weights of 'criterion' are in no optimizer and will")
    trainer(LossWeights(), max_epochs=1).fit(Module(LEARNED), Loader())  # and says nothing


def test_the_audit_speaks_at_the_end_of_an_epoch_and_once() -> None:
    module = Module({"terms": {"mse": 1.0, "l1": {"weight": 1, "optional": True}, "size": 0.0}})
    with pytest.warns(UserWarning, match="'size' has a weight of 0 for the whole") as caught:
        trainer(LossWeights(), max_epochs=3).fit(module, Loader())
    assert sum("'size' has a weight of 0" in str(warning.message) for warning in caught) == 1


def test_a_clock_that_is_not_where_the_training_is_is_told_of() -> None:
    module = Module()
    runner = trainer(LossWeights(), max_epochs=1)
    runner.fit(module, Loader())
    runner.fit_loop.max_epochs = 2
    runner.fit(module, Loader())  # on from step 10, and says nothing
    runner = trainer(LossWeights(), max_epochs=1)
    with (
        pytest.warns(UserWarning, match="past its end"),
        pytest.warns(UserWarning, match="begins at step 0, but the clock of 'criterion' is at s"),
    ):
        runner.fit(module, Loader())
    runner.fit_loop.max_epochs = 2
    with (
        pytest.warns(UserWarning, match="past its end"),
        pytest.warns(UserWarning, match=r"begins at step 10.*is at step 30: .*set_step\(10\)"),
    ):
        runner.fit(module, Loader())
    module.criterion.set_step(0)
    trainer(LossWeights(), max_epochs=3).fit(module, Loader())  # and says nothing
    assert module.criterion.horizon.total_steps == 30  # not that of the training before


def test_a_trial_of_learning_rates_before_the_training_does_not_count(tmp_path: Path) -> None:
    class Tried(Module):
        lr = 1e-3

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=self.lr)

    module = Tried()
    module.criterion.bind(total_steps=10)
    runner = trainer(
        LossWeights(),
        LearningRateFinder(num_training_steps=5),
        max_epochs=2,
        enable_checkpointing=True,
        default_root_dir=tmp_path,
    )
    runner.fit(module, Loader())
    assert module.criterion.current_step == module.criterion.horizon.total_steps == 20


def test_a_checkpoint_without_the_criterion_is_told_of(tmp_path: Path) -> None:
    class Strangers(Module):
        strict_loading = False

    runner = trainer(LossWeights(), max_epochs=1)
    runner.fit(Strangers(), Loader())
    runner.save_checkpoint(tmp_path / "all.ckpt")
    saved = torch.load(tmp_path / "all.ckpt", weights_only=True)
    saved["state_dict"] = {k: v for k, v in saved["state_dict"].items() if "criterion" not in k}
    torch.save(saved, tmp_path / "old.ckpt")
    with pytest.warns(UserWarning, match=r"the clock of 'criterion' is at step 0.*set_step\(10\)"):
        trainer(LossWeights(), max_epochs=2).fit(
            Strangers(), Loader(), ckpt_path=tmp_path / "old.ckpt", weights_only=True
        )


def test_after_a_training_the_clock_is_free() -> None:
    class Fails(Module):
        def on_train_batch_end(self, *_: Any) -> None:
            raise ZeroDivisionError

    module, failing = Module(), Fails()
    trainer(LossWeights(), max_epochs=1).fit(module, Loader())
    with pytest.raises(ZeroDivisionError):
        trainer(LossWeights(), max_epochs=1).fit(failing, Loader())
    for criterion in (module.criterion, failing.criterion):
        before = criterion.current_step
        with warnings.catch_warnings(action="ignore"):  # the first one is past its end
            criterion.step()
        assert criterion.current_step == before + 1


def test_what_the_user_divides_by_is_kept() -> None:
    module = Module()
    module.criterion.divided_by = 3
    trainer(LossWeights(), max_epochs=1).fit(module, Loader())
    assert module.criterion.divided_by == 3
