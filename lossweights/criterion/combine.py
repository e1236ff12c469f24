"""The weighted sum."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from lossweights.config.loss_config import LossConfig
from lossweights.criterion.adaptive import Factors
from lossweights.criterion.clock import Clock
from lossweights.criterion.gradients.heads import directed
from lossweights.criterion.gradients.shared import SharedLike
from lossweights.criterion.indexing import take
from lossweights.criterion.modes import Mode
from lossweights.criterion.reader import Values
from lossweights.criterion.record import Parts


def combine(
    values: Values,
    mode: Mode,
    names: Sequence[str],
    shared: SharedLike = None,
    *,
    computes_gradients: bool = False,
    multiplied: Collection[str] = (),
    divided_by: int | None = None,
) -> Parts:
    """The weighted sum of the terms present.

    Args:
        values: The terms present.
        mode: How they count.
        names: All terms, sorted.
        shared: What the terms depend on, for a balancer by gradients.
        computes_gradients: Whether it may compute them; else its current weights count.
        multiplied: Terms that count `divided_by` times in the total: parts of sums, if the
            training loop divides it.
        divided_by: The number by which the training loop divides the total; None if it does not.
    """
    present, vector = values.names, values.vector
    weights = mode.weights
    if (  # the ordinary step
        mode.adaptive is None
        and present is names
        and not mode.skipped
        and not mode.in_place
        and not multiplied
        and vector.dtype is torch.float32
        and vector.device == mode.device
    ):
        return Parts(torch.dot(vector, weights), values, weights, None, None, None, mode.found)
    weights = _of_present(weights, values, mode, names)
    found = None if mode.found is None else _of_present(mode.found, values, mode, names)
    counted = _multiplied(weights, present, multiplied, divided_by or 1)
    adaptive = mode.adaptive
    if adaptive is None or not (present or adaptive.weights_from_gradients):
        factors, total = None, _sum(vector, counted, values, mode)
    else:
        factors, measured = _adapted(values, mode, shared, computes_gradients, divided_by)
        total = _sum(measured, counted, values, mode)
    if adaptive is not None and (len(present) < len(names) or mode.inactive):
        anchor = adaptive.anchor([name for name in present if name not in mode.inactive])
        total = total if anchor is None else total + anchor
    if factors is None:
        return Parts(total, values, weights, found=found)
    if factors.plain is not None:
        total = _in_shared_alone(total, values, counted, mode, factors)
    if factors.found is not None:
        found = weights * factors.found
    elif found is not None:
        found = found * factors.factors
    penalties, gradients = factors.penalties, factors.gradients
    return Parts(total, values, weights, factors.factors, penalties, gradients, found)


def _of_present(weights: Tensor, values: Values, mode: Mode, names: Sequence[str]) -> Tensor:
    """The weights of the terms present, of all those in `names`, as the values need them."""
    present, vector = values.names, values.vector
    if mode.in_place:  # the clock may overwrite it before the backward pass
        weights = weights.clone()
    if vector.device != mode.device:  # an evaluation on another device
        weights = weights.to(vector.device)
    if len(present) < len(names):
        weights = take(weights, [i for i, name in enumerate(names) if name in present])
    return weights.double() if vector.dtype is torch.float64 else weights


def _multiplied(
    weights: Tensor, names: Sequence[str], multiplied: Collection[str], by: int
) -> Tensor:
    if not multiplied:
        return weights
    parts = zip(names, weights.unbind(), strict=True)
    return torch.stack([part * by if name in multiplied else part for name, part in parts])


def _adapted(
    values: Values,
    mode: Mode,
    shared: SharedLike,
    computes_gradients: bool,
    divided_by: int | None,
) -> tuple[Factors, Tensor]:
    """The factors of a forward pass, and the values with them and the penalties."""
    vector, home = values.vector, values
    is_elsewhere = vector.device != mode.device
    if is_elsewhere:
        home = values._replace(vector=vector.to(mode.device))
    factors: Factors = mode.adaptive.weigh(  # type: ignore[union-attr]
        home,
        mode.inactive,
        shared,
        computes_gradients=computes_gradients,
        divided_by=divided_by,
    )
    if is_elsewhere:
        factors = factors.to(vector.device)
    if factors.penalties is None:
        return factors, vector * factors.factors
    return factors, torch.addcmul(factors.penalties, factors.factors, vector)


def _sum(measured: Tensor, weights: Tensor, values: Values, mode: Mode) -> Tensor:
    """The weighted sum without the terms that are skipped: 0 times nan would be nan."""
    if mode.skipped:
        summed = [i for i, name in enumerate(values.names) if name not in mode.skipped]
        measured, weights = take(measured, summed), take(weights, summed)
    if not measured.numel():
        return measured.new_zeros((), requires_grad=True)
    return torch.dot(measured, weights)


def _in_shared_alone(
    total: Tensor, values: Values, weights: Tensor, mode: Mode, factors: Factors
) -> Tensor:
    """A total of the same value whose gradient has the balancer's weights in `shared` alone."""
    step, plain = factors.gradients, factors.plain
    if step is None or step.shared is None or not step.rows or plain is None:
        return total
    without = _sum(values.vector * plain, weights, values, mode)
    changes = weights * (factors.factors.to(weights) - plain.to(weights))
    if factors.passes is not None:  # by which the rows are multiplied
        changes = changes / factors.passes
    changes = torch.stack([changes[values.names.index(name)] for name in step.rows])
    direction = directed(list(step.rows.values()), step.shared.tensors, changes, step.scale)
    return total.detach() + (without - without.detach()) + direction


