"""Entries of some terms only, without an index tensor that would be uploaded and waited for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def take(values: Tensor, where: Sequence[int], axes: Sequence[int] = (-1,)) -> Tensor:
    """The entries at `where` on each of `axes`."""
    for axis in axes:
        if len(where) == values.shape[axis]:
            continue
        parts = [values.select(axis, index) for index in where]
        values = torch.stack(parts, dim=axis) if parts else values.narrow(axis, 0, 0)
    return values


def put(values: Tensor, where: Sequence[int], entries: list[Tensor]) -> None:
    """Replaces the entries at `where`."""
    for index, value in zip(where, values.unbind(), strict=True):
        entries[index] = value
