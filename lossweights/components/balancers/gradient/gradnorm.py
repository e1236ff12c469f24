"""GradNorm: weights that bring the norms of gradients to a target."""

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from lossweights.components.adam import adam_step
from lossweights.components.balancers.gradient.base import GradientBalancer
from lossweights.components.context import State, Statistic, StepContext
from lossweights.components.numerics import relative

_LOWEST = 1e-6


class GradNorm(GradientBalancer, kind="gradnorm"):
    r"""Brings the norms of the weighted gradients to one size, larger for terms that lag behind.

    With $G_i = b_i \lVert g_i \rVert$ and $\tilde L_i = l_i / l_i(0)$, the remaining fraction of a
    loss, a step of Adam on $\log b$ decreases

    $$L_\mathrm{grad} = \sum_i \big| G_i - \overline{G}\, r_i^\alpha \big|,
    \qquad r_i = \tilde L_i / \overline{\tilde L},$$

    divided by $\overline{G}$, with the targets $\overline{G}\, r_i^\alpha$ held constant. The
    weights are then scaled to sum to $n$. They are 1 at first, and those after step $t$ weigh the
    losses of step $t + 1$. No weight goes below about 1e-6. A term whose gradient is 0, or that was
    not seen, keeps its weight and is left out of all means. Losses should be above 0: one that was
    0 at its first step counts as unchanged, and one that changed its sign as 0.

    Args:
        asymmetry: $\alpha$: with 0 all norms should be equal; the larger, the more weight goes to
            terms that made less progress than the others.
        learning_rate: Learning rate of Adam: about the change of a weight near 1 in a step.

    Z. Chen, V. Badrinarayanan, C.-Y. Lee, A. Rabinovich, *GradNorm: gradient normalization for
    adaptive loss balancing in deep multitask networks*, ICML 2018, arXiv 1711.02257, for the last
    shared layer. The defaults are those on NYUv2; on its toy problem $\alpha$ is 0.12. The paper
    optimizes $b$, LibMTL and physicsnemo-sym $\log b$; gradnorm-pytorch has the exponent $-\alpha$.

    >>> from lossweights import WeightedLoss
    >>> criterion = WeightedLoss(terms=["a", "b"], balancer="gradnorm")
    >>> layer = torch.tensor([3.0, 4.0], requires_grad=True)
    >>> for _ in range(200):
    ...     terms = {"a": layer.square().sum() / 2, "b": 100 * layer.sum()}
    ...     _ = criterion(terms, shared=layer)
    ...     criterion.step()
    >>> {name: round(weight, 2) for name, weight in criterion.metrics(include=["weight"]).items()}
    {'weight/a': 1.93, 'weight/b': 0.07}
    """

    asymmetry: Annotated[float, Field(ge=0)] = 1.5
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.025
    needs: ClassVar[tuple[Statistic, ...]] = ("norms",)
    never_negative: ClassVar[tuple[str, ...]] = ("seen", "second_moment", "count")

    def init(self, n: int) -> State:
        zero = ("first", "seen", "first_moment", "second_moment", "count")
        return {"weights": torch.ones(n)} | {key: torch.zeros(n) for key in zero}

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        # With gradients that are not finite the last weights are kept, as in every balancer.
        return torch.where(now.gradients.norms.isfinite(), state["weights"], torch.nan)

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        state["first"] = first = torch.where(state["seen"] > 0, state["first"], observed)
        state["seen"].fill_(1)
        norms, weights = now.gradients.norms, state["weights"].double()
        progress = relative(observed, first).clamp(min=0).double()
        gradient = gradnorm_gradient(weights * norms, progress, self.asymmetry)
        step = self.learning_rate * adam_step(gradient, state)
        moved = (weights * torch.exp(-step)).clamp(min=_LOWEST)
        state["weights"].copy_(_rescaled(moved, weights, norms > 0))


def gradnorm_gradient(norms: Tensor, progress: Tensor, asymmetry: float) -> Tensor:
    r"""The gradient of $L_\mathrm{grad} / \overline{G}$ in $\log b$, from $G$ and $\tilde L$."""
    counts = norms > 0
    both = torch.stack([norms, progress])
    means = torch.where(counts, both, 0.0).sum(dim=1, keepdim=True) / counts.sum()
    sizes, targets = torch.where(means > 0, both / means, 1.0).unbind()
    return torch.where(counts, sizes * torch.sign(sizes - targets**asymmetry), 0.0)


def _rescaled(moved: Tensor, weights: Tensor, counts: Tensor) -> Tensor:
    """The moved weights of terms that count, scaled so that all weights sum to n."""
    share = torch.where(counts, weights, 0.0).sum() / weights.sum()
    scale = share * len(weights) / torch.where(counts, moved, 0.0).sum()
    return torch.where(counts, moved * scale, weights)
