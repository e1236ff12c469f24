"""The weighted sum: from named values and the weights that stand to the total."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lossweights.config import LossConfig
from lossweights.gather import aligned, gather, without_nonfinite


@dataclass
class Standing:
    """The weights that stand at a moment, in training or in evaluation.

    Args:
        weights: float32, in sorted order of the terms' names; training writes into it in place.
        dormant: Terms that may be missing.
        left_out: Terms of weight 0 that are left out of the sum.
    """

    weights: Tensor
    dormant: frozenset[str] = frozenset()
    left_out: frozenset[str] = frozenset()


class Combined(NamedTuple):
    """A total with what went into it.

    Args:
        total: A scalar with its graph.
        names: The terms that were given.
        losses: Their values; those left out of the sum are detached.
        values: The same as one vector.
        weights: Their weights.
        left_out: Those among them that were left out of the sum.
    """

    total: Tensor
    names: tuple[str, ...]
    losses: list[Tensor]
    values: Tensor
    weights: Tensor
    left_out: frozenset[str] = frozenset()


class Combiner:
    """Adds up the terms of one config.

    Args:
        config: The declaration.
    """

    def __init__(self, config: LossConfig) -> None:
        self.config = config
        self.names = tuple(sorted(config.terms))
        self._plain = config.on_nonfinite == "propagate" and not any(
            term.reduction for term in config.terms.values()
        )

    def __call__(
        self, terms: Mapping[str, Tensor | None], standing: Standing, step: int | None
    ) -> Combined:
        """The total of `terms` under the weights that stand.

        Args:
            terms: What was given.
            standing: What counts now.
            step: For messages about values that are not finite; None where they may be.

        Raises:
            ValueError: For a name that is unknown or missing, and for a value that is no scalar.
            FloatingPointError: For a value that is not finite, where that is to raise.
        """
        # The way of every ordinary step: all terms there, each a scalar. Whatever does not fit
        # goes the long way, which checks one by one and says what is wrong.
        if self._plain and not standing.left_out and len(terms) == len(self.names):
            try:
                losses = [terms[name] for name in self.names]
                values = torch.stack(losses)  # type: ignore[arg-type]
            except (KeyError, TypeError, RuntimeError):
                return self._long_way(terms, standing, step)
            if (
                values.ndim == 1
                and values.dtype is torch.float32
                and values.device == standing.weights.device
            ):
                # A copy, since the weights that stand may move on before the backward pass.
                weights = standing.weights.clone()
                total = torch.dot(values, weights)
                return Combined(total, self.names, losses, values, weights)  # type: ignore[arg-type]
        return self._long_way(terms, standing, step)

    def _long_way(
        self, terms: Mapping[str, Tensor | None], standing: Standing, step: int | None
    ) -> Combined:
        given = gather(self.config, terms, standing.dormant)
        if step is not None:
            given = self._only_finite(given, standing, step)
        if not given:
            empty = standing.weights.new_empty(0)
            return Combined(empty.new_zeros((), requires_grad=True), (), [], empty, empty)
        losses = [
            loss.detach() if name in standing.left_out else loss for name, loss in given.items()
        ]
        # Picked one by one: an index tensor would be uploaded, and wait for the device, each time.
        rows = standing.weights.to(losses[0].device).unbind()
        picked = [row for name, row in zip(self.names, rows, strict=True) if name in given]
        values, weights = aligned(torch.stack(losses), torch.stack(picked))
        summed = [index for index, name in enumerate(given) if name not in standing.left_out]
        if not summed:
            total = values.new_zeros((), requires_grad=True)
        elif len(summed) == len(given):
            total = torch.dot(values, weights)
        else:  # 0 times nan is nan: what is left out must not be in the sum at all
            total = torch.dot(
                torch.stack([values[index] for index in summed]),
                torch.stack([weights[index] for index in summed]),
            )
        return Combined(total, tuple(given), losses, values, weights, standing.left_out)

    def _only_finite(
        self, given: dict[str, Tensor], standing: Standing, step: int
    ) -> dict[str, Tensor]:
        if torch.compiler.is_compiling():
            raise RuntimeError(
                f"on_nonfinite: {self.config.on_nonfinite} looks at the values on the host, which a "
                "compiled graph cannot: call the criterion outside torch.compile, or use propagate"
            )
        weights = dict(zip(self.names, standing.weights.tolist(), strict=True))
        return without_nonfinite(given, weights, self.config.on_nonfinite, step)
