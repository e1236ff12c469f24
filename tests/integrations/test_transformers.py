"""A Hugging Face Trainer: which steps count, how the loss is scaled, what is logged and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    BertForSequenceClassification,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainerCallback,
)

from lossweights import HorizonError, WeightedLoss
from lossweights.criterion.clock import unwrapped
from lossweights.integrations.transformers import WeightedTrainer
from tests.integrations.hugging_face_models import ROWS, Bert, Plain, TakesAnything, trainer
from tests.integrations.models import (
    CONFIGS,
    LEARNED,
    SCHEDULED,
    STEERED,
    SUMS,
    TOKENS,
    Model,
    Terms,
    assert_same,
    steps_of,
)


@pytest.mark.parametrize(("accumulate", "each"), [(1, 10), (3, 4)])
def test_accumulation_and_epochs_are_counted_in_steps(
    accumulate: int, each: int, tmp_path: Path
) -> None:
    model = Plain()
    runner = trainer(model, tmp_path, gradient_accumulation_steps=accumulate)
    runner.train()
    horizon = model.criterion.horizon
    assert model.criterion.current_step == steps_of(unwrapped(runner.optimizer)) == 3 * each
    assert (horizon.total_steps, horizon.steps_per_epoch) == (3 * each, each)


def test_steps_that_the_scaler_skips_are_not_counted(tmp_path: Path) -> None:
    model = Plain()
    runner = trainer(model, tmp_path)
    # As with fp16, which Trainer has for GPUs only; far too large, to see it skip.
    runner.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    runner.train()
    assert runner.state.global_step == 30  # what `on_optimizer_step` and `on_step_end` count
    assert 0 < model.criterion.current_step == steps_of(unwrapped(runner.optimizer)) < 30


@pytest.mark.parametrize(
    ("options", "length"),
    [
        ({"max_steps": 7}, (7, 10)),
        ({"num_train_epochs": 1.5, "gradient_accumulation_steps": 4}, (5, 3)),
    ],
)
def test_the_length_is_that_of_the_trainer(
    options: dict[str, Any], length: tuple[int, int], tmp_path: Path
) -> None:
    model = Plain()
    trainer(model, tmp_path, **options).train()
    horizon = model.criterion.horizon
    assert (horizon.total_steps, horizon.steps_per_epoch) == length


def test_what_the_config_says_of_the_length_holds(tmp_path: Path) -> None:
    model = Plain({**SCHEDULED, "total_steps": "4 epochs"})
    trainer(model, tmp_path).train()
    assert model.criterion.horizon.total_steps == 40


class Endless(torch.utils.data.IterableDataset[dict[str, Tensor]]):
    def __iter__(self) -> Any:
        while True:
            yield {"x": ROWS[0], "labels": ROWS[0, :1]}


def test_a_length_is_not_guessed(tmp_path: Path) -> None:
    per_epoch = Plain(
        {"terms": {"mse": 1.0, "l1": {"kind": "warmup", "over": "1 epochs"}, "size": 1}}
    )
    runner = trainer(per_epoch, tmp_path, max_steps=6)
    runner.train_dataset = Endless()
    with pytest.raises(HorizonError, match="before steps_per_epoch is known"):
        runner.train()
    of_whole = Plain()
    runner = trainer(of_whole, tmp_path, max_steps=6)
    runner.train_dataset = Endless()
    runner.train()
    assert of_whole.criterion.weights["l1"] == 0.5


class Computes(WeightedTrainer):
    """The terms come from the model, the total from here."""

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, *_: Any, **__: Any
    ) -> Any:
        terms = Terms.forward(model, inputs["x"])  # type: ignore[arg-type]
        loss = model.criterion(terms)  # type: ignore[operator]
        return (loss, {"logits": inputs["labels"]}) if return_outputs else loss


@pytest.mark.parametrize(
    ("model", "kind"),
    [(Plain, WeightedTrainer), (TakesAnything, WeightedTrainer), (Model, Computes)],
)
@pytest.mark.parametrize(("batch", "accumulate"), [(2, 5), (4, 3)])
def test_accumulated_batches_weigh_as_one_large_batch(
    model: type[Model], kind: type[WeightedTrainer], batch: int, accumulate: int, tmp_path: Path
) -> None:
    """Where the epoch does not divide evenly, the last step has fewer batches: also a mean."""
    small, large = model(), model()
    options: dict[str, Any] = {
        "optim": "sgd",
        "num_train_epochs": 1,
        "max_grad_norm": 0.0,  # or a loss of another scale would look the same
    }
    for trained, size, count in ((small, batch, accumulate), (large, batch * accumulate, 1)):
        trainer(
            trained,
            tmp_path,
            kind,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=count,
            remove_unused_columns=False,
            **options,
        ).train()
    torch.testing.assert_close(small.layer.weight, large.layer.weight, rtol=1e-6, atol=1e-7)
    assert small.criterion.current_step == large.criterion.current_step == 2


# Losses per token


class Tokens(nn.Module):
    """A cross-entropy over all tokens of a window, and a term that is a mean."""

    def __init__(self, accumulates: str = "sum") -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.embedding, self.head = nn.Embedding(7, 4), nn.Linear(4, 7)
        self.criterion = WeightedLoss({"ce": {"accumulates": accumulates}, "router": 0.5})
        self.counts: list[float | None] = []

    def terms(self, x: Tensor, labels: Tensor, count: Tensor | None) -> dict[str, Tensor]:
        self.counts.append(None if count is None else float(count))
        hidden = self.embedding(x)
        loss = nn.functional.cross_entropy(
            self.head(hidden).flatten(0, 1), labels.flatten(), reduction="sum"
        )
        count = labels.ne(-100).sum() if count is None else count
        return {"ce": loss / count, "router": hidden.square().mean()}


class Named(Tokens):
    def forward(
        self, x: Tensor, labels: Tensor, num_items_in_batch: Tensor | None = None
    ) -> dict[str, Tensor]:
        return {"loss": self.criterion(self.terms(x, labels, num_items_in_batch)), "logits": x}


class AmongOthers(Tokens):
    def forward(self, x: Tensor, labels: Tensor, **options: Any) -> dict[str, Tensor]:
        terms = self.terms(x, labels, options.get("num_items_in_batch"))
        return {"loss": self.criterion(terms), "logits": x}


class OfTokens(WeightedTrainer):
    """The batches in order; the total comes from here if the model has none."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if type(model) is not Tokens:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        return model.criterion(model.terms(inputs["x"], inputs["labels"], num_items_in_batch))

    def _get_train_sampler(self, *_: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)  # type: ignore[arg-type]


