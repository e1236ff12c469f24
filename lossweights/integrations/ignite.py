"""A handler for the engines of PyTorch-Ignite."""

from collections.abc import Iterable
from math import ceil

from torch import nn
from torch.optim import Optimizer

from lossweights.components.durations import check_count
from lossweights.criterion.clock import PerStep
from lossweights.criterion.report import METRICS, chosen, on_host
from lossweights.integrations import common

try:
    from ignite.engine import Engine, Events
except ImportError as error:
    raise ImportError(
        "lossweights.integrations.ignite needs PyTorch-Ignite: pip install 'lossweights[ignite]'"
    ) from error


class LossWeights:
    """Keeps a criterion in step with the training of an engine.

    The criterion follows the optimizer: accumulated iterations, and steps that AMP skips, are
    counted correctly. It gets the length of training if its config does not declare it, writes its
    metrics to `engine.state.metrics`, and is audited at the end of each epoch. The handler does not
    save it: pass the criterion to `Checkpoint`, unless it is part of a model that is saved there.

    Args:
        criterion: A `WeightedLoss`, or a model that contains one or several.
        optimizer: The optimizer whose steps count.
        gradient_accumulation_steps: Iterations per optimizer step, by which the engine divides the
            loss, as that of `create_supervised_trainer` does.
        every: Iterations between two updates of the metrics, rounded up to whole optimizer steps.
        prefix: Prefix of each metric; with several criteria, followed by the criterion's name.
        include: The quantities, as in `WeightedLoss.metrics`; all by default.
        per_step: For criteria whose clock counts another unit than steps: how many an optimizer
            step takes, such as 4096 tokens, or a function, as in `WeightedLoss.follow`.

    Raises:
        ValueError: For a model without a criterion, an unknown quantity, or a count below 1; when
            the training begins, if `per_step` is missing or not needed.

    >>> import torch
    >>> from ignite.engine import create_supervised_trainer
    >>> from lossweights import WeightedLoss
    >>> model = torch.nn.Linear(4, 1)
    >>> optimizer = torch.optim.Adam(model.parameters())
    >>> criterion = WeightedLoss({"mse": 1.0, "l1": {"kind": "warmup", "over": "50%"}})
    >>> loss_fn = criterion.wrap(
    ...     lambda y, target: {"mse": (y - target).square().mean(), "l1": y.abs().mean()}
    ... )
    >>> trainer = create_supervised_trainer(model, optimizer, loss_fn)
    >>> LossWeights(criterion, optimizer).attach(trainer)
    >>> data = [(torch.ones(2, 4), torch.ones(2, 1))] * 10
    >>> _ = trainer.run(data, max_epochs=2)
    >>> criterion.current_step, criterion.horizon.total_steps
    (20, 20)
    """

    def __init__(
        self,
        criterion: nn.Module,
        optimizer: Optimizer,
        gradient_accumulation_steps: int = 1,
        every: int = 100,
        prefix: str = "",
        include: Iterable[str] | None = None,
        per_step: PerStep | None = None,
    ) -> None:
        self._criteria = common.criteria_of(criterion)
        self._optimizer, self._per_step = optimizer, per_step
        check_count("gradient_accumulation_steps", gradient_accumulation_steps, least=1)
        check_count("every", every, least=1)
        # In the middle of a step there would be parts of sums.
        self._accumulated = gradient_accumulation_steps
        self._every = ceil(every / gradient_accumulation_steps) * gradient_accumulation_steps
        self._prefix = prefix
        self._include = chosen(include, METRICS)
        self._sync = common.TrainerSync()

    def attach(self, engine: Engine) -> None:
        """Adds the handlers to the engine that trains. Attach loggers of the metrics later."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self._every), self._log)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._sync.audit)
        engine.add_event_handler(Events.COMPLETED, self._sync.end)

    def _start(self, engine: Engine) -> None:
        state, accumulated = engine.state, self._accumulated
        total, each = state.max_iters, state.epoch_length
        if total is None and each is not None and state.max_epochs is not None:
            total = state.max_epochs * each
        optimizers = dict.fromkeys(self._criteria, self._optimizer)
        self._sync.begin(self._criteria, optimizers, self._per_step)
        if accumulated > 1:
            self._sync.divide(accumulated)
        self._sync.bind(
            None if total is None else total // accumulated,
            None if each is None else max(1, round(each / accumulated)),
        )
        self._sync.check([self._optimizer], state.iteration)

    def _log(self, engine: Engine) -> None:
        found = self._sync.metrics(self._prefix, self._include)
        engine.state.metrics.update(on_host(found))
