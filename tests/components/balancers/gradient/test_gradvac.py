"""GradVac."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lossweights import ConfigError, Horizon, WeightedLoss
from lossweights.components.balancers.gradient.gradvac import GradVac, gradvac_weights
from lossweights.components.balancers.gradient.pcgrad import pcgrad_weights
from lossweights.components.context import Gradients, State, StepContext
from lossweights.components.random import Orders, orders
from tests.components.balancers.gradient.gramians import (
    Array,
    cases,
    gramian,
    hostile,
    moment,
    scattered,
    weights_of,
)


def vaccinated(jacobian: Array, targets: Array, order: Orders, share: float) -> tuple[Array, Array]:
    """Algorithm 1 of the paper, on the gradients themselves; `share` is its beta."""
    total, moved = np.zeros(jacobian.shape[1]), targets.copy()
    for i, others in enumerate(order):
        turned = jacobian[i].copy()
        for j in others:
            other, target = jacobian[j], targets[i, j]
            own, theirs = np.linalg.norm(turned), np.linalg.norm(other)
            cosine = turned @ other / (own * theirs)
            if cosine < target:
                lacking = target * np.sqrt(1 - cosine**2) - cosine * np.sqrt(1 - target**2)
                turned = turned + own * lacking / (theirs * np.sqrt(1 - target**2)) * other
            moved[i, j] = (1 - share) * target + share * cosine
        total += turned
    return total, moved


def after(step: int, products: Array, seen: list[bool] | None = None) -> StepContext:
    """The moment after a step whose mean Gramian this is."""
    there = torch.tensor(seen or [True] * len(products))
    names = [f"t{index}" for index in range(len(products))]
    gradients = Gradients(names, {"gramian": torch.from_numpy(products)}, there)
    return StepContext({}, step=step, before=step - 1, horizon=Horizon(), gradients=gradients)


def trained(balancer: GradVac, jacobians: list[Array]) -> tuple[list[Array], State]:
    """The directions of some steps, and the state at the end, in float64."""
    state = {key: tensor.double() for key, tensor in balancer.init(len(jacobians[0])).items()}
    directions = []
    for step, jacobian in enumerate(jacobians):
        products = gramian(jacobian)
        losses = torch.ones(len(jacobian))
        weights = balancer.weigh(losses, state, moment(products, step=step)).numpy()
        directions.append(jacobian.T @ weights)
        balancer.update(losses, state, after(step + 1, products))
    return directions, state


def test_weights_by_hand() -> None:
    """(1, 0) comes up to a cosine of 0.6 with (0, 2) by 3/8 of it; the other has no target."""
    targets = np.array([[0.0, 0.6], [0.0, 0.0]])
    order = orders(0, 0, 2)
    weights, moved = gradvac_weights(np.diag([1.0, 4.0]), targets, order, 0.9)
    assert weights.tolist() == pytest.approx([1, 1 + 3 / 8])
    assert moved.tolist() == [[0, pytest.approx(0.54)], [0, 0]]


def test_recorded_weights_of_two_terms() -> None:
    """Their first call, with 1e-8 added to each denominator."""
    checked = 0
    for case in cases("torchjd weights GradVac", "libmtl direction GradVac"):
        if len(case.jacobian) == 2:
            ours = weights_of(GradVac(), case.jacobian)
            np.testing.assert_allclose(ours, case.recorded["torchjd weights GradVac"], rtol=1e-6)
            theirs = case.recorded["libmtl direction GradVac"]
            np.testing.assert_allclose(case.jacobian.T @ ours, theirs, rtol=1e-6)
            checked += 1
    assert checked == 5


def test_the_trajectory_of_torchjd_with_two_terms() -> None:
    """As torchjd 0.18.0 gives it, GradVacWeighting(beta=0.5, eps=0), called once a step."""
    aggregation = pytest.importorskip("torchjd.aggregation")
    rng = np.random.default_rng(0)
    jacobians = [rng.normal(size=(2, 4)) + 0.7 for _ in range(12)]
    theirs = aggregation.GradVacWeighting(beta=0.5, eps=0.0)
    directions, _ = trained(GradVac(smoothing=0.5), jacobians)
    for jacobian, ours in zip(jacobians, directions, strict=True):
        wanted = jacobian.T @ theirs(torch.from_numpy(gramian(jacobian))).numpy()
        np.testing.assert_allclose(ours, wanted, rtol=1e-9)


@pytest.mark.parametrize("share", [0.01, 0.5, 1.0])
def test_the_same_as_on_the_gradients(share: float) -> None:
    """Over some steps, with orders that follow from the seed and the step."""
    rng = np.random.default_rng(1)
    jacobians = [rng.normal(size=(5, 7)) * 10 ** rng.uniform(-1, 1, size=(5, 1)) for _ in range(20)]
    targets = np.zeros((5, 5))
    directions, state = trained(GradVac(smoothing=1 - share, seed=3), jacobians)
    for step, (jacobian, ours) in enumerate(zip(jacobians, directions, strict=True)):
        wanted, targets = vaccinated(jacobian, targets, orders(3, step, 5), share)
        np.testing.assert_allclose(ours, wanted, rtol=1e-8)
    np.testing.assert_allclose(state["targets"].numpy(), targets, rtol=1e-8)


def test_without_targets_it_is_pcgrad() -> None:
    for index, jacobian in enumerate(scattered(40)):
        products, order = gramian(jacobian), orders(index, 0, len(jacobian))
        ours, _ = gradvac_weights(products, np.zeros_like(products), order, 0.99)
        difference = jacobian.T @ (ours - pcgrad_weights(products, order))
        assert np.abs(difference).max() < 1e-6 * np.abs(jacobian).max()


def test_targets_rise_as_well_as_fall() -> None:
    """In LibMTL they move only where a cosine is below its target, and so never above 0."""
    _, state = trained(GradVac(smoothing=0.9), [np.array([[1.0, 0.0], [3.0, 4.0]])] * 30)
    wanted = 0.6 * (1 - 0.9**30)
    assert state["targets"].flatten().tolist() == pytest.approx([0, wanted, wanted, 0])


def test_weights_where_nothing_falls_behind() -> None:
    """Gradients that agree as ever have weights of 1, and so have gradients of 0."""
    agreeing = np.abs(np.random.default_rng(2).normal(size=(4, 6)))
    directions, _ = trained(GradVac(smoothing=0.5), [agreeing] * 30)
    for direction in directions:
        np.testing.assert_allclose(direction, agreeing.sum(axis=0), rtol=1e-9)
    state = {"targets": torch.full((4, 4), 0.9)}
    found = weights_of(GradVac(), np.zeros((4, 3)), state=state)
    assert found.tolist() == [1] * 4


def test_weigh_changes_nothing() -> None:
    state = {"targets": torch.full((3, 3), 0.3)}
    products = gramian(hostile()["stationary"])
    for _ in range(2):
        GradVac().weigh(torch.ones(3), state, moment(products))
    assert (state["targets"] == torch.tensor(0.3)).all()
    GradVac().update(torch.ones(3), state, after(1, products))
    same = state["targets"] == torch.tensor(0.3)
    assert torch.equal(same, torch.eye(3, dtype=torch.bool))  # a term does not meet itself


def test_terms_that_are_absent_keep_their_targets() -> None:
    """The others move as if they were alone."""
    balancer = GradVac(smoothing=0.5, seed=8)
    rows = np.random.default_rng(3).normal(size=(5, 4))
    start = torch.rand(5, 5, generator=torch.Generator().manual_seed(0)).mul(0.8)
    state = {"targets": start.clone()}
    present = [0, 2, 3]
    rows[[1, 4]] = 0
    seen = [index in present for index in range(5)]
    balancer.update(torch.ones(5), state, after(4, gramian(rows), seen))
    alone = {"targets": start[present][:, present].clone()}
    balancer.update(torch.ones(3), alone, after(4, gramian(rows[present])))
    assert torch.equal(state["targets"][present][:, present], alone["targets"])
    kept = torch.tensor(seen).logical_not()
    assert torch.equal(state["targets"][kept], start[kept])
    assert torch.equal(state["targets"][:, kept], start[:, kept])
    assert not torch.equal(state["targets"], start)


def test_gradients_of_0_keep_their_targets() -> None:
    start = np.full((3, 3), 0.5)
    rows = np.array([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    weights, moved = gradvac_weights(gramian(rows), start, orders(0, 0, 3), 0.9)
    assert weights.tolist() == [1, 1, 1]
    assert (moved[1] == 0.5).all()
    assert (moved[:, 1] == 0.5).all()
    assert moved[0, 2] == pytest.approx(0.5 + 0.1 * (np.sqrt(0.5) - 0.5))


def test_what_was_cut_away_keeps_its_targets() -> None:
    """Of opposed gradients nothing is left, of which a third could have an angle to."""
    rows = np.random.default_rng(6).normal(size=(3, 5))
    rows[1] = -3 * rows[0]
    order = np.array([[1, 2], [0, 2], [0, 1]])
    targets = np.array([[0.0, 0.0, 0.7], [0.0, 0.0, 0.7], [0.0, 0.0, 0.0]])
    weights, moved = gradvac_weights(gramian(rows), targets, order, 0.5)
    assert weights.tolist() == pytest.approx(pcgrad_weights(gramian(rows), order).tolist())
    assert moved[:2, 2].tolist() == [0.7, 0.7]


@pytest.mark.parametrize("target", [-1.0, 0.0, 0.9, 1.0])
@pytest.mark.parametrize("name", hostile())
def test_weights_and_targets_stay_finite(name: str, target: float) -> None:
    jacobian = hostile()[name]
    terms = len(jacobian)
    balancer = GradVac(smoothing=0.5)
    state = {"targets": torch.full((terms, terms), target)}
    weights = weights_of(balancer, jacobian, state=state)
    assert np.isfinite(weights.astype(np.float32)).all()
    assert weights.min() >= 1 - 1e-12 or weights.max() > 1e29
    balancer.update(torch.ones(terms), state, after(1, gramian(jacobian)))
    assert (state["targets"].abs() <= 1).all()


def test_a_target_of_1_takes_much_of_the_other_and_not_all() -> None:
    state = {"targets": torch.ones(2, 2)}
    weights = weights_of(GradVac(), np.eye(2), state=state)
    assert weights.tolist() == pytest.approx([708, 708], abs=1)


def test_a_target_of_1_is_met_by_gradients_that_are_as_good_as_equal() -> None:
    rows = np.array([[1.0, 0.0], [1.0, 4e-4]])
    state = {"targets": torch.ones(2, 2)}
    assert weights_of(GradVac(), rows, state=state).tolist() == [1, 1]


def test_a_target_below_0_lets_a_conflict_be() -> None:
    rows = np.array([[1.0, 0.0], [-0.6, 0.8]])
    state = {"targets": torch.full((2, 2), -0.7)}
    assert weights_of(GradVac(), rows, state=state).tolist() == [1, 1]


def test_gradients_that_are_not_finite() -> None:
    found = GradVac().weigh(torch.ones(2), GradVac().init(2), moment(np.full((2, 2), np.nan)))
    assert found.isnan().all()


def test_micro_batches_of_a_step_are_one() -> None:
    """Targets move once a step, by the mean Gramian of its forward passes."""
    table = {"kind": "gradvac", "smoothing": 0.5}
    criterion = WeightedLoss(terms=["a", "b"], balancer=table)
    shared = torch.zeros(2, requires_grad=True)
    for share in (0.0, 2.0):  # Gramians [[1, 0], [0, 1]] and [[1, 2], [2, 5]]
        terms = {"a": shared[0], "b": shared[1] + share * shared[0]}
        criterion(terms, shared=shared).backward()
    criterion.step()
    target = 0.5 / np.sqrt(3)
    shared.grad = None
    criterion({"a": shared[0], "b": shared[1]}, shared=shared).backward()
    assert shared.grad is not None
    share = target / np.sqrt(1 - target**2)
    assert shared.grad.tolist() == pytest.approx([1 + share, 1 + share])


@pytest.mark.parametrize(("field", "value"), [("smoothing", 1.5), ("seed", -1)])
def test_refused(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"balancer\.{field}: must be"):
        WeightedLoss(terms=["a"], balancer={"kind": "gradvac", field: value})


def test_terms_of_batches_of_their_own_keep_their_target() -> None:
    """Two languages, a batch each: nothing was seen of the angle between their gradients."""
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    terms = {"a": x[0], "b": x.sum(), "c": x[1] - x[0] / 2}
    criterion = WeightedLoss(
        terms={name: {"optional": True} for name in terms},
        balancer={"kind": "gradvac", "smoothing": 0.5},
    )
    criterion(terms, shared=x)
    criterion.step()
    before = criterion.adaptive.slots["balancer"].state["targets"].clone()
    assert before[0, 1] > 0
    for names in (("a",), ("b", "c")):
        criterion({name: terms[name] for name in names}, shared=x)
    criterion.step()
    after = criterion.adaptive.slots["balancer"].state["targets"]
    assert torch.equal(after[0], before[0])
    assert torch.equal(after[:, 0], before[:, 0])
    assert after[1, 2] != before[1, 2]
