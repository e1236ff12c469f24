"""The formula: base x time x (balance x value + penalty), whatever the weights come from."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lossweights import (
    Balancer,
    ConfigError,
    Controller,
    Ramp,
    State,
    StepContext,
    Term,
    WeightedLoss,
)
from tests.small_components import (
    Counting,
    Following,
    Offset,
    Priced,
    Shares,
    leaf,
    losses,
)

BALANCERS = ("test-recording", "test-shares", "test-priced", "uncertainty")
RAMP = Ramp(start=0.0, stop=1.0, over="4 steps")


def everything(balancer: Any) -> WeightedLoss:
    """A term of each sort; after two steps the ramp is at 1/2 and the controller at 3."""
    terms: dict[str, Any] = {
        "scheduled": Term(weight=2.0, schedule=RAMP, transform=Offset(offset=0.5)),
        "steered": Term(weight=3.0, controller=Counting(), balanced=True),
        "followed": Term(weight=0.5, controller=Following(target=RAMP), balanced=True),
        "alone": Term(weight=-1.0, balanced=False),
        "own": Term(controller=Counting()),
    }
    criterion = WeightedLoss(terms=terms, balancer=balancer)
    for _ in range(2):
        criterion(GIVEN)
        criterion.step()
    return criterion


GIVEN = losses(scheduled=3.5, steered=2.0, followed=5.0, alone=7.0, own=11.0)
VALUES = {"scheduled": 3.0, "steered": 2.0, "followed": 5.0, "alone": 7.0, "own": 11.0}
TIMES = {"scheduled": 0.5, "steered": 3.0, "followed": 5.5, "alone": 1.0, "own": 3.0}
BASES = {"scheduled": 2.0, "steered": 3.0, "followed": 0.5, "alone": -1.0, "own": 1.0}
BALANCED = ("scheduled", "steered", "followed")


def balance(kind: str) -> tuple[dict[str, float], dict[str, float]]:
    """Factors and penalties of the balanced terms, by hand."""
    if kind == "test-shares":
        return {name: VALUES[name] / 10.0 for name in BALANCED}, {}
    factor, penalty = {
        "test-recording": (3.0, 0.0),
        "test-priced": (1.0, 1.0),
        "uncertainty": (0.5, 0.0),
    }[kind]
    return dict.fromkeys(BALANCED, factor), dict.fromkeys(BALANCED, penalty)


@pytest.mark.parametrize("kind", BALANCERS)
def test_every_factor_at_once(kind: str) -> None:
    factors, penalties = balance(kind)
    weight = {name: BASES[name] * TIMES[name] * factors.get(name, 1.0) for name in VALUES}
    penalty = {name: BASES[name] * TIMES[name] * penalties.get(name, 0.0) for name in VALUES}
    weighted = {name: weight[name] * VALUES[name] + penalty[name] for name in VALUES}
    criterion = everything(kind)
    parts = criterion.breakdown(GIVEN)
    total = criterion(GIVEN)
    metrics = criterion.metrics()
    size = math.fsum(abs(weight[name] * VALUES[name]) for name in VALUES)  # no penalties
    for name, value in VALUES.items():
        expected = {
            "raw": GIVEN[name].item(),
            "value": value,
            "weight": weight[name],
            "weighted": weighted[name],
            "share": abs(weight[name] * value) / size,
        }
        if kind in ("test-priced", "uncertainty"):
            expected["penalty"] = penalty[name]
        for quantity, number in expected.items():
            assert metrics[f"{quantity}/{name}"] == pytest.approx(number, rel=1e-5)
            assert getattr(parts, quantity)[name].item() == metrics[f"{quantity}/{name}"]
    assert total.item() == pytest.approx(math.fsum(weighted.values()), rel=1e-5)
    assert parts.total.item() == pytest.approx(total.item(), rel=1e-5)
    assert metrics["total"] == pytest.approx(total.item(), rel=1e-5)
    assert any(name.startswith("penalty/") for name in metrics) == ("penalty" in expected)


@pytest.mark.parametrize("kind", BALANCERS)
def test_a_gradient_is_that_of_fixed_weights(kind: str) -> None:
    criterion = everything(kind)
    given = {name: leaf(value.item()) for name, value in GIVEN.items()}
    criterion(given).backward()
    for name, value in given.items():
        assert value.grad is not None
        assert value.grad.item() == pytest.approx(criterion.metrics()[f"weight/{name}"])


def test_a_penalty_has_its_gradient_in_what_is_learned() -> None:
    criterion = WeightedLoss(
        terms={"a": Term(weight=2.0, schedule=0.5), "b": 3.0}, balancer=Priced(initial=0.5)
    )
    total = criterion(losses(a=3.0, b=7.0))
    total.backward()
    (learned,) = criterion.parameters()
    assert total.item() == 1.0 * (0.5 * 3.0 + 0.25) + 3.0 * (0.5 * 7.0 + 0.25)
    assert torch.equal(learned.grad, torch.tensor([1.0 * (3.0 + 1.0), 3.0 * (7.0 + 1.0)]))  # type: ignore[arg-type]


def test_weights_are_those_of_the_coming_step() -> None:
    criterion = everything("test-recording")
    assert criterion.weights == {
        "scheduled": 2.0 * 0.5 * 3.0,
        "steered": 3.0 * 3.0 * 3.0,
        "followed": pytest.approx(math.nan, nan_ok=True),  # nobody knows the coming loss
        "alone": -1.0,
        "own": 3.0,
    }


def test_what_is_instant_reads_the_value_behind_the_transform() -> None:
    term = Term(transform=Offset(offset=2.0), controller=Following())
    assert WeightedLoss(terms={"a": term})({"a": leaf(5.0)}).item() == 3.0 * 3.0


# One formula, two ways to compute it


def both_ways(balancer: Any, **fields: Any) -> tuple[WeightedLoss, WeightedLoss]:
    """The same loss, the second with a declaration that the short way does not take."""
    terms: dict[str, Any] = {
        "a": Term(weight=2.0),
        "b": Term(weight=0.5, controller=Counting(), balanced=True),
        "c": Term(controller=Following()),
    }
    short = WeightedLoss(terms=terms, balancer=balancer)
    return short, WeightedLoss(terms={**terms, "a": Term(weight=2.0, **fields)}, balancer=balancer)


@pytest.mark.parametrize("kind", BALANCERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64])
@pytest.mark.parametrize("autocast", [False, True])
def test_short_and_long_way_agree(kind: str, dtype: torch.dtype, autocast: bool) -> None:
    short, long = both_ways(kind, reduction="mean")
    for step in range(3):
        found = []
        for criterion in (short, long):
            values = [1.0 + step, 2.0, 3.0]
            given = [torch.tensor(value).to(dtype) for value in values]
            if dtype.is_floating_point:
                given = [value.requires_grad_() for value in given]
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                total = criterion(dict(zip("abc", given, strict=True)))
            learned = [*criterion.parameters(), *(v for v in given if v.requires_grad)]
            gradients = torch.autograd.grad(total, learned) if learned else ()
            found.append((total, gradients, criterion.metrics()))
            criterion.step()
        assert found[0][0].dtype is found[1][0].dtype
        assert found[0][0].dtype is (torch.float64 if dtype is torch.float64 else torch.float32)
        torch.testing.assert_close(found[0][:2], found[1][:2])
        assert found[0][2] == pytest.approx(found[1][2])
    ours, theirs = short.state_dict(), long.state_dict()
    assert all(torch.allclose(ours[key].double(), theirs[key].double()) for key in ours)


class Failing(Shares, kind="test-failing"):
    """Raises an error that reading the terms may raise too."""

    error: str

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        CALLS.append(self.error)
        if len(CALLS) > 1:  # the first call is the check at construction
            raise {"KeyError": KeyError, "RuntimeError": RuntimeError, "TypeError": TypeError}[
                self.error
            ]("of the component")
        return losses


class FailingTransform(Offset, kind="test-failing"):
    """The same of a transform, which is not called at construction."""

    def apply(self, value: Tensor, state: State, now: StepContext) -> Tensor:
        CALLS.append("apply")
        raise KeyError("of the component")


CALLS: list[str] = []


@pytest.mark.parametrize("error", ["KeyError", "RuntimeError", "TypeError"])
def test_a_component_that_raises_is_called_once_and_its_error_comes_out(error: str) -> None:
    CALLS.clear()
    criterion = WeightedLoss(terms=["a", "b"], balancer=Failing(error=error))
    with pytest.raises((KeyError, RuntimeError, TypeError), match="of the component") as caught:
        criterion(losses(a=1.0, b=2.0))
    assert type(caught.value).__name__ == error
    assert len(CALLS) == 2


def test_a_transform_that_raises_is_called_once_and_its_error_comes_out() -> None:
    CALLS.clear()
    criterion = WeightedLoss({"a": Term(transform=FailingTransform()), "b": 1.0})
    with pytest.raises(KeyError, match="of the component"):
        criterion(losses(a=1.0, b=2.0))
    assert CALLS == ["apply"]


@pytest.mark.parametrize("kind", BALANCERS)
def test_a_term_that_is_absent_leaves_the_others_as_they_are(kind: str) -> None:
    one = WeightedLoss(terms=["a", "c"], balancer=kind)
    other = WeightedLoss(terms={"a": 1.0, "b": Term(optional=True), "c": 1.0}, balancer=kind)
    given = losses(a=1.0, c=3.0)
    totals = []
    for criterion in (one, other):
        totals.append(criterion(given).item())
        criterion.step()
        totals.append(criterion(given).item())
    assert totals[:2] == pytest.approx(totals[2:])


def test_whole_numbers_do_not_drag_low_precision_to_infinity() -> None:
    criterion = WeightedLoss(terms=["a", "b"], balancer="uncertainty")
    total = criterion({"a": leaf(1.0, torch.float16), "b": torch.tensor(100_000)})
    assert total.item() == 0.5 * 100_001


@pytest.mark.parametrize("kind", BALANCERS)
def test_a_vector_is_refused_by_name(kind: str) -> None:
    terms: dict[str, Any] = {"a": 1.0, "b": 1.0, "c": Term(balanced=False)}
    criterion = WeightedLoss(terms=terms, balancer=kind)
    for shape in ((3,), (1,), (2, 2)):
        with pytest.raises(ValueError, match=r"term 'a' has shape \(.*, a scalar is needed"):
            criterion(dict.fromkeys("abc", torch.ones(shape)))


# Terms that do not count


@pytest.mark.parametrize("kind", BALANCERS)
@pytest.mark.parametrize(
    "quiet", [Term(after="3 steps"), Term(weight=0.0, when_zero="skip")], ids=["dormant", "skip"]
)
def test_terms_that_do_not_count_take_no_part_although_they_are_given(
    kind: str, quiet: Term
) -> None:
    alone = WeightedLoss(terms=["a", "b"], balancer=kind)
    beside = WeightedLoss(terms={"a": 1.0, "b": 1.0, "c": quiet}, balancer=kind)
    given = losses(a=1.0, b=3.0)
    for _ in range(2):
        with_quiet = beside({**given, "c": leaf(math.nan if quiet.weight == 0 else 1e6)})
        assert with_quiet.item() == pytest.approx(alone(given).item())
        alone.step()
        beside.step()
    state = beside.adaptive.slots["balancer"].state
    for key in {"weights", "updates"} & state.keys():
        if state[key].ndim:
            assert state[key][2] == (1.0 if key == "weights" else 0.0)


def test_a_total_without_any_balanced_term_still_reaches_what_is_learned() -> None:
    criterion = WeightedLoss(
        terms={"a": Term(optional=True), "b": Term(balanced=False)}, balancer="uncertainty"
    )
    criterion({"b": leaf(1.0)}).backward()
    (learned,) = criterion.parameters()
    assert torch.equal(learned.grad, torch.zeros(1))  # type: ignore[arg-type]


# What is refused


class Wrong(Balancer, kind="test-wrong"):
    """Does what it is told, such as what must not be done."""

    does: str

    def init(self, n: int) -> State:
        return {"learned": nn.Parameter(torch.ones(n))}

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        return {
            "shape": torch.ones(3),
            "scalar": torch.ones(()),
            "reads": losses,
            "inf": torch.full((2,), torch.inf),
        }.get(self.does, state["learned"])

    def penalty(self, state: State, now: StepContext) -> Tensor | None:
        return state["learned"].sum() if self.does == "penalty" else None


class Misshapen(Controller, kind="test-misshapen"):
    """One weight too many."""

    def init(self) -> State:
        return {}

    def weigh(self, value: Tensor, state: State, now: StepContext) -> Tensor:
        return torch.ones(1)

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        """Learns nothing."""


@pytest.mark.parametrize(
    ("does", "problem"),
    [
        ("shape", r"balancer: weigh\(\) of Wrong returns shape \(3,\), \(2,\) is needed"),
        ("scalar", r"balancer: weigh\(\) of Wrong returns shape \(\), \(2,\) is needed"),
        ("reads", r"weigh\(\) of Wrong returns \[nan, nan\].*with `instant = True`"),
        ("inf", r"weigh\(\) of Wrong returns \[inf, inf\]"),
        ("penalty", r"balancer: penalty\(\) of Wrong returns shape \(\), \(2,\) is needed"),
    ],
)
def test_weights_that_are_none_are_refused_when_the_loss_is_built(does: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        WeightedLoss(terms=["a", "b"], balancer=Wrong(does=does))


def test_a_controller_gives_one_weight() -> None:
    with pytest.raises(ConfigError, match=r"terms.b.controller: weigh\(\).*\(1,\), \(\) is needed"):
        WeightedLoss(terms={"a": 1.0, "b": Misshapen()})


def test_the_step_is_not_known_inside_a_forward_pass() -> None:
    class Impatient(Shares, kind="test-impatient"):
        def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
            return losses * now.step

    criterion = WeightedLoss(terms=["a"], balancer=Impatient())
    with pytest.raises(RuntimeError, match=r"not known inside a forward pass.*now\['field'\]"):
        criterion({"a": leaf(1.0)})


@pytest.mark.parametrize("convert", [nn.Module.half, nn.Module.bfloat16, nn.Module.double])
def test_a_converted_criterion_weighs_in_float32(
    convert: Callable[[nn.Module], nn.Module],
) -> None:
    criterion = everything("uncertainty")
    before = criterion(GIVEN)
    convert(criterion)
    assert torch.equal(criterion(GIVEN), before)


def test_the_context_names_the_terms_of_the_losses() -> None:
    seen = []

    class Naming(Shares, kind="test-naming"):
        def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
            seen.append(now.terms)
            assert len(now.terms) == len(losses)
            return super().weigh(losses, state, now)

    criterion = WeightedLoss({"a": Term(optional=True), "b": 1.0, "c": 1.0}, balancer=Naming())
    criterion(losses(a=1.0, b=2.0, c=3.0))
    criterion(losses(b=2.0, c=3.0))
    assert seen[-2:] == [("a", "b", "c"), ("b", "c")]
