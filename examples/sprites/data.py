"""Rendered pictures of one sprite each, whose five factors are known.

They follow dSprites (Matthey, Higgins, Hassabis and Lerchner, 2017), with fewer values of each
factor, 32 x 32 pixels and smooth edges.
"""

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

SIZE = 32  # pixels in each direction
# The number of values of each factor. They have equal distances, and all combinations occur once.
FACTORS = {"shape": 3, "scale": 5, "angle": 10, "x": 14, "y": 14}
# Half the length of a sprite, in pixels. At the outermost places the largest sprites lose up to 6%
# of their area.
SMALLEST, LARGEST = 5.0, 9.0
HELD_OUT = 8_192


@dataclass(frozen=True)
class Sprites:
    """Pictures and their factors.

    Args:
        images: From 0 to 1, shape (n, pixels).
        factors: The index of each factor's value, shape (n, factors), in the order of `FACTORS`.
    """

    images: Tensor
    factors: Tensor

    def batch(self, size: int, generator: torch.Generator) -> Tensor:
        """Images drawn at random."""
        drawn = torch.randint(len(self.images), (size,), generator=generator)
        return self.images[drawn]


@cache  # shared by the runs of a worker
def load_sprites() -> tuple[Sprites, Sprites]:
    """Training and held-out sprites, the same in each run: all combinations of the factors."""
    values = [torch.arange(count) for count in FACTORS.values()]
    factors = torch.cartesian_prod(*values)
    # In a window that moves left the sprite moves right: one picture serves all places.
    windows = render(torch.cartesian_prod(*values[:3])).unfold(1, SIZE, 1).unfold(2, SIZE, 1)
    images = windows.flip(1, 2).transpose(1, 2).reshape(-1, SIZE * SIZE)
    shuffled = torch.randperm(len(factors), generator=torch.Generator().manual_seed(0))
    held_out, train = shuffled[:HELD_OUT], shuffled[HELD_OUT:]
    return Sprites(images[train], factors[train]), Sprites(images[held_out], factors[held_out])


def render(looks: Tensor) -> Tensor:
    """Sprites in the middle of pictures that contain the windows of all places.

    The brightness of a pixel is the part of it that the sprite covers, except at corners.

    Args:
        looks: Shape, scale and angle of each sprite, shape (n, 3).
    """
    shape, scale, turn = looks[:, :, None, None].unbind(dim=1)
    half = SMALLEST + (LARGEST - SMALLEST) * scale / (FACTORS["scale"] - 1)
    # Within a quarter turn no shape looks the same twice.
    angle = (math.pi / 2) * turn / FACTORS["angle"]
    width = SIZE + FACTORS["x"] - 1
    pixel = torch.arange(width) + 0.5 - width / 2
    right, down = pixel / half, pixel[:, None] / half
    along = right * angle.cos() + down * angle.sin()
    across = down * angle.cos() - right * angle.sin()
    shapes = torch.stack(
        [ellipse(along, across), rectangle(along, across), triangle(along, across)]
    )
    outside = shapes[shape.flatten(), torch.arange(len(looks))]
    return (0.5 - half * outside).clamp(0.0, 1.0)


# Distances of points from a shape of length 2, negative inside.


def ellipse(along: Tensor, across: Tensor) -> Tensor:
    """Half as wide as long. The distance is exact to first order near the edge."""
    level = torch.hypot(along, across / 0.5)
    slope = torch.hypot(along, across / 0.25) / level.clamp(min=1e-6)
    return (level - 1) / slope.clamp(min=1e-6)


def rectangle(along: Tensor, across: Tensor) -> Tensor:
    """Half as wide as long."""
    return torch.maximum(along.abs() - 1, across.abs() - 0.5)


def triangle(along: Tensor, across: Tensor) -> Tensor:
    """Isosceles, with its tip forward and a base as wide as it is long."""
    side = (2 * across.abs() + along - 1) / math.sqrt(5)
    return torch.maximum(-along - 1, side)
