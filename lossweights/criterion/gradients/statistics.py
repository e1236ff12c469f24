"""Statistics of gradients: sums over tensors, sums over ranks, then Gramian, norms and means."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import TypeAlias

import torch
from torch import Tensor

from lossweights.components.context import Gradients, Statistic
from lossweights.criterion.distributed import ProcessGroup
from lossweights.criterion.gradients.shared import Rows, Shared
from lossweights.criterion.indexing import put, take

# How many numbers are converted to float64 at a time, over all terms: on a CPU so few that they
# stay in its cache, elsewhere so many that the device is busy.
_CHUNK, _CHUNK_ELSEWHERE = 2**18, 2**23

Sums: TypeAlias = dict[Statistic, Tensor]
Column: TypeAlias = "Sequence[Tensor | None]"  # the gradients of all terms, of one tensor


def _products(rows: Tensor) -> Tensor:
    """`rows @ rows.T`, of which a CPU computes one triangle, in half the time from 5 rows on."""
    if len(rows) < 5 or rows.device.type != "cpu":
        return rows @ rows.T
    products = rows.new_zeros(len(rows), len(rows))
    for index, row in enumerate(rows.unbind()):
        torch.mv(rows[index:], row, out=products[index, index:])
    return products.triu() + products.triu(1).T


# Computed for each piece of the gradients; the pieces are summed, except for `max_abs`.
_OF_PIECE: dict[Statistic, Callable[[Tensor], Tensor]] = {
    "gramian": _products,
    "norms": lambda rows: torch.linalg.vector_norm(rows, dim=1).square(),
    "mean_abs": lambda rows: rows.abs().sum(dim=1),
    "max_abs": lambda rows: rows.abs().amax(dim=1),
}


@dataclass(frozen=True, eq=False)
class Collector:
    """Computes the statistics that a balancer needs.

    Sums are computed in float64: squares of 1e-30 do not vanish, squares of 1e30 do not overflow,
    gradients that are nearly parallel stay apart, and neither autocast nor
    `torch.set_float32_matmul_precision` rounds the factors of products.

    Args:
        names: All terms that the balancer weighs, sorted; the same on every rank.
        needs: The statistics.
        group: The processes to sum over, with one collective of fixed length for each forward
            pass, one more for `max_abs`, and one for each tensor if they are parameters.
        may_lack: Whether a term may be absent. With several ranks the host then waits for the
            device, to learn which terms were given on any rank.
    """

    names: tuple[str, ...]
    needs: tuple[Statistic, ...]
    group: ProcessGroup
    may_lack: bool

    @torch.no_grad()
    def collect(
        self, rows: Rows, losses: Tensor, shared: Shared | None, scale: Tensor | None = None
    ) -> tuple[Gradients, Tensor]:
        """The statistics of the terms that were given on any rank, and the values of these terms.

        Args:
            rows: The gradients of the terms that were given on this rank, by name.
            losses: The values of these terms, detached, shape (k,), float64. The statistics are
                on the same device.
            shared: What the gradients were taken with respect to; None if no term was given.
            scale: What the gradients were multiplied by; None for 1.
        """
        has_ranks, device = self.group.count > 1, losses.device
        of_features = shared is None or shared.are_features
        names = self.names if has_ranks else tuple(rows)
        sums = zeros(self.needs, len(names), device)
        sizes: dict[Statistic, int | Tensor] = {"mean_abs": 0, "item_norms": 0}
        if shared is not None and "item_norms" in sums:
            sizes["item_norms"] = items = _batch_size(shared)
            for name, total in zip(names, sums["item_norms"].unbind(), strict=True):
                if name in rows:
                    total.add_(_item_norms(rows[name], items, device))
        for index, tensor in enumerate([] if shared is None else shared.tensors):
            sizes["mean_abs"] += tensor.numel()
            column: Column = [rows[name][index] if name in rows else None for name in names]
            if has_ranks and not of_features:
                column = self._averaged(column, tensor, scale)
            _add(sums, column)
        if scale is not None and (of_features or not has_ranks):
            _divide(sums, scale.double())
        if has_ranks:
            names, losses = self._over_ranks(sums, sizes, rows, losses, of_features=of_features)
        found = {key: total / sizes[key] if key in sizes else total for key, total in sums.items()}
        if "norms" in found:
            found["norms"] = found["norms"].sqrt()
        seen = torch.ones(len(names), dtype=torch.bool, device=device)
        return Gradients(names, found, seen), losses

    def _averaged(self, column: Column, tensor: Tensor, scale: Tensor | None) -> Column:
        """The mean over the ranks of the gradients with respect to a parameter."""
        # Of this dtype on all ranks, also on those that have no scale.
        dtype = torch.promote_types(tensor.dtype, torch.float32)
        zero = torch.zeros_like(tensor, dtype=dtype)
        mean = torch.stack([zero if part is None else _dense(part).to(dtype) for part in column])
        if scale is not None:
            mean /= scale.to(mean)
        self.group.sum(mean)
        mean /= self.group.count
        return mean.unbind()

    def _over_ranks(
        self,
        sums: Sums,
        sizes: dict[Statistic, int | Tensor],
        rows: Rows,
        losses: Tensor,
        *,
        of_features: bool,
    ) -> tuple[tuple[str, ...], Tensor]:
        """Replaces sums and sizes by those of all ranks; the terms given on any, their values."""
        names, n, count, values = self.names, len(self.names), self.group.count, losses
        given = [names.index(name) for name in rows]
        added = [key for key in sums if key != "max_abs"]
        parts = [
            put(values, given, n),
            put(torch.ones_like(values), given, n),
            *(values.new_zeros(1) + size for size in sizes.values()),
            *(sums[key].flatten() for key in added),
        ]
        whole = torch.cat(parts)
        self.group.sum(whole)
        totals, counts, elements, items, *rest = torch.split(whole, [len(part) for part in parts])
        sums |= {key: part.view_as(sums[key]) for key, part in zip(added, rest, strict=True)}
        if "max_abs" in sums:
            self.group.max(sums["max_abs"])
        if of_features:
            # The loss of the training is the mean over the ranks, so the gradient with respect to
            # the features of a rank is that of its loss divided by their number.
            _divide(sums, count)
        else:  # each rank has added up the same averaged gradients
            elements = elements / count
            sums |= {key: sums[key] / count for key in added}
        sizes |= {"mean_abs": elements, "item_norms": items}
        # Without absent terms every rank has the same rows; a term that is inactive has none.
        names = tuple(compress(names, counts.tolist())) if self.may_lack else tuple(rows)
        where = [self.names.index(name) for name in names]
        sums |= {key: take(total, where, axes=total.ndim) for key, total in sums.items()}
        return names, take(totals / counts, where)


def zeros(needs: Sequence[Statistic], n: int, device: torch.device | None = None) -> Sums:
    """The statistics of n gradients that are 0."""
    shapes = {key: (n, n) if key == "gramian" else (n,) for key in needs}
    return {k: torch.zeros(s, dtype=torch.float64, device=device) for k, s in shapes.items()}


def _add(sums: Sums, column: Column) -> None:
    """Adds the gradients of all terms with respect to one tensor."""
    where = [index for index, part in enumerate(column) if part is not None]
    given = [_dense(part).reshape(-1) for part in column if part is not None]
    if not given or not given[0].numel():
        return
    limit = _CHUNK if given[0].device.type == "cpu" else _CHUNK_ELSEWHERE
    length = max(1, limit // len(given))
    whole = given[0].numel() <= length
    splits = [(row,) if whole else torch.split(row, length) for row in given]
    for pieces in zip(*splits, strict=True):
        matrix = torch.stack(pieces).double()
        for key, statistic in _OF_PIECE.items():
            if key in sums:
                found = put(statistic(matrix).to(sums[key].device), where, len(column))
                combine = torch.maximum if key == "max_abs" else torch.add
                sums[key] = combine(sums[key], found)


def _divide(sums: Sums, by: Tensor | float) -> None:
    """Changes the sums to those of gradients that are divided by a number."""
    for key in sums:
        sums[key] /= by**2 if key in ("gramian", "norms") else by


def _batch_size(shared: Shared) -> int:
    """The length of the batch axis of features; an error for other tensors."""
    sizes = [len(tensor) for tensor in shared.tensors if tensor.ndim]
    if not shared.are_features or len(sizes) < len(shared.tensors):
        found = "no batch axis: give features"
    elif min(sizes) < max(sizes):
        found = f"first axes of {min(sizes)} and {max(sizes)}: give features with the batch first"
    else:
        return sizes[0]
    raise ValueError(
        "norms of each item of the batch are needed, and the tensors in shared= have "
        f"{found}, or write per_item: false"
    )


def _item_norms(row: Column, items: int, device: torch.device) -> Tensor:
    """The sum over the batch of the norm of each item's gradient."""
    squares = torch.zeros(items, dtype=torch.float64, device=device)
    for part in row:
        if part is not None:
            matrix = _dense(part).reshape(items, part.numel() // max(items, 1))
            norms = torch.linalg.vector_norm(matrix, dim=1, dtype=torch.float64)
            squares += norms.square().to(device)
    return squares.sqrt().sum()


def _dense(part: Tensor) -> Tensor:
    return part.to_dense() if part.is_sparse else part
