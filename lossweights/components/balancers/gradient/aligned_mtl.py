"""Independent component alignment: orthogonal gradients of one size."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from lossweights.components.balancers.gradient.base import Array, GramianBalancer
from lossweights.components.balancers.gradient.gramian import spectrum
from lossweights.components.context import State, StepContext

Scale: TypeAlias = Literal["min", "median", "rmse"]


class AlignedMTL(GramianBalancer, kind="aligned-mtl"):
    r"""Replaces the gradients by the nearest orthogonal ones of one size (Aligned-MTL).

    With the Gramian $G = V \Lambda V^\top$ of rank $r$, and a size $\sigma$,

    $$b = \sigma\, V \Lambda^{-1/2} V^\top \mathbf{1} / m,$$

    the mean of the aligned gradients, whose matrix has all its singular values at $\sigma$: no term
    dominates, and none conflicts with another. The direction has the length $\sigma$ times at most
    $1 / \sqrt{m}$; it may still conflict with an original gradient.

    Args:
        scale_mode: $\sigma^2$ is the smallest (`min`), the lower median (`median`) or the mean
            (`rmse`) of the $r$ eigenvalues of $G$ that count.

    Singular values below about 1e-7 of the largest, the rounding of gradients in float32, count as
    0. Weights have no fixed sum, and some may be negative; with `min` none is above $1 / \sqrt m$.
    If all gradients are equal, or all are 0, the weights are $1 / m$; a term whose gradient is 0
    among others has weight 0.

    D. Senushkin, N. Patakin, A. Kuznetsov, A. Konushin, *Independent component alignment for
    multi-task learning*, CVPR 2023, arXiv 2305.19000. The paper analyzes `min`. (Its code and
    LibMTL have $\mathbf{1}$ for $\mathbf{1} / m$, torchjd has it as here; the first two count
    singular values as 0 below 3e-4 of the largest, torchjd below 1e-8.)

    >>> import torch
    >>> from lossweights import WeightedLoss
    >>> criterion = WeightedLoss(terms=["a", "b"], balancer="aligned-mtl")
    >>> x = torch.zeros(2, requires_grad=True)
    >>> criterion({"a": 4 * x[0], "b": x[1]}, shared=x).backward()
    >>> x.grad
    tensor([0.5000, 0.5000])
    """

    scale_mode: Scale = "min"

    def solve(self, gramian: Array, state: State, now: StepContext) -> Array:
        return aligned_weights(gramian, self.scale_mode)


def aligned_weights(gramian: Array, scale_mode: Scale) -> Array:
    """The weights for a Gramian of shape (m, m)."""
    terms = len(gramian)
    preferences = np.full(terms, 1 / terms)
    trace = gramian.trace()
    if trace == 0:
        return preferences
    eigenvalues, vectors = spectrum(gramian / trace)
    sizes = {
        "min": eigenvalues[0],
        "median": eigenvalues[(len(eigenvalues) - 1) // 2],
        "rmse": eigenvalues.mean(),
    }
    roots = np.sqrt(sizes[scale_mode] / eigenvalues)
    weights: Array = vectors @ (roots * (preferences @ vectors))
    return weights
