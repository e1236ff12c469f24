"""A callback for Lightning's trainer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

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

    Each `WeightedLoss` among the modules of the LightningModule follows the optimizer, so that
    accumulation and steps that AMP skips are counted right; is told the length of training, where
    its config does not say it (automatic optimization only: else nobody knows which steps count);
    is logged at the trainer's `log_every_n_steps`; and is audited at the end of each epoch. Its
    state lies in the module's, and so in each checkpoint.

    Args:
        prefix: Put before each metric; with several criteria followed by the criterion's name.
        include: Which quantities to log, as in `WeightedLoss.metrics`; all where it is left out.
        optimizer: Whose steps count, where there are several: an index into those that
            `configure_optimizers` returns, for all criteria or by the criterion's name.

    Raises:
        ValueError: For a quantity that there is not; and when the training begins, for a module
            without a criterion, or for several optimizers with no word on which one counts.

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
    ) -> None:
        super().__init__()
        self._prefix = prefix
        self._include = chosen(include, METRICS)
        self._optimizer = optimizer
        self._training = common.TrainerSync()
        self._has_length = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        criteria, count = common.criteria_of(pl_module), len(trainer.optimizers)
        chosen = _chosen(self._optimizer, list(common.timed(criteria)), count)
        self._training.begin(criteria, {name: trainer.optimizers[chosen[name]] for name in chosen})
        self._has_length = not pl_module.automatic_optimization

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._bind(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._bind(trainer)
        self._training.check(trainer.optimizers, trainer.global_step)

    def _bind(self, trainer: Trainer) -> None:
        # Not in `on_fit_start`: to know their length the trainer sets up the loaders, and those
        # that go on in the middle of an epoch would miss their state, which is loaded after it.
        if not self._has_length:
            self._has_length = True
            self._training.bind(*_length(trainer))

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        # What Lightning's own monitors ask. In between nothing is computed.
        if trainer._logger_connector.should_update_logs:  # noqa: SLF001  # see above
            found = self._training.metrics(self._prefix, self._include)
            pl_module.log_dict(found, on_step=True, on_epoch=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._training.audit()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._training.end()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._training.end()


def _length(trainer: Trainer) -> tuple[int | None, int | None]:
    """Optimizer steps of the training and of an epoch, so far as the trainer knows them."""
    # Of a `GradientAccumulationScheduler` the trainer takes the factor of now for all epochs. It is
    # known by what it does, since in `pytorch_lightning` it is another class.
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
    if wanted is None and count == 1:
        wanted = 0
    if isinstance(wanted, int):
        wanted = dict.fromkeys(names, wanted)
    if (
        wanted is None
        or wanted.keys() != set(names)
        or any(index not in range(count) for index in wanted.values())
    ):
        example = ", ".join(f"{name!r}: 0" for name in names)
        raise ValueError(
            f"the clock of a criterion counts the steps of one optimizer, and there are {count}: "
            f"write which for {quoted(names)}, as in LossWeights(optimizer=0) or "
            f"LossWeights(optimizer={{{example}}}), found {wanted!r}"
        )
    return wanted
