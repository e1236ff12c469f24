"""A training run: its settings and its result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

EVERY = 10  # steps over which the shares of the loss are averaged


@dataclass(frozen=True)
class Run:
    """One config with one seed.

    Args:
        config: A section of the file of configs.
        seed: Seed of the initialization and of the batches.
        steps: Optimizer steps.
        learning_rate: Learning rate of the network.
        split: The images for the measures.
    """

    config: str
    seed: int
    steps: int
    learning_rate: float
    split: Literal["validation", "test"]


@dataclass(frozen=True)
class Result:
    """The result of a run.

    Args:
        run: The run.
        figures: The metric of each task, with the last weights.
        shares: The share of each task in the weighted loss, over each `EVERY` steps.
    """

    run: Run
    figures: Mapping[str, float]
    shares: Mapping[str, Sequence[float]]
