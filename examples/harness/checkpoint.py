"""Everything that changes during a training, in one file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from zipfile import BadZipFile, ZipFile

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

    def save(self, progress: Any) -> None:
        """Write the state. An unfinished file never gets the name.

        Args:
            progress: How far the training is: a number, or a list of numbers.
        """
        state = {
            "progress": progress,
            "generator": self.generator.get_state(),
            **{name: part.state_dict() for name, part in self.parts.items()},
        }
        unfinished = self.path.with_suffix(".unfinished")
        torch.save(state, unfinished)
        unfinished.replace(self.path)

    def load(self) -> Any:
        """Restore the state if there is a file, and return the progress; else return None.

        Raises:
            SystemExit: If the file cannot be loaded. The message says why, and what to do.
        """
        if not self.path.exists():
            return None
        try:
            return self._restore()
        except Exception as error:  # damage can raise any error
            raise SystemExit(
                f"{self.path} cannot be loaded ({error}). Delete it, and its run starts again."
            ) from error

    def _restore(self) -> Any:
        with ZipFile(self.path) as file:  # torch does not compare checksums
            if damaged := file.testzip():
                raise BadZipFile(f"{damaged} is damaged")
        state = torch.load(self.path, weights_only=True)
        self.generator.set_state(state["generator"])
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        return state["progress"]
