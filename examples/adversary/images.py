"""The handwritten digits of 8 x 8 pixels of scikit-learn."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor

HELD_OUT = 600


@dataclass(frozen=True)
class Images:
    """Images of shape (n, 8, 8), from 0 for paper to 1 for ink.

    Args:
        training: Images for training.
        held_out: Images for the measures.
    """

    training: Tensor
    held_out: Tensor

    def batches(self, steps: int, size: int, seed: int) -> Iterator[Tensor]:
        """One batch for each step, drawn with replacement."""
        generator = torch.Generator().manual_seed(seed)
        for _ in range(steps):
            yield self.training[torch.randint(len(self.training), (size,), generator=generator)]


def load_images() -> Images:
    """All 1,797 images, in a random split that is the same each time."""
    images = torch.tensor(load_digits().images, dtype=torch.float32) / 16
    images = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))]
    return Images(images[HELD_OUT:], images[:HELD_OUT])
