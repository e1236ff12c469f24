"""Statistics of gradients: of one term after another, tensor by tensor, and over the ranks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lossweights.components.context import Gradients, Statistic
from lossweights.criterion.distributed import ProcessGroup
from lossweights.criterion.gradients.shared import Rows, Shared

# Elements of a gradient that are looked at together: on a processor so few that they stay in its
# cache, elsewhere so many that the device is busy.
_CHUNK, _CHUNK_ELSEWHERE = 2**15, 2**20


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
    ranks: ProcessGroup,
    *,
    scale: Tensor | None,
    may_lack: bool,
) -> Collected:
    """The statistics that are needed.

    Args:
        shared: With respect to what the gradients were taken; None where nothing was given.
        rows: The gradients of the terms that were given, by name.
        values: Their values, detached, shape (k,), float32.
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
    with torch.no_grad():
        of_parameters = shared is not None and not shared.are_features
        for index, tensor in enumerate([] if shared is None else shared.tensors):
            parts: list[Tensor | None] = [None] * n
            for place, name in zip(where, given, strict=True):
                parts[place] = rows[name][index]
            if of_parameters and count > 1:
                parts = _averaged(parts, tensor, ranks, scale)
            sums.add(parts, tensor, of_parameters=of_parameters)
        sums.end(None if of_parameters and count > 1 else scale)
        present, losses = list(given), values
        if count > 1:
            totals, counts = sums.add_up(values, where, ranks, of_parameters=of_parameters)
            if may_lack:
                there = (counts > 0).tolist()
                present = [name for name, is_there in zip(names, there, strict=True) if is_there]
            losses = _chosen(totals / counts, [names.index(name) for name in present], n).float()
        places = [names.index(name) for name in present]
        chosen = {key: _chosen(found, places, n) for key, found in sums.statistics().items()}
        seen = torch.ones(len(present), dtype=torch.bool, device=home)
        return Collected(Gradients(present, chosen, seen), losses)


def _averaged(
    parts: Sequence[Tensor | None], tensor: Tensor, ranks: ProcessGroup, scale: Tensor | None
) -> list[Tensor | None]:
    """The means over the ranks of the gradients of one parameter, without the scale."""
    dtype = torch.promote_types(tensor.dtype, torch.float32)  # of all ranks, scaled or not
    stacked = torch.stack(
        [torch.zeros_like(tensor, dtype=dtype) if p is None else _dense(p).to(dtype) for p in parts]
    )
    if scale is not None:
        stacked /= scale.to(stacked)
    ranks.sum(stacked)
    stacked /= ranks.count
    return list(stacked.unbind())


def _dense(part: Tensor) -> Tensor:
    return part.to_dense() if part.is_sparse else part


