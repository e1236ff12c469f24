"""Handwritten digits of 8 x 8 pixels, which scikit-learn ships."""

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
        training: What is trained on.
        held_out: What is measured on.
    """

    training: Tensor
    held_out: Tensor

    def batches(self, steps: int, size: int, seed: int) -> Iterator[Tensor]:
        """One batch for each step, drawn with replacement."""
        generator = torch.Generator().manual_seed(seed)
        for _ in range(steps):
            yield self.training[torch.randint(len(self.training), (size,), generator=generator)]


def load_images() -> Images:
    """All 1,797 images, split by chance, in the same way each time."""
    images = torch.tensor(load_digits().images, dtype=torch.float32) / 16
    images = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))]
    return Images(images[HELD_OUT:], images[:HELD_OUT])
