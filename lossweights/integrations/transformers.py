"""A Hugging Face Trainer that keeps a criterion in step with its training."""

from __future__ import annotations

from math import ceil
from typing import Any

from torch import nn

from lossweights.criterion.report import on_host
from lossweights.integrations import common

try:
    from transformers import (
        Trainer,
        TrainerCallback,
        TrainerControl,
        TrainerState,
        TrainingArguments,
    )
    from transformers.trainer_utils import has_length
except ImportError as error:
    raise ImportError(
        "lossweights.integrations.transformers needs Transformers and Accelerate: "
        "pip install 'lossweights[transformers]'"
    ) from error


class WeightedTrainer(Trainer):
    """A Trainer of models that hold a `WeightedLoss` and return its total as their loss.

    Each criterion in the model follows the optimizer, so that accumulation and steps that AMP
    skips are counted right; is told the length of training, where its config does not say it; has
    its metrics in the logs; its learned weights are trained without weight decay; and is audited
    at the end of each epoch. Its state lies in the model's, and so in each checkpoint.

    The loss of a batch is divided by the number of batches that are accumulated, whatever the
    signature of the model says, since a sum of weighted means is what is returned. It may be
    computed in the model's `forward` or in `compute_loss`, of a subclass.

    A `PreTrainedModel` is given its criterion when it is there, not in its `__init__`, which
    `from_pretrained` takes to make nothing but parameters.

    With another subclass of Trainer it goes first: `class Mine(WeightedTrainer, Seq2SeqTrainer)`.

    Args:
        *args: As for Trainer.
        **kwargs: As for Trainer.

    Raises:
        ValueError: For a model without a criterion; for `compute_loss_func`, whose result Trainer
            takes to be divided by the number of items already; and for `label_smoothing_factor`,
            with which Trainer computes a loss of its own.

    >>> import tempfile, torch
    >>> from transformers import PrinterCallback, TrainingArguments
    >>> from lossweights import WeightedLoss
    >>> class Model(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.layer = torch.nn.Linear(4, 1)
    ...         self.criterion = WeightedLoss({"mse": 1.0, "l1": {"kind": "warmup", "over": "50%"}})
    ...
    ...     def forward(self, x, labels):
    ...         y = self.layer(x)
    ...         terms = {"mse": (y - labels).square().mean(), "l1": y.abs().mean()}
    ...         return {"loss": self.criterion(terms), "y": y}
    >>> data = [{"x": torch.ones(4), "labels": torch.ones(1)}] * 16
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     arguments = TrainingArguments(
    ...         folder, per_device_train_batch_size=2, gradient_accumulation_steps=2, use_cpu=True,
    ...         report_to="none", save_strategy="no", disable_tqdm=True, num_train_epochs=2,
    ...     )
    ...     trainer = WeightedTrainer(Model(), arguments, train_dataset=data)
    ...     trainer.remove_callback(PrinterCallback)
    ...     _ = trainer.train()
    >>> trainer.model.criterion.current_step
    8
    """

    loss_is_scaled_for_ga = False  # how newer versions are told that the loss is a mean

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.compute_loss_func is not None:
            raise ValueError(
                "compute_loss_func is expected to divide by the number of items of all batches "
                "and ranks, and terms are means: compute the total in the model's forward, or "
                "override compute_loss(self, model, inputs, return_outputs=False, **kwargs)"
            )
        if self.label_smoother is not None:
            raise ValueError(
                "with label_smoothing_factor Trainer takes the labels away from the model and "
                "computes a loss of its own, without terms: drop it, and smooth where the term is "
                "computed, as in torch.nn.functional.cross_entropy(..., label_smoothing=0.1)"
            )
        if self.model is not None:
            common.criteria_of(self.model)
        # Else a model whose forward takes **kwargs is believed to divide by the number of items
        # itself: its loss would be multiplied by the number of processes, and in older versions
        # not divided by that of accumulated batches.
        self.model_accepts_loss_kwargs = False
        self._in_step = _InStep()
        self.add_callback(self._in_step)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        # Not in `on_log`: callbacks that report come before those of users, and would miss it.
        if "loss" in logs:
            logs = {**logs, **on_host(self._in_step.training.metrics())}
        super().log(logs, *args, **kwargs)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        learned = {
            f"{name}.{parameter}"
            for name, criterion in common.criteria_of(model).items()
            for parameter, _ in criterion.named_parameters()
        }
        return [name for name in super().get_decay_parameter_names(model) if name not in learned]


class _InStep(TrainerCallback):
    """Does what is to be done as a training begins, goes on and ends."""

    def __init__(self) -> None:
        self.training = common.TrainerSync()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        criteria, optimizer = common.criteria_of(kwargs["model"]), kwargs["optimizer"]
        self.training.begin(criteria, dict.fromkeys(criteria, optimizer))
        loader = kwargs["train_dataloader"]
        each = ceil(len(loader) / args.gradient_accumulation_steps) if has_length(loader) else None
        self.training.bind(state.max_steps, each)
        self.training.check([optimizer], state.global_step)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.training.audit()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.training.end()
