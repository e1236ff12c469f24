"""A training run: what it depends on, and what came out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

EVERY = 10  # steps over which the shares of the loss are taken


@dataclass(frozen=True)
class Run:
    """One config with one seed.

    Args:
        config: A section of the file of configs.
        seed: Of the initialisation and of the batches.
        steps: Of the optimizer.
        learning_rate: Of the network.
        split: What is measured on.
    """

    config: str
    seed: int
    steps: int
    learning_rate: float
    split: Literal["validation", "test"]


@dataclass(frozen=True)
class Result:
    """What a run gave.

    Args:
        run: What it depends on.
        figures: The metric of each task, of the last weights.
        shares: For each task its share of the weighted loss, over each `EVERY` steps.
    """

    run: Run
    figures: Mapping[str, float]
    shares: Mapping[str, Sequence[float]]
