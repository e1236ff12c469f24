"""A callback for Lightning's trainer."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from lossweights.criterion.clock import PerStep
from lossweights.criterion.report import METRICS, chosen
from lossweights.errors import quoted
from lossweights.integrations import common

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise ImportError(
        "lossweights.integrations.lightning needs Lightning: pip install 'lossweights[lightning]'"
    ) from error


class LossWeights(Callback):
    """Keeps the criteria of a LightningModule in step with its training.

    Each `WeightedLoss` among the modules of the LightningModule follows the optimizer: accumulated
    batches, and steps that AMP skips, are counted correctly. It gets the length of training if its
    config does not declare it (only with automatic optimization, because with manual optimization
    the number of steps is unknown), is logged at the trainer's `log_every_n_steps`, and is audited
    at the end of each epoch. Its state is part of the module's, so it is in each checkpoint.

    Args:
        prefix: Prefix of each metric; with several criteria, followed by the criterion's name.
        include: The quantities to log, as in `WeightedLoss.metrics`; all by default.
        optimizer: The optimizer whose steps count, if there are several: an index into those that
            `configure_optimizers` returns, for all criteria or by the criterion's name.
        per_step: For criteria whose clock counts another unit than steps: how many an optimizer
            step takes, such as 4096 tokens, or a function, as in `WeightedLoss.follow`.

    Raises:
        ValueError: For an unknown quantity; and when the training begins, for a module without a
            criterion, if there are several optimizers and `optimizer` does not select one, or if
            `per_step` is missing or not needed.

    >>> import torch
    >>> from lightning.pytorch import LightningModule, Trainer
    >>> from torch.utils.data import DataLoader
    >>> from lossweights import WeightedLoss
    >>> class Model(LightningModule):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.layer = torch.nn.Linear(4, 1)
    ...         self.criterion = WeightedLoss({"mse": 1.0, "l1": {"kind": "warmup", "over": "50%"}})
    ...
    ...     def training_step(self, x):
    ...         y = self.layer(x)
    ...         return self.criterion({"mse": y.square().mean(), "l1": y.abs().mean()})
    ...
    ...     def configure_optimizers(self):
    ...         return torch.optim.Adam(self.parameters())
    >>> trainer = Trainer(
    ...     max_epochs=2, callbacks=[LossWeights()], accelerator="cpu", logger=False,
    ...     enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    ... )
    >>> model = Model()
    >>> trainer.fit(model, DataLoader(torch.ones(20, 4), batch_size=2))
    >>> model.criterion.current_step, model.criterion.horizon.total_steps
    (20, 20)
    """

    def __init__(
        self,
        prefix: str = "train/",
        include: Iterable[str] | None = None,
        optimizer: int | Mapping[str, int] | None = None,
        per_step: PerStep | None = None,
    ) -> None:
        super().__init__()
        self._prefix = prefix
        self._include = chosen(include, METRICS)
        self._optimizer = optimizer
        self._per_step = per_step
        self._sync = common.TrainerSync()
        self._has_length = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        criteria, count = common.criteria_of(pl_module), len(trainer.optimizers)
        chosen = _chosen(self._optimizer, list(common.timed(criteria)), count)
        optimizers = {name: trainer.optimizers[chosen[name]] for name in chosen}
        self._sync.begin(criteria, optimizers, self._per_step)
        self._has_length = not pl_module.automatic_optimization

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._bind(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._bind(trainer)
        self._sync.check(trainer.optimizers, trainer.global_step)

    def _bind(self, trainer: Trainer) -> None:
        # Not in `on_fit_start`: the trainer sets up the loaders to get their length, and loaders
        # that resume within an epoch would miss their state, which is loaded after that hook.
        if not self._has_length:
            self._has_length = True
            self._sync.bind(*_length(trainer))

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if pl_module.automatic_optimization:  # then the trainer divides the loss
            self._sync.divide(trainer.accumulate_grad_batches)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Lightning's own monitors ask this too.
        if trainer._logger_connector.should_update_logs:  # noqa: SLF001  # there is no public way
            found = self._sync.metrics(self._prefix, self._include)
            pl_module.log_dict(found, on_step=True, on_epoch=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._sync.audit()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._sync.end()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._sync.end()


def _length(trainer: Trainer) -> tuple[int | None, int | None]:
    """Optimizer steps of the training and of an epoch, None if the trainer does not know them."""
    # With a `GradientAccumulationScheduler` the trainer uses the current factor for all epochs. It
    # is recognized by its method, because `pytorch_lightning` has another class of that name.
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    if any(hasattr(part, "going_to_accumulate_grad_batches") for part in callbacks):
        return None, None
    if trainer.train_dataloader is None:
        trainer.fit_loop.setup_data()
    total, batches = trainer.estimated_stepping_batches, trainer.num_training_batches
    return (
        int(total) if 0 <= total < math.inf else None,
        math.ceil(batches / trainer.accumulate_grad_batches) if 0 < batches < math.inf else None,
    )


def _chosen(
    wanted: int | Mapping[str, int] | None, names: list[str], count: int
) -> Mapping[str, int]:
    """The index of an optimizer for each criterion."""
    index = 0 if wanted is None and count == 1 else wanted
    found = dict.fromkeys(names, index) if isinstance(index, int) else index or {}
    if found.keys() == set(names) and all(each in range(count) for each in found.values()):
        return found
    example = ", ".join(f"{name!r}: 0" for name in names)
    raise ValueError(
        f"the clock of a criterion counts the steps of one optimizer, and there are {count}: "
        f"write which for {quoted(names)}, as in LossWeights(optimizer=0) or "
        f"LossWeights(optimizer={{{example}}}), found {wanted!r}"
    )
