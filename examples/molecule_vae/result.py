"""The result of a run, kept in a file."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.pictures import means
from molecule_vae.navigate import Navigation

WINDOW = 20  # steps that one point of a curve is the mean of


@dataclass(frozen=True)
class Result:
    """What a run gave.

    Args:
        config: Name of the config.
        with_labels: Whether the model had a head that predicts properties.
        seed: Seed of the run.
        figures: What was measured at the end.
        navigation: What became of molecules that were moved along the direction of logP.
        history: Metrics of the loss over training, means of `WINDOW` steps.
    """

    config: str
    with_labels: bool
    seed: int
    figures: dict[str, float]
    navigation: Navigation
    history: dict[str, list[float]]

    def save(self, file: Path) -> None:
        """Write it next to the checkpoint of its run, for `load`: NaN stays NaN."""
        unfinished = file.with_suffix(".part")
        unfinished.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")
        unfinished.replace(file.with_suffix(".json"))

    @classmethod
    def load(cls, file: Path) -> "Result | None":
        """The result of a run, if it is finished and its file is not damaged."""
        path = file.with_suffix(".json")
        if not path.exists():
            return None
        try:
            found = json.loads(path.read_text("utf-8"))
            return cls(**{**found, "navigation": Navigation(**found["navigation"])})
        except (KeyError, TypeError, ValueError):
            return None


def thinned(history: Mapping[str, NDArray[np.float64]]) -> dict[str, list[float]]:
    """Means over windows of steps, and as `middle` the steps in the middle of the windows."""
    windows = {name: means(values, WINDOW) for name, values in history.items()}
    middles = next(iter(windows.values()))[0]
    return {"middle": middles.tolist(), **{name: w[1].tolist() for name, w in windows.items()}}
