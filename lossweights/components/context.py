"""The context of a call: step, horizon, scheduled fields and gradient statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


class StepContext:
    """What a component is given: the step, and the values of its scheduled fields at that step.

    `now["target"]` is the value of the field `target`, a 0-dim float32 tensor. Inside a forward
    pass only scheduled fields and `terms` are known: a compiled graph must not depend on the
    number of the step. Balancers by gradients are never compiled, and know the step there too.

    Args:
        fields: Values of the fields that are schedules, by name.
        terms: Names of the terms that the component serves, sorted; if present, in a forward pass.
        step: Optimizer steps done, or what the clock counts; None inside a forward pass.
        before: The same before the clock last moved.
        horizon: The length of training, as far as it is known.
        gradients: Statistics of the terms' gradients; None for components without them.

    Raises:
        ValueError: For `now["field"]` if that is not a scheduled field.
        RuntimeError: For `step`, `elapsed`, `horizon` and `passed` inside a forward pass, and for
            `gradients` in a component other than a `GradientBalancer`.

    >>> now = StepContext({"target": torch.tensor(3.0)}, step=200, before=199, horizon=Horizon(400))
    >>> now["target"], now.step, now.passed("50%")
    (tensor(3.), 200, True)
    """

    __slots__ = ("_before", "_gradients", "_horizon", "_step", "fields", "terms")

    def __init__(
        self,
        fields: Mapping[str, Tensor],
        *,
        terms: tuple[str, ...] = (),
        step: int | None = None,
        before: int | None = None,
        horizon: Horizon | None = None,
        gradients: Gradients | None = None,
    ) -> None:
        self.fields = fields
        self.terms = terms
        self._step = step
        self._before = step if before is None else before
        self._horizon = horizon
        self._gradients = gradients

    def __getitem__(self, field: str) -> Tensor:
        if field not in self.fields:
            raise ValueError(
                f"{field!r} is not a scheduled field: type it Schedule (numbers may still be "
                f"given), or read it as self.{field}"
            )
        value = self.fields[field]
        # On a GPU the clock overwrites it, maybe before the backward pass of this forward pass.
        return value.clone() if self._step is None and value.device.type != "cpu" else value

    @property
    def gradients(self) -> Gradients:
        """Statistics of the terms' gradients."""
        if self._gradients is None:
            raise RuntimeError("only a GradientBalancer has gradients: derive from it")
        return self._gradients

    def with_gradients(self, gradients: Gradients) -> StepContext:
        """The same context with statistics of the terms' gradients."""
        return StepContext(
            self.fields,
            terms=gradients.names,
            step=self._step,
            before=self._before,
            horizon=self._horizon,
            gradients=gradients,
        )

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        if self._step is None:
            raise _unknown_step()
        return self._step

    @property
    def horizon(self) -> Horizon:
        """The length of training, if it is known."""
        if self._step is None:
            raise _unknown_step()
        return Horizon() if self._horizon is None else self._horizon

    @property
    def elapsed(self) -> int:
        """By how much the clock last moved: 1, or what an optimizer step took, such as tokens."""
        return self.step - (self._before or 0)

    def passed(self, every: Duration | str) -> bool:
        """Whether the last move of the clock reached or passed a multiple of `every`.

        Raises:
            HorizonError: If the horizon lacks what `every` needs.
        """
        step, before = self.step, self._before or 0
        return has_passed(step, before, self.horizon, every)


def has_passed(step: int, before: int, horizon: Horizon, every: Duration | str) -> bool:
    """Whether a multiple of `every` was reached or passed on the way from `before` to `step`."""
    length = max(1, horizon.steps(every))
    return step // length > before // length


def _unknown_step() -> RuntimeError:
    return RuntimeError(
        "the step is not known inside a forward pass: keep what you need of it in the state, in "
        "update(), or make the field a Schedule and read now['field']"
    )
