"""Weights from the size of each term's neural tangent kernel."""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lossweights.components.balancers.gradient.base import GradientBalancer
from lossweights.components.context import State, Statistic, StepContext
from lossweights.components.durations import Duration, steps
from lossweights.components.numerics import LARGE, nan_for_inf


class NTK(GradientBalancer, kind="ntk"):
    r"""Lets all terms converge at one rate, by the size of their neural tangent kernels (NTK).

    $$\hat b_i = \frac{\sum_j k_j}{k_i}, \qquad
    k_i = \lVert \nabla \sqrt{l_i} \rVert^2 = \frac{\lVert g_i \rVert^2}{4\, |l_i|}, \qquad
    b_i \leftarrow \beta\, b_i + (1 - \beta)\, \hat b_i.$$

    Under gradient flow on one term alone, $\dot l_i = -4\, k_i l_i$: the larger $k_i$, the faster
    it converges. If $l_i$ is the mean of squares of $m$ residuals $r$ with the kernel $K$, then
    $k_i = r^\top K r / (m \lVert r \rVert^2)$, between the smallest and the largest eigenvalue of
    $K / m$. The paper has the trace of $K$, which is the same for one residual; it needs a gradient
    for each residual, $k_i$ one for each term.

    All terms have weight 1 at first. A term whose value or gradient is 0 keeps its weight, and is
    left out of the sum. A value below 0 counts by its size.

    Args:
        total: What is divided by $k_i$: the `sum` of all $k_j$, or their `mean`.
        size: What is compared: the `trace`, $k_i$ as above, or its root, the `norm` of
            $\nabla \sqrt{l_i}$.
        smoothing: $\beta$; the weights move over about $1 / (1 - \beta)$ updates.
        every: Time between two updates.

    S. Wang, X. Yu, P. Perdikaris, *When and why PINNs fail to train: a neural tangent kernel
    perspective*, Journal of Computational Physics 2022, arXiv 2007.14527, for all weights of the
    network; its code updates every 100 steps. jaxpi has the mean of the diagonal of $K$,
    `total: mean` and `smoothing: 0.9`; physicsnemo-sym has `size: norm`. Both update every 1000
    steps.

    >>> from lossweights import WeightedLoss
    >>> criterion = WeightedLoss(terms=["residual", "boundary"], balancer="ntk")
    >>> weights = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> terms = {"residual": (3 * weights[0]).square(), "boundary": weights[1].square()}
    >>> _ = criterion(terms, shared=weights)  # kernels of 9 and 1
    >>> {name: round(weight, 2) for name, weight in criterion.metrics(include=["weight"]).items()}
    {'weight/residual': 1.11, 'weight/boundary': 10.0}
    """

    total: Literal["sum", "mean"] = "sum"
    size: Literal["trace", "norm"] = "trace"
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    every: Duration | str = steps(1000)
    needs: ClassVar[tuple[Statistic, ...]] = ("norms",)

    def init(self, n: int) -> State:
        return {"weights": torch.ones(n)}

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        weights = state["weights"].double()
        roots = root_gradient_norms(losses.double(), now.gradients.norms)
        power = 2 if self.size == "trace" else 1
        found = ntk_weights(roots, weights, power, self.total)
        return torch.lerp(found, weights, self.smoothing)

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        state["weights"].copy_(self.weigh(observed, state, now))


def root_gradient_norms(losses: Tensor, norms: Tensor) -> Tensor:
    r"""$\lVert \nabla \sqrt{|l|} \rVert$ from $l$ and $\lVert \nabla l \rVert$; 0 for $l = 0$."""
    roots = 2 * nan_for_inf(losses).abs().sqrt()
    return torch.where(roots == 0, 0.0, nan_for_inf(norms) / roots)


def ntk_weights(roots: Tensor, weights: Tensor, power: int, total: str) -> Tensor:
    r"""$\sum_j k_j / k_i$ with $k$ = `roots` to the `power`, or the mean in place of the sum.

    Args:
        roots: Norms of the gradients of the roots, shape (m,).
        weights: The current weights, which terms of 0 keep, shape (m,).
        power: 2 for the squares of the norms.
        total: `sum` or `mean`, over the terms that are not 0.
    """
    known = roots != 0
    sizes = (roots / roots.max()) ** power  # no overflow where gradients are large
    numerator = torch.where(known, sizes, 0.0).sum()
    if total == "mean":
        numerator = numerator / known.sum()
    return torch.where(known, (numerator / sizes).clamp(max=LARGE), weights)
