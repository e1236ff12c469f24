"""Some entries of a tensor, without an index tensor.

Indexing with a list uploads the list, and on a GPU the host waits for that. `take` and `put` select
the entries one by one instead.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def take(tensor: Tensor, where: Sequence[int], axes: int = 1) -> Tensor:
    """Some entries of each of the last axes; the tensor itself if all are taken in order.

    Args:
        tensor: Its last `axes` axes have one size; it may have fewer, such as a scalar.
        where: The entries, in any order.
        axes: How many axes; 2 for a matrix with a row and a column for each entry.

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


def put(values: Tensor, where: Sequence[int], size: int) -> Tensor:
    """The opposite of `take` on all axes, with 0 elsewhere; `values` itself if all are in order.

    Args:
        values: The entries, in the order of `where` on each axis.
        where: Their places, each once.
        size: The length of each axis of the result.

    >>> put(torch.ones(2, 2), [0, 2], 3)
    tensor([[1., 0., 1.],
            [0., 0., 0.],
            [1., 0., 1.]])
    """
    if _is_all(where, size):
        return values
    for axis in range(values.ndim):
        entries = values.unbind(axis)
        parts = [values.new_zeros(values.shape[:axis] + values.shape[axis + 1 :])] * size
        for index, entry in zip(where, entries, strict=True):
            parts[index] = entry
        values = torch.stack(parts, dim=axis)
    return values


def is_finite(values: Tensor) -> Tensor:
    """Whether each entry is finite; several times faster than `isfinite` for a few entries."""
    return values - values == 0  # inf - inf is nan


def _is_all(where: Sequence[int], size: int) -> bool:
    return len(where) == size and all(index == place for place, index in enumerate(where))
