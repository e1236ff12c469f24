"""Weights that stand still between gradients, and what gradients have shown since the last step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lossweights.components.context import Gradients, State, Statistic

NO_FLOAT64 = (
    "weights from gradients need float64, which mps has not: train on the CPU, or write a balancer "
    "of values"
)
_FIRST_SCALE = 2.0**16
_LARGEST_SCALE = 2.0**24
_CALM_STEPS = 2000  # as torch's gradient scaler: so many without an overflow, and the scale doubles


class Held:
    """What a balancer that weighs by gradients leaves from one forward pass to the next.

    Args:
        names: The terms that it weighs, sorted.
        needs: The statistics of which means over a step are kept.

    Attributes:
        tensors: All of it, for checkpoints. `weights` are those of the last step in which
            gradients were taken (1 before), `fresh` sums and counts of those since; `scale` is
            what float16 gradients are multiplied by, `overflows` how often that was too much
            since the last step, `calm` for how many steps it was not; `taken` is 1 for terms that
            counted in a step in which gradients were taken.
    """

    def __init__(self, names: Sequence[str], needs: Sequence[Statistic]) -> None:
        n = len(names)
        self._names, self._needs = tuple(names), tuple(needs)
        self.tensors: State = {
            "weights": torch.ones(n, dtype=torch.float32),
            "fresh": torch.zeros(2, n, dtype=torch.float32),
            "scale": torch.full((), _FIRST_SCALE, dtype=torch.float32),
            "calm": torch.zeros((), dtype=torch.float32),
            "overflows": torch.zeros((), dtype=torch.float32),
            "taken": torch.zeros(n, dtype=torch.float32),
        }
        for need in self._needs:
            shape = (n, n) if need == "gramian" else (n,)
            self.tensors[need] = torch.zeros(shape, dtype=torch.float64)
        if "gramian" in self._needs:
            self.tensors["pairs"] = torch.zeros(n, n, dtype=torch.float32)

    @property
    def scale(self) -> Tensor:
        """What float16 gradients are multiplied by, so that small ones do not become 0."""
        return self.tensors["scale"]

    def standing(self) -> Tensor:
        """The weights that stand: the mean of those since the last step, or those of that."""
        sums, counts = self.tensors["fresh"].unbind()
        return torch.where(counts > 0, sums / counts, self.tensors["weights"])

    def overflowed(self, times: Tensor | float) -> None:
        """Adds 1 where gradients of a forward pass were not finite, else 0; 0-dim."""
        self.tensors["overflows"] += times

    def record(self, weights: Tensor, gradients: Gradients) -> None:
        """Adds what a forward pass has shown.

        Args:
            weights: Of the terms that were seen, shape (m,), finite.
            gradients: Of the same.
        """
        where = [self._names.index(name) for name in gradients.names]
        sums, counts = self.tensors["fresh"].unbind()
        _add(sums, where, weights)
        _add(counts, where, torch.ones_like(weights))
        for need in self._needs:
            _add(self.tensors[need], where, gradients.found[need])
            if need == "gramian":
                _add(self.tensors["pairs"], where, weights.new_ones(len(where), len(where)))

    def observed(self) -> Gradients:
        """The means since the last step; 0 for terms that were not seen, or not all finite.

        The Gramian is nan for two terms that were seen, but never in one forward pass.
        """
        counts = self.tensors["fresh"][1]
        found, seen = {}, counts > 0
        for need in self._needs:
            found[need] = self.tensors[need] / counts
            if need == "gramian":
                found[need] = self.tensors[need] / self.tensors["pairs"]
            own = found[need].diagonal() if need == "gramian" else found[need]
            seen = seen & own.isfinite()
        for need, mean in found.items():
            there = seen[:, None] & seen if need == "gramian" else seen
            found[need] = torch.where(there, mean, 0.0)
        return Gradients(self._names, found, seen)

    def step_done(self, *, scaled: bool) -> None:
        """Lets the mean weights of the step stand, and begins anew.

        Args:
            scaled: Whether gradients were multiplied by `scale`.
        """
        tensors = self.tensors
        tensors["weights"].copy_(self.standing())
        if scaled:
            overflow, calm = tensors["overflows"] > 0, tensors["calm"]
            calm.add_(1).mul_(overflow.logical_not())
            grows = calm >= _CALM_STEPS
            calm.mul_(grows.logical_not())
            tensors["scale"].mul_(1 - 0.5 * overflow + 1.0 * grows).clamp_(1.0, _LARGEST_SCALE)
        self.drop()

    def drop(self) -> None:
        """Forgets what was seen since the last step."""
        for key, tensor in self.tensors.items():
            if key not in ("weights", "scale", "calm", "taken"):
                tensor.zero_()

    def move(self, device: torch.device) -> None:
        """To another device.

        Raises:
            RuntimeError: Where that has no float64, and sums of gradients are kept.
        """
        if device.type == "mps" and self._needs:
            raise RuntimeError(NO_FLOAT64)
        self.tensors = {key: tensor.to(device) for key, tensor in self.tensors.items()}


def _add(sums: Tensor, where: Sequence[int], values: Tensor) -> None:
    """Adds at the places of some terms, on each axis."""
    if len(where) == sums.shape[-1]:
        sums += values
    elif sums.ndim == 1:
        for index, value in zip(where, values.unbind(), strict=True):
            sums[index] += value
    else:
        for index, row in zip(where, values.unbind(), strict=True):
            _add(sums[index], where, row)
