"""A training run: its settings and its result."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.json_file import write_json
from sprites.data import SIZE
from sprites.measures import Code
from sprites.model import SpriteVAE

EVERY = 10  # steps between entries of the history
SPREAD = 2.0  # extent of a traversal to either side, in standard deviations of the prior
PLACES = 7  # pictures per row of a traversal
TRAVERSED = 16  # the held-out sprite of the traversals: a rectangle near the middle


@dataclass(frozen=True)
class Run:
    """One training run: the settings that its figures depend on."""

    config: str
    seed: int
    steps: int
    batch_size: int = 64
    learning_rate: float = 1e-3

    @property
    def name(self) -> str:
        """The name of the run on the screen."""
        return f"{self.config}, seed {self.seed}"


@dataclass(frozen=True)
class Result:
    """The result of a run.

    Args:
        run: The run.
        figures: The measures after training, on held-out sprites.
        code: The information in each dimension of the code.
        history: Metrics of the loss, means over each `EVERY` steps.
        traversals: The pictures of `traverse`, from 0 to 255.
    """

    run: Run
    figures: dict[str, float]
    code: Code
    history: dict[str, list[float]]
    traversals: NDArray[np.uint8]


@torch.no_grad()
def traverse(model: SpriteVAE, image: Tensor, dimensions: Sequence[int]) -> NDArray[np.uint8]:
    """Decoded images while one dimension of an image's code moves.

    The other dimensions stay at their posterior mean. The pictures have the shape (dimensions,
    PLACES, 32, 32).
    """
    mean, _ = model.encode(image[None])
    codes = mean.repeat(len(dimensions), PLACES, 1)
    for row, dimension in enumerate(dimensions):
        codes[row, :, dimension] = torch.linspace(-SPREAD, SPREAD, PLACES)
    images = model.decode(codes).reshape(*codes.shape[:2], SIZE, SIZE)
    pictures: NDArray[np.uint8] = (255 * images).round().to(torch.uint8).numpy()
    return pictures


def by_config(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The results of each config, in the given order."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.run.config, []).append(result)
    return groups


def save(results: Sequence[Result], path: Path) -> Path:
    """Write the figures, code and history of every run."""
    runs = [
        {
            **asdict(result.run),
            "figures": result.figures,
            "code": asdict(result.code),
            "history": result.history,
        }
        for result in results
    ]
    return write_json({"runs": runs}, path)
