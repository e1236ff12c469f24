"""A training run: what it depends on, and what came out."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sprites.data import SIZE
from sprites.measures import Code
from sprites.model import SpriteVAE

EVERY = 10  # steps from one entry of the history to the next
SPREAD = 2.0  # how far a traversal goes to either side, in standard deviations of the prior
PLACES = 7  # pictures in a row of a traversal
TRAVERSED = 16  # the held-out sprite from which it goes: a rectangle near the middle


@dataclass(frozen=True)
class Run:
    """One training run: the options that its figures depend on."""

    config: str
    seed: int
    steps: int
    batch_size: int = 64
    learning_rate: float = 1e-3

    @property
    def name(self) -> str:
        """What the run is called on the screen."""
        return f"{self.config}, seed {self.seed}"


@dataclass(frozen=True)
class Result:
    """What a run gave.

    Args:
        run: What it depends on.
        figures: What was measured at the end, on held-out sprites.
        code: What each dimension of the code stands for.
        history: Metrics of the loss, means over every so many steps.
        traversals: Pictures as `traverse` makes them, from 0 to 255.
    """

    run: Run
    figures: dict[str, float]
    code: Code
    history: dict[str, list[float]]
    traversals: NDArray[np.uint8]


@torch.no_grad()
def traverse(model: SpriteVAE, image: Tensor, dimensions: Sequence[int]) -> NDArray[np.uint8]:
    """What is decoded while one dimension of an image's code moves and the others stand still.

    They stand at their posterior mean. The pictures have the shape (dimensions, PLACES, 32, 32).
    """
    mean, _ = model.encode(image[None])
    codes = mean.repeat(len(dimensions), PLACES, 1)
    for row, dimension in enumerate(dimensions):
        codes[row, :, dimension] = torch.linspace(-SPREAD, SPREAD, PLACES)
    images = model.decode(codes).reshape(*codes.shape[:2], SIZE, SIZE)
    pictures: NDArray[np.uint8] = (255 * images).round().to(torch.uint8).numpy()
    return pictures


def by_config(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The results of each config, in the order in which they come."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.run.config, []).append(result)
    return groups


def save(results: Sequence[Result], path: Path) -> Path:
    """Write every run's figures, code and history."""
    runs = [
        {
            **asdict(result.run),
            "figures": result.figures,
            "code": asdict(result.code),
            "history": result.history,
        }
        for result in results
    ]
    path.write_text(json.dumps({"runs": runs}) + "\n", encoding="utf-8")
    return path
