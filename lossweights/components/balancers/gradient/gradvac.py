"""Gradient vaccine: gradients are turned towards each other as far as they used to agree."""

from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lossweights.components.balancers.gradient.base import Array, GramianBalancer
from lossweights.components.context import State, StepContext
from lossweights.components.random import Orders, orders

_HIGHEST = 1 - 1e-6  # a cosine of 1 would need an infinite multiple of the other gradient
_NOTHING = 1e-7  # rounding that is left of a gradient that was cut away


class GradVac(GramianBalancer, kind="gradvac"):
    r"""Turns each gradient towards those with which it agrees less than it used to (GradVac).

    Each gradient, $g_i' = g_i$, is compared with those of all other terms, in random order. If the
    cosine $\phi$ between $g_i'$ and $g_j$ is below its target $\hat\phi_{ij}$, as much of $g_j$ is
    added as raises it to the target,

    $$g_i' \leftarrow g_i' + \frac{\lVert g_i' \rVert}{\lVert g_j \rVert}
    \Big(\hat\phi_{ij} \frac{\sqrt{1 - \phi^2}}{\sqrt{1 - \hat\phi_{ij}^2}} - \phi\Big)\, g_j,
    \qquad \sum_i b_i g_i = \sum_i g_i',$$

    and the targets are moving averages of these cosines, from 0 on:
    $\hat\phi_{ij} \leftarrow \beta\, \hat\phi_{ij} + (1 - \beta)\, \phi$. They move once a step,
    after it, by the mean Gramian of its forward passes. With all targets at 0 it is `pcgrad`.

    Only the angle to the gradient that came last is guaranteed; a target below 0 tolerates a
    conflict. Weights are at least 1, and 1 if no cosine is below its target or for a gradient of 0:
    a sum of the terms, not their mean. A pair keeps its target if one gradient is 0, or was cut
    away by others before.

    Args:
        smoothing: $\beta$; the targets move over about $1 / (1 - \beta)$ steps.
        seed: Seed of the orders, which are the same on every rank and after a restart.

    Z. Wang, Y. Tsvetkov, O. Firat, Y. Cao, *Gradient vaccine: investigating and improving
    multi-task optimization in massively multilingual models*, ICLR 2021, arXiv 2010.05874. The
    paper's $\beta$ is $1 - \beta$ here, 0.01; torchjd and LibMTL have 0.5. The paper treats each
    layer by itself; here all shared tensors are one. LibMTL moves a target only if a cosine is
    below it, so that its targets never rise above 0.

    >>> from lossweights import WeightedLoss
    >>> criterion = WeightedLoss(terms=["a", "b"], balancer=GradVac(smoothing=0))
    >>> for share in (1.0, 0.0):  # the cosine is 0.707, then 0
    ...     x = torch.zeros(2, requires_grad=True)
    ...     criterion({"a": x[0], "b": x[1] + share * x[0]}, shared=x).backward()
    ...     criterion.step()
    >>> x.grad  # (1, 0) becomes (1, 1), and so does (0, 1)
    tensor([2., 2.])
    """

    smoothing: Annotated[float, Field(ge=0, le=1)] = 0.99
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    pairs: ClassVar[tuple[str, ...]] = ("targets",)

    def init(self, n: int) -> State:
        return {"targets": torch.zeros(n, n)}

    def solve(self, gramian: Array, state: State, now: StepContext) -> Array:
        weights, _ = self._vaccinated(gramian, state["targets"].double().numpy(), now.step)
        return weights

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        seen = now.gradients.seen.numpy(force=True)
        pairs = np.ix_(seen, seen)
        targets = state["targets"].double().numpy(force=True)
        gramian = now.gradients.gramian.numpy(force=True)[pairs]
        met = np.isfinite(gramian)  # nan for terms of different batches
        # The order of the forward pass, which was before this step was done.
        step = now.step - now.elapsed
        _, moved = self._vaccinated(np.where(met, gramian, 0.0), targets[pairs], step)
        targets[pairs] = np.where(met, moved, targets[pairs])
        state["targets"].copy_(torch.from_numpy(targets))

    def _vaccinated(self, gramian: Array, targets: Array, step: int) -> tuple[Array, Array]:
        order = orders(self.seed, step, len(gramian))
        return gradvac_weights(gramian, targets, order, self.smoothing)


def gradvac_weights(
    gramian: Array, targets: Array, order: Orders, smoothing: float
) -> tuple[Array, Array]:
    """The weights for a Gramian, and the targets after it; `order` has a row of others per term."""
    norms, rows, moved = np.sqrt(gramian.diagonal()), np.arange(len(gramian)), targets.copy()
    made = np.eye(len(gramian))  # a row per term: the coefficients of g_i'
    for others in order.T:  # all terms at once: they are independent
        products = made @ gramian
        own = np.sqrt(np.maximum((products * made).sum(axis=1), 0.0))
        theirs = norms[others]
        known = (own > _NOTHING * (np.abs(made) @ norms)) & (theirs > 0)
        scale = np.where(known, own, 1.0) * np.where(known, theirs, 1.0)
        target = targets[rows, others]
        cosine = np.where(known, np.clip(products[rows, others] / scale, -1.0, 1.0), target)
        wanted = np.clip(target, -_HIGHEST, _HIGHEST)
        turn = wanted * np.sqrt((1 - cosine**2) / (1 - wanted**2)) - cosine
        ratio = own / np.where(known, theirs, 1.0)
        behind = cosine < np.minimum(target, _HIGHEST)
        made[rows, others] += np.where(behind, ratio * turn, 0.0)
        moved[rows, others] += (1 - smoothing) * (cosine - target)
    return np.asarray(made.sum(axis=0)), moved
