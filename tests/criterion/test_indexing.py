"""Some entries of tensors, against torch's own indexing."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from lossweights.criterion.indexing import put, take

N = 4
WHERE = [list(w) for k in range(N + 1) for w in itertools.permutations(range(N), k)]
SHAPES = [((N,), 1), ((2, N), 1), ((N, N), 2), ((3, N, N), 2), ((N, N), 1)]


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


def indexed(tensor: Tensor, where: list[int], axes: int) -> Tensor:
    for axis in range(-axes, 0):
        tensor = tensor.index_select(axis, torch.tensor(where, dtype=torch.int64))
    return tensor


@pytest.mark.parametrize(("shape", "axes"), SHAPES)
def test_take_is_indexing_along_each_axis(shape: tuple[int, ...], axes: int) -> None:
    tensor = drawn(*shape)
    for where in WHERE:
        found = take(tensor, where, axes)
        wanted = indexed(tensor, where, axes)
        assert found.shape == wanted.shape
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("shape", [(N,), (N, N), (N, N, N)])
def test_put_is_the_opposite_and_leaves_0_elsewhere(shape: tuple[int, ...]) -> None:
    axes = len(shape)
    for where in WHERE:
        values = indexed(drawn(*shape) + 10, where, axes)
        found = put(values, where, N)
        assert found.shape == shape
        assert torch.equal(indexed(found, where, axes), values)
        elsewhere = torch.ones(shape, dtype=torch.bool)
        elsewhere[np.ix_(*[where] * axes)] = False
        assert not found[elsewhere].any()


def test_a_scalar_is_taken_as_a_whole() -> None:
    scalar = torch.tensor(3.0)
    assert take(scalar, [1, 2]) is scalar
    assert torch.equal(take(drawn(N), [1], axes=2), drawn(N)[[1]])


def test_all_entries_in_order_are_the_tensor_itself() -> None:
    tensor = drawn(N, N)
    assert take(tensor, range(N), axes=2) is tensor
    assert put(tensor, range(N), N) is tensor


def test_put_keeps_the_dtype() -> None:
    assert put(drawn(2).double(), [0, 3], N).dtype is torch.float64


def test_both_are_differentiable() -> None:
    x = drawn(N).requires_grad_()
    (gradient,) = torch.autograd.grad(put(take(x, [3, 1]), [0, 2], N).sum(), x)
    assert gradient.tolist() == [0, 1, 0, 1]


def test_too_few_values_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        put(drawn(1), [0, 1], N)
