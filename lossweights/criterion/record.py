"""What the last training forward left for metrics, and the calls after its step."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lossweights.criterion.gradients.weights import GradientStep
from lossweights.criterion.reader import Values
from lossweights.criterion.report import Breakdown
from lossweights.criterion.torch_internals import inside_func_transform

_MANY_FORWARDS = 200  # forward passes without a step after which the clock was forgotten
_LOOK_EVERY = 32  # forward passes between two looks at which terms carry a gradient

# Vector, weights, factors, penalties, raws, skipped terms; see `add`.
_Last: TypeAlias = (
    "tuple[Tensor, Tensor, Tensor | None, Tensor | None, dict[str, Tensor], frozenset[str]]"
)


class Parts(NamedTuple):
    """A total and its parts."""

    total: Tensor  # a scalar with its graph
    values: Values  # of the terms present
    weights: Tensor  # of these, as far as they are known before the forward pass
    factors: Tensor | None = None  # what multiplies these weights; None for 1
    penalties: Tensor | None = None  # added to `factors` times the values
    gradients: GradientStep | None = None  # what was computed from gradients


class ForwardRecord:
    """A record of training forward passes, without their graphs.

    Args:
        weights_move: Whether any weight changes with time, so that the clock matters.

    Attributes:
        names: The terms of the last forward pass; none before the first.
        detached: Terms that carried no gradient when last looked at, with their weights.
        given: Terms that were ever given.
        step: The step of the last forward pass, once the clock has moved on from it.
        is_due: Whether callbacks are due.
    """

    def __init__(self, *, weights_move: bool) -> None:
        self._weights_move = weights_move
        self.names: tuple[str, ...] = ()
        self.detached: dict[str, Tensor] = {}
        self.given: frozenset[str] = frozenset()
        self.step: int | None = None
        self.is_due = False
        self._forwards = 0  # outside of compiled graphs
        self._forwards_at_move = 0
        self._last: _Last | None = None
        self._names_given: tuple[str, ...] = ()
        self._callbacks: OrderedDict[int, Callable[[int], object]] = OrderedDict()

    @property
    def awaits_step(self) -> bool:
        """Whether there was a forward pass, and no step since."""
        return self._last is not None and self.step is None

    def add(self, parts: Parts, skipped: frozenset[str]) -> None:
        """Keeps the parts of a total without the `skipped` terms; does not wait for the device."""
        _, (names, raws, losses, vector), weights, factors, penalties, _ = parts
        self.names = names
        looks = torch.compiler.is_compiling()  # a graph is traced once, and counts nothing
        if not looks:
            if inside_func_transform():
                raise RuntimeError(
                    "a criterion in training records its terms, which torch.func transforms "
                    "cannot do: use criterion.breakdown(terms).total there"
                )
            looks = self._forwards % _LOOK_EVERY == 0
            self._forwards += 1
            if names != self._names_given:
                self._give()
        if looks:  # at each forward pass it would cost too much
            self.detached = {
                name: weight
                for name, loss, weight in zip(names, losses, weights.unbind(), strict=True)
                if not loss.requires_grad
            }
        self._last = (
            vector.detach(),
            weights,
            None if factors is None else factors.detach(),
            None if penalties is None else penalties.detach(),
            {name: raw.detach() for name, raw in raws.items()},
            skipped,
        )
        self.step = None

    def _give(self) -> None:
        self._names_given = self.names
        self.given = self.given.union(self.names)

    def step_done(self, step: int) -> bool:
        """Completes the record of a step; returns whether it had a forward pass."""
        self._forwards_at_move = self._forwards
        self.is_due = False
        if not self.awaits_step:
            return False
        self.step = step
        if self.names != self._names_given:
            self._give()  # a compiled forward pass did not
        return True

    def breakdown(self, order: Iterable[str]) -> Breakdown | None:
        """The parts of the last forward pass, terms in the given order; None before the first."""
        if self._last is None:
            return None
        vector, weights, factors, penalties, raws, skipped = self._last
        penalties = None if penalties is None else penalties * weights
        weights = weights if factors is None else weights * factors
        return Breakdown.of(self.names, vector.unbind(), raws, weights, penalties, skipped, order)

    def idle_clock_warning(self, step: int) -> str:
        """What to write if the clock did not move for many forward passes; empty otherwise."""
        idle = self._forwards - self._forwards_at_move
        if idle < _MANY_FORWARDS or not self._weights_move:
            return ""
        return (
            f"{idle} training forwards and the clock is at step {step}: call "
            "criterion.follow(optimizer) once, or criterion.step() after each optimizer.step()"
        )

    def add_callback(self, call: Callable[[int], object]) -> RemovableHandle:
        """Calls `call(step)` after each step that had a forward pass."""
        handle = RemovableHandle(self._callbacks)
        self._callbacks[handle.id] = call
        return handle

    def call_back(self, step: int) -> None:
        """Runs the callbacks of a step."""
        self.is_due = False
        for call in tuple(self._callbacks.values()):
            call(step)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_callbacks": OrderedDict()}
