"""Random loss weighting: new weights at each step."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from lossweights.components.balancers.base import Balancer
from lossweights.components.context import State, StepContext
from lossweights.components.random import generator


class RandomWeighting(Balancer, kind="random"):
    r"""New random weights at each step, $b = \mathrm{softmax}(x)$ with $x_i \sim N(0, 1)$ (RLW).

    A baseline that any other method should beat. The weights sum to 1, as in torchjd and LibMTL.
    They follow from `seed` and the step alone: the same on every rank, and after a restart.

    Args:
        seed: Seed of the weights.

    B. Lin et al., *Reasonable effectiveness of random weighting: a litmus test for multi-task
    learning*, TMLR 2022, arXiv 2111.10603.

    >>> from lossweights import WeightedLoss
    >>> criterion = WeightedLoss(terms=["a", "b"], balancer={"kind": "random", "seed": 3})
    >>> round(sum(criterion.weights.values()), 6)
    1.0
    """

    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        # On the CPU, whatever the device and the defaults, so that every rank has the same.
        drawn = torch.randn(
            len(losses), generator=generator(self.seed, now.step), dtype=torch.float32, device="cpu"
        )
        return torch.softmax(drawn, dim=-1).to(losses.device, non_blocking=True)
