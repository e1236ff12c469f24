"""Random numbers that follow from a seed and a step: stateless, and the same on every rank."""

import hashlib

import numpy as np
import numpy.typing as npt
import torch

Orders = npt.NDArray[np.int64]


def fraction(seed: int, step: int) -> float:
    """A number from 0 to 1, excluding 1."""
    return (_mixed(seed, step) >> 11) / 2**53


def generator(seed: int, step: int) -> torch.Generator:
    """A generator on the CPU, a new one for each step."""
    return torch.Generator("cpu").manual_seed(_mixed(seed, step))


def orders(seed: int, step: int, terms: int) -> Orders:
    """The other terms in random order, a row for each term, shape (m, m - 1)."""
    # Bits of a hash: several times faster than a generator that is seeded for one call.
    drawn = hashlib.shake_128(b"%d %d" % (seed, step)).digest(8 * terms**2)
    keys = np.frombuffer(drawn, np.dtype("<u8")) >> 1
    keys[:: terms + 1] = 2**63  # the term itself comes last
    return keys.reshape(terms, terms).argsort(axis=1)[:, :-1]


def _mixed(seed: int, step: int) -> int:
    """64 bits; those of neighboring seeds and steps are unrelated."""
    digest = hashlib.blake2b(b"%d %d" % (seed, step), digest_size=8).digest()
    return int.from_bytes(digest, "little")
