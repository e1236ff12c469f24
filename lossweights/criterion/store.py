"""The tensors of one component, side by side: copied, masked and moved in a few calls."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lossweights.components.context import State


class Store:
    """The state of a component, in blocks: what has the terms on its last axis, and the rest.

    A change can be undone in part, for the terms that were not seen.

    Args:
        tensors: float32 or whole numbers; kept, changed in place, as views of the blocks.

    Attributes:
        state: The tensors by name.
    """

    def __init__(self, tensors: State) -> None:
        groups: dict[tuple[bool, torch.dtype], dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            groups.setdefault((tensor.ndim > 0, tensor.dtype), {})[key] = tensor
        found: State = {}
        self._blocks: list[tuple[Tensor, Tensor, bool]] = []  # with room for a copy of each
        for (has_terms, _), group in groups.items():
            parts = [
                part.reshape(-1, part.shape[-1]) if has_terms else part.reshape(1)
                for part in group.values()
            ]
            block = torch.cat(parts)
            self._blocks.append((block, torch.empty_like(block), has_terms))
            sizes = [len(part) for part in parts]
            for (key, tensor), piece in zip(group.items(), torch.split(block, sizes), strict=True):
                found[key] = piece.view(tensor.shape)
        self.state = {key: found[key] for key in tensors}

    def keep(self) -> None:
        """Remembers the values for `restore`."""
        for block, kept, _ in self._blocks:
            kept.copy_(block)

    def restore(self, valid: Tensor) -> None:
        """Undoes what was changed since `keep` where nothing valid was seen.

        Args:
            valid: 0-dim, or one for each term; what has no terms stays changed where any is.
        """
        for block, kept, has_terms in self._blocks:
            mask = valid if has_terms or valid.ndim == 0 else valid.any()
            torch.where(mask, block, kept, out=block)

    def moved(self, device: torch.device) -> Store:
        """The same on another device."""
        return Store({key: tensor.to(device) for key, tensor in self.state.items()})

    def __getstate__(self) -> dict[str, Any]:
        return {"tensors": {key: tensor.clone() for key, tensor in self.state.items()}}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self.__init__(kept["tensors"])  # type: ignore[misc]
