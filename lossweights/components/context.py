"""What a component is given: the step, the horizon, scheduled fields, gradient statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from lossweights.components.durations import Duration, Horizon

State: TypeAlias = dict[str, Tensor]
Statistic: TypeAlias = Literal["gramian", "norms", "max_abs", "mean_abs", "item_norms"]
STATISTICS: tuple[Statistic, ...] = get_args(Statistic)


class Gradients:
    r"""Statistics of the terms' gradients $g_i$ with respect to what they share.

    All are float64, and those of the whole batch where there are several ranks. A balancer is
    given those that its class declares in `needs`, and no others.

    Args:
        names: The terms, sorted: of the rows, and of what else has one entry for each term.
        found: The statistics by name.
        seen: Which of the terms were seen, shape (m,), bool; what is told of the others is 0.

    Attributes:
        gramian: $g_i \cdot g_j$, shape (m, m); in `update` nan for two terms that were seen, but
            never in one forward pass.
        norms: $\lVert g_i \rVert$, shape (m,).
        max_abs: The largest $|g|$ of each term, shape (m,).
        mean_abs: The mean $|g|$ of each term, shape (m,).
        item_norms: The mean over the batch of the norm of each item's gradient, shape (m,).

    >>> norms = torch.tensor([3.0, 4.0], dtype=torch.float64)
    >>> Gradients(["a", "b"], {"norms": norms}, seen=torch.tensor([True, True])).norms
    tensor([3., 4.], dtype=torch.float64)
    """

    __slots__ = ("found", "names", "seen")

    def __init__(
        self, names: Sequence[str], found: Mapping[Statistic, Tensor], seen: Tensor
    ) -> None:
        self.names = tuple(names)
        self.found = dict(found)
        self.seen = seen

    @property
    def gramian(self) -> Tensor:
        return self._get("gramian")

    @property
    def norms(self) -> Tensor:
        return self._get("norms")

    @property
    def max_abs(self) -> Tensor:
        return self._get("max_abs")

    @property
    def mean_abs(self) -> Tensor:
        return self._get("mean_abs")

    @property
    def item_norms(self) -> Tensor:
        return self._get("item_norms")

    def _get(self, statistic: Statistic) -> Tensor:
        if statistic not in self.found:
            raise ValueError(
                f"the gradients' {statistic} was not computed: write "
                f"needs = ({statistic!r},) in the class of the balancer"
            )
        return self.found[statistic]


def orthonormal(names: Sequence[str], device: torch.device) -> Gradients:
    """What is known of gradients of length 1 that are orthogonal to each other."""
    n = len(names)
    found = {key: torch.ones(n, dtype=torch.float64, device=device) for key in STATISTICS}
    found["gramian"] = torch.eye(n, dtype=torch.float64, device=device)
    return Gradients(names, found, torch.ones(n, dtype=torch.bool, device=device))


@dataclass
class When:
    """Where the clock stands.

    Args:
        horizon: The length of training, as far as it is known.
        step: Optimizer steps done.
        before: Steps that were done before the clock last moved.
    """

    horizon: Horizon
    step: int = 0
    before: int = 0


class StepContext:
    """When something happens, with the values of a component's scheduled fields then.

    `now["target"]` is the value of the field `target` at this step, a 0-dim float32 tensor. What
    runs inside a forward pass is told the values of its fields and nothing else: a compiled
    graph must not depend on the number of the step. A balancer that weighs by gradients, which is
    never compiled, is told those and the step too.

    Args:
        fields: Values of the fields that are schedules, by name.
        when: Where the clock stands; None inside a forward pass.
        gradients: Of the terms, with respect to what they share; None where nobody asked.
    """

    __slots__ = ("_gradients", "_when", "fields")

    def __init__(
        self,
        fields: Mapping[str, Tensor],
        when: When | None = None,
        gradients: Gradients | None = None,
    ) -> None:
        self.fields = fields
        self._when = when
        self._gradients = gradients

    def __getitem__(self, field: str) -> Tensor:
        if field not in self.fields:
            raise ValueError(
                f"{field!r} is no scheduled field: type it Schedule (numbers may still be given), "
                f"or read it as self.{field}"
            )
        # A forward pass gets a copy: the clock may move, and write over it, before the backward.
        return self.fields[field].clone() if self._when is None else self.fields[field]

    @property
    def gradients(self) -> Gradients:
        """What is known of the terms' gradients.

        Raises:
            RuntimeError: In a component that does not weigh by gradients.
        """
        if self._gradients is None:
            raise RuntimeError("gradients are known to a GradientBalancer only: derive from that")
        return self._gradients

    def with_gradients(self, gradients: Gradients) -> StepContext:
        """The same moment, with what is known of the terms' gradients."""
        return StepContext(self.fields, self._when, gradients)

    @property
    def step(self) -> int:
        """Optimizer steps done so far.

        Raises:
            RuntimeError: Inside a forward pass.
        """
        return self._known().step

    @property
    def horizon(self) -> Horizon:
        """The length of training, as far as it is known.

        Raises:
            RuntimeError: Inside a forward pass.
        """
        return self._known().horizon

    def passed(self, every: Duration | str) -> bool:
        """Whether the clock has just reached, or gone past, a multiple of `every`.

        Raises:
            HorizonError: Where the horizon does not say what `every` needs.
            RuntimeError: Inside a forward pass.
        """
        when = self._known()
        length = max(1, when.horizon.steps(every))
        return when.step // length > when.before // length

    def _known(self) -> When:
        if self._when is None:
            raise RuntimeError(
                "the step is not known inside a forward pass: keep what you need of it in the "
                "state, in update(), or make the field a Schedule and read now['field']"
            )
        return self._when