def finite_terms(values: Values, mode: Mode, config: LossConfig, clock: Clock) -> Values:
    """The terms whose value is finite, looked up on the host.

    Args:
        values: The terms present, or the members of a group.
        mode: How they count.
        config: The declaration, whose `on_nonfinite` is `raise` or `skip_term`.
        clock: For the message.

    Raises:
        FloatingPointError: For a term that is not finite, with `on_nonfinite: raise`.
        RuntimeError: In a compiled graph.
    """
    if torch.compiler.is_compiling():
        raise RuntimeError(
            f"on_nonfinite: {config.on_nonfinite} reads the values on the host, which a "
            "compiled graph cannot do: call the criterion outside torch.compile, or use propagate"
        )
    finite = values.vector.detach().isfinite().tolist()
    bad = [
        index
        for index, (name, good) in enumerate(zip(values.names, finite, strict=True))
        if not good and name not in mode.skipped
    ]
    if not bad:
        return values
    name = values.names[bad[0]]
    if config.on_nonfinite == "raise":
        transform = config.lineage(name)[-1].transform
        through = "" if transform is None else f" (through {transform})"
        where = ""
        is_known = mode.adaptive is None or not mode.adaptive.weighs_inside
        if is_known and name in config.terms:
            weight = mode.weights[sorted(config.terms).index(name)].item()
            where = f", where its weight is {weight:g}"
        at = clock.horizon.at(clock.step)
        raise FloatingPointError(
            f"term {name!r} is {values.vector[bad[0]].item()}{through} at {at}{where}; "
            "on_nonfinite: skip_term would leave it out of the sum"
        )
    kept = [index for index in range(len(values.names)) if index not in bad]
    dropped = {values.names[index] for index in bad}
    losses = [values.losses[index] for index in kept]
    names = tuple(values.names[index] for index in kept)
    vector = torch.stack(losses) if losses else values.vector[:0]
    raws = {name: raw for name, raw in values.raws.items() if name not in dropped}
    inside = tuple(f"{name}/" for name in dropped)  # of groups
    groups = {
        name: members
        for name, members in values.groups.items()
        if name not in dropped and not name.startswith(inside)
    }
    vector = vector.to(values.vector)
    return Values(names, raws, losses, vector, groups)
