"""Graphs that torch changes behind one's back: checkpointing, operations in place, other modes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import relu
from torch.utils.checkpoint import checkpoint

from tests.setups.models import (
    Of,
    assert_right,
    criterion,
    model,
    norm,
    right,
    rows,
    weights,
)

OF = pytest.mark.parametrize("of", ["features", "parameters"])


@pytest.mark.parametrize("where", ["trunk", "heads", "trunk and heads"])
@OF
def test_checkpointing(of: Of, where: str) -> None:
    trained, found, batch = model(), criterion(), rows()
    features = trained.trunk(batch)
    if "trunk" in where:
        features = checkpoint(trained.trunk, batch, use_reentrant=False)
    terms = trained.heads(features, batch)
    if "heads" in where:
        terms = checkpoint(trained.heads, features, batch, use_reentrant=False)
    found(terms, shared=trained.shared(features, of)).backward()
    assert_right(found, trained, right(trained, batch, of))


def reentrant(part: nn.Module, x: Tensor) -> Any:
    return checkpoint(part, x, use_reentrant=True)


@OF
def test_reentrant_checkpointing_in_a_head(of: Of) -> None:
    trained, found = model(), criterion()
    features = trained.trunk(rows())
    terms = {"a": reentrant(trained.heads.a, features).mean(), "b": features.mean()}
    with pytest.raises(RuntimeError, match=r"write torch.utils.*use_reentrant=False"):
        found(terms, shared=trained.shared(features, of))


def test_reentrant_checkpointing_of_all_heads_leaves_no_gradient() -> None:
    trained, found = model(), criterion()
    features = trained.trunk(rows())
    terms = checkpoint(
        trained.heads, features, rows(), use_reentrant=True
    )  # a dict: torch skips it
    with pytest.raises(
        ValueError, match=r"terms 'a', 'b' carry no gradient .*reentrant checkpointing"
    ):
        found(terms, shared=features)


def test_reentrant_checkpointing_in_the_trunk() -> None:
    trained, batch = model(), rows().requires_grad_()
    features = reentrant(trained.trunk, batch)
    terms = trained.heads(features, batch)
    found = criterion()
    found(terms, shared=features).backward()
    assert_right(found, trained, right(trained, batch.detach(), "features"))
    features = reentrant(trained.trunk, batch)
    with pytest.raises(ValueError, match=r"no term depends.*use_reentrant=False"):
        criterion()(trained.heads(features, batch), shared=trained.trunk.parameters())
    features = trained.trunk.second(reentrant(trained.trunk.first, batch))
    with pytest.raises(RuntimeError, match=r"hides parameters.*use_reentrant=False"):
        criterion()(trained.heads(features, batch), shared=trained.trunk.parameters())


def test_features_changed_in_place_between_heads() -> None:
    trained, found = model(), criterion()
    features = trained.trunk(rows())
    first = trained.heads.a(relu(features, inplace=True)).mean()
    second = trained.heads.b(relu(features, inplace=True)).mean()
    with pytest.raises(ValueError, match=r"term 'a' does not depend.*changed in place"):
        found({"a": first, "b": second}, shared=features)


def test_features_changed_in_place_after_all_heads() -> None:
    trained, found = model(), criterion()
    terms, features = trained(rows())
    features += 1
    with pytest.raises(ValueError, match=r"no term depends.*changed in place"):
        found(terms, shared=features)


def test_what_a_head_needs_changed_in_place() -> None:
    trained, found = model(), criterion()
    terms, features = trained(rows())
    with torch.no_grad():
        features += 1
    with pytest.raises(RuntimeError, match=r"replace inplace=True, \+= .*features.clone\(\)"):
        found(terms, shared=features)


def test_changes_in_place_that_torch_allows() -> None:
    trained, found = model(), criterion()
    features = relu(trained.trunk(rows()), inplace=True)  # before the heads
    terms = {
        "a": trained.heads.a(relu(features.clone(), inplace=True)).mean(),
        "b": trained.heads.b(features).mul_(30).mean(),
    }
    taken = [torch.autograd.grad(t, features, retain_graph=True) for t in terms.values()]
    found(terms, shared=features).backward()
    assert weights(found) == pytest.approx({"a": 1 / norm(taken[0]), "b": 2 / norm(taken[1])})


def of_vector(x: Tensor) -> dict[str, Tensor]:
    return {"a": x.sum(), "b": x.square().sum()}


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.vmap, torch.func.jacrev])
def test_under_functional_transforms_only_weights_that_stand(transform: Any) -> None:
    found, x = criterion(), torch.ones(1, 3)
    with pytest.raises(RuntimeError, match="breakdown.*current weights"):
        transform(lambda x: found(of_vector(x), shared=x).sum())(x)
    total = transform(lambda x: found.breakdown(of_vector(x)).total)(x)
    expected = transform(lambda x: x.sum() + 2 * x.square().sum())(x)  # the weights are 1 so far
    torch.testing.assert_close(total, expected)


def test_a_term_that_is_made_of_a_gradient() -> None:
    trained, found = model(), criterion()
    terms, features = trained(rows())
    slope = torch.autograd.grad(terms["a"], features, create_graph=True)[0]
    given = {"a": slope.square().sum(), "b": terms["b"]}
    taken = [torch.autograd.grad(t, features, retain_graph=True) for t in given.values()]
    found(given, shared=features).backward()
    assert weights(found) == pytest.approx({"a": 1 / norm(taken[0]), "b": 2 / norm(taken[1])})
