"""Terms in float64: the weights of a forward pass multiply in float64, and the state is float32."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from lossweights import Term, WeightedLoss
from lossweights.components.balancers import Balancer, GradientBalancer
from lossweights.components.balancers.gradient.dual_cone import projection_weights
from tests.components.balancers.gradient import exact
from tests.components.balancers.gradient.gramians import Array, gramian

NAMES = ("a", "b", "c", "d")
KINDS = sorted(
    kind
    for kind, component in Balancer.kinds().items()
    if issubclass(component, GradientBalancer) and not kind.startswith("test-")
)


def balancer(kind: str, **fields: object) -> dict[str, object]:
    needed: dict[str, dict[str, object]] = {
        "gradient-similarity": {"primary": "a"},
        "lr-annealing": {"reference": "a"},
        "norm-balance": {"per_item": False},
    }
    return {"kind": kind, **needed.get(kind, {}), **fields}


def trained(
    jacobian: Array, table: dict[str, object], also: Callable[[Tensor], Tensor] | None = None
) -> tuple[Array, WeightedLoss]:
    """The gradient of linear terms with this Jacobian in float64, and the criterion."""
    x = torch.zeros(jacobian.shape[1], dtype=torch.float64, requires_grad=True)
    values = torch.from_numpy(jacobian) @ x + 1
    given = dict(zip(NAMES, values.unbind(), strict=False))
    terms: dict[str, Term] = {name: Term() for name in given}
    if also is not None:
        given["z"], terms["z"] = also(x), Term(balanced=False)
    criterion = WeightedLoss(terms, balancer=table)
    total = criterion(given, shared=x)
    total.backward()
    assert total.dtype is torch.float64
    assert x.grad is not None
    return x.grad.numpy(), criterion


def jacobians(count: int) -> list[Array]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=(4, 5)) * 10 ** rng.uniform(-3, 3, size=(4, 1)) for _ in range(count)]


@pytest.mark.parametrize("heads", ["weighted", "plain"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_direction_is_not_rounded_to_float32(kind: str, heads: str) -> None:
    """Computed by hand from the weights of the report."""
    rounded = True
    for jacobian in jacobians(3):
        found, criterion = trained(jacobian, balancer(kind, heads=heads))
        report = criterion.report()
        assert report is not None
        weights = torch.stack([report.weight[name] for name in NAMES])
        assert weights.dtype is torch.float64
        summands = jacobian * weights.numpy()[:, None]
        # With `plain` the gradient of the plain sum is changed into the balanced one.
        largest = np.abs(jacobian if heads == "plain" else summands).max()
        away = np.abs(found - summands.sum(axis=0)).max()
        assert away <= 1e-14 * max(largest, np.abs(summands).max())
        rounded &= bool((weights == weights.float()).all())
        for key, tensor in criterion.state_dict().items():
            if key.startswith("adaptive.") and tensor.is_floating_point():
                statistic = key.rpartition(".")[2] in ("gramian", "norms", "item_norms")
                statistic |= key.rpartition(".")[2] in ("max_abs", "mean_abs")
                assert tensor.dtype is (torch.float64 if statistic else torch.float32)
    assert rounded == (kind == "gradnorm")  # whose weights are 1 in the first step


def projected(jacobian: Array, start: Array) -> Array:
    """The projection onto the dual cone, through the least value over the faces."""
    products = gramian(jacobian)
    changes = projection_weights(products, start[None])[0] - start
    value = 0.5 * changes @ products @ changes + changes @ products @ start
    assert value == pytest.approx(exact.least(products, -products @ start), rel=1e-12, abs=1e-12)
    found: Array = jacobian.T @ (start + changes)
    return found


def test_directions_to_ten_digits() -> None:
    """Against exact solutions, relative to the largest gradient that has a say."""
    for jacobian in jacobians(4):
        norms = np.linalg.norm(jacobian, axis=1)
        shortest = exact.shortest(jacobian)
        assert (
            np.abs(trained(jacobian, balancer("mgda"))[0] - shortest).max() <= 1e-10 * norms.min()
        )
        averse = exact.conflict_averse(jacobian, 0.5)
        away = np.abs(trained(jacobian, balancer("cagrad"))[0] - averse).max()
        assert away <= 1e-10 * np.linalg.norm(averse)
        mean = np.full(4, 0.25)
        away = np.abs(trained(jacobian, balancer("dualproj"))[0] - projected(jacobian, mean)).max()
        assert away <= 1e-10 * norms.max()
        each = sum(projected(jacobian, row) for row in np.eye(4) / 4)
        away = np.abs(trained(jacobian, balancer("upgrad"))[0] - each).max()
        assert away <= 1e-10 * norms.max()


def test_gradients_nearly_opposed() -> None:
    """The only direction that conflicts with no term is 0; with float32 weights it was 7e-5."""
    jacobian = np.array([[1, 1e-4], [-1.1, 1.3e-4], [0.2, -1]])
    for kind in ("upgrad", "dualproj", "mgda"):
        assert np.abs(trained(jacobian, balancer(kind))[0]).max() <= 1e-8


def test_beside_a_term_that_is_not_balanced() -> None:
    jacobian = jacobians(1)[0]
    alone, _ = trained(jacobian, balancer("upgrad"))
    both, _ = trained(jacobian, balancer("upgrad"), also=lambda x: 3 * x[0])
    both[0] -= 3
    assert np.abs(both - alone).max() <= 1e-12 * np.abs(alone).max()


def test_between_steps_with_gradients_the_terms_keep_float64() -> None:
    x = torch.ones(2, dtype=torch.float64, requires_grad=True)
    for heads in ("weighted", "plain"):
        criterion = WeightedLoss(
            ["a", "b"], balancer={"kind": "imtl-g", "every": "2 steps", "heads": heads}
        )
        for _ in range(3):
            total = criterion({"a": x[0] / 3, "b": x.sum() / 7}, shared=x)
            assert total.dtype is torch.float64
            total.backward()
            criterion.step()
        criterion.eval()
        assert criterion({"a": x[0] / 3, "b": x.sum() / 7}).dtype is torch.float64


@pytest.mark.parametrize("lacks", [False, True])
def test_balancers_of_values_in_the_forward_pass(lacks: bool) -> None:
    """The geometric mean has the gradient of the geometric mean."""
    values = torch.tensor([0.3, 7.1, 110.0][: 2 + (not lacks)], dtype=torch.float64)
    values.requires_grad_()
    terms = {name: Term(optional=True) for name in "abc"}
    criterion = WeightedLoss(terms, balancer="geometric")
    criterion(dict(zip("abc", values, strict=False))).backward()
    (wanted,) = torch.autograd.grad(values.log().mean().exp(), values)
    assert values.grad is not None
    assert ((values.grad - wanted) / wanted).abs().max() <= 1e-14


@pytest.mark.parametrize("kind", ["uncertainty", "imtl-l"])
def test_learned_weights(kind: str) -> None:
    """They are float32, and combine with float64 terms in float64."""
    criterion = WeightedLoss(["a", "b"], balancer=kind)
    a, b = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (1 / 3, 2 / 3))
    total = criterion({"a": a, "b": b})
    assert total.dtype is torch.float64
    total.backward()
    (learned,) = criterion.parameters()
    assert learned.dtype is torch.float32
    assert learned.grad is not None
