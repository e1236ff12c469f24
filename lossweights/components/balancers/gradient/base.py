"""The base classes of balancers that weigh by gradients."""

import math
from abc import abstractmethod
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lossweights.components.balancers.base import Balancer
from lossweights.components.context import STATISTICS, State, Statistic, StepContext
from lossweights.components.durations import Duration
from lossweights.components.numerics import LARGE

Array: TypeAlias = npt.NDArray[np.float64]


class GradientBalancer(Balancer):
    """Weights for all balanced terms from their gradients with respect to shared tensors.

    The shared tensors are passed to the call, `criterion(terms, shared=features)`: tensors of the
    graph (cheap: only the heads run backward once more for each term) or parameters.
    `now.gradients` has the statistics that the class declares in `needs`, of the transformed terms,
    before base weights and schedules; in `update` their means over the forward passes of a step.
    `update` is not called for steps in which no gradients were taken.

    Args:
        every: Time between two steps in which gradients are taken; weights are constant meanwhile.
            By default they are taken at each step.
        heads: Whether the other tensors have the weighted loss (`weighted`), or the loss without
            the balancer (`plain`): then only gradients of the shared tensors are combined.

    Attributes:
        pairs: The tensors of `init` that have an entry for each pair of terms, shape (n, n).
        needs: The statistics that `weigh` and `update` may read.
    """

    every: Duration | str | None = None
    heads: Literal["weighted", "plain"] = "weighted"
    instant: ClassVar[bool] = True
    needs: ClassVar[tuple[Statistic, ...]] = ()
    pairs: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def __pydantic_init_subclass__(cls, kind: str = "", **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(kind=kind, **kwargs)
        if kind and (not cls.needs or not set(cls.needs) <= set(STATISTICS)):
            raise TypeError(
                f"{cls.__name__}: needs names the statistics that weigh() reads, among "
                f"{', '.join(STATISTICS)}; found {cls.needs!r}"
            )
        if cls.penalty is not Balancer.penalty:
            raise TypeError(f"{cls.__name__}: a penalty() is for learned weights: remove it")

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """The statistics of `needs` that are computed; all, unless the fields rule one out."""
        return self.needs

    @abstractmethod
    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        """The weights of the m terms that were given, shape (m,), of any float type.

        If one is not finite, all terms keep the weights of the last step.

        Args:
            losses: The values of the terms, detached, shape (m,), float64.
            state: The current state of these terms; not to be changed.
            now: The gradients, the step, the horizon and the values of scheduled fields.
        """


class GramianBalancer(GradientBalancer):
    r"""Weights from the Gramian of the terms' gradients, computed on the CPU.

    `weigh` waits for the device, to move the Gramian and the state to the CPU. Weights that are too
    large for float32 are scaled down together, which keeps the direction $\sum_i b_i g_i$.
    """

    needs: ClassVar[tuple[Statistic, ...]] = ("gramian",)
    needs_positive: ClassVar[str] = (
        "so the balancer would mistake its agreement with other terms for conflict"
    )

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        gramian = now.gradients.gramian.cpu()
        if not math.isfinite(gramian.sum().item()):
            return torch.full_like(losses, torch.nan)
        state = {key: tensor.cpu() for key, tensor in state.items()}
        weights = self.solve(gramian.numpy(), state, now)
        highest = max(map(abs, weights.tolist()))
        return torch.from_numpy(weights * (LARGE / highest) if highest > LARGE else weights)

    @abstractmethod
    def solve(self, gramian: Array, state: State, now: StepContext) -> Array:
        r"""The weights for a Gramian, shape (m,).

        Args:
            gramian: $g_i \cdot g_j$, finite, shape (m, m), float64; not to be changed. It may be
                0, of low rank, and of any scale.
            state: The current state, on the CPU.
            now: As in `weigh`.
        """
