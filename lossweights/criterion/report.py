"""What happened at a forward pass: every part of the total, by name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from lossweights.criterion.gradients.torch_internals import inside_func_transform
from lossweights.errors import did_you_mean, quoted

_MANY_FORWARDS = 200  # after so many without a step somebody forgot the clock
_LOOK_EVERY = 32  # forwards between two looks at which terms carry a gradient

QUANTITIES = ("raw", "value", "weight", "penalty", "weighted", "share")  # of a term
METRICS = (*QUANTITIES, "total", "controller")  # what a logger may include


@dataclass(frozen=True)
class Breakdown:
    r"""The parts of a total, as 0-dim tensors by name of the term.

    Args:
        total: The sum of `weighted`.
        raw: Values as given, reduced to scalars.
        value: What was weighted: `raw` through the term's transform.
        weight: The product of all factors.
        penalty: The price of learned weights; empty where none are.
        weighted: `weight * value + penalty`.
        share: $|w_i l_i| / \sum_j |w_j l_j|$: who drives the loss; 0 where all are 0.
    """

    total: Tensor
    raw: dict[str, Tensor]
    value: dict[str, Tensor]
    weight: dict[str, Tensor]
    penalty: dict[str, Tensor]
    weighted: dict[str, Tensor]
    share: dict[str, Tensor]

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        raws: Sequence[Tensor],
        values: Sequence[Tensor],
        weights: Tensor,
        penalty: Tensor | None,
        left_out: Collection[str],
        order: Iterable[str],
    ) -> Breakdown:
        """From the terms that were given and those of them left out of the sum.

        Args:
            names: The terms that were given.
            raws: Their values, scalars.
            values: The same, transformed.
            weights: Their weights, a vector.
            penalty: What was added to their weighted values; None for nothing.
            left_out: Those among them that do not count, whatever their value.
            order: The order in which to show them.
        """
        where = {name: index for index, name in enumerate(names)}
        shown = [name for name in order if name in where]

        def by_name(vector: Sequence[Tensor]) -> dict[str, Tensor]:
            return {name: vector[where[name]] for name in shown}

        value, weight = by_name(values), by_name(weights.unbind())
        penalties = {} if penalty is None else by_name(penalty.unbind())
        driving, weighted = [], {}
        for name in shown:
            part = value[name].new_zeros(()) if name in left_out else value[name] * weight[name]
            driving.append(part.detach().abs())  # a penalty moves a weight, not the model
            counts = name in penalties and name not in left_out
            weighted[name] = part + penalties[name] if counts else part
        size = torch.stack(driving) if shown else weights
        share = size / size.sum().clamp_min(torch.finfo(size.dtype).tiny)
        return cls(
            total=torch.stack(list(weighted.values())).sum() if shown else weights.sum(),
            raw=by_name(raws),
            value=value,
            weight=weight,
            penalty=penalties,
            weighted=weighted,
            share=dict(zip(shown, share.unbind(), strict=True)),
        )

    def metrics(self, prefix: str = "", include: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Flat names for a logger: `raw/kl`, `weight/kl`, ..., and `total`.

        Args:
            prefix: Put before each name, such as `train/`.
            include: Which of `raw`, `value`, `weight`, `penalty`, `weighted`, `share`, `total`;
                all of them where it is left out.

        Raises:
            ValueError: For a quantity that there is not.
        """
        wanted = chosen(include, (*QUANTITIES, "total"))
        found: dict[str, Tensor] = {}
        for quantity in wanted:
            if quantity == "total":
                found[f"{prefix}total"] = self.total.detach()
            else:
                parts: Mapping[str, Tensor] = getattr(self, quantity)
                found |= {
                    f"{prefix}{quantity}/{name}": part.detach() for name, part in parts.items()
                }
        return found


@dataclass(frozen=True)
class Report:
    """What each term did at the last training step, as floats; printed, a table.

    Args:
        step: The step (optimizer steps done before it).
        total: The loss.
        terms: For each term, `raw`, `value`, `weight`, `penalty` (where weights are learned),
            `weighted` and `share`.
        notes: What else is worth knowing.
        controllers: The state of each controller after the step, by the name of its term.
    """

    step: int
    total: float
    terms: dict[str, dict[str, float]]
    notes: tuple[str, ...] = ()
    controllers: dict[str, dict[str, float]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        breakdown: Breakdown,
        step: int,
        notes: tuple[str, ...] = (),
        states: Mapping[str, Tensor] | None = None,
    ) -> Report:
        """From a breakdown and the states of controllers, in one transfer to the host."""
        metrics = on_host({**breakdown.metrics(), **(states or {})})
        controllers: dict[str, dict[str, float]] = {}
        for place in states or {}:
            name, key = place.removeprefix("controller/").rsplit("/", 1)
            controllers.setdefault(name, {})[key] = metrics[place]
        terms = {
            name: {q: metrics[f"{q}/{name}"] for q in QUANTITIES if f"{q}/{name}" in metrics}
            for name in breakdown.raw
        }
        return cls(step, metrics["total"], terms, notes, controllers)

    def __str__(self) -> str:
        width = max([len("total"), *map(len, self.terms)])
        shown = [q for q in QUANTITIES if q != "penalty" or self._has_penalty]
        lines = [
            f"step {self.step}",
            f"{'term':<{width}} " + "".join(f"{quantity:>12}" for quantity in shown),
        ]
        for name, parts in self.terms.items():
            cells = "".join(f"{parts[quantity]:>12.5g}" for quantity in shown[:-1])
            lines.append(f"{name:<{width}} {cells}{parts['share']:>12.1%}")
        lines.append(f"{'total':<{width}} {'':>{12 * (len(shown) - 2)}}{self.total:>12.5g}")
        for name, state in self.controllers.items():
            values = ", ".join(f"{key} {value:.5g}" for key, value in state.items())
            lines.append(f"controller of {name}: {values}")
        return "\n".join([*lines, *self.notes])

    @property
    def _has_penalty(self) -> bool:
        return any("penalty" in parts for parts in self.terms.values())


