"""What the integrations share: criteria that follow the optimizers of a trainer."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from lossweights.criterion.clock import Follower, PerStep, unwrapped
from lossweights.criterion.weighted_loss import WeightedLoss
from lossweights.errors import warn

Criteria = Mapping[str, WeightedLoss]  # by their names in the model, such as `criterion`


class TrainerSync:
    """Keeps criteria in step with a training, from its beginning to its end."""

    def __init__(self) -> None:
        self._criteria: Criteria = {}
        self._followers: list[Follower] = []
        self._divided: dict[str, int | None] = {}  # as the user has set it
        self._warned: set[str] = set()

    def begin(
        self,
        criteria: Criteria,
        optimizers: Mapping[str, object],
        per_step: PerStep | None = None,
    ) -> None:
        """Makes each clock follow the optimizer with the name of its criterion.

        `per_step` is for the clocks that count another unit than steps; without one, it is refused.
        """
        self.end()
        clocks = [criterion.clock for criterion in criteria.values()]
        others = {clock.unit for clock in clocks} - {"steps"}
        self._criteria = criteria
        self._divided = {name: each.divided_by for name, each in criteria.items()}
        for name, criterion in timed(criteria).items():
            follower = criterion.clock.follower
            if follower is not None and follower.of_trainer:  # left by an interrupted training
                follower.remove()
            optimizer: Any = optimizers[name]  # or a wrapper
            takes = per_step if criterion.clock.unit in others or not others else None
            follower = criterion.clock.follow(optimizer, takes)
            follower.of_trainer = True
            self._followers.append(follower)

    def bind(self, total_steps: int | None, steps_per_epoch: int | None) -> None:
        """Sets the length of training, unless a config declares it; None if it is unknown.

        A trainer knows its steps, so a clock that counts another unit is left alone.
        """
        known = {"total_steps": total_steps, "steps_per_epoch": steps_per_epoch}
        for criterion in timed(self._criteria).values():
            if criterion.clock.unit != "steps":
                continue
            declared = criterion.clock.declared
            missing = {key: each for key, each in known.items() if getattr(declared, key) is None}
            if missing != dict.fromkeys(missing):
                criterion.bind(**missing)  # type: ignore[arg-type]  # to the parameters of its names

    def check(self, optimizers: Iterable[object], done: int) -> None:
        """Raises what would fail in the first step, and warns about what would fail silently.

        Args:
            optimizers: All optimizers of the training, or their wrappers.
            done: Steps done before: 0 for a new training.

        Raises:
            HorizonError: If a weight needs the length of training and it is unknown.
        """
        groups = [group for each in optimizers for group in unwrapped(each).param_groups]
        trained = {id(parameter) for group in groups for parameter in group["params"]}
        for name, criterion in self._criteria.items():
            _ = criterion.weights
            if any(p.requires_grad and id(p) not in trained for p in criterion.parameters()):
                warn(
                    f"the learned weights of {name!r} are in no optimizer and will not move: use "
                    "the groups [{'params': model.parameters()}, *criterion.param_groups(lr=1e-2)]"
                )
        for name, criterion in timed(self._criteria).items():
            clock, now = criterion.clock, criterion.current_step
            counts_steps, at = clock.unit == "steps", clock.horizon.at(now)
            start = done if counts_steps or not done else f"{clock.unit} done"
            call = f"call criterion.set_step({start}) first"
            if now > done and (counts_steps or not done):
                warn(
                    f"training begins at step {done}, but the clock of {name!r} is at {at}: "
                    f"to begin its schedules at {clock.horizon.at(done)} too, {call}"
                )
            elif done and not now:
                warn(
                    f"training resumes at step {done}, but the clock of {name!r} is at {at}: the "
                    f"checkpoint has no state of this criterion; to resume its schedules, {call}"
                )

    @property
    def has_sums(self) -> bool:
        """Whether any term accumulates a sum."""
        return any(criterion.adaptive.summed for criterion in self._criteria.values())

    def divide(self, by: int | None) -> None:
        """Sets the number by which the trainer divides each total before its backward pass."""
        for criterion in self._criteria.values():
            criterion.divided_by = by

    def metrics(self, prefix: str = "", include: Iterable[str] | None = None) -> dict[str, Tensor]:
        """The metrics of all criteria on their devices; several criteria add their names."""
        found: dict[str, Tensor] = {}
        for name, criterion in self._criteria.items():
            place = prefix if len(self._criteria) == 1 else f"{prefix}{name}/"
            found |= criterion.metrics(prefix=place, include=include, tensors=True)
        return found

    def audit(self) -> None:
        """Warns about each finding once."""
        for name, criterion in self._criteria.items():
            for finding in criterion.audit():
                topic = re.sub(r"\d+", "", finding)  # its step counts differ at each audit
                if topic not in self._warned:
                    self._warned.add(topic)
                    warn(f"{name}: {finding}")

    def end(self) -> None:
        """Releases the clocks: another training, or a loop by hand, may move them."""
        for follower in self._followers:
            follower.remove()
        self._followers = []
        for name, by in self._divided.items():
            self._criteria[name].divided_by = by
        self._divided = {}


def criteria_of(model: nn.Module) -> dict[str, WeightedLoss]:
    """All criteria among the modules of a model, by name.

    Raises:
        ValueError: If there is none; a criterion elsewhere would be neither saved nor moved.
    """
    found = {name: part for name, part in model.named_modules() if isinstance(part, WeightedLoss)}
    if not found:
        raise ValueError(
            f"no WeightedLoss among the modules of {type(model).__name__}: make it an attribute of "
            "the model, model.criterion = WeightedLoss(...), which also saves it in checkpoints"
        )
    return found


def timed(criteria: Criteria) -> dict[str, WeightedLoss]:
    """The first criterion of each clock."""
    first: dict[int, str] = {}
    for name, criterion in criteria.items():
        first.setdefault(id(criterion.clock), name)
    return {name: criteria[name] for name in first.values()}
