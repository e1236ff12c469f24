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
        weights_by_name = dict(zip(names, standing.weights, strict=True))
        bad = _nonfinite(config, given, standing.left_out, weights_by_name, step)
        given = {name: value for name, value in given.items() if name not in bad}
    if not given:
        empty = standing.weights.new_empty(0)
        return Combined(empty.new_zeros((), requires_grad=True), (), [], empty, empty)
    losses = [loss.detach() if name in standing.left_out else loss for name, loss in given.items()]
    # Picked one by one: an index tensor would be uploaded, and wait for the device, each time.
    rows = standing.weights.to(losses[0].device).unbind()
    picked = [row for name, row in zip(names, rows, strict=True) if name in given]
    values, weights = torch.stack(losses), torch.stack(picked)
    if values.dtype is torch.float64:
        weights = weights.double()
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


def _nonfinite(
    config: LossConfig,
    given: Mapping[str, Tensor],
    left_out: frozenset[str],
    weights: Mapping[str, Tensor],
    step: int,
) -> list[str]:
    """The terms of the sum that are not finite; looks at them on the host."""
    if torch.compiler.is_compiling():
        raise RuntimeError(
            f"on_nonfinite: {config.on_nonfinite} looks at the values on the host, which a "
            "compiled graph cannot: call the criterion outside torch.compile, or use propagate"
        )
    summed = [name for name in given if name not in left_out]
    if not summed:
        return []
    finite = torch.stack([given[name].detach().isfinite() for name in summed]).tolist()
    bad = [name for name, good in zip(summed, finite, strict=True) if not good]
    if bad and config.on_nonfinite == "raise":
        raise FloatingPointError(
            f"term {bad[0]!r} is {given[bad[0]].item()} at step {step}, where its weight is "
            f"{weights[bad[0]].item():g}; on_nonfinite: skip_term would leave it out of the sum"
        )
    return bad
