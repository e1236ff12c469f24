"""What may be given as shared: several tensors, of any form, layout and size."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from lossweights import WeightedLoss
from lossweights.criterion.gradients.shared import SharedLike
from tests.setups.models import Products, criterion, model, norm, rows, weights


class Levels(NamedTuple):
    """What a pyramid of features may be given as."""

    fine: Tensor
    coarse: Tensor


def levels() -> Levels:
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    return Levels(torch.tanh(x), torch.nn.functional.avg_pool2d(x, 2))


FORMS: dict[str, Callable[[Levels], SharedLike]] = {
    "a list": list,
    "a named tuple": lambda given: given,
    "a generator": lambda given: (level for level in given),
    "a mapping": lambda given: given._asdict(),
    "an ordered mapping": lambda given: OrderedDict(given._asdict()),
    "nested": lambda given: {"fine": [given.fine], "rest": ({"coarse": given.coarse},)},
    "twice": lambda given: [given.fine, given, given.fine],
    "with what is frozen": lambda given: [*given, nn.Parameter(torch.ones(2), requires_grad=False)],
    "with masks and sizes": lambda given: [*given, torch.ones(2, dtype=torch.bool)],
}


@pytest.mark.parametrize("form", FORMS)
def test_several_features(form: str) -> None:
    given, found = levels(), criterion()
    terms = {"a": given.fine.square().mean() + given.coarse.mean(), "b": given.coarse.exp().sum()}
    taken = [gradient(term, given) for term in terms.values()]
    found(terms, shared=FORMS[form](given)).backward()
    assert weights(found) == pytest.approx({"a": 1 / norm(taken[0]), "b": 2 / norm(taken[1])})


def gradient(term: Tensor, tensors: Any) -> list[Tensor]:
    found = torch.autograd.grad(
        term, list(tensors), retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return list(found)


def test_a_tensor_that_no_term_uses() -> None:
    given, found = levels(), criterion()
    terms = {"a": given.fine.square().mean(), "b": given.fine.sum()}
    found(terms, shared=given)
    both = weights(found)
    found(terms, shared=given.fine)
    assert weights(found) == both


@pytest.mark.parametrize("heads", ["weighted", "plain"])
def test_frozen_parameters(heads: str) -> None:
    trained, found, batch = model(), criterion(heads=heads), rows()
    trained.trunk.first.requires_grad_(requires_grad=False)
    terms, _ = trained(batch)
    left = list(trained.trunk.second.parameters())
    taken = [gradient(term, left) for term in terms.values()]
    total = found(terms, shared=trained.trunk.parameters())
    total.backward()
    wanted = {"a": 1 / norm(taken[0]), "b": 2 / norm(taken[1])}
    assert weights(found) == pytest.approx(wanted)
    assert trained.trunk.first.weight.grad is None
    found_gradient = trained.trunk.second.bias.grad
    assert found_gradient is not None
    torch.testing.assert_close(
        found_gradient, wanted["a"] * taken[0][1] + wanted["b"] * taken[1][1]
    )


@pytest.mark.parametrize("shape", [(), (1,), (0, 3)], ids=["0-dim", "one", "empty"])
def test_sizes(shape: tuple[int, ...]) -> None:
    features, found = torch.ones(shape, requires_grad=True) * 2.0, criterion()
    terms = {"a": features.square().sum(), "b": 3 * features.sum()}
    total = found(terms, shared=features)
    total.backward()
    expected = {"a": 1 / 4, "b": 2 / 3} if 0 not in shape else {"a": 1.0, "b": 2.0}
    assert weights(found) == pytest.approx(expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_of_another_layout(layout: torch.memory_format) -> None:
    x = torch.randn(2, 4, 6, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    features = torch.tanh(x.contiguous(memory_format=layout))
    factors = torch.arange(features.numel()).reshape(features.shape) / features.numel()
    terms = {  # the gradient of the first is laid out as the features, those of the others are not
        "a": features.square().mean(),
        "b": (features.flatten(1) * factors.flatten(1)).mean(),
        "c": (features.permute(3, 0, 2, 1) * factors.permute(3, 0, 2, 1).contiguous()).mean(),
    }
    each = [gradient(term, [features])[0].reshape(-1) for term in terms.values()]
    found = WeightedLoss([*terms], balancer=Products())
    found(terms, shared=features)
    expected = {name: float(row @ sum(each)) for name, row in zip(terms, each, strict=True)}
    assert weights(found) == pytest.approx(expected, rel=1e-5)


def table(sparse: bool) -> tuple[nn.Embedding, Mapping[str, Tensor]]:
    torch.manual_seed(0)
    embedding = nn.Embedding(20, 5, sparse=sparse)
    words = embedding(torch.tensor([[1, 2, 1], [4, 5, 6]]))
    return embedding, {"a": words.square().sum(), "b": 7 * words[:, 0].sum()}


@pytest.mark.parametrize("heads", ["weighted", "plain"])
def test_sparse_gradients_of_an_embedding(heads: str) -> None:
    dense, terms = table(sparse=False)
    found = criterion(heads=heads)
    found(terms, shared=dense.weight).backward()
    expected = weights(found)
    sparse, terms = table(sparse=True)
    found = criterion(heads=heads)
    found(terms, shared=sparse.weight).backward()
    assert weights(found) == expected
    assert dense.weight.grad is not None
    assert sparse.weight.grad is not None
    torch.testing.assert_close(sparse.weight.grad.to_dense(), dense.weight.grad)


def test_complex_features_are_refused() -> None:
    features = torch.ones(3, dtype=torch.complex64, requires_grad=True) * 2
    terms = {"a": features.abs().sum(), "b": features.real.sum()}
    with pytest.raises(ValueError, match="complex"):
        criterion()(terms, shared=[features, features.real])