def chosen(include: Iterable[str] | None, known: Sequence[str]) -> tuple[str, ...]:
    """The quantities that are wanted; all where it is not said.

    Raises:
        ValueError: For a quantity that there is not.
    """
    wanted = tuple(known if include is None else include)
    for quantity in wanted:
        if quantity not in known:
            raise ValueError(
                f"there is no quantity {quantity!r}{did_you_mean(quantity, known)} "
                f"(there are {quoted(known)})"
            )
    return wanted


def on_host(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """Many 0-dim tensors as floats, in one transfer."""
    if not tensors:
        return {}
    values = torch.stack(list(tensors.values())).tolist()
    return dict(zip(tensors, values, strict=True))


# What a forward pass leaves behind, detached; see `Seen.record`.
_Last: TypeAlias = tuple[
    tuple[str, ...],
    Tensor,
    Tensor,
    Tensor | None,
    Tensor | None,
    list[Tensor] | None,
    frozenset[str],
]


class Seen:
    """What the training forwards of a criterion have left behind.

    Args:
        weights_move: Whether any weight changes with time, so that the clock matters.

    Attributes:
        names: The terms of the last one.
        detached: Terms that carried no gradient when last looked at, with their weights.
        given: Terms that were ever given.
        step: The step of the last forward, once the clock has moved on from it.
        forwards: How many there were, outside compiled graphs.
    """

    def __init__(self, *, weights_move: bool) -> None:
        self._weights_move = weights_move
        self.detached: dict[str, Tensor] = {}
        self.given: frozenset[str] = frozenset()
        self.step: int | None = None
        self.forwards = 0
        self._forwards_at_move = 0
        self._last: _Last | None = None
        self._names_given: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The terms of the last forward; none before the first."""
        return self._last[0] if self._last else ()

    @property
    def awaits_step(self) -> bool:
        """Whether there was a forward, and no step since."""
        return self._last is not None and self.step is None

    def record(
        self,
        names: tuple[str, ...],
        losses: list[Tensor],
        values: Tensor,
        weights: Tensor,
        factors: Tensor | None = None,
        penalty: Tensor | None = None,
        raws: list[Tensor] | None = None,
        left_out: frozenset[str] = frozenset(),
    ) -> None:
        """Keeps the parts of a total, without its graph and without waiting for the device.

        Args:
            names: The terms that were given.
            losses: Their values.
            values: The same as one vector.
            weights: Their weights, so far as they were known beforehand.
            factors: What the weights are multiplied by; None for nothing.
            penalty: What is added to the values, in the same measure; None for nothing.
            raws: The values before transforms; None where there are none.
            left_out: Those that are left out of the sum.
        """
        if torch.compiler.is_compiling():  # a graph is traced once, and counts nothing
            self._look(names, losses, weights)
        else:
            if inside_func_transform():
                raise RuntimeError(
                    "a criterion in training records what it sees, which torch.func transforms "
                    "cannot do: use criterion.breakdown(terms).total there"
                )
            if self.forwards % _LOOK_EVERY == 0:
                self._look(names, losses, weights)
            self.forwards += 1
            self._give(names)
        if factors is not None:
            factors = factors.detach()
        if penalty is not None:
            penalty = penalty.detach()
        if raws is not None:
            raws = [raw.detach() for raw in raws]
        self._last = (names, values.detach(), weights, factors, penalty, raws, left_out)
        self.step = None

    def _look(self, names: tuple[str, ...], losses: list[Tensor], weights: Tensor) -> None:
        """What would cost too much at each forward: which terms carry no gradient."""
        self.detached = {
            name: weight
            for name, loss, weight in zip(names, losses, weights.unbind(), strict=True)
            if not loss.requires_grad
        }

    def _give(self, names: tuple[str, ...]) -> None:
        if names is not self._names_given:
            self._names_given = names
            self.given = self.given.union(names)

    def step_done(self, step: int) -> None:
        """What was recorded belongs to this step."""
        self._forwards_at_move = self.forwards
        if self.step is None:
            self.step = step
            self._give(self.names)  # a compiled forward did not

    def breakdown(self, order: Iterable[str]) -> Breakdown | None:
        """The parts of the last forward, terms in the given order; None before the first."""
        if self._last is None:
            return None
        names, values, weights, factors, penalty, raws, left_out = self._last
        losses = values.unbind()
        penalty = None if penalty is None else penalty * weights
        weights = weights if factors is None else weights * factors
        return Breakdown.of(names, raws or losses, losses, weights, penalty, left_out, order)

    def of_idle_clock(self, step: int) -> str:
        """What to say where many forwards have passed and the clock stands still."""
        idle = self.forwards - self._forwards_at_move
        if idle < _MANY_FORWARDS or not self._weights_move:
            return ""
        return (
            f"{idle} training forwards and the clock is at step {step}: call "
            "criterion.follow(optimizer) once, or criterion.step() after each optimizer.step()"
        )