class _Sums:
    """What is added up over tensors and ranks, in float64: squares of tiny ones do not vanish."""

    def __init__(self, n: int, needs: Collection[Statistic], home: torch.device) -> None:
        self._n, self._home = n, home
        self._found = {
            need: torch.zeros((n, n) if need == "gramian" else n, dtype=torch.float64, device=home)
            for need in needs
        }
        self._elements: int | Tensor = 0  # of what is shared
        self._items: int | Tensor = 0  # of the batch
        self._item_squares: Tensor | None = None

    def add(self, parts: Sequence[Tensor | None], tensor: Tensor, *, of_parameters: bool) -> None:
        """Adds the gradients with respect to one tensor."""
        self._elements += tensor.numel()
        there = [index for index, part in enumerate(parts) if part is not None]
        flat = [_dense(part).detach().reshape(-1) for part in parts if part is not None]
        if not there:
            return
        length = _CHUNK if tensor.device.type == "cpu" else _CHUNK_ELSEWHERE
        for start in range(0, max(tensor.numel(), 1), length):
            whole = tensor.numel() <= length
            pieces = flat if whole else [part[start : start + length] for part in flat]
            piece = torch.stack(pieces).double()
            piece = piece.to(self._home)
            if "gramian" in self._found:
                self._put("gramian", there, piece @ piece.T)
            if "norms" in self._found:
                self._put("norms", there, piece.square().sum(dim=1))
            if "mean_abs" in self._found:
                self._put("mean_abs", there, piece.abs().sum(dim=1))
            if "max_abs" in self._found and piece.numel():
                self._put("max_abs", there, piece.abs().amax(dim=1))
        if "item_norms" in self._found:
            self._add_items(parts, tensor, of_parameters=of_parameters)

    def _put(self, need: Statistic, there: Sequence[int], found: Tensor) -> None:
        """Adds what was found of some terms, or keeps the larger."""
        sums, found = self._found[need], _spread(found, there, self._n)
        if need == "max_abs":
            torch.maximum(sums, found, out=sums)
        else:
            sums += found

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
                torch.zeros(len(tensor), dtype=torch.float64, device=self._home)
                if part is None
                else part.detach()
                .reshape(len(tensor), -1)
                .double()
                .square()
                .sum(dim=1)
                .to(self._home)
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

    def end(self, scale: Tensor | None) -> None:
        """Called when all tensors were added, ahead of `add_up`: another rank may have no scale.

        Args:
            scale: By what the gradients were multiplied; None for 1.
        """
        if self._item_squares is not None:
            self._found["item_norms"] = self._item_squares.sqrt().sum(dim=1)
            self._items = self._item_squares.shape[1]
        if scale is not None:
            for need, found in self._found.items():
                found.div_(scale.double().square() if need in ("gramian", "norms") else scale)

    def add_up(
        self, values: Tensor, where: Sequence[int], ranks: ProcessGroup, *, of_parameters: bool
    ) -> tuple[Tensor, Tensor]:
        """Adds up over the ranks, in one collective.

        Args:
            values: The values of the terms that were given here.
            where: Their places.
            ranks: The processes.
            of_parameters: Whether each of them has added up the same gradients.

        Returns:
            The sums of the values, and on how many ranks each term was given, shape (n,).
        """
        count, values = ranks.count, values.double()
        sizes = [values.new_zeros(1) + size for size in (self._elements, self._items)]
        sums = {key: found for key, found in self._found.items() if key != "max_abs"}
        parts = [
            _spread(values, where, self._n),
            _spread(torch.ones_like(values), where, self._n),
            *sizes,
            *(found.flatten() for found in sums.values()),
        ]
        whole = torch.cat(parts)
        ranks.sum(whole)
        totals, counts, elements, items, *rest = torch.split(whole, [len(part) for part in parts])
        self._elements, self._items = elements, items
        for (key, found), total in zip(sums.items(), rest, strict=True):
            if of_parameters:
                divisor = count if key in ("gramian", "norms") else 1
            else:  # the loss of the training is the mean over the ranks
                divisor = count**2 if key in ("gramian", "norms") else count
            self._found[key] = total.view_as(found) / divisor
        if "max_abs" in self._found:
            ranks.max(self._found["max_abs"])
            self._found["max_abs"] /= 1 if of_parameters else count
        return totals, counts

    def statistics(self) -> dict[Statistic, Tensor]:
        """Those of all n terms; 0 for terms that were not given."""
        found = dict(self._found)
        if "norms" in found:
            found["norms"] = found["norms"].sqrt()
        if "mean_abs" in found:
            found["mean_abs"] = found["mean_abs"] / self._elements
        if "item_norms" in found:
            found["item_norms"] = found["item_norms"] / self._items
        return found


def _chosen(values: Tensor, places: Sequence[int], n: int) -> Tensor:
    """The entries of some terms, on each axis; one by one, an index would be uploaded."""
    if len(places) == n:
        return values
    for axis in range(values.ndim):
        picked = [values.select(axis, place) for place in places]
        values = torch.stack(picked, dim=axis) if picked else values.narrow(axis, 0, 0)
    return values


def _spread(values: Tensor, places: Sequence[int], n: int) -> Tensor:
    """The opposite: entries at the places of their terms, on each axis, and 0 elsewhere."""
    if len(places) == n:
        return values
    for axis in range(values.ndim):
        zero = values.new_zeros([size for i, size in enumerate(values.shape) if i != axis])
        spread = [zero] * n
        for place, entry in zip(places, values.unbind(axis), strict=True):
            spread[place] = entry
        values = torch.stack(spread, dim=axis)
    return values