LENGTHS = (12, 2, 5, 7, 1)


def sentences() -> list[dict[str, Tensor]]:
    draws = torch.Generator().manual_seed(1)
    x, labels = torch.randint(0, 7, (2, len(LENGTHS), 12), generator=draws)
    labels[torch.arange(12) >= torch.tensor(LENGTHS)[:, None]] = -100
    return [{"x": a, "labels": b} for a, b in zip(x, labels, strict=True)]


def train_tokens(model: Tokens, accumulate: int, folder: Path) -> WeightedTrainer:
    options: dict[str, Any] = {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0}
    runner = trainer(
        model,
        folder,
        OfTokens,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=accumulate,
        num_train_epochs=1,
        lr_scheduler_type="constant",
        logging_steps=1,
        remove_unused_columns=False,
        **options,
    )
    runner.train_dataset = sentences()
    runner.train()
    return runner


@pytest.mark.parametrize("kind", [Named, AmongOthers, Tokens])
@pytest.mark.parametrize("accumulate", [1, 2, 5])
def test_sums_over_tokens_are_those_of_the_window_and_means_are_divided(
    kind: type[Tokens], accumulate: int, tmp_path: Path
) -> None:
    """The last window of two has one batch."""
    found, wanted = kind(), Tokens()
    runner = train_tokens(found, accumulate, tmp_path)
    rows, losses, counts = sentences(), [], []
    optimizer = torch.optim.SGD(wanted.parameters(), lr=0.1)
    for first in range(0, len(rows), accumulate):
        window = rows[first : first + accumulate]
        count = torch.stack([row["labels"] for row in window]).ne(-100).sum()
        given = [wanted.terms(row["x"][None], row["labels"][None], count) for row in window]
        ce = torch.stack([terms["ce"] for terms in given]).sum()
        router = torch.stack([terms["router"] for terms in given]).mean()
        optimizer.zero_grad()
        (ce + 0.5 * router).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append((ce + 0.5 * router).item())
        counts += [float(count)] * len(window)
        shown = runner.state.log_history[len(losses) - 1]
        assert shown["raw/ce"] == pytest.approx(ce.item(), rel=1e-5)
        assert shown["raw/router"] == pytest.approx(router.item(), rel=1e-5)
    logs = [log for log in runner.state.log_history if "total" in log]
    assert [log["total"] for log in logs] == pytest.approx(losses, rel=1e-5)
    assert [log["loss"] for log in logs] == pytest.approx(losses, abs=1e-3)  # Trainer rounds
    assert found.counts == counts
    for ours, theirs in zip(found.parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert found.criterion.divided_by is None  # as the training has ended


@pytest.mark.parametrize("kind", [Named, AmongOthers, Tokens])
def test_a_model_of_means_does_not_get_the_number_of_items(
    kind: type[Tokens], tmp_path: Path
) -> None:
    """A model of Transformers would divide by it; what overrides `compute_loss` may use it."""
    model = kind("mean")
    train_tokens(model, 2, tmp_path)
    counts = [14.0, 14.0, 12.0, 12.0, 1.0] if kind is Tokens else [None] * 5
    assert model.counts == counts


def test_a_model_that_does_not_take_the_number_of_items_does_not_get_it(tmp_path: Path) -> None:
    model = Plain(SUMS)
    trainer(model, tmp_path, max_steps=2).train()
    assert model.criterion.current_step == 2


def test_in_evaluation_the_number_of_items_is_not_passed(tmp_path: Path) -> None:
    model = Named()
    runner = train_tokens(model, 2, tmp_path)
    model.counts.clear()
    runner.evaluate(sentences()[:2])  # type: ignore[arg-type]
    assert model.counts == [None]


def test_what_cannot_work_is_refused_as_the_trainer_is_made(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no WeightedLoss among the modules of Linear: make it"):
        trainer(nn.Linear(1, 1), tmp_path)
    with pytest.raises(ValueError, match="compute_loss_func is expected to divide by the number"):
        trainer(Plain(), tmp_path, compute_loss_func=lambda *_, **__: None)
    with pytest.raises(ValueError, match="computes a loss of its own, without terms: drop it"):
        trainer(Bert(), tmp_path, label_smoothing_factor=0.1)


class Reports(TrainerCallback):
    def __init__(self) -> None:
        self.logs: list[dict[str, float]] = []

    def on_log(self, *_: Any, **kwargs: Any) -> None:
        self.logs.append(dict(kwargs["logs"]))


def test_metrics_are_in_the_logs_that_reporters_see(tmp_path: Path) -> None:
    model, reports = Plain(), Reports()
    runner = trainer(model, tmp_path, gradient_accumulation_steps=2)
    runner.callback_handler.callbacks.insert(0, reports)  # where Trainer puts its own
    runner.train()
    steps = [log for log in reports.logs if "loss" in log]
    # A warm-up to 0.5 over 7.5 of 15 steps; the log after step 5 shows the one of number 4.
    assert [log["weight/l1"] for log in steps] == pytest.approx([0.5 * 4 / 7.5, 0.5, 0.5], abs=0.02)
    temperatures = [log["scheduled/temperature"] for log in steps]
    assert temperatures == pytest.approx([4 - 3 * 4 / 7.5, 1.0, 1.0], abs=0.2)
    history = [log for log in runner.state.log_history if "loss" in log]
    assert [log["weight/l1"] for log in history] == [log["weight/l1"] for log in steps]
    assert all(isinstance(log["total"], float) for log in steps)
    assert not any("total" in log for log in reports.logs if "loss" not in log)


@pytest.mark.parametrize("model", [Plain, Bert])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_resume_is_exact(
    model: Any, config: dict[str, Any], accumulate: int, tmp_path: Path
) -> None:
    """In the middle of an epoch, of the training and of a warm-up; with dropout in Bert."""
    options: dict[str, Any] = {
        "save_strategy": "steps",
        "save_steps": 8 // accumulate - 1,
        "gradient_accumulation_steps": accumulate,
        "num_train_epochs": 2,
    }
    whole, resumed = model(config), model(config)
    trainer(whole, tmp_path, **options).train()
    checkpoint = tmp_path / f"checkpoint-{options['save_steps']}"
    second = trainer(resumed, tmp_path / "second", **options)
    second.train(resume_from_checkpoint=str(checkpoint))
    assert resumed.criterion.current_step == second.state.global_step == 20 // accumulate
    assert_same(resumed, whole)
    assert resumed.criterion.weights == whole.criterion.weights


def test_a_clock_that_counts_tokens_is_moved_by_them_and_resumed(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "save_strategy": "steps",
        "save_steps": 7,
        "num_train_epochs": 2,
        "per_step": 1000,
    }
    whole, resumed = Plain(TOKENS), Plain(TOKENS)
    trainer(whole, tmp_path, **options).train()
    assert whole.criterion.current_step == 20_000
    assert str(whole.criterion.horizon) == "20000 tokens"  # no steps of the trainer
    second = trainer(resumed, tmp_path / "second", **options)
    second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-7"))
    assert_same(resumed, whole)
    assert resumed.criterion.weights == whole.criterion.weights
    with pytest.raises(ValueError, match="the clock counts tokens: write how many an optimizer"):
        trainer(Plain(TOKENS), tmp_path / "third").train()


def test_a_checkpoint_can_be_loaded_without_the_criterion(tmp_path: Path) -> None:
    model = Bert(STEERED)
    trainer(model, tmp_path, max_steps=3, save_strategy="steps", save_steps=3).train()
    alone = BertForSequenceClassification.from_pretrained(tmp_path / "checkpoint-3")
    ours = {key: part for key, part in model.state_dict().items() if "criterion" not in key}
    assert ours.keys() == alone.state_dict().keys()
    assert all(torch.equal(part.cpu(), alone.state_dict()[key]) for key, part in ours.items())


class WithoutLabels(Model):
    """Such as an autoencoder."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"loss": self.criterion(super().forward(x)), "logits": x}


class SaysSo(WithoutLabels):
    def forward(self, x: Tensor, return_loss: bool = True) -> dict[str, Tensor]:
        return super().forward(x)


@pytest.mark.parametrize(
    ("model", "options", "has_loss"),
    [
        (WithoutLabels, {}, False),
        (WithoutLabels, {"label_names": ["x"]}, True),
        (SaysSo, {}, True),
    ],
)
def test_the_loss_of_an_evaluation_without_labels_is_there_where_the_docs_say(
    model: type[Model], options: dict[str, Any], has_loss: bool, tmp_path: Path
) -> None:
    runner = trainer(model(), tmp_path, **options)
    runner.train()
    assert ("eval_loss" in runner.evaluate()) is has_loss


def test_evaluation_uses_its_weights_and_moves_nothing(tmp_path: Path) -> None:
    model = Plain()
    runner = trainer(model, tmp_path, eval_strategy="steps", eval_steps=2, max_steps=4)
    runner.train()
    final = {"mse": 1.0, "l1": 0.5, "size": 0.1}
    with torch.no_grad():
        terms = Terms.forward(model, ROWS[:4])
    loss = runner.state.log_history[-2]["eval_loss"]
    assert loss == pytest.approx(float(sum(final[n] * terms[n] for n in final)))
    assert model.criterion.current_step == 4


def test_learned_weights_are_trained_without_decay(tmp_path: Path) -> None:
    model = Plain(LEARNED)
    runner = trainer(model, tmp_path, weight_decay=0.3)
    runner.train()
    decay = {
        id(parameter): group["weight_decay"]
        for group in unwrapped(runner.optimizer).param_groups
        for parameter in group["params"]
    }
    assert [decay[id(parameter)] for parameter in model.criterion.parameters()] == [0.0]
    assert decay[id(model.layer.weight)] == 0.3
    (learned,) = model.criterion.parameters()
    assert torch.count_nonzero(learned) == learned.numel()


def test_learned_weights_that_the_optimizer_lacks_are_told_of(tmp_path: Path) -> None:
    model = Plain(LEARNED)
    optimizer = torch.optim.Adam(model.layer.parameters())
    with pytest.warns(UserWarning, match="the learned weights of"):
        trainer(model, tmp_path, optimizers=(optimizer, None)).train()


def test_a_clock_that_is_not_where_the_training_is_is_told_of(tmp_path: Path) -> None:
    model = Plain()
    runner = trainer(model, tmp_path)
    runner.train()
    with (
        pytest.warns(UserWarning, match="past its end"),
        pytest.warns(UserWarning, match="the clock of 'criterion' is at step 30: to begin its s"),
    ):
        runner.train()
    assert model.criterion.current_step == 60


def test_a_checkpoint_without_the_criterion_is_told_of(tmp_path: Path) -> None:
    trainer(Bert(), tmp_path, save_strategy="steps", save_steps=20).train()
    weights = tmp_path / "checkpoint-20" / "model.safetensors"
    kept = {key: part for key, part in load_file(weights).items() if "criterion" not in key}
    save_file(kept, weights, {"format": "pt"})
    with pytest.warns(UserWarning, match=r"the clock of 'criterion' is at step 0.*set_step\(20\)"):
        trainer(Bert(), tmp_path).train(resume_from_checkpoint=str(weights.parent))


def test_after_a_training_the_clock_is_free_and_the_next_may_take_it(tmp_path: Path) -> None:
    class Fails(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            raise ZeroDivisionError

    model = Plain()
    runner = trainer(model, tmp_path)
    runner.train()
    with pytest.warns(UserWarning, match="past its end"):
        model.criterion.step()
    model.criterion.set_step(0)
    runner.add_callback(Fails)
    with pytest.raises(ZeroDivisionError):
        runner.train()
    model.criterion.set_step(0)
    trainer(model, tmp_path).train()
    assert model.criterion.current_step == 30


def test_it_mixes_with_other_trainers(tmp_path: Path) -> None:
    class Mine(WeightedTrainer, Seq2SeqTrainer):
        pass

    assert Mine.__mro__[1:4] == (WeightedTrainer, Seq2SeqTrainer, Trainer)
    model = Plain()
    arguments = Seq2SeqTrainingArguments(
        str(tmp_path), max_steps=4, use_cpu=True, report_to="none", save_strategy="no"
    )
    data = [{"x": row, "labels": row[:1]} for row in ROWS]
    Mine(model, arguments, train_dataset=data).train()
    assert model.criterion.current_step == 4
