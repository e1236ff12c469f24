r"""`heads: plain`: the balancer's weights reach only the tensors that the terms share."""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from lossweights.criterion.indexing import is_finite

LOW_PRECISION = (
    "heads: plain changes the gradient of the plain sum into the balanced one, so the rounding of "
    "the largest gradient stays: in float16 and bfloat16 0.1% and 0.4% of it, as much as the "
    "gradient of a term a few hundred times smaller. Write heads: weighted, or compute the heads "
    "in float32"
)


def directed(
    rows: Sequence[Sequence[Tensor | None]],
    shared: Sequence[Tensor],
    changes: Tensor,
    scale: Tensor | None,
) -> Tensor:
    r"""A scalar 0 whose gradient with respect to the shared tensors is $\sum_i c_i g_i$.

    Args:
        rows: The gradients $g_i$, one list for each term, with an entry for each shared tensor.
        shared: The shared tensors.
        changes: $c$, shape (k,).
        scale: The factor by which the gradients are multiplied; None for 1.
    """
    directions = []
    with torch.no_grad():
        factors = (changes if scale is None else changes / scale).unbind()
        for tensor, *parts in zip(shared, *rows, strict=True):
            total = torch.zeros_like(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32))
            for part, factor in zip(parts, factors, strict=True):
                if part is not None:
                    total += factor.to(total) * part
            directions.append(total)
        # After an overflow, or for a gradient that is nan, as if there were no balancer: else the
        # optimizer, and with it the clock, might never step again.
        finite = all_finite(*directions)
        directions = [torch.where(finite.to(d.device), d, 0) for d in directions]
    zero: Tensor = _Directed.apply(changes.new_zeros(()), directions, *shared)  # type: ignore[no-untyped-call]
    return zero


class _Directed(torch.autograd.Function):
    """0, with given gradients."""

    @staticmethod
    def forward(ctx: Any, zero: Tensor, directions: list[Tensor], *_: Tensor) -> Tensor:
        ctx.save_for_backward(*directions)  # freed after the backward pass
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


def all_finite(*tensors: Tensor) -> Tensor:
    """Whether all entries are finite, 0-dim; float64 sums of float32 values do not overflow."""
    return is_finite(reduce(torch.add, [t.sum(dtype=torch.float64) for t in tensors]))
