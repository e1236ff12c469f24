"""The order in which each term meets the others."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

Orders = npt.NDArray[np.int64]


def orders(seed: int, step: int, terms: int) -> Orders:
    """For each term the others in an order of its own, from a seed and a step.

    Returns:
        A row a term, shape (m, m - 1).

    >>> orders(0, 7, 2).tolist()
    [[1], [0]]
    """
    # Bits of a hash: several times faster than a generator that is seeded for one call.
    drawn = hashlib.shake_128(b"%d %d" % (seed, step)).digest(8 * terms**2)
    keys = np.frombuffer(drawn, np.dtype("<u8")) >> 1
    keys[:: terms + 1] = 2**63  # the term itself comes last
    return keys.reshape(terms, terms).argsort(axis=1)[:, :-1]
