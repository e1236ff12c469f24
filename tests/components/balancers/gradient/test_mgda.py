"""MGDA."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lossweights import ConfigError, WeightedLoss
from lossweights.components.balancers.gradient.mgda import (
    MGDA,
    mgda_weights,
)
from tests.components.balancers.gradient import exact
from tests.components.balancers.gradient.gramians import (
    Array,
    cases,
    gramian,
    hostile,
    moment,
    scattered,
    weights_of,
)


def direction(jacobian: Array) -> Array:
    found: Array = jacobian.T @ mgda_weights(gramian(jacobian))
    return found


def test_values_by_hand() -> None:
    """(1, 0) and (0, 2): the nearest point to 0 on the segment between them is (0.8, 0.4)."""
    assert mgda_weights(np.diag([1.0, 4.0])).tolist() == pytest.approx([0.8, 0.2])
    opposed = np.array([[1.0, -3.0], [-3.0, 9.0]])
    assert mgda_weights(opposed).tolist() == pytest.approx([0.75, 0.25])


def test_a_gradient_that_is_longer_in_the_same_direction_has_no_weight() -> None:
    assert mgda_weights(np.array([[4.0, 2.0], [2.0, 1.0]])).tolist() == [0, 1]
    assert mgda_weights(np.array([[1.0, 5.0], [5.0, 50.0]])).tolist() == [1, 0]


def test_recorded_directions() -> None:
    for case in cases():
        theirs = case.recorded["clarabel direction MGDA"]
        assert np.abs(direction(case.jacobian) - theirs).max() < 1e-12, case.name


def test_recorded_weights_of_two_terms() -> None:
    """LibMTL solves for two terms exactly, but has 0.999 and 0.001 for 1 and 0."""
    for case in cases("libmtl weights MGDA"):
        theirs = case.recorded["libmtl weights MGDA"]
        if len(theirs) == 2:
            away = 1.01e-3 if theirs.max() > 0.9985 else 1e-12
            assert np.abs(mgda_weights(case.gramian) - theirs).max() < away, case.name


def test_directions_found_by_trying_every_face() -> None:
    for jacobian in scattered(60):
        away = np.abs(direction(jacobian) - exact.shortest(jacobian)).max()
        assert away <= 1e-12 * np.linalg.norm(jacobian, axis=1).min()


def test_long_gradients_that_cancel() -> None:
    """The shortest vector is 0, however short a third gradient is."""
    jacobian = np.array([[1e8, 0.0], [-1e8, 0.0], [0.6, 0.8]])
    assert np.abs(direction(jacobian)).max() <= 1e-12
    rng = np.random.default_rng(1)
    for index in range(150):
        terms, width = rng.integers(2, 7), rng.integers(1, 6)
        jacobian = rng.normal(size=(terms, width))
        if index % 3 == 0:
            jacobian = np.where(np.abs(jacobian) < 0.5, 1.0, np.round(2 * jacobian))
        if terms > 3 and index % 4 == 0:
            jacobian[2] = -jacobian[0] - 0.5 * jacobian[1]
        jacobian *= 10 ** rng.uniform(-3, 3, size=(terms, 1))
        if index % 2 == 0:
            jacobian[-1] = -jacobian[0]
        if index % 11 == 0:
            jacobian[-1] = 2 * jacobian[0]
        away = np.abs(direction(jacobian) - exact.shortest(jacobian)).max()
        assert away <= 1e-9 * np.linalg.norm(jacobian, axis=1).min()


@pytest.mark.parametrize("name", hostile())
def test_hostile_gradients(name: str) -> None:
    jacobian = hostile()[name]
    weights = weights_of(MGDA(), jacobian)
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1)
    norms = np.linalg.norm(jacobian, axis=1)
    # The Gramian of what is nearly equal cannot tell more.
    accuracy = (1e-8 if name == "nearly equal" else 1e-12) * norms.min()
    d = jacobian.T @ weights
    assert (jacobian @ d >= d @ d - accuracy * norms).all()
    if len(jacobian) <= 8:
        assert np.abs(d - exact.shortest(jacobian)).max() <= accuracy


def test_twenty_terms_conflict_with_none() -> None:
    rng = np.random.default_rng(4)
    for rank in (1, 3, 10, 20, 100):
        jacobian = rng.normal(size=(20, rank)) + rng.normal(size=rank)
        d = direction(jacobian)
        norms = np.linalg.norm(jacobian, axis=1)
        assert (jacobian @ d >= d @ d - 1e-13 * norms * norms.min()).all()


def test_equal_gradients_have_equal_weights() -> None:
    for name, groups in {"equal": [0, 0, 0, 0], "two equal": [0, 0, 1], "all 0": [0, 0, 0]}.items():
        weights = mgda_weights(gramian(hostile()[name]))
        for group in set(groups):
            members = weights[np.array(groups) == group]
            assert members.tolist() == pytest.approx([members[0]] * len(members))


def test_a_gradient_of_0_has_all_the_weight() -> None:
    assert mgda_weights(gramian(hostile()["one 0"])).tolist() == [0, 1, 0, 0]
    assert mgda_weights(gramian(hostile()["all 0 but one"])).tolist() == [0.5, 0, 0.5]


def test_the_scale_of_all_gradients_does_not_matter() -> None:
    jacobian = hostile()["badly scaled"]
    for scale in (1e-30, 1e-3, 1e30):
        ours = mgda_weights(gramian(scale * jacobian))
        assert ours.tolist() == pytest.approx(mgda_weights(gramian(jacobian)).tolist(), rel=1e-9)


def test_the_order_of_terms_does_not_matter() -> None:
    for jacobian in scattered(30):
        turned = jacobian[::-1]
        away = np.abs(direction(turned) - direction(jacobian)).max()
        assert away <= 1e-12 * np.linalg.norm(jacobian, axis=1).min()


def test_gradients_divided_by_their_length() -> None:
    for case in cases():
        if not case.jacobian.any():
            continue
        units = case.jacobian / np.linalg.norm(case.jacobian, axis=1, keepdims=True)
        d = case.jacobian.T @ weights_of(MGDA(divide_by="norm"), case.jacobian)
        shortest = exact.shortest(units)
        if np.linalg.norm(shortest) > 1e-9:
            assert d / np.linalg.norm(d) == pytest.approx(shortest / np.linalg.norm(shortest))
        else:
            assert np.linalg.norm(d) < 1e-9


@pytest.mark.parametrize(
    ("divide_by", "sizes"),
    [("norm", (1, 2)), ("loss", (5, 3)), ("loss+", (5, 6))],
)
def test_divided_by_hand(divide_by: str, sizes: tuple[float, float]) -> None:
    """Orthogonal gradients a and b of lengths 1 and 2, with losses of 5 and 3.

    Divided, their lengths are 1 / sizes[0] and 2 / sizes[1]; the weights are as the inverse
    squares of these, over the sizes once more.
    """
    a, b = sizes
    expected = np.array([a**2 / a, b**2 / 4 / b])
    balancer = MGDA.model_validate({"divide_by": divide_by})
    weights = weights_of(balancer, np.diag([1.0, 2.0]), [5.0, -3.0])
    assert weights.tolist() == pytest.approx((expected / expected.sum()).tolist())


@pytest.mark.parametrize("divide_by", ["norm", "loss", "loss+"])
@pytest.mark.parametrize("name", hostile())
def test_divided_gradients_conflict_with_none(divide_by: str, name: str) -> None:
    jacobian = hostile()[name]
    losses = np.random.default_rng(5).normal(size=len(jacobian)).tolist()
    balancer = MGDA.model_validate({"divide_by": divide_by})
    weights = weights_of(balancer, jacobian, losses)
    assert np.isfinite(weights).all()
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1)
    d = jacobian.T @ weights
    norms = np.linalg.norm(jacobian, axis=1)
    assert (jacobian @ d >= -1e-12 * norms * (weights * norms).max()).all()


def test_losses_of_0_and_what_is_not_finite() -> None:
    jacobian = np.diag([1.0, 2.0])
    balancer = MGDA(divide_by="loss")
    assert weights_of(balancer, jacobian, [0.0, 1.0]).tolist() == pytest.approx([0, 1])
    assert weights_of(balancer, jacobian, [0.0, 0.0]).tolist() == pytest.approx([0.8, 0.2])
    assert np.isnan(weights_of(balancer, jacobian, [np.nan, 1.0])).all()
    for plain in (balancer, MGDA()):
        for value in (np.inf, np.nan):
            given = moment(np.array([[value, 0.0], [0.0, 1.0]]))
            assert plain.weigh(torch.ones(2), {}, given).isnan().all()


def test_the_gramian_is_left_alone() -> None:
    given = gramian(hostile()["badly scaled"])
    before = given.copy()
    for divide_by in ("none", "norm", "loss", "loss+"):
        balancer = MGDA.model_validate({"divide_by": divide_by})
        balancer.weigh(torch.ones(len(given)), {}, moment(given))
    assert np.array_equal(given, before)


def test_a_criterion_goes_along_the_shortest_vector() -> None:
    for case in cases():
        x = torch.zeros(case.jacobian.shape[1], requires_grad=True)
        values = torch.tensor(case.jacobian, dtype=torch.float32) @ x
        names = [f"t{i}" for i in range(len(values))]
        criterion = WeightedLoss(terms=names, balancer="mgda")
        criterion(dict(zip(names, values, strict=True)), shared=x).backward()
        assert x.grad is not None
        size = np.linalg.norm(case.jacobian, axis=1).min()
        theirs = case.recorded["clarabel direction MGDA"]
        assert np.abs(x.grad.numpy() - theirs).max() <= 1e-5 * size


def test_refused() -> None:
    with pytest.raises(ConfigError, match=r"balancer\.divide_by: must be 'none', 'norm'"):
        WeightedLoss(terms=["a"], balancer={"kind": "mgda", "divide_by": "l2"})
