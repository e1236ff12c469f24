"""Everything that changes during a training, in one file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch


class Stateful(Protocol):
    """A model, an optimizer, a criterion."""

    def state_dict(self) -> Any:
        """The state."""

    def load_state_dict(self, state_dict: Any) -> Any:
        """Restore it."""


@dataclass(frozen=True)
class Checkpoint:
    """A file that a training is saved to, and continued from.

    Args:
        path: The file.
        generator: Of the order of the data and all noise.
        parts: What else has a state, by name.
    """

    path: Path
    generator: torch.Generator
    parts: Mapping[str, Stateful]

    def save(self, epochs: int) -> None:
        """Write the state after this number of epochs; a part of a file never gets the name."""
        state = {
            "epochs": epochs,
            "generator": self.generator.get_state(),
            **{name: part.state_dict() for name, part in self.parts.items()},
        }
        unfinished = self.path.with_suffix(".unfinished")
        torch.save(state, unfinished)
        unfinished.replace(self.path)

    def load(self) -> int:
        """Restore the state, if there is a file. Returns the number of epochs that are done."""
        if not self.path.exists():
            return 0
        state = torch.load(self.path, weights_only=True)
        self.generator.set_state(state["generator"])
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        epochs: int = state["epochs"]
        return epochs
