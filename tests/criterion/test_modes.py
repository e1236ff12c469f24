"""The weights that stand: scheduled fields over time, the yardstick, and what a bind changes."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from lossweights import (
    Capacity,
    HorizonError,
    LossConfig,
    Ramp,
    State,
    StepContext,
    Term,
    WeightedLoss,
)
from tests.small_components import (
    Centred,
    Counting,
    Following,
    Offset,
    Priced,
    Recording,
    Shares,
    leaf,
    losses,
)

RAMP = Ramp(start=0.0, stop=1.0, over="4 steps")


# Scheduled fields


def weight_of(criterion: WeightedLoss, name: str) -> float:
    criterion(losses(a=2.0, b=2.0))
    return criterion.metrics()[f"weight/{name}"]


def test_weigh_sees_the_value_of_the_step_that_it_weighs() -> None:
    criterion = WeightedLoss(terms=["a", "b"], balancer=Shares(scale=RAMP))
    found = []
    for _ in range(6):
        found.append(weight_of(criterion, "a"))
        criterion.step()
    assert found == [0.0, 0.125, 0.25, 0.375, 0.5, 0.5]


def test_penalty_sees_the_value_of_the_step() -> None:
    criterion = WeightedLoss(terms=["a", "b"], balancer=Priced(price=RAMP))
    found = []
    for _ in range(6):
        criterion(losses(a=0.0, b=0.0))
        found.append(criterion.metrics()["penalty/a"])
        criterion.step()
    assert found == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]


def test_apply_sees_the_value_of_the_step() -> None:
    criterion = WeightedLoss(terms={"a": Term(transform=Offset(offset=RAMP)), "b": 0.0})
    found = []
    for _ in range(6):
        found.append(criterion(losses(a=1.0, b=0.0)).item())
        criterion.step()
    assert found == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]


def test_update_sees_the_value_of_the_step_that_was_done() -> None:
    criterion = WeightedLoss(
        terms={"a": Term(controller=Counting(target=RAMP)), "b": 1.0},
        balancer=Recording(speed=RAMP),
    )
    told, speeds = [], []
    for _ in range(6):
        before = criterion.weights["b"]
        criterion(losses(a=1.0, b=1.0))
        criterion.step()
        told.append(criterion.metrics()["controller/a/target"])
        speeds.append(criterion.weights["b"] - before)
    assert told == speeds == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]


def test_update_is_told_how_many_steps_are_done() -> None:
    criterion = WeightedLoss(terms={"a": Counting()})
    for total in (1, 4, 5):
        criterion({"a": leaf(1.0)})
        criterion.step(total - criterion.current_step)
        assert criterion.metrics()["controller/a/step"] == total


@pytest.mark.parametrize("stride", [1, 2, 3, 7])
def test_update_is_told_when_a_multiple_of_a_length_is_passed(stride: int) -> None:
    class Timed(Counting, kind="test-timed"):
        def update(self, observed: Tensor, state: State, now: StepContext) -> None:
            state["coefficient"] += float(now.passed("3 steps"))

    criterion = WeightedLoss(terms={"a": Timed()})
    for _ in range(12):
        step, weight = criterion.current_step, criterion.weights["a"]
        criterion({"a": leaf(1.0)})
        criterion.step(stride)
        assert criterion.weights["a"] == weight + ((step + stride) // 3 > step // 3)


def test_fields_wait_with_their_term_and_those_of_a_balancer_do_not() -> None:
    criterion = WeightedLoss(
        terms={
            "a": Term(transform=Offset(offset=RAMP), after="2 steps"),
            "b": Term(controller=Following(target=RAMP), balanced=True, after="2 steps"),
        },
        balancer=Shares(scale=RAMP),
    )
    criterion.set_step(3)
    metrics = criterion.breakdown(losses(a=1.25, b=1.0)).metrics()
    assert metrics["value/a"] == 1.0  # the ramp is at 1/4
    assert metrics["weight/a"] == 0.75 / 2  # the balancer's is at 3/4
    assert metrics["weight/b"] == 0.75 / 2 * 1.25


def test_bind_computes_fields_anew() -> None:
    half = Ramp(start=0.0, stop=1.0, over="50%")
    criterion = WeightedLoss(terms={"a": Term(transform=Offset(offset=half))}, total_steps=16)
    criterion.set_step(4)
    assert criterion({"a": leaf(1.0)}).item() == 0.5
    with pytest.warns(UserWarning, match=r"terms.a.transform.offset from 0.5 to 0.25"):
        criterion.bind(total_steps=32)
    assert criterion({"a": leaf(1.0)}).item() == 0.75
    with torch.no_grad():
        assert criterion({"a": leaf(1.0)}).item() == 0.0


@pytest.mark.parametrize(
    ("terms", "balancer", "place"),
    [
        (
            {"a": Term(transform=Offset(offset=Ramp(start=0.0, stop=1.0, over="50%")))},
            None,
            "terms.a.transform.offset: 50% of training cannot be converted.*total_steps",
        ),
        (
            {"a": Counting(target=Ramp(start=0.0, stop=1.0, over="2 epochs"))},
            None,
            "terms.a.controller.target: 2 epochs cannot be converted.*steps_per_epoch",
        ),
        (["a"], {"kind": "dwa"}, "balancer.every: 1 epoch cannot be converted.*steps_per_epoch"),
        (["a"], {"kind": "dwa", "every": "10%"}, "balancer.every: 10% of training.*total_steps"),
    ],
)
def test_what_cannot_be_counted_in_steps_asks_to_bind(
    terms: Any, balancer: Any, place: str
) -> None:
    criterion = WeightedLoss(terms=terms, balancer=balancer)
    with pytest.raises(HorizonError, match=rf"{place}.*criterion.bind\("):
        criterion({"a": leaf(1.0)})
    criterion.bind(total_steps=100, steps_per_epoch=10)
    criterion({"a": leaf(1.0)}).backward()


def test_a_target_that_never_settles_does_not_keep_evaluation_waiting() -> None:
    criterion = WeightedLoss(terms={"a": Counting(target=lambda step: 1.0 + step)})
    criterion({"a": leaf(1.0)})
    criterion.step()
    assert criterion.eval()({"a": leaf(2.0)}).item() == 2.0


def test_a_capacity_that_never_settles_does() -> None:
    capacity = Capacity.model_validate({"capacity": lambda step: 1.0 + step})
    criterion = WeightedLoss(terms={"a": Term(transform=capacity)}).eval()
    with pytest.raises(HorizonError, match="terms.a.transform.capacity.*eval_weights: current"):
        criterion({"a": leaf(1.0)})
    assert criterion.bind(total_steps=9)({"a": leaf(1.0)}).item() == 8.0


@pytest.mark.parametrize("rule", [{"a": 1.0, "b": 1.0}, {"a": 0.5}])
def test_a_weight_that_never_settles_keeps_no_evaluation_waiting_with_its_own(
    rule: Any,
) -> None:
    terms: Any = {"a": lambda step: 1.0 + step, "b": 2.0}
    criterion = WeightedLoss(terms, eval_weights=rule)
    criterion.step()  # without a word
    expected = 3.0 + 5.0 if "b" in rule else 0.5 * 3.0 + 2.0 * 5.0
    assert criterion.eval()(losses(a=3.0, b=5.0)).item() == expected


def test_of_two_that_share_a_schedule_one_may_ask_for_its_end() -> None:
    def shared(step: int) -> float:
        return 1.0 + step

    criterion = WeightedLoss({"a": shared, "b": shared}, eval_weights={"a": 0.5})
    with pytest.warns(UserWarning, match="evaluation does not yet"):
        criterion.step()


def warned(terms: Any, **fields: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        WeightedLoss(terms=terms, total_steps=50, **fields)
    assert all(warning.filename == __file__ for warning in caught)
    return [str(warning.message) for warning in caught]


def test_a_field_that_does_not_arrive_is_told() -> None:
    slow = Ramp(start=0.0, stop=1.0, over="100 steps")
    term = Term(transform=Capacity(capacity=slow), after="25 steps")
    (capacity,) = warned({"a": term})
    assert capacity.startswith("terms.a.transform.capacity ends too late: it ends at step 125, ")
    assert "with a value of 0.25; shorten {kind: ramp, " in capacity
    (scale,) = warned(["a"], balancer=Shares(scale=slow))
    assert scale.startswith("balancer.scale ends too late: it ends at step 100, training at 50")


def test_a_field_that_arrives_or_never_begins_is_not_told() -> None:
    quick = Ramp(start=0.0, stop=1.0, over="50 steps")
    assert warned({"a": Counting(target=quick)}, balancer=None) == []
    (sentence,) = warned({"a": 1.0, "b": Term(controller=Counting(target=quick), after="50 steps")})
    assert "dormant for the whole training" in sentence


# Where it is done


def test_time_that_moves_inside_inference_mode_spoils_no_training() -> None:
    criterion = WeightedLoss(
        terms={"a": Counting(), "b": Term(transform=Centred())}, balancer=Recording()
    )
    criterion(losses(a=1.0, b=1.0))
    with torch.inference_mode():
        criterion.step()
        weights = criterion._modes.get(training=True).weights
    assert not weights.is_inference()
    criterion(losses(a=1.0, b=1.0)).backward()
    criterion.step()
    assert criterion.weights == {"a": 3.0, "b": 3.0}


@pytest.mark.parametrize("balancer", ["test-recording", "test-shares", "uncertainty"])
def test_the_default_precision_does_not_matter(balancer: str) -> None:
    def trained() -> tuple[list[Any], WeightedLoss]:
        criterion = WeightedLoss(
            terms={"a": Counting(), "b": Term(transform=Centred()), "c": 1.0}, balancer=balancer
        )
        totals = []
        for _ in range(3):
            given = {name: leaf(2.0) for name in "abc"}
            totals += [criterion(given).detach(), criterion.weights]
            criterion.step()
            with torch.no_grad():
                totals.append(criterion(given))
        return totals, criterion

    expected, _ = trained()
    torch.set_default_dtype(torch.float64)
    try:
        found, criterion = trained()
    finally:
        torch.set_default_dtype(torch.float32)
    assert str(found) == str(expected)
    assert all(
        tensor.dtype is not torch.float64
        for tensor in [*criterion.state_dict().values(), *criterion.parameters()]
    )


@pytest.mark.parametrize("balancer", ["test-recording", "test-shares", "uncertainty"])
def test_the_default_device_does_not_matter(balancer: str) -> None:
    with torch.device("meta"):
        criterion = WeightedLoss(
            terms={"a": Counting(), "b": Term(transform=Centred())}, balancer=balancer
        )
    criterion(losses(a=2.0, b=2.0)).backward()
    criterion.step()
    assert criterion.metrics()["controller/a/observed"] == 2.0


# Evaluation


def adapted(rule: Any) -> WeightedLoss:
    """Everything that adapts has moved, and every schedule is on its way."""
    config = LossConfig(
        terms={
            "a": Term(weight=2.0, transform=Capacity(capacity=RAMP), after="1 steps"),
            "b": Term(controller=Counting()),
            "c": Term(transform=Centred()),
            "d": Term(weight=0.5, schedule=RAMP),
        },
        balancer=Recording(),
        eval_weights=rule,
    )
    criterion = WeightedLoss.from_config(config)
    for _ in range(2):
        criterion(losses(a=5.0, b=1.0, c=2.0, d=3.0))
        criterion.step()
    return criterion


@pytest.mark.parametrize(
    ("rule", "weights", "values"),
    [
        ("final", (2.0, 1.0, 1.0, 0.5), (4.0, 1.0, 2.0, 3.0)),
        (dict.fromkeys("abcd", 1.0), (1.0, 1.0, 1.0, 1.0), (4.0, 1.0, 2.0, 3.0)),
        ({"b": 7.0}, (2.0, 7.0, 1.0, 0.5), (4.0, 1.0, 2.0, 3.0)),
        # a was dormant in the first step, so that it learned from the second alone.
        ("current", (2.0 * 2.0, 3.0, 3.0, 0.25 * 3.0), (4.75, 1.0, 0.0, 3.0)),
    ],
)
@pytest.mark.parametrize("mode", ["eval", "no_grad"])
def test_evaluation(rule: Any, weights: Any, values: Any, mode: str) -> None:
    criterion = adapted(rule)
    before = criterion.state_dict()
    if mode == "eval":
        criterion.eval()
    with torch.set_grad_enabled(mode == "eval"):
        parts = criterion.breakdown(losses(a=5.0, b=1.0, c=2.0, d=3.0))
        total = criterion(losses(a=5.0, b=1.0, c=2.0, d=3.0))
    assert tuple(part.item() for part in parts.value.values()) == pytest.approx(values)
    assert total.item() == pytest.approx(sum(w * v for w, v in zip(weights, values, strict=True)))
    assert not parts.penalty
    if rule != "current":
        assert tuple(part.item() for part in parts.weight.values()) == pytest.approx(weights)
    after = criterion.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_evaluation_has_no_price_of_learned_weights_but_current() -> None:
    for rule, expected in (("final", 1.0 + 2.0), ("current", 2.0 * 3.0 + 2 * 4.0)):
        config = LossConfig(
            terms={"a": Term(), "b": Term()}, balancer=Priced(initial=2.0), eval_weights=rule
        )
        criterion = WeightedLoss.from_config(config).eval()
        assert criterion(losses(a=1.0, b=2.0)).item() == expected


@pytest.mark.parametrize(("bound", "counts_as"), [("at_most", 2.0), ("at_least", -2.0)])
def test_a_term_that_is_held_up_counts_against_the_total_in_evaluation(
    bound: str, counts_as: float
) -> None:
    table = {"kind": "lagrangian", bound: 1.0}
    criterion = WeightedLoss({"a": {"weight": 2.0, "controller": table}}).eval()
    assert criterion({"a": torch.tensor(1.0)}).item() == counts_as
