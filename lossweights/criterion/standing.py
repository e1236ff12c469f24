"""The weights that stand: those of training as time moves, and the yardstick of evaluation."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lossweights.components.context import StepContext, When
from lossweights.components.durations import Horizon
from lossweights.config.loss_config import LossConfig
from lossweights.config.timeline import Timeline
from lossweights.criterion.adaptation import Adaptation

_NOTHING = nullcontext()  # made once: a context costs more than what it would guard


@dataclass
class Standing:
    """The weights that stand at a moment, in training or in evaluation.

    Args:
        weights: float32, in sorted order of the terms' names: all factors known beforehand.
        in_place: Whether `weights` is written over as time moves, or another tensor put there.
        dormant: Terms that do not count yet, and may be missing.
        left_out: Terms of weight 0 that are left out of the sum, and may be missing.
        adaptation: What transforms the values, and weighs in a forward pass; None for neither.
        moments: The values of scheduled fields, by the place of a component.
        weighs: Whether factors are still to come in a forward pass.
        is_yardstick: Whether what adapts stands still at 1.
    """

    weights: Tensor
    in_place: bool = False
    dormant: frozenset[str] = frozenset()
    left_out: frozenset[str] = frozenset()
    adaptation: Adaptation | None = None
    moments: dict[str, StepContext] = field(default_factory=dict)
    weighs: bool = False
    is_yardstick: bool = False

    @property
    def inactive(self) -> frozenset[str]:
        """Terms that take no part now, and may be missing."""
        return self.dormant | self.left_out


class Present:
    """The weights of training now, on a device.

    Args:
        config: The declaration.
        timeline: Its schedules.
        horizon: The length of training.
        adaptation: What adapts; None where nothing does.
        device: Where the losses are.

    Attributes:
        standing: The weights of the step that was last shown.
    """

    def __init__(
        self,
        config: LossConfig,
        timeline: Timeline,
        horizon: Horizon,
        adaptation: Adaptation | None,
        device: torch.device,
    ) -> None:
        self._timeline = timeline
        self._adaptation = adaptation
        self._device = device
        self._when = When(horizon)
        # For each component that may adapt: the time, and its scheduled fields as they stand.
        self.moments = {part.place: StepContext({}, self._when) for part in config.adaptive_parts()}
        if adaptation is not None and adaptation.by_gradients is not None:
            adaptation.by_gradients.now = self.moments["balancer"]
        # On the CPU the next row takes the place of the last, which costs nothing. Elsewhere it is
        # copied over it: a captured CUDA graph reads from one address.
        in_place = device.type != "cpu"
        with torch.inference_mode(mode=False):
            width = timeline.width if in_place else 0
            self._row = torch.zeros(width, dtype=torch.float32, device=device)
            weights = torch.zeros(len(timeline.names), dtype=torch.float32, device=device)
        self.standing = Standing(
            weights,
            in_place,
            adaptation=adaptation,
            weighs=adaptation is not None and adaptation.weighs_in_forward,
        )

    def step_done(self, step: int, before: int) -> None:
        """Tells what adapts that the clock moved on from `before`, ahead of `show`."""
        if self._adaptation is not None:
            self._when.step, self._when.before = step, before
            with _trainable():
                self._adaptation.step_done(self.moments, self.standing.dormant)

    def show(self, step: int, before: int, *, check: bool = False) -> None:
        """Lets the row of a step stand, and what adapts with it.

        Args:
            step: The step.
            before: Where the clock stood.
            check: Whether to look at what the components weigh, on the host.
        """
        standing, timeline = self.standing, self._timeline
        row = timeline.tensor_row(step, self._device)
        if standing.in_place:
            row = self._row.copy_(row)
        weights = row
        if self._adaptation is not None:
            self._when.step, self._when.before = step, before
            if timeline.fields:
                weights = row[: len(timeline.names)]
                for place, fields in fields_of(timeline, row).items():
                    self.moments[place].fields = fields
                    standing.moments[place] = StepContext(fields)
            if check:
                self._adaptation.check(self.moments)
            with _trainable():
                factors = self._adaptation.factors(self.moments)
                weights = weights if factors is None else weights * factors
        if standing.in_place:
            standing.weights.copy_(weights)
        else:
            standing.weights = weights
        if timeline.is_patterned:
            # Replaced only when they change: a compiled graph is made for each pattern of them.
            if (dormant := timeline.dormant(step)) != standing.dormant:
                standing.dormant = dormant
            if (left_out := timeline.left_out(step)) != standing.left_out:
                standing.left_out = left_out


def _trainable() -> AbstractContextManager[None]:
    """Outside inference mode: training could not use what is made in it."""
    if torch.is_inference_mode_enabled():
        return torch.inference_mode(mode=False)
    return _NOTHING


def yardstick(
    config: LossConfig, timeline: Timeline, adaptation: Adaptation | None, device: torch.device
) -> Standing:
    """The weights of evaluation, where they are not those of training.

    Raises:
        HorizonError: Where a schedule that counts never settles, and the end of training is not
            known.
    """
    rule = config.eval_weights
    ones = dict.fromkeys(timeline.names, 1.0)
    told = rule if isinstance(rule, dict) else ones if rule == "ones" else {}
    final = timeline.final(but=told)
    weights = dict(zip(timeline.names, final.tolist(), strict=False))
    for name, term in config.terms.items():
        if term.controller is not None:
            weights[name] *= term.controller.sign
    weights |= told
    left_out = frozenset(
        name
        for name, weight in weights.items()
        if weight == 0 and config.terms[name].when_zero == "skip"
    )
    with torch.inference_mode(mode=False):
        tensor = torch.tensor(list(weights.values()), dtype=torch.float32, device=device)
        fields = fields_of(timeline, torch.from_numpy(final).to(device))
    return Standing(
        tensor,
        left_out=left_out,
        adaptation=adaptation,
        moments={place: StepContext(values) for place, values in fields.items()},
        is_yardstick=True,
    )


def fields_of(timeline: Timeline, row: Tensor) -> dict[str, dict[str, Tensor]]:
    """The values of scheduled fields in a row, by the place of their component."""
    return {
        place: {field: row[column] for field, column in columns.items()}
        for place, columns in timeline.fields.items()
    }
