"""The order in which each term meets the others."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from lossweights.components.balancers.draws import generator

Orders = npt.NDArray[np.int64]


def orders(seed: int, step: int, terms: int) -> Orders:
    """For each term the others in an order of its own, from a seed and a step.

    Returns:
        A row a term, shape (m, m - 1).

    >>> orders(0, 7, 2).tolist()
    [[1], [0]]
    """
    drawn = torch.rand(terms, terms, generator=generator(seed, step), dtype=torch.float64)
    drawn.fill_diagonal_(2)  # the term itself comes last
    return drawn.argsort(dim=1)[:, :-1].numpy()
