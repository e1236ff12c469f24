"""The weighted sum: from named values and the weights that stand to the total."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lossweights.config.loss_config import LossConfig
from lossweights.criterion.gather import gather, reduced, with_batch
from lossweights.criterion.gradients.shared import SharedLike
from lossweights.criterion.gradients.weights import Taken, directed
from lossweights.criterion.standing import Standing
from lossweights.criterion.weighing import picked, placed


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
        taken: What a balancer that weighs by gradients has taken of them.
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
    taken: Taken | None = None


def combine(
    config: LossConfig,
    terms: Mapping[str, Tensor | None],
    standing: Standing,
    step: int | None,
    shared: SharedLike | None = None,
    *,
    takes_gradients: bool = False,
) -> Combined:
    """The weighted sum of `terms` under the weights that stand, with every check.

    Args:
        config: The declaration.
        terms: What was given.
        standing: What counts now.
        step: For messages about values that are not finite; None where they may be.
        shared: What the terms depend on, for a balancer that weighs by gradients.
        takes_gradients: Whether it may take them; else its weights that stand count.

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
    given = {name: loss for name, (_, loss) in both.items()}
    taken = _taken(standing, given, shared, takes=takes_gradients)
    if not both:
        empty = standing.weights.new_empty(0)
        total = _anchored(empty.new_zeros((), requires_grad=True), standing, ())
        return Combined(total, (), [], [], empty, empty, taken=taken)
    raws = [raw for raw, _ in both.values()]
    losses = [
        loss.detach() if name in standing.left_out else loss for name, (_, loss) in both.items()
    ]
    # Picked one by one: an index tensor would be uploaded, and wait for the device, each time.
    rows = standing.weights.to(losses[0].device).unbind()
    given_rows = [row for name, row in zip(names, rows, strict=True) if name in both]
    values, weights = torch.stack(losses), torch.stack(given_rows)
    balance = None if taken is None else taken.balance
    factors, penalty = _weighed(standing, values, tuple(both), balance)
    if values.dtype is torch.float64:
        weights = weights.double()
    summed = [index for index, name in enumerate(both) if name not in standing.left_out]
    measured = values if factors is None else values * factors
    measured = measured if penalty is None else measured + penalty
    total = _sum(measured, weights, summed) if summed else values.new_zeros((), requires_grad=True)
    total = _anchored(total, standing, both)
    if taken is not None and taken.rows and factors is not None:
        ones = torch.ones_like(taken.balance)
        others, _ = _weighed(standing, values, tuple(both), ones)
        if others is not None:
            without = _sum(values * others, weights, summed)
            changes = weights * (factors.to(weights) - others.to(weights))
            total = _in_shared_alone(total, without, changes, list(both), taken)
    return Combined(
        total,
        tuple(both),
        raws,
        losses,
        values,
        weights,
        factors,
        penalty,
        standing.left_out,
        taken,
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


def _taken(
    standing: Standing,
    losses: Mapping[str, Tensor],
    shared: SharedLike | None,
    *,
    takes: bool,
) -> Taken | None:
    """The weights of a balancer that weighs by gradients: of these terms, or those that stand."""
    adaptation = standing.adaptation
    if adaptation is None or adaptation.by_gradients is None or not standing.weighs:
        return None
    by_gradients, quiet = adaptation.by_gradients, standing.inactive
    asked = {n: losses[n] for n in by_gradients.names if n in losses and n not in quiet}
    if not takes:
        return Taken(by_gradients.standing(list(asked)))
    return by_gradients.weigh(asked, shared, quiet)


def _in_shared_alone(
    total: Tensor, without: Tensor, changes: Tensor, names: Sequence[str], taken: Taken
) -> Tensor:
    """A total of the same value, in which the balancer's weights reach what is shared alone.

    Args:
        total: The weighted sum.
        without: The same without the balancer's weights.
        changes: What these add to the weight of each term that was given.
        names: Those terms.
        taken: What the balancer has taken.
    """
    of_balanced = [changes[names.index(name)] for name in taken.rows or {}]
    if not of_balanced:
        return total
    direction = directed(taken, torch.stack(of_balanced))
    return total.detach() + (without - without.detach()) + direction


def _sum(values: Tensor, weights: Tensor, summed: Sequence[int]) -> Tensor:
    """The weighted sum of some entries."""
    if len(summed) == len(values):
        return torch.dot(values, weights)
    # 0 times nan is nan: what is left out must not be in the sum at all
    return torch.dot(picked(values, summed), picked(weights, summed))


def _weighed(
    standing: Standing, values: Tensor, names: tuple[str, ...], balance: Tensor | None = None
) -> tuple[Tensor | None, Tensor | None]:
    """The factors and penalties of this forward pass; those that do not count take no part."""
    if standing.adaptation is None or not standing.weighs:
        return None, None
    home, device = standing.weights.device, values.device
    if home != device:  # an evaluation elsewhere, which leaves training where it is
        factors, penalty = _weighed(standing, values.to(home), names, balance)
        return (
            None if factors is None else factors.to(device),
            None if penalty is None else penalty.to(device),
        )
    quiet = standing.inactive
    if not quiet:
        return standing.adaptation.weigh(values, names, standing.moments, balance)
    where = [index for index, name in enumerate(names) if name not in quiet]
    if not where:
        return None, None
    active = torch.stack([values[index] for index in where])
    factors, penalty = standing.adaptation.weigh(
        active, [names[index] for index in where], standing.moments, balance
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
