"""Statistics of gradients: sums over tensors, sums over ranks, then Gramian, norms and means."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from lossweights.components.context import Gradients, Statistic
from lossweights.criterion.distributed import ProcessGroup
from lossweights.criterion.gradients.shared import Rows, Shared
from lossweights.criterion.indexing import put, take

# How many numbers are converted to float64 at a time, over all terms: on a CPU so few that they
# stay in its cache, elsewhere so many that the device is busy.
_CHUNK, _CHUNK_ELSEWHERE = 2**18, 2**23

Column: TypeAlias = "Sequence[Tensor | None]"  # the gradients of all terms, of one tensor


class Collected(NamedTuple):
    """Statistics of the gradients of a forward pass, over all ranks.

    Args:
        gradients: The statistics of the terms that were given on any rank.
        losses: The values of these terms, shape (m,), float32.
    """

    gradients: Gradients
    losses: Tensor


class Collector:
    """Computes the statistics that a balancer needs.

    Sums are computed in float64: squares of 1e-30 do not vanish, squares of 1e30 do not overflow,
    and gradients that are nearly parallel stay apart. Autocast and
    `torch.set_float32_matmul_precision`, which round the factors of products in float32, change
    nothing.

    Args:
        names: All terms that the balancer weighs, sorted; the same on every rank.
        needs: The statistics.
        group: The processes to sum over, with one collective of fixed length for each forward
            pass, one more for `max_abs`, and one for each tensor if they are parameters.
        may_lack: Whether a term may be absent. With several ranks the host then waits for the
            device, to learn which terms were given anywhere.
    """

    def __init__(
        self,
        names: Sequence[str],
        needs: Sequence[Statistic],
        group: ProcessGroup,
        *,
        may_lack: bool,
    ) -> None:
        self._names, self._needs = tuple(names), tuple(needs)
        self._group, self._may_lack = group, may_lack

    @torch.no_grad()
    def collect(
        self, rows: Rows, losses: Tensor, shared: Shared | None, scale: Tensor | None = None
    ) -> Collected:
        """The statistics of the gradients in a forward pass.

        Args:
            rows: The gradients of the terms that were given on this rank, by name.
            losses: The values of these terms, detached, shape (k,), float32. The statistics are
                on the same device.
            shared: The tensors that the gradients were taken with respect to; None if no term was
                given.
            scale: What the gradients were multiplied by; None for 1.

        Raises:
            ValueError: If norms of items are needed, and the tensors have no common batch axis.
        """
        present, has_ranks = tuple(rows), self._group.count > 1
        of_features = shared is None or shared.are_features
        if has_ranks and shared is not None and not of_features:
            sums = self._over_averaged(rows, losses.device, shared, scale)
        else:
            sums = self._over_tensors(rows, losses.device, shared, scale)
        if has_ranks:
            sums, losses, present = self._over_ranks(sums, rows, losses, of_features=of_features)
        seen = torch.ones(len(present), dtype=torch.bool, device=losses.device)
        return Collected(Gradients(present, sums.statistics(), seen), losses)

    def _over_tensors(
        self, rows: Rows, device: torch.device, shared: Shared | None, scale: Tensor | None
    ) -> _Sums:
        """The sums of the terms that were given on this rank."""
        sums = _Sums()
        if shared is not None:
            for index, tensor in enumerate(shared.tensors):
                sums.elements += tensor.numel()
                sums.add([row[index] for row in rows.values()], self._needs, device)
            if "item_norms" in self._needs:
                sums.add_items(rows, shared, device)
        if scale is not None:
            sums.divide(scale.double())
        return sums.complete(self._needs, len(rows), device)

    def _over_averaged(
        self, rows: Rows, device: torch.device, shared: Shared, scale: Tensor | None
    ) -> _Sums:
        """The sums of all terms, whose gradients of parameters are averaged over the ranks."""
        sums = _Sums()
        if "item_norms" in self._needs:
            sums.add_items(rows, shared, device)  # raises the error
        for index, tensor in enumerate(shared.tensors):
            # Of this dtype on all ranks, also on those that have no scale.
            dtype = torch.promote_types(tensor.dtype, torch.float32)
            zero = torch.zeros_like(tensor, dtype=dtype)
            parts = [rows[name][index] if name in rows else None for name in self._names]
            mean = torch.stack([zero if p is None else _dense(p).to(dtype) for p in parts])
            if scale is not None:
                mean /= scale.to(mean)
            self._group.sum(mean)
            mean /= self._group.count
            sums.elements += tensor.numel()
            sums.add(mean.unbind(), self._needs, device)
        return sums.complete(self._needs, len(self._names), device)

    def _over_ranks(
        self, sums: _Sums, rows: Rows, losses: Tensor, *, of_features: bool
    ) -> tuple[_Sums, Tensor, tuple[str, ...]]:
        """The sums, the mean values of the terms, and the names of those given on any rank."""
        n, count, values = len(self._names), self._group.count, losses.double()
        given = [self._names.index(name) for name in rows]
        found = {key: _of_all(tensor, given, n) for key, tensor in sums.found.items()}
        added = [key for key in found if key != "max_abs"]
        parts = [
            _of_all(values, given, n),
            _of_all(torch.ones_like(values), given, n),
            values.new_zeros(1) + sums.elements,
            values.new_zeros(1) + sums.items,
            *(found[key].flatten() for key in added),
        ]
        whole = torch.cat(parts)
        self._group.sum(whole)
        lengths = [len(part) for part in parts]
        totals, counts, elements, items, *rest = torch.split(whole, lengths)
        for key, total in zip(added, rest, strict=True):
            found[key] = total.view_as(found[key])
            if not of_features:  # each rank has added up the same averaged gradients
                found[key] /= count
        if "max_abs" in found:
            self._group.max(found["max_abs"])
        present = self._names
        if self._may_lack:
            there = (counts > 0).tolist()
            present = tuple(n for n, is_there in zip(self._names, there, strict=True) if is_there)
        where = [self._names.index(name) for name in present]
        found = {key: take(tensor, where, axes=tensor.ndim) for key, tensor in found.items()}
        total_sums = _Sums(found, elements if of_features else elements / count, items)
        if of_features:
            # The loss of the training is the mean over the ranks, so the gradient with respect to
            # the features of a rank is that of its loss divided by their number.
            total_sums.divide(count)
        return total_sums, take(totals / counts, where).float(), present


@dataclass
class _Sums:
    """Sums over the elements, or the items, of gradients.

    Args:
        found: By statistic, in float64: products, squares (`norms`) or magnitudes of elements, and
            the largest one for `max_abs`.
        elements: How many elements a gradient has.
        items: How many items the batch has.
    """

    found: dict[Statistic, Tensor] = field(default_factory=dict)
    elements: int | Tensor = 0
    items: int | Tensor = 0

    def add(self, column: Column, needs: Sequence[Statistic], device: torch.device) -> None:
        """Adds the gradients of all terms with respect to one tensor."""
        given = [_dense(part).detach().reshape(-1) for part in column if part is not None]
        if not given or not given[0].numel():
            return
        where = [index for index, part in enumerate(column) if part is not None]
        for chunk in _chunks(given):
            for key in needs:
                if key == "item_norms":
                    continue
                found = _of_all(_SUM[key](chunk).to(device), where, len(column))
                if key not in self.found:
                    self.found[key] = found
                elif key == "max_abs":
                    self.found[key] = torch.maximum(self.found[key], found)
                else:
                    self.found[key] += found

    def add_items(self, rows: Rows, shared: Shared, device: torch.device) -> None:
        """Adds the norms of the gradients of the items of the batch.

        Raises:
            ValueError: If the tensors have no common batch axis.
        """
        if not shared.are_features or any(tensor.ndim == 0 for tensor in shared.tensors):
            raise ValueError(
                "norms of each item of the batch are needed, and shared= has no batch axis: give "
                "features, or write per_item: false"
            )
        lengths = [len(tensor) for tensor in shared.tensors]
        if min(lengths) < max(lengths):
            raise ValueError(
                "norms of each item of the batch are needed, and the tensors of shared= have "
                f"first axes of {min(lengths)} and {max(lengths)}: give features with the batch "
                "first, or write per_item: false"
            )
        self.items = items = lengths[0]
        sums = []
        for row in rows.values():
            squares = torch.zeros(items, dtype=torch.float64, device=device)
            for part in row:
                if part is not None:
                    matrix = _dense(part).detach().reshape(items, part.numel() // max(items, 1))
                    norms = torch.linalg.vector_norm(matrix, dim=1, dtype=torch.float64)
                    squares += norms.square().to(device)
            sums.append(squares.sqrt().sum())
        if sums:
            self.found["item_norms"] = torch.stack(sums)

    def divide(self, by: Tensor | float) -> None:
        """Changes the sums to those of gradients that are divided by a number."""
        for key in self.found:
            self.found[key] /= by**2 if key in ("gramian", "norms") else by

    def complete(self, needs: Sequence[Statistic], count: int, device: torch.device) -> _Sums:
        """The same with 0 for what has no elements, in the order of `needs`."""
        found = {}
        for key in needs:
            if key in self.found:
                found[key] = self.found[key]
            else:
                shape = (count, count) if key == "gramian" else (count,)
                found[key] = torch.zeros(shape, dtype=torch.float64, device=device)
        return _Sums(found, self.elements, self.items)

    def statistics(self) -> dict[Statistic, Tensor]:
        """What the balancer is given."""
        found = dict(self.found)
        if "norms" in found:
            found["norms"] = found["norms"].sqrt()
        if "mean_abs" in found:
            found["mean_abs"] = found["mean_abs"] / self.elements
        if "item_norms" in found:
            found["item_norms"] = found["item_norms"] / self.items
        return found


_SUM: dict[Statistic, Callable[[Tensor], Tensor]] = {
    "gramian": lambda rows: rows @ rows.T,
    "norms": lambda rows: torch.linalg.vector_norm(rows, dim=1).square(),
    "mean_abs": lambda rows: rows.abs().sum(dim=1),
    "max_abs": lambda rows: rows.abs().amax(dim=1),
}


def _chunks(rows: list[Tensor]) -> Iterator[Tensor]:
    """Gradients of one length as matrices in float64, a row each, some elements at a time."""
    limit = _CHUNK if rows[0].device.type == "cpu" else _CHUNK_ELSEWHERE
    length = max(1, limit // len(rows))
    if rows[0].numel() <= length:
        yield torch.stack(rows).double()
        return
    for parts in zip(*(torch.split(row, length) for row in rows), strict=True):
        yield torch.stack(parts).double()


def _of_all(sums: Tensor, where: Sequence[int], count: int) -> Tensor:
    """Sums of `count` terms, with 0 for those that are not at one of the places `where`."""
    if sums.shape[-1] == count:
        return sums
    return put(sums, where, sums.new_zeros([count] * sums.ndim), axes=sums.ndim)


def _dense(part: Tensor) -> Tensor:
    return part.to_dense() if part.is_sparse else part
