"""The weighted sum: from named values and the weights that stand to the total."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lossweights.config import LossConfig
from lossweights.gather import gather


@dataclass
class Standing:
    """The weights that stand at a moment, in training or in evaluation.

    Args:
        weights: float32, in sorted order of the terms' names.
        in_place: Whether `weights` is written over as time moves, or another tensor put there.
        dormant: Terms that do not count yet, and may be missing.
        left_out: Terms of weight 0 that are left out of the sum, and may be missing.
    """

    weights: Tensor
    in_place: bool = False
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


def combine(
    config: LossConfig, terms: Mapping[str, Tensor | None], standing: Standing, step: int | None
) -> Combined:
    """The weighted sum of `terms` under the weights that stand, with every check.

    Args:
        config: The declaration.
        terms: What was given.
        standing: What counts now.
        step: For messages about values that are not finite; None where they may be.

    Raises:
        ValueError: For a name that is unknown or missing, and for a value that is no scalar.
        FloatingPointError: For a value that is not finite, where that is to raise.
    """
    names = sorted(config.terms)
    given = gather(config, terms, standing.dormant | standing.left_out)
    if step is not None:
        given = _only_finite(config, given, dict(zip(names, standing.weights, strict=True)), step)
    if not given:
        empty = standing.weights.new_empty(0)
        return Combined(empty.new_zeros((), requires_grad=True), (), [], empty, empty)
    losses = [loss.detach() if name in standing.left_out else loss for name, loss in given.items()]
    # Picked one by one: an index tensor would be uploaded, and wait for the device, each time.
    rows = standing.weights.to(losses[0].device).unbind()
    picked = [row for name, row in zip(names, rows, strict=True) if name in given]
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


def aligned(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Values and weights in one precision: float32 at least, float64 for float64 values.

    Raises:
        TypeError: For complex values.
    """
    if values.is_complex():
        raise TypeError("a loss is real")
    if values.dtype is torch.float64:
        return values, weights.double()
    return values.float(), weights


def _only_finite(
    config: LossConfig, given: dict[str, Tensor], weights: Mapping[str, Tensor], step: int
) -> dict[str, Tensor]:
    """The terms that are finite; looks at them on the host."""
    if torch.compiler.is_compiling():
        raise RuntimeError(
            f"on_nonfinite: {config.on_nonfinite} looks at the values on the host, which a "
            "compiled graph cannot: call the criterion outside torch.compile, or use propagate"
        )
    if not given:
        return given
    finite = torch.stack([value.detach().isfinite() for value in given.values()]).tolist()
    if config.on_nonfinite == "raise" and not all(finite):
        name = list(given)[finite.index(False)]
        raise FloatingPointError(
            f"term {name!r} is {given[name].item()} at step {step}, where its weight is "
            f"{weights[name].item():g}; on_nonfinite: skip_term would leave it out of the sum"
        )
    return {name: value for (name, value), good in zip(given.items(), finite, strict=True) if good}
