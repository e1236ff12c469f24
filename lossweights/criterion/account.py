"""What a criterion tells of itself: what it does, did, and what looks wrong; what it is told."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lossweights.components.durations import Duration
from lossweights.config.loss_config import LossConfig
from lossweights.criterion.combine import Combined, combine, values_of
from lossweights.criterion.describe import audit, describe
from lossweights.criterion.gradients.shared import SharedLike
from lossweights.criterion.report import METRICS, Report, Seen, chosen, on_host
from lossweights.criterion.standing import Standing
from lossweights.criterion.timekeeper import Timekeeper
from lossweights.errors import HorizonError, did_you_mean, quoted, warn

_MANY_STEPS = 100  # after so many, learned weights that stand still were forgotten


class Account(Timekeeper):
    """A criterion that can be asked what it does, and told what it cannot see.

    Args:
        config: The declaration.
        clock: Another criterion whose clock this one shares.
        process_group: The ranks over which what adapts is averaged; None for all.
    """

    def __init__(
        self, config: LossConfig, clock: Timekeeper | None = None, process_group: Any = None
    ) -> None:
        super().__init__(config, clock, process_group)
        late = any(Duration.parse(term.after).value > 0 for term in config.terms.values())
        scheduled = any(term.schedule is not None for term in config.terms.values())
        adapts = self._adaptation is not None and self._adaptation.observes
        by_gradients = self._adaptation is not None and self._adaptation.by_gradients is not None
        self._seen = Seen(weights_move=late or scheduled or adapts or by_gradients)
        self._told: set[str] = set()
        self._on_step: OrderedDict[int, Callable[[int], object]] = OrderedDict()
        self._is_news = False  # whether a step was done with a forward, and nobody told of it yet

    def observe(
        self,
        terms: Mapping[str, Tensor | None] | None = None,
        /,
        **metrics: Tensor | float,
    ) -> None:
        """Tells what forward passes cannot show.

        Args:
            terms: For a balancer that learns from them (`famo`): the losses of the same batch
                after the optimizer step, by name, in one call a step. Nothing is learned where
                the optimizer that is followed made no step since the last call: a gradient
                scaler skipped it.
            **metrics: For a controller with `source: name`: the metric's value. Where it is
                given several times between two steps, the mean counts.

        Raises:
            ValueError: For what nothing in the config watches, and for values that are no
                scalars.
            RuntimeError: For losses after a step, where no step was done since the last ones,
                and no optimizer is followed.

        >>> from lossweights import WeightedLoss
        >>> criterion = WeightedLoss(
        ...     terms={
        ...         "policy": 1.0,
        ...         "kl": {"kind": "adaptive-kl", "target": 3.0, "source": "rollout_kl"},
        ...     }
        ... )
        >>> criterion.observe(rollout_kl=3.2)
        """
        if terms is not None:
            self._observe_after(terms)
        if metrics:
            if self._adaptation is None:
                raise ValueError(
                    f"no controller of this loss watches {quoted(metrics)}: write "
                    f"source: {next(iter(metrics))} at a controller"
                )
            self._adaptation.observe_metrics(metrics)

    def _observe_after(self, terms: Mapping[str, Tensor | None]) -> None:
        adaptation, present = self._adaptation, self._present
        if adaptation is None or not adaptation.learns_after:
            raise ValueError(
                "no balancer of this loss learns from the losses after the step: "
                "criterion.observe takes metrics only, criterion.observe(name=value)"
            )
        if present is None:
            raise HorizonError(self._lacking)
        if (
            not adaptation.awaits_after
            and self._clock.follower is not None
            and self._seen.awaits_step
        ):
            return  # a forward pass without a step after it: the gradient scaler skipped that
        with torch.no_grad():
            values = values_of(self.config, terms, present.standing)
        quiet = present.standing.inactive
        adaptation.observe_after(
            {name: loss for name, (_, loss) in values.items() if name not in quiet},
            present.moments["balancer"],
        )
        present.show(self.current_step, self.current_step)

    @contextmanager
    def freeze(self) -> Iterator[None]:
        """Holds the weights of a balancer that weighs by gradients still, as for a line search.

        Within, they are the mean of those of the forward passes since the last step, or else those
        of the last step, and `shared` need not be given (but for `heads: plain`). Other balancers
        go on as ever.

        >>> from lossweights import WeightedLoss
        >>> criterion = WeightedLoss(terms=["a", "b"], balancer="mgda")
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> _ = criterion({"a": x[0] ** 2, "b": x[1] ** 2}, shared=x)
        >>> with criterion.freeze():
        ...     criterion({"a": x[0] ** 2, "b": x[1] ** 2})
        tensor(1.6000, grad_fn=...)
        """
        adaptation = self._adaptation
        by_gradients = None if adaptation is None else adaptation.by_gradients
        if by_gradients is None:
            yield
            return
        was_frozen, by_gradients.is_frozen = by_gradients.is_frozen, True
        try:
            yield
        finally:
            by_gradients.is_frozen = was_frozen

    def param_groups(self, **options: Any) -> list[dict[str, Any]]:
        """The learned weights as groups for an optimizer; none where nothing is learned.

        Args:
            **options: Of the group, such as `lr=1e-2`. Weight decay, which would draw learned
                weights to an arbitrary point, is 0 unless it is said here.

        >>> from lossweights import WeightedLoss
        >>> criterion = WeightedLoss(terms=["a", "b"], balancer="uncertainty")
        >>> model = torch.nn.Linear(2, 2)
        >>> optimizer = torch.optim.AdamW(
        ...     [{"params": model.parameters()}, *criterion.param_groups(lr=1e-2)], lr=1e-3
        ... )
        """
        learned = list(self.parameters())
        return [{"params": learned, "weight_decay": 0.0, **options}] if learned else []

    def is_active(self, name: str) -> bool:
        """Whether the term counts now; one that does not need not be computed.

        In training it does not while it is dormant, or while its weight is 0 and its config says
        `when_zero: skip`. In evaluation the weights of evaluation decide.

        Raises:
            ValueError: For a name that is no term.
        """
        if name not in self.config.terms:
            raise ValueError(
                f"no term is called {name!r}{did_you_mean(name, self.config.terms)} "
                f"(the terms are {quoted(self.config.terms)})"
            )
        training = self.training and torch.is_grad_enabled()
        standing = self._standing(training)
        return name not in standing.inactive

    @overload
    def metrics(
        self, prefix: str = ..., include: Iterable[str] | None = ..., tensors: Literal[False] = ...
    ) -> dict[str, float]: ...
    @overload
    def metrics(
        self, prefix: str = ..., include: Iterable[str] | None = ..., *, tensors: Literal[True]
    ) -> dict[str, Tensor]: ...
    def metrics(
        self, prefix: str = "", include: Iterable[str] | None = None, tensors: bool = False
    ) -> dict[str, float] | dict[str, Tensor]:
        """What the last training forward saw, for a logger; empty before the first.

        Args:
            prefix: Put before each name, such as `train/`.
            include: Which of `raw`, `value`, `weight`, `penalty`, `weighted`, `share`, `total`
                and `controller` (as in `controller/kl/error`).
            tensors: 0-dim tensors in place of floats, without waiting for the device; floats
                take one transfer for all.

        >>> from lossweights import WeightedLoss
        >>> criterion = WeightedLoss(terms={"nll": 1.0, "kl": 0.5})
        >>> _ = criterion({"nll": torch.tensor(3.0), "kl": torch.tensor(2.0)})
        >>> criterion.metrics(prefix="train/", include=["weighted", "total"])
        {'train/weighted/nll': 3.0, 'train/weighted/kl': 1.0, 'train/total': 4.0}
        """
        breakdown = self._seen.breakdown(self.config.terms)
        if breakdown is None:
            return {}
        for about, note in self._notes(look=not tensors).items():
            if about not in self._told:
                self._told.add(about)
                warn(note)
        wanted = chosen(include, METRICS)
        found = breakdown.metrics(prefix, [name for name in wanted if name != "controller"])
        if "controller" in wanted and self._adaptation is not None:
            found |= {f"{prefix}{name}": t for name, t in self._adaptation.reported().items()}
        return found if tensors else on_host(found)

    def report(self) -> Report | None:
        """What happened at the last training forward; printed, a table. None before the first."""
        breakdown = self._seen.breakdown(self.config.terms)
        if breakdown is None:
            return None
        step = self.current_step if self._seen.step is None else self._seen.step
        notes = tuple(self._notes(look=True).values())
        states = {} if self._adaptation is None else self._adaptation.reported()
        return Report.of(breakdown, step, notes, states)

    def _notes(self, *, look: bool) -> dict[str, str]:
        """What is worth a word, by what it is about; `look` allows to wait for the device."""
        adaptation = self._adaptation if look else None
        notes = {
            "clock": self._seen.of_idle_clock(self.current_step),
            "learned": "" if adaptation is None else adaptation.stuck(_MANY_STEPS),
        }
        return {about: note for about, note in notes.items() if note}

    def describe(self) -> str:
        """What will happen: for each term its weight's start, peak and end over the training."""
        return describe(self.config, self._horizon)

    def audit(self) -> list[str]:
        """What looks wrong so far, a sentence each; empty where nothing does.

        Terms that were never given, whose weight is 0 for the whole training, or that carry no
        gradient; learned weights that never move; what was never told to a component that waits
        for it; a clock that nobody moves.
        """
        findings = audit(self.config, self._seen, self._horizon, self.current_step)
        return findings + ([] if self._adaptation is None else self._adaptation.findings())

    def on_step(self, call: Callable[[int], object]) -> RemovableHandle:
        """Calls `call(step)` after each optimizer step that had a training forward.

        `metrics` then shows that step, whose number (optimizer steps done before it) is handed
        over; where `step(n)` counts several at once, that of the first. Copies and pickles of the
        criterion do not take the call along.

        Args:
            call: A function of the step. What it raises comes out of the step.

        Returns:
            A handle, of which `remove()` ends it.

        >>> from lossweights import WeightedLoss
        >>> criterion = WeightedLoss(terms={"nll": 1.0, "kl": 0.5})
        >>> handle = criterion.on_step(
        ...     lambda step: print(step, criterion.metrics(include=["total"]))
        ... )
        >>> _ = criterion({"nll": torch.tensor(3.0), "kl": torch.tensor(2.0)})
        >>> criterion.step()
        0 {'total': 4.0}
        """
        handle = RemovableHandle(self._on_step)
        self._on_step[handle.id] = call
        return handle

    def clock_stepped(self, before: int) -> None:
        """Called by the clock: optimizer steps were done since it stood at `before`."""
        super().clock_stepped(before)
        self._is_news = self._clock.step != before and self._seen.awaits_step

    def clock_moved(self, before: int) -> None:
        """Called by the clock: it stood at `before` and stands elsewhere now."""
        is_news, self._is_news = self._is_news, False
        self._seen.step_done(before)
        super().clock_moved(before)
        if is_news:
            for call in tuple(self._on_step.values()):
                call(before)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_on_step": OrderedDict()}

    def _combined(
        self,
        terms: Mapping[str, Tensor | None],
        standing: Standing,
        training: bool,
        shared: SharedLike | None = None,
        *,
        takes_gradients: bool = False,
    ) -> Combined:
        looks = training and self.config.on_nonfinite != "propagate"
        step = self.current_step if looks else None
        return combine(self.config, terms, standing, step, shared, takes_gradients=takes_gradients)
