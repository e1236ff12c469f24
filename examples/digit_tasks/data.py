"""Handwritten digits on patches of photographs, and the targets of each task.

Digits and photographs are those of scikit-learn. Training, validation and test data share no digit
and no column of a photograph.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from sklearn.datasets import load_digits, load_sample_images
from torch import Tensor

SIZE = 12  # pixels of an image
DIGIT = 8  # pixels of the digit in it
WRONG = 0.4  # probability that a training label of `photo` is wrong: 80% of them are random
BATCH = 64
_SHADE = 0.6  # photographs are darkened, so that white digits can be read on most of them


@dataclass(frozen=True)
class Split:
    """The source of a part of the data.

    Args:
        digits: The first and the last of the shuffled digits, the last not included.
        columns: The first and the last column of the photographs, the last not included.
        images: The number of images made from these.
    """

    digits: tuple[int, int]
    columns: tuple[int, int]
    images: int


SPLITS = {
    "training": Split((0, 1000), (0, 192), 2048),
    "validation": Split((1000, 1300), (192, 256), 2000),
    "test": Split((1300, 1797), (256, 320), 2000),
}
STEPS_PER_EPOCH = SPLITS["training"].images // BATCH


@dataclass(frozen=True)
class Examples:
    """Images, shape (n, 1, 12, 12), and their target for each task."""

    images: Tensor
    targets: Mapping[str, Tensor]

    def select(self, indices: Tensor) -> "Examples":
        """The examples with these indices."""
        targets = {task: values[indices] for task, values in self.targets.items()}
        return Examples(self.images[indices], targets)

    def batches(self, steps: int, seed: int) -> Iterator["Examples"]:
        """`steps` batches, with a new random order in each epoch."""
        generator = torch.Generator().manual_seed(seed)
        order = torch.empty(0, dtype=torch.long)
        for _ in range(steps):
            if len(order) < BATCH:
                order = torch.randperm(len(self.images), generator=generator)
            yield self.select(order[:BATCH])
            order = order[BATCH:]


@cache
def load(name: str) -> Examples:
    """The images of a split, the same in each run. Do not modify them."""
    split = SPLITS[name]
    generator = torch.Generator().manual_seed(list(SPLITS).index(name))

    def draw(low: int, high: int) -> Tensor:
        return torch.randint(low, high, (split.images,), generator=generator)

    digits, labels = _digits()
    photographs = _photographs()
    digit = draw(*split.digits)
    offset = torch.stack([draw(0, SIZE - DIGIT + 1), draw(0, SIZE - DIGIT + 1)], dim=1)
    photo = draw(0, len(photographs))
    top = draw(0, photographs.shape[1] - SIZE + 1)
    left = draw(split.columns[0], split.columns[1] - SIZE + 1)

    scenes = torch.stack(
        [
            photographs[which, y : y + SIZE, x : x + SIZE]
            for which, y, x in zip(photo, top, left, strict=True)
        ]
    )
    ink = torch.zeros_like(scenes)
    for image, which, (y, x) in zip(ink, digit, offset.tolist(), strict=True):
        image[y : y + DIGIT, x : x + DIGIT] = digits[which]

    label = photo
    if name == "training":
        wrong = torch.rand(split.images, generator=generator) < WRONG
        label = torch.where(wrong, 1 - photo, photo)
    targets = {
        "digit": labels[digit],
        "position": offset - (SIZE - DIGIT) / 2,  # pixels down and right of the middle
        "ink": 100 * (digits[digit].mean(dim=(1, 2)) - _mean_ink())[:, None],
        "scene": scenes.flatten(1),
        "photo": label,
    }
    return Examples((ink + (1 - ink) * _SHADE * scenes)[:, None], targets)


@cache
def _digits() -> tuple[Tensor, Tensor]:
    """Digits in a fixed random order, from 0 (no ink) to 1, and their labels."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.images))
    images = torch.tensor(digits.images[order] / 16, dtype=torch.float32)
    return images, torch.tensor(digits.target[order])


def _mean_ink() -> Tensor:
    """The fraction of its area that an average training digit covers."""
    return _digits()[0][slice(*SPLITS["training"].digits)].mean()


@cache
def _photographs() -> Tensor:
    """Both photographs in gray, from 0 to 1, each pixel the mean of four: shape (2, 213, 320)."""
    gray = np.stack(load_sample_images().images).mean(axis=-1) / 255
    count, height, width = gray.shape
    blocks = gray[:, : height // 2 * 2].reshape(count, height // 2, 2, width // 2, 2)
    return torch.tensor(blocks.mean(axis=(2, 4)), dtype=torch.float32)
