"""The step of Adam, for weights that a component optimizes itself."""

import math

import torch
from torch import Tensor

from lossweights.components.context import State

_BETAS = (0.9, 0.999)
_EPSILON = 1e-8
_MOMENTS = ("first_moment", "second_moment")


def adam_step(gradient: Tensor, state: State) -> Tensor:
    r"""Updates the moments with a gradient and returns $\hat m / (\sqrt{\hat v} + \epsilon)$.

    D. P. Kingma, J. Ba, *Adam: a method for stochastic optimization*, ICLR 2015, arXiv 1412.6980,
    with its defaults: decays of 0.9 and 0.999, $\epsilon$ of 1e-8.

    Args:
        gradient: Shape (n,), or 0-dim.
        state: With `first_moment` and `second_moment`, of that shape, and `count`, of that shape or
            0-dim; all 0 at first, changed in place.
    """
    state["count"] += 1
    for name, power, beta in zip(_MOMENTS, (gradient, gradient * gradient), _BETAS, strict=True):
        state[name].mul_(beta).add_(power, alpha=1 - beta)
    first, second = (
        state[name] / -torch.expm1(state["count"] * math.log(beta))  # 1 - beta ** count
        for name, beta in zip(_MOMENTS, _BETAS, strict=True)
    )
    return first / (second.sqrt() + _EPSILON)
