"""Measures the gradients of the terms, whatever their weights come from."""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from lossweights.components.context import Gradients
from lossweights.criterion.distributed import ProcessGroup
from lossweights.criterion.gradients.checks import GraphChecks
from lossweights.criterion.gradients.shared import Shared, SharedLike
from lossweights.criterion.gradients.statistics import Collector
from lossweights.criterion.indexing import is_finite, put

_FIRST_SCALE = 2.0**16  # of float16 gradients; smaller after an overflow
_LESS = 2.0**4  # by which it is divided to measure again
_NO_SHARED = (
    "shared= was not passed in the call: pass what the terms share, as in criterion(terms, "
    "shared=features) with what the trunk returned, or shared=trunk.parameters()"
)
_NOT_ALL = (
    "only some processes do, and each measures the whole batch: build the history in every process "
    "(with path= in one of them), or without gradients="
)
_NO_FLOAT64 = "gradients are measured in float64, which mps does not support"


class Measured(NamedTuple):
    """Sums over measurements, for n terms, float64.

    Args:
        counts: How often each term was measured, shape (n,).
        norms: The norms of their gradients, shape (n,).
        sizes: The norms times the sizes of the weights, shape (n,); once a step is complete, the
            part of each term in their sum.
        pairs: How often both gradients of two terms had a direction, shape (n, n).
        cosines: The cosines between them, shape (n, n).
        conflicts: How often the cosine was negative, shape (n, n).
    """

    counts: Tensor
    norms: Tensor
    sizes: Tensor
    pairs: Tensor
    cosines: Tensor
    conflicts: Tensor

    def plus(self, other: "Measured | None") -> "Measured":
        """The sums over both."""
        if other is None:
            return self
        parts = zip(self, other, strict=True)
        return Measured(*(part + each.to(part.device) for part, each in parts))

    def mean(self, summed: Tensor | None = None) -> "Measured":
        """The means as one measurement; terms in `summed`, a mask, are added up instead."""
        counts, pairs = self.counts.clamp(min=1), self.pairs.clamp(min=1)
        divisors = counts if summed is None else torch.where(summed, 1.0, counts)
        return Measured(
            self.counts.clamp(max=1),
            self.norms / divisors,
            self.sizes / divisors,
            self.pairs.clamp(max=1),
            self.cosines / pairs,
            self.conflicts / pairs,
        )


