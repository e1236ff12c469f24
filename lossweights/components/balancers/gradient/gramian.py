"""Norms, cosines and eigenvalues from a Gramian."""

import numpy as np

from lossweights.components.balancers.gradient.base import Array

# Gradients are float32: a singular value below its precision is rounding, and an eigenvalue of
# the Gramian is the square of a singular value.
ROUNDING = float(np.finfo(np.float32).eps) ** 2


def inverse_norms(gramian: Array) -> Array:
    r"""$1 / \lVert g_i \rVert$, shape (m,); 0 for a gradient of 0."""
    norms = np.sqrt(gramian.diagonal())
    return np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)


def cosines(gramian: Array, inverses: Array) -> Array:
    """The Gramian of the gradients divided by their norms; 0 for a gradient of 0."""
    return gramian * inverses[:, None] * inverses


def spectrum(gramian: Array) -> tuple[Array, Array]:
    """The eigenvalues above rounding, ascending, shape (r,), and their vectors, shape (m, r)."""
    eigenvalues, vectors = np.linalg.eigh(gramian)
    kept = eigenvalues > len(gramian) * ROUNDING * eigenvalues[-1]
    return eigenvalues[kept], vectors[:, kept]
