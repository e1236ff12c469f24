"""`bounds` and `normalize`, around what any balancer finds."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor

from lossweights import ConfigError, WeightedLoss
from lossweights.components.balancers import DWA, Balancer, GradientBalancer
from lossweights.components.balancers.base import Normalize, adjusted_weights
from lossweights.components.context import State, Statistic, StepContext
from lossweights.testing.training import NAMES, STEPS, Training
from tests.small_components import leaf
from tests.test_adaptive_properties import EXAMPLES

BALANCERS = [e for e in EXAMPLES if isinstance(e, Balancer) and not e.adjusts]
LOW, HIGH = 0.25, 0.75


@pytest.mark.parametrize(
    ("normalize", "bounds", "expected"),
    [
        ("none", None, [-1.0, 0.0, 4.0, 5.0]),
        ("sum", None, [-0.1, 0.0, 0.4, 0.5]),
        ("mean", None, [-0.4, 0.0, 1.6, 2.0]),
        ("none", (0.5, 4.5), [0.5, 0.5, 4.0, 4.5]),
        ("none", (-2.0, 4.5), [-1.0, 0.0, 4.0, 4.5]),
        ("mean", (0.0, 1.8), [0.0, 0.0, 1.6, 1.8]),  # scaled first
    ],
)
def test_by_hand(
    normalize: Normalize, bounds: tuple[float, float] | None, expected: list[float]
) -> None:
    found = torch.tensor([-1.0, 0.0, 4.0, 5.0])
    assert adjusted_weights(found, normalize, bounds).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("normalize", ["mean", "sum"])
def test_weights_that_are_0_or_unknown_stay_so(normalize: Normalize) -> None:
    assert adjusted_weights(torch.zeros(2), normalize, None).tolist() == [0, 0]
    unknown = adjusted_weights(torch.full((2,), torch.nan), normalize, (0.1, 1))
    assert unknown.isnan().all()


@pytest.mark.parametrize(
    "bounds", [10, [1], [10, 0.1], [1, 1], [-2, -1], [-1, 0], [0.1, 1, 10], {"lowest": 1}, "0.1"]
)
def test_bounds_that_are_no_bounds(bounds: Any) -> None:
    message = r"balancer\.bounds: the lowest and the highest weight are needed.*\[0\.1, 10\], found"
    with pytest.raises(ConfigError, match=message):
        WeightedLoss(["a"], balancer={"kind": "dwa", "bounds": bounds})


def test_unknown_normalize() -> None:
    message = r"balancer\.normalize: must be 'none', 'mean' or 'sum', found 'max'"
    with pytest.raises(ConfigError, match=message):
        WeightedLoss(["a"], balancer={"kind": "dwa", "normalize": "max"})


def test_a_class_cannot_give_the_fields_another_meaning() -> None:
    message = "Own has a field 'normalize' of its own, which every balancer has"
    with pytest.raises(TypeError, match=message):

        class Own(Balancer, kind="test-own"):
            normalize: Literal["none", "norm"] = "none"  # type: ignore[assignment]

            def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
                return torch.ones(len(losses))

    assert not Balancer.has_kind("test-own")


def test_a_class_may_give_them_another_default() -> None:
    class Three(Balancer, kind="test-three"):
        normalize: Normalize = "sum"

        def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
            return torch.full((len(losses),), 3.0)

    assert WeightedLoss(["a", "b"], balancer="test-three").weights == {"a": 0.5, "b": 0.5}
    del Balancer._registry["test-three"]


# What holds for every registered balancer


def trained(balancer: Balancer) -> tuple[dict[str, Tensor], Training]:
    """The weights that were found and applied, a row for each step."""
    training, rows = Training(balancer), []
    for step in range(STEPS):
        training.forward(step)
        training.step(step)
        rows.append(training.criterion.report())
    found = {
        quantity: torch.tensor([[*getattr(row, quantity).values()] for row in rows])
        for quantity in ("found", "weight")
    }
    assert [*rows[0].weight] == [*NAMES]
    return found, training


@pytest.mark.parametrize("balancer", BALANCERS, ids=repr)
def test_any_balancer_learns_as_without_them(balancer: Balancer) -> None:
    """What it finds and its state are the same, bit for bit, learned weights too."""
    plain, without = trained(balancer)
    assert not plain["found"].numel()
    fields = {"normalize": "mean", "bounds": (LOW, HIGH)}
    ours, training = trained(balancer.model_copy(update=fields))
    assert (ours["weight"] >= LOW - 1e-6).all()
    assert (ours["weight"] <= HIGH + 1e-6).all()
    every = balancer.every if isinstance(balancer, GradientBalancer) else None
    is_kept = torch.arange(STEPS) % training.criterion.horizon.steps(every or "1 steps") != 0
    assert ours["found"][is_kept].isnan().all(), "between two steps that compute gradients"
    assert torch.equal(ours["found"][~is_kept], plain["weight"][~is_kept])
    theirs = without.criterion.state_dict()
    for key, tensor in training.criterion.state_dict().items():
        is_applied = key in ("adaptive.gradients.weights", "adaptive.gradients.fresh")
        assert is_applied or torch.equal(tensor, theirs[key]), key


@pytest.mark.parametrize("balancer", BALANCERS, ids=repr)
def test_weights_are_scaled_and_stay_in_proportion(balancer: Balancer) -> None:
    ours, _ = trained(balancer.model_copy(update={"normalize": "sum"}))
    weights, found = ours["weight"], ours["found"]
    torch.testing.assert_close(weights.abs().sum(dim=1), torch.ones(STEPS))
    expected = found / found.abs().sum(dim=1, keepdim=True)
    torch.testing.assert_close(weights, torch.where(found.isnan(), weights, expected))


# With learned weights


@pytest.mark.parametrize(("loss", "applied"), [(0.05, 2.0), (20.0, 0.1)])
def test_a_learned_weight_comes_back_from_beyond_a_bound(loss: float, applied: float) -> None:
    """A clamp alone would leave the penalty, which moves it away for good."""
    balancer = {"kind": "uncertainty", "bounds": [0.1, 2]}
    criterion = WeightedLoss(["a"], balancer=balancer)
    optimizer = torch.optim.Adam(criterion.parameters(), lr=0.05)

    def settled(value: float) -> tuple[float, float]:
        for _ in range(1000):
            optimizer.zero_grad()
            criterion({"a": torch.tensor(value)}).backward()
            optimizer.step()
            criterion.step()
        found = criterion.metrics(include=["found", "weight"])
        return found["found/a"], found["weight/a"]

    found, weight = settled(loss)
    assert found == pytest.approx(1 / (2 * loss), rel=0.05), "0.5 exp(-s) is 1 / (2 l)"
    assert weight == pytest.approx(applied)
    found, weight = settled(1.0)
    assert found == weight == pytest.approx(0.5, rel=0.1)


def test_the_gradient_of_the_model_has_the_applied_weight() -> None:
    criterion = WeightedLoss(["a", "b"], balancer={"kind": "uncertainty", "bounds": [1, 2]})
    a, b = leaf(3.0), leaf(5.0)
    total = criterion({"a": a, "b": b})
    total.backward()
    (log_variance,) = criterion.parameters()
    assert float(total.detach()) == 8  # 1 * 3 + 1 * 5, with penalties of 0
    assert a.grad is not None
    assert b.grad is not None
    assert log_variance.grad is not None
    assert [float(a.grad), float(b.grad)] == [1, 1]
    assert log_variance.grad.tolist() == [-0.5 * 3 + 0.5, -0.5 * 5 + 0.5]  # as without bounds


def test_a_weight_far_beyond_its_bound_is_exact() -> None:
    """A difference of 1e30 and 2 would have no digit of the 2."""
    criterion = WeightedLoss(["a"], balancer={"kind": "imtl-l", "initial": 69.0, "bounds": [1, 2]})
    a = leaf(3.0)
    criterion({"a": a}).backward()
    assert criterion.metrics(include=["weight"]) == {"weight/a": 2.0}
    assert a.grad == 2


# With gradients


class InverseNorms(GradientBalancer, kind="test-inverse-norms"):
    """Infinite for a gradient of 0."""

    needs: ClassVar[tuple[Statistic, ...]] = ("norms",)

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        return 1 / now.gradients.norms


def test_weights_that_are_not_finite_are_not_made_so_by_bounds() -> None:
    """All keep the weights of the last step, as without bounds."""
    criterion = WeightedLoss(["a", "b"], balancer=InverseNorms(bounds=(0.1, 4)))
    x = torch.ones(2, requires_grad=True)
    rows = []
    for factor in (0.5, 0.0):
        criterion({"a": x[0] / 5, "b": factor * x[1]}, shared=x)
        rows.append(criterion.metrics(include=["found", "weight"]))
        criterion.step()
    assert rows[0] == pytest.approx({"found/a": 5, "found/b": 2, "weight/a": 4, "weight/b": 2})
    assert [rows[1][f"weight/{name}"] for name in "ab"] == [4, 2]
    assert all(math.isnan(rows[1][f"found/{name}"]) for name in "ab")


# With the rest of the config


def test_base_weights_schedules_and_controllers_multiply_what_is_bounded() -> None:
    terms: dict[str, Any] = {
        "a": 4.0,
        "b": {"schedule": 0.5},
        "c": {"controller": {"kind": "manual", "initial": 3.0}, "balanced": True},
        "l2": {"weight": 0.1, "balanced": False},
    }
    balancer = {"kind": "moving-average", "bounds": [0.5, 2]}
    criterion = WeightedLoss(terms, balancer=balancer)
    given = {"a": leaf(8.0), "b": leaf(0.1), "c": leaf(1.0), "l2": leaf(9.0)}
    for _ in range(2):
        criterion(given)
        criterion.step()
    found = criterion.metrics(include=["found", "weight"])
    assert found == pytest.approx(
        {"found/a": 0.5, "found/b": 5.0, "found/c": 3.0, "found/l2": 0.1}
        | {"weight/a": 2.0, "weight/b": 1.0, "weight/c": 3.0, "weight/l2": 0.1}
    )


def test_terms_that_are_absent_or_dormant_do_not_count_in_the_mean() -> None:
    terms: dict[str, Any] = {"a": 1.0, "b": {"optional": True}, "late": {"after": "5 steps"}}
    criterion = WeightedLoss(terms, balancer={"kind": "geometric", "normalize": "mean"})
    criterion({"a": leaf(1.0), "b": leaf(3.0)})
    weights = criterion.metrics(include=["weight"])
    assert weights == pytest.approx({"weight/a": 1.5, "weight/b": 0.5})
    criterion.step()
    criterion({"a": leaf(7.0)})
    assert criterion.metrics(include=["weight", "found"]) == {"found/a": 1.0, "weight/a": 1.0}


def test_the_total_is_the_sum_of_its_parts_and_the_breakdown_has_both() -> None:
    balancer = {"kind": "uw-so", "bounds": [0.3, 0.6]}
    criterion = WeightedLoss({"a": 2.0, "b": 1.0}, balancer=balancer)
    terms = {"a": leaf(1.0), "b": leaf(0.5)}
    parts = criterion.breakdown(terms)
    share = math.exp(1) / (math.exp(1) + math.exp(2))
    assert float(parts.found["a"]) == pytest.approx(2 * share)
    assert float(parts.weight["a"]) == pytest.approx(0.6)
    assert float(parts.weight["b"]) == pytest.approx(0.6)
    assert float(parts.total.detach()) == pytest.approx(0.6 * 1.0 + 0.6 * 0.5)
    assert criterion(terms).item() == pytest.approx(0.9)
    assert "found" in str(criterion.report()).splitlines()[1].split()


def test_a_step_without_a_balanced_term_has_its_row_too() -> None:
    terms = {"a": {"optional": True}, "l2": {"balanced": False, "optional": True}}
    criterion = WeightedLoss(terms, balancer={"kind": "geometric", "bounds": [0.1, 10]})
    for given in ({"a": leaf(2.0), "l2": leaf(1.0)}, {"l2": leaf(1.0)}, {}):
        criterion(given)
        criterion.step()
        found = criterion.metrics(include=["found"])
        assert found == {f"found/{name}": 1.0 for name in given}
    assert sorted(criterion.report().found) == []


def test_a_checkpoint_goes_with_and_without_them() -> None:
    """They are no state: a run can be resumed with other bounds."""
    before = Training(DWA(every="1 steps")).run(range(STEPS // 2))
    after = Training(DWA(every="1 steps", bounds=(0.9, 1.1)))
    after.load(before.state_dict())
    for name, weight in after.criterion.weights.items():
        expected = min(max(before.criterion.weights[name], 0.9), 1.1)
        assert weight == pytest.approx(expected)
