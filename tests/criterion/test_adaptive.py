"""What is told between forward passes: metrics, losses after a step, and what is made of it."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lossweights import (
    Balancer,
    ConfigError,
    Controller,
    GradientBalancer,
    HorizonError,
    State,
    StepContext,
    Term,
    WeightedLoss,
)
from tests.small_components import (
    Centred,
    Comparing,
    Counting,
    Offset,
    Priced,
    Recording,
    leaf,
    losses,
)


def watching(*sources: str) -> WeightedLoss:
    """A loss with a controller for each metric."""
    terms = {f"of-{source}": Counting(source=source) for source in sources}
    return WeightedLoss(terms={"nll": 1.0, **terms})


def observed(criterion: WeightedLoss, term: str) -> float:
    return float(criterion.adaptive.slots[f"terms.{term}.controller"].state["observed"])


# Metrics


@pytest.mark.parametrize(
    "value",
    [
        3,
        3.0,
        Fraction(3),
        np.float16(3),
        np.float32(3),
        np.float64(3),
        np.int64(3),
        np.array(3.0),
        np.array([[3]], dtype=np.int32),
        torch.tensor(3),
        torch.tensor(3.0, dtype=torch.float16),
        torch.tensor(3.0, dtype=torch.float64),
        torch.tensor([[3.0]]),
        torch.nn.Parameter(torch.tensor(3.0)),
    ],
    ids=lambda value: f"{type(value).__name__}-{value!r}",
)
def test_a_metric_is_a_number_of_any_library(value: Any) -> None:
    criterion = watching("m")
    criterion.observe(m=value)
    criterion.step()
    assert observed(criterion, "of-m") == 3.0


@pytest.mark.parametrize(
    "value",
    [
        True,
        np.bool_(True),  # noqa: FBT003
        torch.tensor([True]),
        None,
        "3",
        1j,
        torch.tensor(1j),
        torch.ones(2),
        np.ones(2),
        torch.ones(0),
        [1.0],
    ],
    ids=repr,
)
def test_what_is_no_number_is_refused_and_nothing_is_heard(value: Any) -> None:
    criterion = watching("good", "m")
    with pytest.raises(ValueError, match="metric 'm' is a number or a scalar tensor, found"):
        criterion.observe(good=1.0, m=value)
    criterion.step()
    assert observed(criterion, "of-good") == 0.0


def test_the_mean_of_a_metric_counts_and_each_has_its_own() -> None:
    criterion = watching("m", "n")
    for value in (1.0, 2.0, 6.0):
        criterion.observe(m=value)
    criterion.observe(n=torch.tensor(5.0))
    criterion.step()
    assert (observed(criterion, "of-m"), observed(criterion, "of-n")) == (3.0, 5.0)
    criterion.observe(n=7.0)
    criterion.step()
    assert (observed(criterion, "of-m"), observed(criterion, "of-n")) == (3.0, 7.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_metric_that_is_not_finite_is_not_heard(bad: float) -> None:
    criterion = watching("m")
    criterion.observe(m=1.0)
    criterion.observe(m=bad)
    criterion.step()
    assert observed(criterion, "of-m") == 0.0


def test_two_controllers_may_watch_one_metric_or_another_term() -> None:
    terms: dict[str, Any] = {
        "a": Counting(source="m"),
        "b": Counting(source="m"),
        "c": Counting(source="d"),
        "d": 1.0,
    }
    criterion = WeightedLoss(terms=terms)
    criterion.observe(m=2.0)
    criterion(losses(a=1.0, b=1.0, c=1.0, d=9.0))
    criterion.step()
    assert [observed(criterion, name) for name in "abc"] == [2.0, 2.0, 9.0]


def test_a_metric_may_be_given_before_the_length_of_training_is_known() -> None:
    criterion = WeightedLoss(
        terms={"a": {"kind": "test-counting", "source": "m"}, "b": {"kind": "cyclical"}}
    )
    criterion.observe(m=2.0)
    criterion.bind(total_steps=10)
    criterion.step()
    assert observed(criterion, "a") == 2.0


@pytest.mark.parametrize(
    ("criterion", "name", "problem"),
    [
        (watching("rollout_kl"), "rolout_kl", "'rolout_kl' is not observed; did you mean 'roll"),
        (watching("m"), "nll", r"'nll' is a term \(losses after.*\(observed metrics: 'm'"),
        (
            WeightedLoss(terms={"a": Counting()}),
            "m",
            "no controller of this loss observes 'm': write source",
        ),
        (
            WeightedLoss(terms=["a"]),
            "m",
            "no controller of this loss observes 'm': write source",
        ),
    ],
)
def test_a_metric_that_none_watches_is_refused(
    criterion: WeightedLoss, name: str, problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        criterion.observe(**{name: 1.0})


# Losses after the step


def comparing(**terms: Any) -> WeightedLoss:
    return WeightedLoss(terms=terms or {"a": 1.0, "b": 1.0}, balancer=Comparing())


def after(criterion: WeightedLoss) -> list[float]:
    found: list[float] = criterion.adaptive.slots["balancer"].state["after"].tolist()
    return found


def test_losses_after_a_step_are_told_and_weigh_at_once() -> None:
    criterion = comparing()
    criterion(losses(a=1.0, b=2.0))
    criterion.step()
    assert criterion.weights == {"a": 1.0, "b": 1.0}
    criterion.observe_after(losses(b=7.0, a=5.0))
    assert after(criterion) == [5.0, 7.0]
    assert criterion.weights == {"a": 2.0, "b": 2.0}
    assert criterion(losses(a=1.0, b=2.0)).item() == 6.0


def test_they_are_told_once_a_step() -> None:
    criterion = comparing()
    once = r"observe_after\(terms\) is called once after each optimizer step"
    with pytest.raises(RuntimeError, match=once):
        criterion.observe_after(losses(a=1.0, b=1.0))
    criterion(losses(a=1.0, b=1.0))
    with pytest.raises(RuntimeError, match=once):
        criterion.observe_after(losses(a=1.0, b=1.0))
    criterion.step()
    criterion.observe_after(losses(a=1.0, b=1.0))
    with pytest.raises(RuntimeError, match=once):
        criterion.observe_after(losses(a=2.0, b=2.0))
    assert after(criterion) == [1.0, 1.0]
    criterion(losses(a=1.0, b=1.0))
    criterion.step()
    criterion.set_step(0)  # goes to another time, where no step was done
    with pytest.raises(RuntimeError, match=once):
        criterion.observe_after(losses(a=2.0, b=2.0))


def test_after_a_step_that_a_scaler_skipped_nothing_is_learned() -> None:
    criterion = comparing()
    weight = torch.nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    criterion.follow(optimizer)
    before = after(criterion)
    criterion(losses(a=1.0, b=1.0))
    criterion.observe_after(losses(a=3.0, b=3.0))  # the scaler did not call optimizer.step()
    assert after(criterion) == before
    optimizer.step()
    criterion.observe_after(losses(a=3.0, b=3.0))
    assert after(criterion) == [3.0, 3.0]


def test_names_are_checked_as_in_a_call() -> None:
    criterion = comparing()
    criterion(losses(a=1.0, b=1.0))
    criterion.step()
    with pytest.raises(ValueError, match="'bb' is not a term of this loss; did you mean 'b'"):
        criterion.observe_after(losses(a=1.0, bb=1.0))
    with pytest.raises(ValueError, match="term 'b' is missing"):
        criterion.observe_after(losses(a=1.0))
    with pytest.raises(ValueError, match=r"term 'a' has shape \(2,\)"):
        criterion.observe_after({"a": torch.ones(2), "b": leaf(1.0)})
    criterion.observe_after(losses(a=3.0, b=4.0))  # what was refused was not heard
    assert after(criterion) == [3.0, 4.0]


def test_they_go_through_transforms_and_are_kept_apart_from_what_forwards_show() -> None:
    criterion = comparing(a=Term(transform=Offset(offset=0.5)), b=Term(transform=Centred()))
    criterion(losses(a=1.0, b=2.0))
    criterion.step()
    criterion.observe_after(losses(a=3.0, b=5.0))
    assert after(criterion) == [2.5, 3.0]
    assert criterion.adaptive.slots["terms.b.transform"].state["last"] == 2.0
    criterion.step()
    assert criterion.adaptive.slots["terms.b.transform"].state["last"] == 2.0


def test_terms_that_were_not_there_before_and_after_the_step_are_not_compared() -> None:
    names = {name: Term(optional=True) for name in "abcd"}
    criterion = comparing(**names, late=Term(after="5 steps"))
    criterion({**losses(a=1.0, b=2.0, late=3.0), "c": leaf(math.nan)})
    criterion.step()
    criterion.observe_after(losses(a=5.0, c=6.0, d=7.0, late=8.0))
    assert after(criterion) == [5.0, 0.0, 0.0, 0.0, 0.0]
    criterion(losses(a=1.0))
    criterion.step()
    criterion.observe_after({})
    assert after(criterion)[0] == 5.0
    criterion.step()
    criterion.observe_after({"a": leaf(math.nan)})
    assert after(criterion)[0] == 5.0


def test_only_a_balancer_that_learns_from_them_is_told() -> None:
    for criterion in (WeightedLoss(terms=["a"]), WeightedLoss(terms=["a"], balancer=Recording())):
        criterion.step()
        with pytest.raises(ValueError, match="no balancer of this loss learns from the losses aft"):
            criterion.observe_after({"a": leaf(1.0)})


def test_losses_after_a_step_of_unknown_length_ask_to_bind() -> None:
    criterion = comparing(a={"kind": "cyclical"})
    with pytest.raises(HorizonError, match=r"term 'a'.*criterion.bind\("):
        criterion.observe_after({"a": leaf(1.0)})


# How a component may change its state


class Careless(Balancer, kind="test-careless"):
    """Puts another tensor into its state."""

    key: str

    def init(self, n: int) -> State:
        return {"weights": torch.ones(n)}

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        return state["weights"]

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        if self.key == "gone":
            del state["weights"]
        elif self.key == "long":
            state["weights"] = torch.ones(2)
        else:
            state[self.key] = observed


class CarelessToo(Controller, kind="test-careless"):
    """The same of a controller."""

    def init(self) -> State:
        return {"coefficient": torch.ones(())}

    def weigh(self, value: Tensor, state: State, now: StepContext) -> Tensor:
        return state["coefficient"]

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        state["coefficient"] = observed


def test_tensors_of_the_state_may_be_replaced_at_their_addresses() -> None:
    criterion = WeightedLoss({"a": CarelessToo(), "b": 1.0}, balancer=Careless(key="weights"))
    kept = {
        place: {key: tensor.data_ptr() for key, tensor in slot.state.items()}
        for place, slot in criterion.adaptive.slots.items()
    }
    criterion(losses(a=2.0, b=3.0))
    criterion.step()
    assert criterion.weights == {"a": 2.0, "b": 3.0}
    for place, slot in criterion.adaptive.slots.items():
        assert {key: tensor.data_ptr() for key, tensor in slot.state.items()} == kept[place]


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("gone", r"balancer: update\(\) removes 'weights' from its state: keep what init\(\)"),
        ("new", r"balancer: update\(\) adds 'new' to.*init\(\)"),
        ("long", r"balancer: update\(\) gives 'weights' shape \(2,\), init\(\) gave it \(1,\)"),
    ],
)
def test_a_state_keeps_its_keys_and_shapes(key: str, problem: str) -> None:
    criterion = WeightedLoss(["a"], balancer=Careless(key=key))
    criterion({"a": leaf(2.0)})
    with pytest.raises(RuntimeError, match=problem):
        criterion.step()


def test_what_changes_only_by_instants_or_is_learned_costs_no_observation() -> None:
    for balancer in ("test-shares", "uncertainty"):
        criterion = WeightedLoss(terms=["a", "b"], balancer=balancer)
        criterion(losses(a=1.0, b=2.0))
        assert not criterion.adaptive.observations.state["totals"].any()


def test_update_sees_what_is_learned_and_may_change_it_in_place() -> None:
    class Renormalising(Priced, kind="test-renormalising"):
        def update(self, observed: Tensor, state: State, now: StepContext) -> None:
            state["learned"].fill_(3.0)

    criterion = WeightedLoss(terms=["a"], balancer=Renormalising())
    criterion({"a": leaf(1.0)})
    criterion.step()
    assert criterion.adaptive.slots["balancer"].state["learned"].tolist() == [3.0]


def test_what_update_writes_into_a_learned_weight_of_an_absent_term_is_undone() -> None:
    class Writing(Priced, kind="test-writing"):
        def update(self, observed: Tensor, state: State, now: StepContext) -> None:
            state["learned"].fill_(3.0)

    criterion = WeightedLoss({"a": 1.0, "b": Term(optional=True), "c": 1.0}, balancer=Writing())
    criterion(losses(a=1.0, c=math.nan))
    criterion.step()
    assert criterion.adaptive.slots["balancer"].state["learned"].tolist() == [3.0, 1.0, 1.0]


def test_an_interval_is_learned_from_as_a_whole_whoever_is_absent_at_its_end() -> None:
    criterion = WeightedLoss(
        terms={"a": 1.0, "b": Term(optional=True)},
        balancer={"kind": "dwa", "every": "4 steps", "temperature": 1.0},
    )
    for step in range(8):
        value = 2.0 if step < 4 else 4.0  # b doubles, a stands still
        criterion(losses(a=1.0, b=value) if step % 2 == 0 else losses(a=1.0))
        criterion.step()
    shares = torch.softmax(torch.tensor([1.0, 2.0]), dim=0) * 2
    assert list(criterion.weights.values()) == pytest.approx(shares.tolist())


def test_losses_after_a_step_may_be_told_after_a_resume() -> None:
    whole, begun, resumed = comparing(), comparing(), comparing()
    for criterion in (whole, begun):
        criterion(losses(a=1.0, b=1.0))
        criterion.step()
    resumed.load_state_dict(begun.state_dict())
    for criterion in (whole, resumed):
        criterion.observe_after(losses(a=3.0, b=3.0))
    assert after(resumed) == after(whole) == [3.0, 3.0]


def test_losses_after_a_step_are_told_once_also_under_an_optimizer_that_is_followed() -> None:
    criterion = comparing()
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(()))], lr=0.1)
    criterion.follow(optimizer)
    criterion(losses(a=1.0, b=1.0))
    optimizer.step()
    criterion.observe_after(losses(a=3.0, b=3.0))
    with pytest.raises(RuntimeError, match="called once after each optimizer step"):
        criterion.observe_after(losses(a=3.0, b=3.0))


# What plug-ins may do


class Aliasing(Balancer, kind="test-aliasing"):
    """Its state is one tensor under two names, expanded, which it keeps."""

    kept: ClassVar[Tensor] = torch.ones(())

    def init(self, n: int) -> State:
        ones = self.kept.expand(n)
        return {"weights": ones, "squares": ones}

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        return state["weights"]

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        state["weights"] += 1
        state["squares"] += 8
        observed /= observed.sum()


def test_tensors_of_the_state_share_no_memory() -> None:
    first, second = (WeightedLoss(["a", "b"], balancer=Aliasing()) for _ in range(2))
    first(losses(a=1.0, b=3.0))
    first.step()
    assert (first.weights, second.weights) == ({"a": 2.0, "b": 2.0}, {"a": 1.0, "b": 1.0})
    state = first.adaptive.slots["balancer"].state
    assert state["squares"].tolist() == [9.0, 9.0]
    assert Aliasing.kept == 1.0
    saved = first.state_dict()["adaptive.last_observed.values"]
    assert saved.tolist() == [1.0, 3.0]  # an update may change what it is given


class Assigning(Balancer, kind="test-assigning"):
    """Its update assigns `value` to a tensor of the state."""

    value: Any = None

    def init(self, n: int) -> State:
        return {"weights": torch.ones(n), "count": torch.zeros((), dtype=torch.int64)}

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        return state["weights"]

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        state["count"] += 1
        state["weights"] = self.value


def test_an_assigned_tensor_is_kept_in_float32() -> None:
    criterion = WeightedLoss(
        ["a", "b"], balancer=Assigning(value=torch.tensor([2.0, 3.0]).double())
    )
    criterion(losses(a=1.0, b=1.0))
    criterion.step()
    assert criterion.weights == {"a": 2.0, "b": 3.0}
    assert criterion.state_dict()["adaptive.balancer.test-assigning.weights"].dtype is torch.float32


def test_what_is_assigned_must_be_a_tensor() -> None:
    criterion = WeightedLoss(["a", "b"], balancer=Assigning(value=[2.0, 3.0]))
    criterion(losses(a=1.0, b=1.0))
    with pytest.raises(
        RuntimeError, match=r"balancer: update\(\) sets 'weights' to \[2.0, 3.0\]: a t"
    ):
        criterion.step()
    assert criterion.adaptive.slots["balancer"].state["count"] == 0  # nothing of it is kept


class Returning(Assigning, kind="test-returning"):
    """Its update returns a new state, where nothing would look at it."""

    def update(self, observed: Tensor, state: State, now: StepContext) -> Any:
        return {**state, "weights": observed}


def test_an_update_that_returns_a_state_is_refused() -> None:
    criterion = WeightedLoss(["a", "b"], balancer=Returning())
    criterion(losses(a=1.0, b=1.0))
    with pytest.raises(RuntimeError, match=r"balancer: update\(\) returns .*would be lost"):
        criterion.step()


class Overwriting(Balancer, kind="test-overwriting"):
    """Its weigh changes the losses in place."""

    instant: ClassVar[bool] = True

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        losses /= losses.sum()
        return losses


def test_weigh_may_not_change_the_losses() -> None:
    with pytest.raises(ConfigError, match=r"weigh\(\) of Overwriting changes the losses in place"):
        WeightedLoss(["a", "b"], balancer=Overwriting())


def test_learned_weights_may_be_replaced() -> None:
    criterion = WeightedLoss(["a", "b"], balancer="uncertainty")
    given = losses(a=1.0, b=2.0)
    new = torch.tensor([2.0, -2.0], requires_grad=True)
    total = torch.func.functional_call(criterion, {"adaptive.log_variance": new}, (given,))
    total.backward()
    assert new.grad is not None
    assert new.grad.abs().sum() > 0
    assert dict(criterion.named_parameters())["adaptive.log_variance"].tolist() == [0.0, 0.0]
    criterion.adaptive.log_variance = nn.Parameter(new.detach().clone())
    torch.testing.assert_close(criterion(given), total)


class Paired(GradientBalancer, kind="test-paired"):
    """Counts updates for each pair of terms."""

    needs = ("norms",)
    pairs = ("table",)

    def init(self, n: int) -> State:
        return {"table": torch.zeros(n, n)}

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        return torch.ones_like(losses)

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        state["table"] += 1


def test_pairs_of_an_absent_term_stay() -> None:
    terms: dict[str, Any] = {"a": 1.0, "b": Term(optional=True), "c": 1.0}
    criterion = WeightedLoss(terms, balancer=Paired())
    shared = leaf(1.0)
    criterion({"a": 2 * shared, "c": 3 * shared}, shared=shared)
    criterion.step()
    table = criterion.adaptive.slots["balancer"].state["table"]
    assert table.tolist() == [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 1.0]]


@pytest.mark.parametrize("given", [["a", "b"], ["b"]])
def test_learned_weights_have_a_gradient_when_no_balanced_term_counts(given: list[str]) -> None:
    """A rank without one would leave the others waiting for the mean of their gradients."""
    terms: dict[str, Any] = {"a": Term(after="5 steps"), "b": Term(balanced=False)}
    criterion = WeightedLoss(terms, balancer="uncertainty")
    criterion({name: leaf(1.0) for name in given}).backward()
    (learned,) = criterion.parameters()
    assert learned.grad is not None
    assert learned.grad.tolist() == [0.0]


@pytest.mark.parametrize("balancer", ["random", "test-recording", "mgda"])
def test_audit_finds_a_clock_that_was_forgotten(balancer: str) -> None:
    criterion = WeightedLoss(["a", "b"], balancer=balancer)
    shared = leaf(1.0)
    for _ in range(199):
        criterion({"a": 2 * shared, "b": 3 * shared}, shared=shared)
    with pytest.warns(UserWarning, match="criterion.follow"):
        criterion({"a": 2 * shared, "b": 3 * shared}, shared=shared)
    assert any("criterion.follow(optimizer) once" in finding for finding in criterion.audit())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_state_does_not_depend_on_the_default_precision(dtype: torch.dtype) -> None:
    torch.set_default_dtype(dtype)
    try:
        criterion = WeightedLoss(["a", "b"], balancer=Priced(initial=0.3))
        WeightedLoss(["a", "b"], balancer="stch")
        assert torch.get_default_dtype() is dtype
    finally:
        torch.set_default_dtype(torch.float32)
    (learned,) = criterion.parameters()
    assert learned[0].item() == torch.tensor(0.3).item()
