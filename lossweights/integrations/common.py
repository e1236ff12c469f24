"""Criteria in step with the training of a trainer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from lossweights.criterion.clock import Follower, unwrapped
from lossweights.criterion.weighted_loss import WeightedLoss
from lossweights.errors import warn

Criteria = Mapping[str, WeightedLoss]  # by their names in the model, such as `criterion`


class TrainerSync:
    """Criteria that follow an optimizer from the beginning of a training to its end."""

    def __init__(self) -> None:
        self._criteria: Criteria = {}
        self._followers: list[Follower] = []
        self._told: set[str] = set()

    def begin(self, criteria: Criteria, optimizers: Mapping[str, object]) -> None:
        """Makes each clock follow its optimizer, by the criterion's name."""
        self.end()
        self._criteria = criteria
        for name, criterion in timed(criteria).items():
            follower = criterion.clock.follower
            if follower is not None and follower.of_trainer:  # of a training that was interrupted
                follower.remove()
            follower = criterion.clock.follow(optimizers[name])  # type: ignore[arg-type]  # or a wrapper
            follower.of_trainer = True
            self._followers.append(follower)

    def bind(self, total_steps: int | None, steps_per_epoch: int | None) -> None:
        """Binds the length of training, unless a config declares it; None for unknown."""
        for criterion in timed(self._criteria).values():
            declared = criterion.clock.declared
            total = total_steps if declared.total_steps is None else None
            each = steps_per_epoch if declared.steps_per_epoch is None else None
            if total is not None or each is not None:
                criterion.bind(total_steps=total, steps_per_epoch=each)

    def check(self, optimizers: Iterable[object], done: int) -> None:
        """Refuses what would fail in the first step, and warns of what would silently go wrong.

        Args:
            optimizers: All of the training, or their wrappers.
            done: Steps that it has done before: 0 where it is new.

        Raises:
            HorizonError: Where a weight needs the length of training, which nobody has said.
        """
        trained = {
            id(parameter)
            for optimizer in optimizers
            for group in unwrapped(optimizer).param_groups
            for parameter in group["params"]
        }
        for name, criterion in self._criteria.items():
            _ = criterion.weights
            if any(p.requires_grad and id(p) not in trained for p in criterion.parameters()):
                warn(
                    f"the learned weights of {name!r} are in no optimizer and will not move: give "
                    "it [{'params': model.parameters()}, *criterion.param_groups(lr=1e-2)]"
                )
        for name, criterion in timed(self._criteria).items():
            now = criterion.current_step
            if now > done:
                warn(
                    f"training begins at step {done}, and the clock of {name!r} is at step {now}: "
                    "if its schedules are to begin there too, call "
                    f"criterion.set_step({done}) before"
                )
            if done and not now:
                warn(
                    f"training goes on after {done} steps, and the clock of {name!r} is at step "
                    "0: the checkpoint holds no state of it. To go on from there, call "
                    f"criterion.set_step({done}) before"
                )

    def metrics(self, prefix: str = "", include: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Of all, without waiting for the device; with their names where there are several."""
        found: dict[str, Tensor] = {}
        for name, criterion in self._criteria.items():
            place = prefix if len(self._criteria) == 1 else f"{prefix}{name}/"
            found |= criterion.metrics(prefix=place, include=include, tensors=True)
        return found

    def audit(self) -> None:
        """Warns of what looks wrong, once of each thing."""
        for name, criterion in self._criteria.items():
            for finding in criterion.audit():
                about = re.sub(r"\d+", "", finding)  # the steps that it counts go on
                if about not in self._told:
                    self._told.add(about)
                    warn(f"{name}: {finding}")

    def end(self) -> None:
        """Gives the clocks up, so that another training, or a loop by hand, can take them."""
        for follower in self._followers:
            follower.remove()
        self._followers = []


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
    """One criterion for each clock, the first."""
    clocks: dict[int, str] = {}
    for name, criterion in criteria.items():
        clocks.setdefault(id(criterion.clock), name)
    return {name: criteria[name] for name in clocks.values()}
