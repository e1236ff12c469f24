"""Weights from gradients: when gradients are computed, and which weights count until then."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import compress
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from lossweights.components.balancers import GradientBalancer
from lossweights.components.context import Gradients, State
from lossweights.components.durations import Horizon
from lossweights.criterion.distributed import ProcessGroup
from lossweights.criterion.gradients.checks import GraphChecks
from lossweights.criterion.gradients.heads import LOW_PRECISION, all_finite
from lossweights.criterion.gradients.shared import Rows, Shared, SharedLike
from lossweights.criterion.gradients.statistics import Collector, zeros
from lossweights.criterion.indexing import put, take
from lossweights.criterion.slots import Slot
from lossweights.errors import warn

_NO_FLOAT64 = (
    "weights from gradients need float64, which mps does not support: train on the CPU, or write a "
    "balancer of values"
)
# Float16 gradients are multiplied by a scale, so that small ones do not become 0. It adapts as in
# torch's gradient scaler: halved after an overflow, doubled after 2,000 steps without one.
_FIRST_SCALE, _LARGEST_SCALE, _CALM_STEPS = 2.0**16, 2.0**24, 2000


class GradientStep(NamedTuple):
    """What a forward pass computed from gradients; the rows and `shared` for `heads: plain`."""

    balance: Tensor  # weights of the balanced terms present, shape (k,), of the dtype of the terms
    weights: Tensor | None = None  # of all terms present on any rank, shape (m,)
    gradients: Gradients | None = None  # statistics of those terms
    rows: Rows | None = None  # the gradients themselves, multiplied by `scale`
    shared: Shared | None = None  # what they were computed with respect to
    scale: Tensor | None = None  # None for 1
    found: Tensor | None = None  # `balance` before it is adjusted; None if it is not


class GradientWeights:
    """The weights of a balancer by gradients, in and between the steps that compute gradients.

    Args:
        slot: The balancer in its place.
        group: The processes over which the batch is spread.
        may_lack: Whether a balanced term may be absent from a forward pass.

    Attributes:
        tensors: The state. `weights` are those of the last step that computed gradients (1
            before), `computed` is 1 for terms that counted in such a step, `fresh` has sums and
            counts of the weights since then; `scale` multiplies float16 gradients, `overflows`
            counts since the last step, `calm` the steps without one; the other tensors are sums of
            the statistics that `update` reads.
        adjusts: Whether the weights that are found are not those that are applied and kept.
        is_due: Whether the next forward pass computes gradients.
        is_frozen: Whether the weights are held until `freeze` ends.
        has_new: Whether gradients were computed since the last step.
    """

    def __init__(self, slot: Slot, group: ProcessGroup, *, may_lack: bool) -> None:
        self.balancer, self._slot = cast("GradientBalancer", slot.component), slot
        self.names, n = slot.terms, len(slot.terms)
        self._keeps_rows = self.balancer.heads == "plain"
        self.adjusts = slot.adjusts
        self._checks = GraphChecks()
        self._has_scaled = self._has_warned = False
        needs = self.balancer.statistics
        self._sums = needs if type(self.balancer).update is not GradientBalancer.update else ()
        self._collector = Collector(self.names, needs, group, may_lack=may_lack)
        self.tensors: State = {
            "weights": torch.ones(n, dtype=torch.float32),
            "computed": torch.zeros(n, dtype=torch.float32),
            "fresh": torch.zeros(2, n, dtype=torch.float32),
            "scale": torch.full((), _FIRST_SCALE, dtype=torch.float32),
            "calm": torch.zeros((), dtype=torch.float32),
            "overflows": torch.zeros((), dtype=torch.float32),
        }
        self.tensors.update(zeros(self._sums, n).items())
        if "gramian" in self._sums:
            self.tensors["pairs"] = torch.zeros(n, n, dtype=torch.float32)
        self._active = frozenset(self.names)
        self._computed: frozenset[str] = frozenset()  # the same as the tensor, on the host
        self._counted: frozenset[str] = frozenset()  # active when gradients were computed
        self.is_due, self.is_frozen, self.has_new = True, False, False

    def _where(self, names: Sequence[str]) -> list[int]:
        return [self.names.index(name) for name in names]

    def current(self, names: Sequence[str]) -> Tensor:
        """The weights of some terms, shape (k,): means since the last step, if there are any."""
        weights = self._mean() if self.has_new else self.tensors["weights"].clone()
        return take(weights, self._where(names))

    def _mean(self) -> Tensor:
        sums, counts = self.tensors["fresh"].unbind()
        return torch.where(counts > 0, sums / counts, self.tensors["weights"])

    def weigh(
        self, losses: Mapping[str, Tensor], vector: Tensor, shared: SharedLike | None
    ) -> GradientStep:
        """The weights of the balanced terms present in a forward pass.

        Args:
            losses: Their values by name, sorted, with their graph.
            vector: The same as one vector, detached.
            shared: What they depend on; if it is needed and missing, a ValueError is raised.
        """
        names = tuple(losses)
        computes = self.is_due and not self.is_frozen
        if not computes and not self._keeps_rows:
            return GradientStep(self.current(names).to(vector))
        if shared is None and names:
            raise ValueError(
                f"the balancer {self.balancer.kind!r} weighs the terms by their gradients: give "
                "what they share, criterion(terms, shared=features) with what the trunk returned, "
                "or shared=trunk.parameters()"
            )
        found = None if shared is None else Shared(shared)
        rows, scale = ({}, None) if found is None else self._rows(losses, found)
        kept: tuple[Rows | None, Shared | None, Tensor | None] = None, None, scale
        if self._keeps_rows:
            kept = rows, found, scale
        if not computes:
            return GradientStep(self.current(names).to(vector), None, None, *kept)
        if vector.device.type == "mps":
            raise RuntimeError(_NO_FLOAT64)
        gradients, seen = self._collector.collect(rows, vector.double(), found, scale)
        weights, as_found = self._weights(seen, gradients, vector)
        where = [gradients.names.index(name) for name in names]
        before = None if as_found is None else take(as_found, where)
        return GradientStep(take(weights, where), weights, gradients, *kept, before)

    def _rows(self, losses: Mapping[str, Tensor], shared: Shared) -> tuple[Rows, Tensor | None]:
        """The gradients of some terms, with what they are multiplied by."""
        if not losses:
            return {}, None
        self._checks.check(losses, shared)
        if self._keeps_rows and shared.is_low and not self._has_warned:
            self._has_warned = True
            warn(LOW_PRECISION)
        is_half = shared.is_half or self._checks.is_half
        scale = self.tensors["scale"].clone() if is_half else None
        return shared.rows(losses, scale), scale

    @torch.no_grad()
    def _weights(
        self, losses: Tensor, gradients: Gradients, like: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The weights, or the current ones if not all is finite; and the weights as found.

        The latter are nan if not all is finite, and None if they are not adjusted.
        """
        last = self.current(gradients.names).to(like)
        if not gradients.names:
            return last, None
        where, pairs, state = self._where(gradients.names), self.balancer.pairs, self._slot.state
        state = {k: take(t, where, axes=2 if k in pairs else 1) for k, t in state.items()}
        weights = self.balancer.weigh(losses, state, self._slot.now.with_gradients(gradients))
        weights = weights.to(last)
        finite = all_finite(weights, *gradients.found.values())
        if not self.adjusts:
            return torch.where(finite, weights, last), None
        applied = self._slot.adjusted(weights)
        return torch.where(finite, applied, last), torch.where(finite, weights, torch.nan)

    def record(self, step: GradientStep) -> None:
        """Adds what a training forward pass computed."""
        if step.scale is not None:
            self._has_scaled = True
            rows = (part for row in (step.rows or {}).values() for part in row if part is not None)
            found = step.gradients.found.values() if step.gradients else rows
            self.tensors["overflows"] += all_finite(*found).logical_not()
        if step.weights is None or step.gradients is None:
            return
        self.has_new = True
        self._counted |= self._active
        where, n = self._where(step.gradients.names), len(self.names)
        weights = step.weights.float()  # as the state is, and on a rank without any terms
        ones = torch.ones_like(weights)
        self.tensors["fresh"] += torch.stack([put(weights, where, n), put(ones, where, n)])
        for name in self._sums:
            self.tensors[name] += put(step.gradients.found[name], where, n)
        if "pairs" in self.tensors:
            self.tensors["pairs"] += put(torch.outer(ones, ones), where, n)

    def show(self, step: int, horizon: Horizon, inactive: Collection[str]) -> None:
        """Decides whether the forward passes of a step compute gradients.

        They do when `every` says so, and if a term counts (is not `inactive`) that never counted in
        a step that computed gradients: its weight is not known yet.
        """
        length = max(1, horizon.steps(self.balancer.every))
        self._active = frozenset(self.names).difference(inactive)
        self.is_due = step % length == 0 or not self._computed.issuperset(self._active)

    def next_weights(self) -> Tensor:
        """The weights of the next forward pass, shape (n,); nan if it computes gradients."""
        if self.is_due and not self.is_frozen:
            return torch.full_like(self.tensors["weights"], torch.nan)
        return self._mean()

    def observed(self) -> Gradients:
        """Means since the last step; 0 for terms that were not seen, or not all finite.

        The Gramian is nan for two terms that were seen, but never in one forward pass.
        """
        counts = self.tensors["fresh"][1]
        found, seen = {}, counts > 0
        for name in self._sums:
            divisor = self.tensors["pairs"] if name == "gramian" else counts
            found[name] = mean = self.tensors[name] / divisor
            seen = seen & (mean.diagonal() if name == "gramian" else mean).isfinite()
        for name, mean in found.items():
            both = seen[:, None] & seen if name == "gramian" else seen
            found[name] = torch.where(both, mean, 0.0)
        return Gradients(self.names, found, seen)

    def step_done(self) -> None:
        """Makes the mean weights of the step the current ones."""
        tensors = self.tensors
        tensors["weights"].copy_(self._mean())
        # After a load the active terms of a forward pass are not known, but are those of its step.
        counted = self._counted or (self._active if self.has_new else frozenset())
        if not self._computed.issuperset(counted):
            self._computed |= counted
            for index in self._where(sorted(counted)):
                tensors["computed"][index] = 1
        if self._has_scaled:
            overflow, calm = tensors["overflows"] > 0, tensors["calm"]
            calm.add_(1).mul_(overflow.logical_not())
            grows = calm >= _CALM_STEPS
            calm.mul_(grows.logical_not())
            tensors["scale"].mul_(1 - 0.5 * overflow + 1.0 * grows).clamp_(1.0, _LARGEST_SCALE)
        self._drop()

    def _drop(self) -> None:
        kept = ("weights", "computed", "scale", "calm")
        torch._foreach_zero_([t for key, t in self.tensors.items() if key not in kept])
        self._has_scaled = self.has_new = False
        self._counted = frozenset()

    def discard(self) -> None:
        """Drops everything computed since the last step: the clock was set to another time."""
        self._drop()
        self.tensors["computed"].zero_()
        self._computed = frozenset()

    def after_load(self) -> None:
        """Called when the tensors were loaded."""
        tensors = self.tensors
        self.has_new = bool(tensors["fresh"].any())
        uses_scale = bool((tensors["scale"] != _FIRST_SCALE) | (tensors["calm"] > 0))
        self._has_scaled = bool(tensors["overflows"] > 0) or (self.has_new and uses_scale)
        self._computed = frozenset(compress(self.names, tensors["computed"].tolist()))

    def check_device(self, device: torch.device) -> None:
        """Refuses a device without float64, if sums of statistics are kept."""
        if device.type == "mps" and self._sums:
            raise RuntimeError(_NO_FLOAT64)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "is_frozen": False}  # a copy made within `freeze` is not frozen
