"""What all trainers have in common: which criteria there are, their clocks, lengths and metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from lossweights.clock import unwrapped
from lossweights.errors import warn
from lossweights.report import QUANTITIES, chosen
from lossweights.weighted_loss import WeightedLoss

Criteria = Mapping[str, WeightedLoss]  # by where they lie in the model, such as `criterion`


def criteria_of(model: nn.Module) -> dict[str, WeightedLoss]:
    """All criteria among the modules of a model, by name.

    Raises:
        ValueError: Where there is none: it would be neither saved, nor moved, nor found.
    """
    found = {name: part for name, part in model.named_modules() if isinstance(part, WeightedLoss)}
    if not found:
        raise ValueError(
            f"no WeightedLoss among the modules of {type(model).__name__}: make it an attribute "
            "of the model, as in model.criterion = WeightedLoss(...); then it is in the model's "
            "checkpoints too"
        )
    return found


def timed(criteria: Criteria) -> dict[str, WeightedLoss]:
    """Those with a clock of their own; the others share one of theirs."""
    return {
        name: criterion
        for name, criterion in criteria.items()
        if criterion._owns_clock  # noqa: SLF001  # its own library
    }


def bind(criteria: Criteria, total_steps: int | None, steps_per_epoch: int | None) -> None:
    """Says how long training takes, to those whose config does not say it; None for unknown."""
    for criterion in criteria.values():
        config = criterion.config
        total = total_steps if config.total_steps is None else None
        each = steps_per_epoch if config.steps_per_epoch is None else None
        if total is not None or each is not None:
            criterion.bind(total_steps=total, steps_per_epoch=each)


def check_start(criteria: Criteria, optimizers: Sequence[object], done: int) -> None:
    """Refuses what would fail in the first step, and warns of what would go wrong silently.

    Args:
        criteria: All of them, with the state of the checkpoint, where there is one.
        optimizers: All of the training, or their wrappers.
        done: Steps that the trainer has done before: 0 for a new training.

    Raises:
        HorizonError: Where a weight needs the length of training, which nobody has said.
    """
    trained = {
        id(parameter)
        for optimizer in optimizers
        for group in unwrapped(optimizer).param_groups
        for parameter in group["params"]
    }
    for name, criterion in criteria.items():
        _ = criterion.weights
        if any(p.requires_grad and id(p) not in trained for p in criterion.parameters()):
            warn(
                f"the learned weights of {name!r} are in no optimizer and will not move: give it "
                "[{'params': model.parameters()}, *criterion.param_groups(lr=1e-2)]"
            )
    for name, criterion in timed(criteria).items():
        now = criterion.current_step
        if now and not done:
            warn(
                f"a new training begins, and the clock of {name!r} is at step {now}: "
                "if its schedules are to begin anew too, call criterion.set_step(0) before"
            )
        if done and not now:
            warn(
                f"training goes on after {done} steps, and the clock of {name!r} is at step 0: "
                "the checkpoint holds no state of it. To go on from there, call "
                f"criterion.set_step({done}) before"
            )


def quantities(include: Iterable[str] | None) -> tuple[str, ...] | None:
    """What to log, checked.

    Raises:
        ValueError: For a quantity that there is not.
    """
    return None if include is None else chosen(include, (*QUANTITIES, "total", "controller"))


def metrics(
    criteria: Criteria, prefix: str = "", include: Iterable[str] | None = None
) -> dict[str, Tensor]:
    """The metrics of all, without waiting for the device; with names where there are several."""
    found: dict[str, Tensor] = {}
    for name, criterion in criteria.items():
        place = prefix if len(criteria) == 1 else f"{prefix}{name}/"
        found |= criterion.metrics(prefix=place, include=include, tensors=True)
    return found


class Notes:
    """Warns of what `audit()` finds, of each thing once."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def take(self, criteria: Criteria) -> None:
        """Looks at all criteria."""
        for name, criterion in criteria.items():
            for finding in criterion.audit():
                if finding not in self._told:
                    self._told.add(finding)
                    warn(f"{name}: {finding}")
