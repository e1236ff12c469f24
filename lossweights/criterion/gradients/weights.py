"""Weights from gradients: when they are taken, what follows from them, and what stays of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lossweights.components.balancers import GradientBalancer
from lossweights.components.context import Gradients, StepContext
from lossweights.config.loss_config import LossConfig
from lossweights.criterion.gradients.checks import Lookout
from lossweights.criterion.gradients.running import NO_FLOAT64, Held
from lossweights.criterion.gradients.shared import Rows, Shared, SharedLike
from lossweights.criterion.gradients.statistics import collect
from lossweights.criterion.memory import Memory
from lossweights.criterion.ranks import Ranks
from lossweights.errors import warn

_LOW = (
    "heads: plain changes the gradient of the plain sum into the balanced one, so the rounding of "
    "the largest gradient stays: in float16 and bfloat16 0.1% and 0.4% of it, as much as the "
    "gradient of a term a few hundred times smaller. Write heads: weighted, or compute the heads "
    "in float32"
)


class Taken(NamedTuple):
    """What a forward pass has taken of the gradients.

    Args:
        balance: The weights of the balanced terms that were given, shape (k,), float32.
        weights: The same of all terms that were given on any rank, shape (m,).
        gradients: Statistics of those.
        overflowed: 1 where any of these is not finite, else 0; 0-dim.
        rows: The gradients themselves, multiplied by `scale`, where they are needed once more.
        shared: With respect to what they were taken.
        scale: None for 1.
    """

    balance: Tensor
    weights: Tensor | None = None
    gradients: Gradients | None = None
    overflowed: Tensor | float = 0.0
    rows: Rows | None = None
    shared: Shared | None = None
    scale: Tensor | None = None


class GradientWeighing:
    """Weighs the terms of a config by their gradients.

    Args:
        config: The declaration, with a `GradientBalancer`.
        balancer: That balancer.
        memory: Where its state lives.
        ranks: The processes over which the batch is spread.

    Attributes:
        names: The terms that are balanced, sorted.
        now: When it is, with the balancer's scheduled fields; kept up to date from outside.
        is_frozen: Whether the weights stand still until `freeze` ends.
        has_taken: Whether gradients were taken since the last step.
    """

    def __init__(
        self, config: LossConfig, balancer: GradientBalancer, memory: Memory, ranks: Ranks
    ) -> None:
        self._balancer, self._memory, self._ranks = balancer, memory, ranks
        self.names = config.balanced_names
        terms = [config.terms[name] for name in self.names]
        self._may_lack = config.on_nonfinite == "skip_term" or any(term.optional for term in terms)
        self._keeps_rows = balancer.heads == "plain"
        self._lookout = Lookout()
        self._has_scaled = self._has_warned = False
        self._weighed: frozenset[str] = frozenset()  # that counted when gradients were taken
        self.now = StepContext({})
        self._active = frozenset(self.names)  # that count now
        self.is_frozen = False
        self.has_taken = False

    @property
    def held(self) -> Held:
        """The weights that stand."""
        return self._memory.held

    def standing(self, given: Sequence[str]) -> Tensor:
        """The weights that stand for some of the balanced terms, shape (k,)."""
        held = self.held
        weights = held.standing() if self.has_taken else held.tensors["weights"].clone()
        return _picked(weights, [self.names.index(name) for name in given])

    def weigh(
        self,
        losses: Mapping[str, Tensor],
        shared: SharedLike | None,
        inactive: Collection[str] = (),
    ) -> Taken:
        """The weights of the balanced terms that were given, sorted, in a forward pass.

        Gradients are taken when `every` says so, and where a term counts now that never did when
        they were taken: its weight is not known yet.

        Args:
            losses: Their values, with their graph.
            shared: What they depend on.
            inactive: Terms that do not count now: the same on all ranks, whatever is given there.

        Raises:
            ValueError: Where `shared` is needed and missing, and for terms that do not depend on
                it.
            RuntimeError: Where torch cannot take the gradients.
        """
        names = list(losses)
        self._active = frozenset(self.names).difference(inactive)
        takes = self._takes
        if not takes and not self._keeps_rows:
            return Taken(self.standing(names))
        if shared is None and names:
            raise ValueError(
                f"the balancer {self._balancer.kind!r} weighs the terms by their gradients: give "
                "what they share, criterion(terms, shared=features) with what the trunk returned, "
                "or shared=trunk.parameters()"
            )
        found = None if shared is None else Shared(shared)
        if found is not None:
            self._lookout.look(losses, found)
            if self._keeps_rows and found.is_low and not self._has_warned:
                self._has_warned = True
                warn(_LOW)
        is_half = found is not None and (found.is_half or self._lookout.is_half)
        scale = self.held.scale.clone() if is_half else None
        rows = {}
        if found is not None and losses:
            rows = found.rows(losses, scale, batched=self._balancer.batched)
        kept: dict[str, Any] = {"scale": scale}
        if self._keeps_rows:
            kept |= {"rows": rows, "shared": found}
        if not takes:
            overflowed = _is_finite(*_parts(rows)).logical_not() if is_half else 0.0
            return Taken(self.standing(names), overflowed=overflowed, **kept)
        home = self._memory.device
        if home.type == "mps":
            raise RuntimeError(NO_FLOAT64)
        values = [loss.detach().float().to(home) for loss in losses.values()]
        gradients, seen_losses = collect(
            found,
            rows,
            torch.stack(values) if values else torch.zeros(0, device=home),
            names,
            self.names,
            self._balancer.statistics,
            self._ranks,
            scale=scale,
            may_lack=self._may_lack,
        )
        weights, overflowed = self._weights(seen_losses, gradients)
        balance = _picked(weights, [gradients.names.index(name) for name in names])
        return Taken(balance, weights, gradients, overflowed, **kept)

    @torch.no_grad()
    def _weights(self, losses: Tensor, gradients: Gradients) -> tuple[Tensor, Tensor | float]:
        """The weights, those that stand where not all is finite; and whether gradients are not."""
        last = self.standing(gradients.names)
        state, places = self._memory.state("balancer"), gradients.names
        if len(places) < len(self.names):
            where = [self.names.index(name) for name in places]
            pairs = self._balancer.pairs
            state = {k: _of_terms(t, where, pairs=k in pairs) for k, t in state.items()}
        if not places:
            return last, 0.0
        finite = _is_finite(*gradients.found.values())
        weights = self._balancer.weigh(losses, state, self.now.with_gradients(gradients))
        weights = weights.to(last)
        good = finite & _is_finite(weights)
        return torch.where(good, weights, last), finite.logical_not()

    def record(self, taken: Taken) -> None:
        """Adds what a training forward has taken."""
        self.held.overflowed(taken.overflowed)
        self._has_scaled = self._has_scaled or taken.scale is not None
        if taken.weights is not None and taken.gradients is not None:
            self.held.record(taken.weights, taken.gradients)
            self.has_taken = True
            if not self._weighed.issuperset(self._active):
                self._weighed |= self._active
                for name in self._active:
                    self.held.tensors["taken"][self.names.index(name)] = 1

    def coming(self) -> Tensor:
        """The weights of the next forward pass, shape (n,); nan where gradients decide."""
        standing = self.held.standing()
        return torch.full_like(standing, torch.nan) if self._takes else standing

    def step_done(self) -> None:
        """Lets the weights of the step stand."""
        self.held.step_done(scaled=self._has_scaled)
        self._has_scaled = self.has_taken = False

    def forget(self) -> None:
        """Drops what was seen since the last step: the clock was set to another time."""
        self.held.drop()
        self.held.tensors["taken"].zero_()
        self._weighed = frozenset()
        self._has_scaled = self.has_taken = False

    def remember(self) -> None:
        """Called when the memory was loaded."""
        self.has_taken = bool(self.held.tensors["fresh"].any())
        taken = self.held.tensors["taken"].tolist()
        self._weighed = frozenset(n for n, is_in in zip(self.names, taken, strict=True) if is_in)

    @property
    def _takes(self) -> bool:
        length = max(1, self.now.horizon.steps(self._balancer.every))
        is_due = self.now.step % length == 0 or not self._weighed.issuperset(self._active)
        return is_due and not self.is_frozen

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "is_frozen": False}  # a copy made within `freeze` is not


def directed(taken: Taken, changes: Tensor) -> Tensor:
    r"""A 0 whose gradient with respect to what is shared is $\sum_i c_i g_i$.

    Args:
        taken: Of a balancer with `heads: plain`.
        changes: $c$, shape (k,).
    """
    if not taken.rows or taken.shared is None:
        return changes.new_zeros(())
    with torch.no_grad():
        if taken.scale is not None:
            changes = changes / taken.scale
        directions = [
            _combined([row[index] for row in taken.rows.values()], changes, tensor)
            for index, tensor in enumerate(taken.shared.tensors)
        ]
        # After an overflow, or for a gradient that is nan: as if there were no balancer. The
        # optimizer, and with it the clock, might never step again.
        finite = _is_finite(*directions)
        directions = [torch.where(finite.to(d.device), d, 0) for d in directions]
    zero = changes.new_zeros(())
    found: Tensor = _Directed.apply(zero, directions, *taken.shared.tensors)  # type: ignore[no-untyped-call]
    return found


def _combined(parts: Sequence[Tensor | None], changes: Tensor, tensor: Tensor) -> Tensor:
    total = torch.zeros_like(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32))
    for part, change in zip(parts, changes.unbind(), strict=True):
        if part is not None:
            total += change.to(total) * part
    return total


class _Directed(torch.autograd.Function):
    """0, with given gradients."""

    @staticmethod
    def forward(ctx: Any, zero: Tensor, directions: list[Tensor], *_: Tensor) -> Tensor:
        ctx.save_for_backward(*directions)  # gone after the backward pass
        return zero.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "with heads: plain there are no second derivatives (create_graph=True): write "
                "heads: weighted"
            )
        directions = ctx.saved_tensors
        return None, None, *(gradient.to(direction) * direction for direction in directions)


def _is_finite(*tensors: Tensor) -> Tensor:
    """Whether all entries are, 0-dim; sums in float64 of what float32 can hold are finite."""
    total = reduce(torch.add, [tensor.sum(dtype=torch.float64) for tensor in tensors])
    return (total - total).logical_not()  # inf - inf is nan


def _parts(rows: Rows) -> list[Tensor]:
    return [part for row in rows.values() for part in row if part is not None]


def _picked(values: Tensor, where: Sequence[int]) -> Tensor:
    if len(where) == len(values):
        return values
    entries = [values[index] for index in where]
    return torch.stack(entries) if entries else values[:0]


def _of_terms(tensor: Tensor, where: Sequence[int], *, pairs: bool) -> Tensor:
    """The state of some terms: of the last axis, or of the last two."""
    if tensor.ndim == 0 or not where:
        return tensor
    for axis in (-1, -2) if pairs else (-1,):
        tensor = torch.stack([tensor.select(axis, index) for index in where], dim=axis)
    return tensor
