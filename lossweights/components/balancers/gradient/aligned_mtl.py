"""Independent component alignment: orthogonal gradients of one size."""

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
    dominates, and none conflicts with another, though the direction may conflict with an original
    gradient. Singular values below about 1e-7 of the largest, the rounding of float32, count as 0.
    Some weights may be negative; with `min` none is above $1 / \sqrt m$. They are $1 / m$ if all
    gradients are equal or 0; a term whose gradient is 0 among others has weight 0.

    Args:
        scale_mode: $\sigma^2$ is the smallest (`min`), the lower median (`median`) or the mean
            (`rmse`) of the $r$ eigenvalues of $G$ that count.

    D. Senushkin et al., *Independent component alignment for multi-task learning*, CVPR 2023, arXiv
    2305.19000. The paper analyzes `min`; its code and LibMTL have $\mathbf{1}$ for
    $\mathbf{1} / m$, torchjd has it as here.

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
    preferences = np.full(len(gramian), 1 / len(gramian))
    trace = gramian.trace()
    if trace == 0:
        return preferences
    eigenvalues, vectors = spectrum(gramian / trace)
    middle = eigenvalues[(len(eigenvalues) - 1) // 2]
    sizes = {"min": eigenvalues[0], "median": middle, "rmse": eigenvalues.mean()}
    roots = np.sqrt(sizes[scale_mode] / eigenvalues)
    return np.asarray(vectors @ (roots * (preferences @ vectors)))