class GradientMeter:
    """Norms, shares, cosines and conflicts of the terms' gradients, in the steps that are due.

    Nothing raises an error: a training goes on without measurements, and `problem` says why.

    Args:
        names: All terms, sorted.
        summed: Those of which a step adds up the values.
        group: The processes over which the batch is spread.
        may_lack: Whether a term may be absent from a forward pass.
        is_due: Returns whether the forward passes of the coming step are measured.

    Attributes:
        problem: Why a forward pass was not measured; empty if nothing is wrong.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        summed: Collection[str],
        group: ProcessGroup,
        is_due: Callable[[], bool],
        *,
        may_lack: bool,
    ) -> None:
        self.names, self.is_due, self._group = names, is_due, group
        self.problem, self._all_measure = "", False
        self._collector = Collector(names, ("gramian",), group, may_lack=may_lack)
        self._checks = GraphChecks()
        self._summed = torch.tensor([name in summed for name in names]) if summed else None
        self._scale: Tensor | None = None
        self._step: Measured | None = None  # the forward passes of this step
        self._steps: Measured | None = None  # the earlier steps of this row

    def measure(
        self, losses: Mapping[str, Tensor], weights: Mapping[str, Tensor], shared: SharedLike
    ) -> None:
        """Measures a forward pass.

        Args:
            losses: The values of the terms that count, by name, sorted, with their graph.
            weights: What multiplies them, detached.
            shared: What they depend on; None if it was not passed.
        """
        if self.problem == _NOT_ALL:
            return
        if shared is None:
            self.problem = _NO_SHARED
            return
        if not self._all_measure and not self._group.all_arrive("gradients"):
            self.problem = _NOT_ALL
            return
        self._all_measure = True
        try:
            self._measure(losses, weights, Shared(shared))
        except (ValueError, RuntimeError) as error:
            self.problem = str(error)

    def _measure(
        self, losses: Mapping[str, Tensor], weights: Mapping[str, Tensor], shared: Shared
    ) -> None:
        if not losses and self._group.count == 1:
            return
        device = shared.tensors[0].device
        if device.type == "mps":
            raise RuntimeError(_NO_FLOAT64)
        self._checks.check(losses, shared, refuses="all")
        scale = None
        if shared.is_half or self._checks.is_half:
            if self._scale is None or self._scale.device != device:
                self._scale = torch.full((), _FIRST_SCALE, device=device)
            scale = self._scale
        gradients = self._collected(losses, shared, scale)
        if scale is not None and self._group.count == 1:
            gradients = self._without_overflow(gradients, losses, shared, scale)
        with torch.no_grad():
            factors = self._factors(weights, device)
            where = [self.names.index(name) for name in gradients.names]
            found = _measured(gradients.gramian, factors, where)
            self._step = found.plus(self._step)
            if scale is not None and self._group.count > 1:
                # To measure again, one process alone could wait for the others.
                overflow = is_finite(gradients.gramian).all().logical_not()
                self._scale = (scale * (1 - 0.5 * overflow)).clamp(min=1)

    def _factors(self, weights: Mapping[str, Tensor], device: torch.device) -> Tensor:
        """What multiplies all terms, shape (n,); of terms absent here, as in other processes."""
        n, where = len(self.names), [self.names.index(name) for name in weights]
        factors = counts = torch.zeros(n, dtype=torch.float64, device=device)
        if weights:
            given = torch.stack([*weights.values()]).double()
            factors, counts = put(given, where, n), put(torch.ones_like(given), where, n)
        if not self._collector.may_lack:
            return factors
        sums = torch.stack([factors, counts])
        self._group.sum(sums)
        return sums[0] / sums[1].clamp(min=1)

    def _collected(
        self, losses: Mapping[str, Tensor], shared: Shared, scale: Tensor | None
    ) -> Gradients:
        rows = shared.gradients(losses, scale)
        vector = torch.zeros(0, dtype=torch.float64, device=shared.tensors[0].device)
        if losses:
            vector = torch.stack([loss.detach().double() for loss in losses.values()])
        return self._collector.collect(rows, vector, shared, scale)[0]

    def _without_overflow(
        self, first: Gradients, losses: Mapping[str, Tensor], shared: Shared, scale: Tensor
    ) -> Gradients:
        """The gradients at a scale at which all are finite; the `first` ones if there is none."""
        found = first
        while not is_finite(found.gramian).all():
            scale = scale / _LESS
            if scale < 1:
                return first
            found = self._collected(losses, shared, scale)
        self._scale = scale
        return found

    def end_step(self) -> None:
        """Completes the step."""
        if self._step is not None:
            summed = self._summed
            step = self._step.mean(None if summed is None else summed.to(self._step.counts.device))
            whole = step.sizes.sum().clamp(min=torch.finfo(step.sizes.dtype).tiny)
            self._steps = step._replace(sizes=step.sizes / whole).plus(self._steps)
        self._step = None

    def discard(self) -> None:
        """Discards the forward passes of this step."""
        self._step = None

    def drop(self) -> None:
        """Begins a new row."""
        self._steps = None

    def metrics(self) -> dict[str, Tensor]:
        """Means over the steps of the row, by name; nan for what was not measured in it."""
        if self._steps is None:
            return {}
        row = self._steps.mean()
        norms, shares, cosines, conflicts = (
            torch.where(count > 0, part, torch.nan)
            for part, count in (
                (row.norms, row.counts),
                (row.sizes, row.counts),
                (row.cosines, row.pairs),
                (row.conflicts, row.pairs),
            )
        )
        found = {}
        for index, name in enumerate(self.names):
            found[f"gradient/norm/{name}"] = norms[index]
            found[f"gradient/share/{name}"] = shares[index]
        for index, name in enumerate(self.names):
            for place in range(index + 1, len(self.names)):
                other = self.names[place]
                found[f"gradient/cosine/{name}/{other}"] = cosines[index, place]
                found[f"gradient/conflict/{name}/{other}"] = conflicts[index, place]
        return found


def _measured(gramian: Tensor, weights: Tensor, where: list[int]) -> Measured:
    r"""One measurement of n terms.

    Args:
        gramian: $g_i \cdot g_j$ of the k terms that were given, shape (k, k), float64.
        weights: What multiplies all terms, shape (n,).
        where: The places of those that were given.
    """
    n = len(weights)
    squares = gramian.diagonal()
    finite = is_finite(squares)
    norms = torch.where(finite, squares, 0.0).clamp(min=0).sqrt()
    counts, norms = put(finite.double(), where, n), put(norms, where, n)
    signs = torch.where(weights < 0, -1.0, 1.0).to(norms)
    lengths = norms.outer(norms)
    directed = lengths > 0
    products = put(torch.where(is_finite(gramian), gramian, 0.0), where, n)
    cosines = products / torch.where(directed, lengths, 1.0) * signs.outer(signs)
    cosines = torch.where(directed, cosines.clamp(-1, 1), 0.0)
    sizes, conflicts = weights.abs() * norms, (cosines < 0).double()
    return Measured(counts, norms, sizes, directed.double(), cosines, conflicts)
