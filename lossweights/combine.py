"""The weighted sum: from named values and the weights that stand to the total."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from lossweights.config import LossConfig
from lossweights.gather import gather, reduced, with_batch
from lossweights.standing import Standing
from lossweights.weighing import placed


class Combined(NamedTuple):
    """A total with what went into it.

    Args:
        total: A scalar with its graph.
        names: The terms that were given.
        raws: Their values, reduced.
        losses: The same, transformed; those left out of the sum are detached.
        values: `losses` as one vector.
        weights: Their weights, so far as they were known beforehand.
        factors: What these weights are multiplied by; None for nothing.
        penalty: What is added to the values, in the same measure; None for nothing.
        left_out: Those among them that were left out of the sum.
    """

    total: Tensor
    names: tuple[str, ...]
    raws: list[Tensor]
    losses: list[Tensor]
    values: Tensor
    weights: Tensor
    factors: Tensor | None = None
    penalty: Tensor | None = None
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
    both = values_of(config, terms, standing)
    if step is not None:
        weights_by_name = dict(zip(names, standing.weights, strict=True))
        losses_by_name = {name: loss for name, (_, loss) in both.items()}
        known = {} if standing.weighs else weights_by_name
        bad = _nonfinite(config, losses_by_name, standing.left_out, known, step)
        both = {name: pair for name, pair in both.items() if name not in bad}
    if not both:
        empty = standing.weights.new_empty(0)
        total = _anchored(empty.new_zeros((), requires_grad=True), standing, ())
        return Combined(total, (), [], [], empty, empty)
    raws = [raw for raw, _ in both.values()]
    losses = [
        loss.detach() if name in standing.left_out else loss for name, (_, loss) in both.items()
    ]
    # Picked one by one: an index tensor would be uploaded, and wait for the device, each time.
    rows = standing.weights.to(losses[0].device).unbind()
    picked = [row for name, row in zip(names, rows, strict=True) if name in both]
    values, weights = torch.stack(losses), torch.stack(picked)
    factors, penalty = _weighed(standing, values, tuple(both))
    if values.dtype is torch.float64:
        weights = weights.double()
    summed = [index for index, name in enumerate(both) if name not in standing.left_out]
    measured = values if factors is None else values * factors
    measured = measured if penalty is None else measured + penalty
    if not summed:
        total = values.new_zeros((), requires_grad=True)
    elif len(summed) == len(both):
        total = torch.dot(measured, weights)
    else:  # 0 times nan is nan: what is left out must not be in the sum at all
        total = torch.dot(
            torch.stack([measured[index] for index in summed]),
            torch.stack([weights[index] for index in summed]),
        )
    total = _anchored(total, standing, both)
    return Combined(
        total, tuple(both), raws, losses, values, weights, factors, penalty, standing.left_out
    )


def values_of(
    config: LossConfig, terms: Mapping[str, Tensor | None], standing: Standing
) -> dict[str, tuple[Tensor, Tensor]]:
    """For each term that was given, its reduced value as it is and through its transform.

    Raises:
        ValueError: For a name that is unknown or missing, and for a value that is no scalar.
    """
    given = gather(config, terms, standing.inactive)
    return {name: _reduced(config, name, value, standing) for name, value in given.items()}


def _anchored(total: Tensor, standing: Standing, given: Iterable[str]) -> Tensor:
    """The total, with the learned weights in its graph also where no term asks for them."""
    if standing.adaptation is None or not standing.weighs:
        return total
    quiet = standing.inactive
    anchor = standing.adaptation.anchor([name for name in given if name not in quiet])
    return total if anchor is None else total + anchor


def _reduced(
    config: LossConfig, name: str, value: Tensor, standing: Standing
) -> tuple[Tensor, Tensor]:
    """A term's value reduced to a scalar: as it is, and through its transform."""
    reduction = config.terms[name].reduction
    adaptation, moments = standing.adaptation, standing.moments
    raw = reduced(name, value, reduction)
    level = None if adaptation is None else adaptation.level_of(name)
    if adaptation is None or level is None:
        return raw, raw
    frozen = standing.is_yardstick
    if level == "value":
        return raw, adaptation.transformed(name, raw, moments, frozen=frozen)
    batch = with_batch(name, value, f"a transform of each {level}")
    if level == "element":
        transformed = adaptation.transformed(name, batch, moments, frozen=frozen)
        return raw, reduced(name, transformed, reduction)
    mean = adaptation.transformed(name, batch.mean(dim=0), moments, frozen=frozen)
    return raw, reduced(name, mean.expand_as(batch), reduction)


def _weighed(
    standing: Standing, values: Tensor, names: tuple[str, ...]
) -> tuple[Tensor | None, Tensor | None]:
    """The factors and penalties of this forward pass; those that do not count take no part."""
    if standing.adaptation is None or not standing.weighs:
        return None, None
    home, device = standing.weights.device, values.device
    if home != device:  # an evaluation elsewhere, which leaves training where it is
        factors, penalty = _weighed(standing, values.to(home), names)
        return (
            None if factors is None else factors.to(device),
            None if penalty is None else penalty.to(device),
        )
    quiet = standing.inactive
    if not quiet:
        return standing.adaptation.weigh(values, names, standing.moments)
    where = [index for index, name in enumerate(names) if name not in quiet]
    if not where:
        return None, None
    active = torch.stack([values[index] for index in where])
    factors, penalty = standing.adaptation.weigh(
        active, [names[index] for index in where], standing.moments
    )
    ones = standing.weights.new_ones(len(names)).unbind()
    zeros = standing.weights.new_zeros(len(names)).unbind()
    return (
        torch.stack(placed(factors, where, ones)),
        None if penalty is None else torch.stack(placed(penalty, where, zeros)),
    )


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
        transform = config.terms[bad[0]].transform
        through = "" if transform is None else f" (through {transform!r})"
        weight = weights.get(bad[0])
        where = "" if weight is None else f", where its weight is {weight.item():g}"
        raise FloatingPointError(
            f"term {bad[0]!r} is {given[bad[0]].item()}{through} at step {step}{where}; "
            "on_nonfinite: skip_term would leave it out of the sum"
        )
    return bad
