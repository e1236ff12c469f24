"""Some entries of a tensor, without an index tensor.

Indexing with a list uploads the list, and on a GPU the host waits for that. These two functions
pick the entries one by one instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def take(tensor: Tensor, where: Sequence[int], axes: int = 1) -> Tensor:
    """Some entries of each of the last axes.

    Args:
        tensor: Its last `axes` axes have one size. One with fewer axes, such as a scalar, is taken
            as a whole in the others.
        where: The entries, in any order.
        axes: How many axes; 2 for a matrix with a row and a column for each entry.

    Returns:
        A tensor of the same rank. It is `tensor` itself if all entries are taken in order.

    >>> take(torch.tensor([1.0, 2.0, 3.0]), [2, 0])
    tensor([3., 1.])
    >>> take(torch.arange(9.0).reshape(3, 3), [0, 2], axes=2)
    tensor([[0., 2.],
            [6., 8.]])
    """
    axes = min(axes, tensor.ndim)
    if axes == 0 or _is_all(where, tensor.shape[-1]):
        return tensor
    for axis in range(-axes, 0):
        parts = [tensor.select(axis, index) for index in where]
        tensor = torch.stack(parts, dim=axis) if parts else tensor.narrow(axis, 0, 0)
    return tensor


def put(values: Tensor, where: Sequence[int], into: Tensor, axes: int = 1) -> Tensor:
    """A copy of `into` in which some entries of each of the last axes are replaced.

    It is the opposite of `take`: `take(put(values, where, into, axes), where, axes)` is `values`.

    Args:
        values: The new entries, in the order of `where`.
        where: Their places, each once.
        into: The tensor with the other entries. `values` is converted to its dtype.
        axes: How many axes, as in `take`.

    Returns:
        A tensor of the shape and dtype of `into`; both arguments keep their values. It is `values`
        itself if all entries are replaced in order.

    >>> put(torch.tensor([7.0, 8.0]), [2, 0], torch.zeros(3))
    tensor([8., 0., 7.])
    >>> put(torch.ones(2, 2), [0, 2], torch.zeros(3, 3), axes=2)
    tensor([[1., 0., 1.],
            [0., 0., 0.],
            [1., 0., 1.]])
    """
    axes, values = min(axes, into.ndim), values.to(into.dtype)
    if axes == 0 or _is_all(where, into.shape[-1]):
        return values
    parts = list(into.unbind(-axes))
    for index, entry in zip(where, values.unbind(-axes), strict=True):
        parts[index] = entry if axes == 1 else put(entry, where, parts[index], axes - 1)
    return torch.stack(parts, dim=-axes)


def is_finite(values: Tensor) -> Tensor:
    """Whether each entry is finite; several times faster than `isfinite` for a few entries."""
    return values - values == 0  # inf - inf is nan


def _is_all(where: Sequence[int], size: int) -> bool:
    return len(where) == size and all(index == place for place, index in enumerate(where))
