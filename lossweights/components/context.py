"""The context of a call: step, horizon, scheduled fields and gradient statistics."""

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
    r"""Statistics of the terms' gradients $g_i$ with respect to the shared tensors.

    All are float64 and cover the whole batch, over all ranks. A balancer has only those that its
    class declares in `needs`.

    Args:
        names: The terms, sorted, in the order of all statistics.
        found: The statistics by name.
        seen: Which of the terms were seen, shape (m,), bool; the statistics of the others are 0.

    Attributes:
        gramian: $g_i \cdot g_j$, shape (m, m); in `update`, nan for two terms that were seen but
            never in the same forward pass.
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
                f"the statistic {statistic!r} was not computed: write "
                f"needs = ({statistic!r},) in the class of the balancer"
            )
        return self.found[statistic]


def orthonormal(names: Sequence[str], device: torch.device) -> Gradients:
    """Statistics of orthogonal gradients of length 1."""
    n = len(names)
    found = {key: torch.ones(n, dtype=torch.float64, device=device) for key in STATISTICS}
    found["gramian"] = torch.eye(n, dtype=torch.float64, device=device)
    return Gradients(names, found, torch.ones(n, dtype=torch.bool, device=device))


@dataclass
class When:
    """The time of the clock.

    Args:
        horizon: The length of training, if it is known.
        step: Optimizer steps done.
        before: Optimizer steps done before the clock last moved.
    """

    horizon: Horizon
    step: int = 0
    before: int = 0


class StepContext:
    """The context in which a method of a component is called, passed as `now`.

    `now["target"]` is the value of the scheduled field `target` at this step, a 0-dim float32
    tensor. Inside a forward pass there is nothing else, since a compiled graph must not depend on
    the step. Gradient balancers, which are never compiled, have gradients and the step there too.

    Args:
        fields: Values of the scheduled fields, by name.
        when: The time of the clock; None inside a forward pass.
        gradients: Statistics of the terms' gradients; None except for gradient balancers.
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
                f"{field!r} is not a scheduled field: declare it as a Schedule (a number is still "
                f"allowed), or read self.{field}"
            )
        # A copy for forward passes: the clock may overwrite the field before the backward pass.
        return self.fields[field].clone() if self._when is None else self.fields[field]

    @property
    def gradients(self) -> Gradients:
        """Statistics of the terms' gradients.

        Raises:
            RuntimeError: In a component that is not a gradient balancer.
        """
        if self._gradients is None:
            raise RuntimeError("only a GradientBalancer has gradients: derive from it")
        return self._gradients

    def with_gradients(self, gradients: Gradients) -> StepContext:
        """The same context with these statistics of gradients."""
        return StepContext(self.fields, self._when, gradients)

    @property
    def step(self) -> int:
        """Optimizer steps done.

        Raises:
            RuntimeError: Inside a forward pass.
        """
        return self._known().step

    @property
    def horizon(self) -> Horizon:
        """The length of training, if it is known.

        Raises:
            RuntimeError: Inside a forward pass.
        """
        return self._known().horizon

    def passed(self, every: Duration | str) -> bool:
        """Whether the clock has just reached or passed a multiple of `every`.

        Raises:
            HorizonError: If the horizon lacks what `every` needs.
            RuntimeError: Inside a forward pass.
        """
        when = self._known()
        length = max(1, when.horizon.steps(every))
        return when.step // length > when.before // length

    def _known(self) -> When:
        if self._when is None:
            raise RuntimeError(
                "the step is not known inside a forward pass: store what you need in the state, "
                "in update(), or declare the field as a Schedule and read now['field']"
            )
        return self._when
