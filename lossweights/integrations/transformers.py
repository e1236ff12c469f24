"""A Hugging Face Trainer that keeps a criterion in step with its training."""

from inspect import signature
from math import ceil
from typing import Any

from torch import nn

from lossweights.criterion.clock import PerStep
from lossweights.criterion.report import on_host
from lossweights.integrations import common

try:
    from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments
    from transformers.trainer_utils import has_length
except ImportError as error:
    raise ImportError(
        "lossweights.integrations.transformers needs Transformers and Accelerate: "
        "pip install 'lossweights[transformers]'"
    ) from error


class WeightedTrainer(Trainer):
    """A Trainer of models that contain a `WeightedLoss` and return its total as their loss.

    Each criterion in the model follows the optimizer: accumulated batches, and steps that AMP
    skips, are counted correctly. It gets the length of training if its config does not declare it,
    adds its metrics to the logs, and is audited at the end of each epoch. Its learned weights are
    trained without weight decay. Its state is part of the model's, so it is in each checkpoint.

    Compute the total in the model's `forward` or in the `compute_loss` of a subclass. Trainer
    divides it by the number of accumulated batches, whatever the signature of the model is. A term
    with `accumulates: sum` is not divided: a sum over tokens, divided by `num_items_in_batch`.
    `compute_loss` always gets that number; a `forward` that takes it, if there is such a term. On
    several processes it is their mean, because gradients are averaged over processes.

    Assign the criterion of a `PreTrainedModel` after the model is built, not in its `__init__`:
    `from_pretrained` expects an `__init__` that creates only parameters.

    To combine it with another subclass of Trainer, name it first:
    `class Mine(WeightedTrainer, Seq2SeqTrainer)`.

    Args:
        *args: As for Trainer.
        per_step: For criteria whose clock counts another unit than steps: how many an optimizer
            step takes, such as 4096 tokens, or a function, as in `WeightedLoss.follow`.
        **kwargs: As for Trainer.

    Raises:
        ValueError: For a model without a criterion; for `compute_loss_func`, whose result Trainer
            does not divide by the number of accumulated batches; and for `label_smoothing_factor`,
            with which Trainer computes a loss of its own; when the training begins, if `per_step`
            is missing or not needed.

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

    loss_is_scaled_for_ga = False  # newer versions: the loss is a mean

    def __init__(self, *args: Any, per_step: PerStep | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.compute_loss_func is not None:
            raise ValueError(
                "compute_loss_func is expected to divide by the number of items of all batches and "
                "ranks, and terms are means: compute the total in the model's forward, or override "
                "compute_loss(self, model, inputs, return_outputs=False, **kwargs)"
            )
        if self.label_smoother is not None:
            raise ValueError(
                "with label_smoothing_factor, Trainer removes the labels from the inputs and "
                "computes a loss of its own, without terms: drop it, and smooth the labels of the "
                "term, as in torch.nn.functional.cross_entropy(..., label_smoothing=0.1)"
            )
        if self.model is not None:
            common.criteria_of(self.model)
        # Otherwise Trainer assumes that a model whose forward takes **kwargs divides by the number
        # of items: it multiplies the loss by the number of processes and, in older versions, does
        # not divide it by the number of accumulated batches.
        self._takes_count = self.model_accepts_loss_kwargs or _has_count(self.model)
        self.model_accepts_loss_kwargs = False
        self._sync = common.TrainerSync()
        self.add_callback(_SyncCallback(self._sync, per_step))

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        self.model_accepts_loss_kwargs = True  # Trainer counts items for such models alone
        try:
            batches, count = super().get_batch_samples(*args, **kwargs)
        finally:
            self.model_accepts_loss_kwargs = False
        self._sync.divide(max(1, len(batches)))
        if (
            count is not None
            and self.args.average_tokens_across_devices
            and self.args.world_size > 1
        ):
            count = count / self.args.world_size
        return batches, count

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        if num_items_in_batch is not None and self._takes_count and self._sync.has_sums:
            inputs = {**inputs, "num_items_in_batch": num_items_in_batch}
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        # Not in `on_log`: reporting callbacks run before those of users and would miss it.
        if "loss" in logs:
            logs = {**logs, **on_host(self._sync.metrics())}
        super().log(logs, *args, **kwargs)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        learned = {
            f"{name}.{parameter}"
            for name, criterion in common.criteria_of(model).items()
            for parameter, _ in criterion.named_parameters()
        }
        return [name for name in super().get_decay_parameter_names(model) if name not in learned]


def _has_count(model: nn.Module | None) -> bool:
    """Whether `forward` takes the number of items by name."""
    return model is not None and "num_items_in_batch" in signature(model.forward).parameters


class _SyncCallback(TrainerCallback):
    def __init__(self, sync: common.TrainerSync, per_step: PerStep | None) -> None:
        self._sync, self._per_step = sync, per_step

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: object, **kwargs: Any
    ) -> None:
        criteria, optimizer = common.criteria_of(kwargs["model"]), kwargs["optimizer"]
        loader = kwargs["train_dataloader"]
        self._sync.begin(criteria, dict.fromkeys(criteria, optimizer), self._per_step)
        each = ceil(len(loader) / args.gradient_accumulation_steps) if has_length(loader) else None
        self._sync.bind(state.max_steps, each)
        self._sync.check([optimizer], state.global_step)

    def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        self._sync.audit()

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self._sync.end()
