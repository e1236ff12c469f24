"""Statistics of gradients: of one term after another, tensor by tensor, and over the ranks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lossweights.gradients import Gradients, Statistic
from lossweights.ranks import Ranks
from lossweights.shared import Rows, Shared

_CHUNK = 2**17  # elements of a gradient that are looked at together: they stay in the cache


class Collected(NamedTuple):
    """What a forward pass shows of the gradients, over all ranks.

    Args:
        gradients: The statistics of the terms that were given anywhere.
        losses: Their values, shape (m,), float32.
    """

    gradients: Gradients
    losses: Tensor


def collect(
    shared: Shared | None,
    rows: Rows,
    values: Tensor,
    given: Sequence[str],
    names: Sequence[str],
    needs: Collection[Statistic],
    ranks: Ranks,
    *,
    scale: Tensor | None,
    may_lack: bool,
) -> Collected:
    """The statistics that are needed.

    Args:
        shared: With respect to what the gradients were taken; None where nothing was given.
        rows: The gradients of the terms that were given, by name.
        values: Their values, detached, shape (k,).
        given: Their names.
        names: All terms that the balancer weighs; so many there are on every rank.
        needs: The statistics.
        ranks: The processes to sum over.
        scale: By what the gradients were multiplied; None for 1.
        may_lack: Whether a term may be absent: then its presence anywhere is looked at on the host.
    """
    n, count, home = len(names), ranks.count, values.device
    where = [names.index(name) for name in given]
    sums = _Sums(n, needs, home)
    with torch.no_grad(), torch.autocast(home.type, enabled=False):
        of_parameters = shared is not None and not shared.are_features
        for index, tensor in enumerate([] if shared is None else shared.tensors):
            parts: list[Tensor | None] = [None] * n
            for place, name in zip(where, given, strict=True):
                parts[place] = rows[name][index]
            if of_parameters and count > 1:
                parts = _averaged(parts, tensor, ranks)
            sums.add(parts, tensor, of_parameters=of_parameters)
        for place, value in zip(where, values.unbind(), strict=True):
            sums.losses[place] += value
            sums.counts[place] += 1
        return sums.finished(
            ranks, names, given, scale=scale, of_parameters=of_parameters, may_lack=may_lack
        )


def _averaged(parts: Sequence[Tensor | None], tensor: Tensor, ranks: Ranks) -> list[Tensor | None]:
    """The means over the ranks of the gradients of one parameter."""
    stacked = torch.stack([torch.zeros_like(tensor) if p is None else p for p in parts])
    ranks.add_up(stacked)
    stacked /= ranks.count
    return list(stacked.unbind())


class _Sums:
    """What is added up over tensors and ranks, in float64: squares of tiny ones do not vanish."""

    def __init__(self, n: int, needs: Collection[Statistic], home: torch.device) -> None:
        self._n, self._needs = n, needs
        zeros = torch.zeros(n * n + 6 * n, dtype=torch.float64, device=home)
        self._all = zeros  # one tensor, so that one collective takes it
        gramian, rest = zeros[: n * n], zeros[n * n :]
        self.gramian = gramian.view(n, n)
        self.squares, self.abs, self.items, self.losses, self.counts, sizes = rest.view(6, n)
        self._sizes = sizes  # how many elements, and items, there are
        self.max = torch.zeros(n, dtype=torch.float64, device=home)
        self._item_squares: Tensor | None = None

    def add(self, parts: Sequence[Tensor | None], tensor: Tensor, *, of_parameters: bool) -> None:
        """Adds the gradients with respect to one tensor."""
        there = [index for index, part in enumerate(parts) if part is not None]
        flat = [
            (part.to_dense() if part.is_sparse else part).detach().reshape(-1)
            for part in parts
            if part is not None
        ]
        self._sizes[0] += tensor.numel()
        if not there:
            return
        for start in range(0, max(tensor.numel(), 1), _CHUNK):
            piece = torch.stack([part[start : start + _CHUNK] for part in flat]).double()
            piece = piece.to(self._all.device)
            if "gramian" in self._needs:
                self._put(self.gramian, there, piece @ piece.T)
            if "norms" in self._needs:
                self._put(self.squares, there, piece.square().sum(dim=1))
            if "mean_abs" in self._needs:
                self._put(self.abs, there, piece.abs().sum(dim=1))
            if "max_abs" in self._needs and piece.numel():
                highest = torch.zeros_like(self.max)
                self._put(highest, there, piece.abs().amax(dim=1))
                torch.maximum(self.max, highest, out=self.max)
        if "item_norms" in self._needs:
            self._add_items(parts, tensor, of_parameters=of_parameters)

    def _put(self, sums: Tensor, there: Sequence[int], found: Tensor) -> None:
        if len(there) == self._n:
            sums += found
            return
        for row, index in enumerate(there):
            if found.ndim == 1:
                sums[index] += found[row]
            else:
                for column, other in enumerate(there):
                    sums[index, other] += found[row, column]

    def _add_items(
        self, parts: Sequence[Tensor | None], tensor: Tensor, *, of_parameters: bool
    ) -> None:
        if of_parameters or tensor.ndim == 0:
            raise ValueError(
                "norms of each item of the batch are asked for, and shared= has no batch axis: "
                "give features, or write per_item: false"
            )
        squares = torch.stack(
            [
                torch.zeros(len(tensor), dtype=torch.float64, device=self._all.device)
                if part is None
                else part.detach()
                .reshape(len(tensor), -1)
                .double()
                .square()
                .sum(dim=1)
                .to(self._all.device)
                for part in parts
            ]
        )
        if self._item_squares is None:
            self._item_squares = squares
        elif self._item_squares.shape == squares.shape:
            self._item_squares += squares
        else:
            raise ValueError(
                "norms of each item of the batch are asked for, and the tensors of shared= have "
                f"first axes of {self._item_squares.shape[1]} and {squares.shape[1]}: give "
                "features with the batch first, or write per_item: false"
            )

    def finished(
        self,
        ranks: Ranks,
        names: Sequence[str],
        given: Sequence[str],
        *,
        scale: Tensor | None,
        of_parameters: bool,
        may_lack: bool,
    ) -> Collected:
        """The statistics over all ranks, of the terms that were given anywhere."""
        if self._item_squares is not None:
            self.items += self._item_squares.sqrt().sum(dim=1)
            self._sizes[1] += self._item_squares.shape[1]
        count = ranks.count
        if count > 1:
            ranks.add_up(self._all)
            if "max_abs" in self._needs:
                ranks.largest(self.max)
            if of_parameters:  # of which each rank has added up the same
                self.gramian /= count
                self.squares /= count
            else:  # the loss of the training is the mean over the ranks
                self.gramian /= count**2
                self.squares /= count**2
                self.abs /= count
                self.items /= count
                self.max /= count
        present = list(given)
        if count > 1 and may_lack:
            there = (self.counts > 0).tolist()
            present = [name for name, is_there in zip(names, there, strict=True) if is_there]
        found: dict[Statistic, Tensor] = {
            "gramian": self.gramian,
            "norms": self.squares.sqrt(),
            "max_abs": self.max,
            "mean_abs": self.abs / self._sizes[0],
            "item_norms": self.items / self._sizes[1],
        }
        places = [names.index(name) for name in present]
        chosen = {key: _chosen(found[key], places, self._n) for key in self._needs}
        if scale is not None:
            chosen = {k: t / (scale**2 if k == "gramian" else scale) for k, t in chosen.items()}
        losses = _chosen(self.losses / self.counts, places, self._n).float()
        seen = torch.ones(len(present), dtype=torch.bool, device=losses.device)
        return Collected(Gradients(present, chosen, seen), losses)


def _chosen(values: Tensor, places: Sequence[int], n: int) -> Tensor:
    """The entries of some terms, on each axis; one by one, an index would be uploaded."""
    if len(places) == n:
        return values
    for axis in range(values.ndim):
        picked = [values.select(axis, place) for place in places]
        values = torch.stack(picked, dim=axis) if picked else values.narrow(axis, 0, 0)
    return values
