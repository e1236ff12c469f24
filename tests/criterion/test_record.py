"""What is called after each step of a criterion, and what `metrics` shows of a step."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

from lossweights import Term, WeightedLoss
from lossweights.criterion.report import Breakdown
from tests.small_components import Offset, Shares, leaf, losses


def told(criterion: WeightedLoss) -> list[tuple[int, float]]:
    """The steps of which `on_step` tells, with the weight that `metrics` shows then."""
    seen: list[tuple[int, float]] = []
    criterion.on_step(lambda step: seen.append((step, criterion.metrics()["weight/a"])))
    return seen


def test_each_step_is_told_with_what_it_did() -> None:
    criterion = WeightedLoss(terms={"a": {"kind": "warmup", "over": "4 steps"}})
    seen = told(criterion)
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(()))])
    with criterion.follow(optimizer):
        criterion(losses(a=1.0))
        criterion(losses(a=1.0))  # accumulated
        optimizer.step()
    criterion(losses(a=1.0))
    criterion.step()
    assert seen == [(0, 0.0), (1, 0.25)]


def test_only_steps_with_a_training_forward_are_told() -> None:
    criterion = WeightedLoss(terms=["a"])
    seen = told(criterion)
    criterion.step()
    with torch.no_grad():
        criterion(losses(a=1.0))
    criterion.step()
    criterion(losses(a=1.0))
    criterion.step(0)  # no step
    assert seen == []
    criterion(losses(a=1.0))
    criterion.step(3)
    criterion.step()
    assert seen == [(2, 1.0)]


def test_a_step_whose_forward_was_given_no_term_is_told_too() -> None:
    criterion = WeightedLoss(terms={"a": {"optional": True}})
    told: list[tuple[int, dict[str, float]]] = []
    criterion.on_step(lambda step: told.append((step, criterion.metrics(include=["raw", "total"]))))
    for given in ({}, losses(a=2.0), {}):
        criterion(given)
        criterion.step()
    assert told == [(0, {"total": 0.0}), (1, {"raw/a": 2.0, "total": 2.0}), (2, {"total": 0.0})]


def test_what_was_seen_before_the_clock_was_set_or_a_checkpoint_loaded_is_not_told() -> None:
    criterion = WeightedLoss(terms=["a"])
    checkpoint = criterion.state_dict()
    seen = told(criterion)
    for move in (lambda: criterion.set_step(7), lambda: criterion.load_state_dict(checkpoint)):
        criterion(losses(a=1.0))
        move()
        criterion.step()
    assert seen == []


def test_a_step_whose_next_weights_fail_is_not_told_at_a_later_move() -> None:
    def fails(step: int) -> float:
        if step >= 1024:  # weights are computed in blocks
            raise ValueError("too far")
        return 1.0

    criterion = WeightedLoss(terms={"a": fails}, eval_weights="current")
    criterion.set_step(1023)
    seen = told(criterion)
    criterion(losses(a=1.0))
    with pytest.raises(ValueError, match="too far"):
        criterion.step()
    criterion.set_step(5)
    assert seen == []


def test_both_criteria_of_a_clock_are_told() -> None:
    owner = WeightedLoss(terms=["a"])
    guest = WeightedLoss(terms=["a"], clock=owner.clock)
    of_owner, of_guest = told(owner), told(guest)
    guest(losses(a=1.0))
    owner.step()
    owner(losses(a=1.0))
    owner.step()
    assert (of_owner, of_guest) == ([(1, 1.0)], [(0, 1.0)])


def test_a_handle_ends_it_also_from_within() -> None:
    criterion = WeightedLoss(terms=["a"])
    seen: list[str] = []

    def once(step: int) -> None:
        seen.append("once")
        handle.remove()

    handle = criterion.on_step(once)
    criterion.on_step(lambda step: seen.append("each"))
    for _ in range(2):
        criterion(losses(a=1.0))
        criterion.step()
    assert seen == ["once", "each", "each"]


def test_what_a_call_raises_comes_out_of_the_step_which_is_done() -> None:
    criterion = WeightedLoss(terms=["a"])
    criterion.on_step(lambda step: 1 / 0)
    criterion(losses(a=1.0))
    with pytest.raises(ZeroDivisionError):
        criterion.step()
    assert criterion.current_step == 1


def test_copies_of_a_criterion_take_no_calls_along() -> None:
    criterion = WeightedLoss(terms=["a"])
    seen = told(criterion)  # a closure, which pickle could not take
    for twin in (copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
        twin(losses(a=1.0))
        twin.step()
        own = told(twin)
        twin(losses(a=1.0))
        twin.step()
        assert own == [(1, 1.0)]
    assert seen == []


# The metrics of a step


def in_steps(criterion: WeightedLoss, *counts: int, **terms: float) -> None:
    """Steps of so many forward passes, whose losses are 1, 2, 3, ... times those given."""
    for count in counts:
        for index in range(count):
            criterion(losses(**{name: (index + 1) * value for name, value in terms.items()}))
        criterion.step()


def test_metrics_are_the_means_over_the_forward_passes_of_a_step() -> None:
    criterion = WeightedLoss({"a": 0.5, "b": 1.0})
    in_steps(criterion, 4, a=1.0, b=10.0)  # 1, 2, 3, 4
    report = criterion.report()
    assert report.step == 0
    assert report.raw == {"a": 2.5, "b": 25.0}
    assert report.weight == {"a": 0.5, "b": 1.0}
    assert criterion.metrics(include=["weighted", "total"]) == {
        "weighted/a": 1.25,
        "weighted/b": 25.0,
        "total": 26.25,
    }


def test_a_term_that_accumulates_a_sum_shows_it() -> None:
    criterion = WeightedLoss({"a": {"weight": 0.5, "accumulates": "sum"}, "b": 1.0})
    in_steps(criterion, 4, a=1.0, b=1.0)
    assert criterion.metrics(include=["raw", "weight", "weighted", "total"]) == {
        "raw/a": 10.0,
        "raw/b": 2.5,
        "weight/a": 0.5,
        "weight/b": 1.0,
        "weighted/a": 5.0,
        "weighted/b": 2.5,
        "total": 7.5,
    }


def test_metrics_within_a_step_are_those_of_its_forward_passes_so_far() -> None:
    criterion = WeightedLoss(["a"])
    found = []
    for value in range(1, 9):
        criterion(losses(a=float(value)))
        found.append(criterion.metrics()["raw/a"])
        if value % 4 == 0:
            criterion.step()
            found.append(criterion.metrics()["raw/a"])
    assert found == [1.0, 1.5, 2.0, 2.5, 2.5, 5.0, 5.5, 6.0, 6.5, 6.5]


def test_the_weights_of_a_step_are_those_it_was_trained_with() -> None:
    criterion = WeightedLoss({"a": {"kind": "warmup", "over": "4 steps"}})
    found = []
    for _ in range(4):
        in_steps(criterion, 2, a=1.0)
        found.append(criterion.metrics()["weight/a"])
    assert found == [0.0, 0.25, 0.5, 0.75]


QUANTITIES = ("raw", "value", "weight", "penalty", "weighted")


class ByHand:
    """The breakdowns of forward passes, which record nothing, and their means over a step."""

    def __init__(self, summed: str = "") -> None:
        self.summed, self.passes, self.totals = summed, list[Breakdown](), list[float]()

    def __call__(self, criterion: WeightedLoss, terms: dict[str, Tensor]) -> None:
        """Calls the criterion."""
        self.passes.append(criterion.breakdown(terms))
        self.totals.append(criterion(terms).item())

    def metrics(self) -> dict[str, float]:
        """What `metrics` should show."""
        found: dict[str, float] = {}
        for name in sorted({name for each in self.passes for name in each.raw}):
            for quantity in QUANTITIES:
                parts = [getattr(each, quantity).get(name) for each in self.passes]
                values = [part.item() for part in parts if part is not None]
                if not values:
                    continue  # no penalty
                of_all = quantity in ("penalty", "weighted")
                adds_up = name == self.summed and quantity in ("raw", "value", "weighted")
                count = 1 if adds_up else len(parts) if of_all else len(values)
                found[f"{quantity}/{name}"] = sum(values) / count
        return found


KINDS: dict[str, dict[str, Any]] = {
    "constant": {"terms": {"a": 1.0, "b": Term(weight=0.5, optional=True)}},
    "transform": {"terms": {"a": Term(transform=Offset()), "b": Term(optional=True)}},
    "weights of each pass": {"terms": {"a": 2.0, "b": Term(optional=True)}, "balancer": Shares()},
    "penalties": {
        "terms": {"a": 2.0, "b": Term(optional=True)},
        "balancer": {"kind": "test-priced", "price": 0.5, "initial": 3.0},
    },
    "sum": {"terms": {"a": Term(accumulates="sum"), "b": Term(optional=True)}},
    "skipped": {"terms": {"a": 1.0, "b": Term(weight=0.0, when_zero="skip", optional=True)}},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 5, 150])
def test_metrics_are_means_of_the_breakdowns_of_the_forward_passes(kind: str, count: int) -> None:
    """Of terms that are absent from some of them, too: their part in the total is then 0."""
    generator = np.random.default_rng(0)
    criterion = WeightedLoss(**KINDS[kind])
    for _ in range(2):
        by_hand = ByHand(summed="a" if kind == "sum" else "")
        for index in range(count):
            terms = losses(a=generator.uniform(1, 3))
            if index % 3 == 1:
                terms |= losses(b=generator.uniform(1, 3))
            by_hand(criterion, terms)
        criterion.step()
        metrics, expected = criterion.metrics(), by_hand.metrics()
        assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-5)
        assert metrics.keys() - expected.keys() == {"total"} | {
            name for name in metrics if name.startswith("share/")
        }
        parts = [value for name, value in metrics.items() if name.startswith("weighted/")]
        assert metrics["total"] == pytest.approx(sum(parts), rel=1e-6)
        total = sum(by_hand.totals) / (1 if kind == "sum" else count)
        if kind != "sum" or count == 1:  # else `b` adds its mean
            assert metrics["total"] == pytest.approx(total, rel=1e-5)


def test_sums_and_means_make_the_total_of_a_loop_that_divides_it() -> None:
    criterion = WeightedLoss({"a": {"accumulates": "sum"}, "b": 0.5}, balancer="test-priced")
    criterion.divided_by = 4
    for _ in range(2):
        totals = [criterion(losses(a=value, b=2 * value)).item() for value in (1.0, 2, 3, 4)]
        criterion.step()
        assert criterion.metrics()["total"] == pytest.approx(sum(totals) / 4)


def test_a_term_that_is_not_finite_in_one_pass_is_not_finite_in_the_step() -> None:
    criterion = WeightedLoss(["a", "b"])
    for value in (1.0, float("nan"), 3.0):
        criterion(losses(a=value, b=2.0))
    metrics = criterion.metrics(include=["raw", "total"])
    assert np.isnan([metrics["raw/a"], metrics["total"]]).all()
    assert metrics["raw/b"] == 2.0


def test_a_term_that_is_left_out_of_the_sum_adds_nothing_whatever_its_value() -> None:
    criterion = WeightedLoss({"a": 1.0, "b": Term(weight=0.0, when_zero="skip")})
    for value in (float("nan"), 1.0):
        criterion(losses(a=2.0, b=value))
    metrics = criterion.metrics(include=["weighted", "total"])
    assert metrics == {"weighted/a": 2.0, "weighted/b": 0.0, "total": 2.0}


def test_losses_of_different_precision_have_one_mean() -> None:
    criterion = WeightedLoss(["a"])
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        criterion({"a": leaf(1 / 3, dtype)})
    rounded = torch.tensor(1 / 3).item(), torch.tensor(1 / 3, dtype=torch.bfloat16).item()
    assert criterion.metrics()["raw/a"] == pytest.approx(np.mean([1 / 3, *rounded]), rel=1e-12)


def test_a_loss_that_is_overwritten_after_its_forward_pass_is_shown_as_it_was() -> None:
    """As a CUDA graph overwrites its output when it runs again."""
    criterion = WeightedLoss({"a": Term(transform=Offset())})
    loss = torch.tensor(3.0)
    criterion({"a": loss})
    loss.fill_(99.0)
    assert criterion.metrics()["raw/a"] == 3.0


# Compiled


@pytest.fixture
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_fresh")
@pytest.mark.parametrize("kind", ["constant", "transform", "weights of each pass", "penalties"])
def test_a_compiled_criterion_shows_what_an_eager_one_shows(kind: str) -> None:
    """With any number of forward passes in a step, in one graph for each set of terms."""
    counter = CompileCounterWithBackend("aot_eager")
    eager, inner = WeightedLoss(**KINDS[kind]), WeightedLoss(**KINDS[kind])
    compiled = torch.compile(inner, backend=counter, fullgraph=True)
    for count in (1, 4, 2, 70):
        for index in range(count):
            for call in (eager, compiled):
                terms = losses(a=1.0 + index)
                # Not in the last pass: it is not the pass that decides which terms are shown.
                call(terms | losses(b=2.0) if index % 2 == 0 and index < count - 1 else terms)
            assert inner.metrics() == pytest.approx(eager.metrics(), rel=1e-5)
        inner.step()
        eager.step()
        assert inner.metrics() == pytest.approx(eager.metrics(), rel=1e-5)
    assert counter.frame_count == 2
    assert inner.audit() == eager.audit()


@pytest.mark.usefixtures("_fresh")
def test_compiled_and_eager_forward_passes_add_up_in_one_step() -> None:
    counter = CompileCounterWithBackend("eager")
    criterion = WeightedLoss(["a"])
    compiled = torch.compile(criterion, backend=counter, fullgraph=True)
    for _ in range(2):
        for value in range(140):
            (compiled if value % 7 == 0 else criterion)(losses(a=float(value)))
        criterion.step()
        assert criterion.metrics()["raw/a"] == 69.5
    assert counter.frame_count == 1


# What it costs


class Ops(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the operations of torch."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func._schema.name)
        return func(*args, **(kwargs or {}))


def test_to_record_a_forward_pass_takes_one_operation_and_a_step_none() -> None:
    criterion = WeightedLoss(["a", "b"])
    for _ in range(5):  # some of these look which terms carry a gradient
        criterion(losses(a=1.0, b=2.0))
    for _ in range(3):
        terms = losses(a=1.0, b=2.0)
        with Ops() as ops:
            criterion(terms)
        assert ops.seen == ["aten::stack", "aten::dot", "aten::detach"]
    with Ops() as ops:
        criterion.step()
    assert ops.seen == []


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_are_shown_without_waiting_for_the_device(kind: str) -> None:
    """A device that has no values: whatever asks for one fails."""
    criterion = WeightedLoss(**KINDS[kind]).to("meta")
    for _ in range(2):
        for index in range(70):
            names = ("a", "b") if index % 2 else ("a",)
            criterion({n: torch.empty((), device="meta", requires_grad=True) for n in names})
        criterion.step()
        assert {part.device.type for part in criterion.metrics(tensors=True).values()} == {"meta"}


@contextmanager
def few_more_tensors(most: int) -> Iterator[None]:
    """Fails if more tensors than that exist afterwards."""

    def count() -> int:
        gc.collect()
        return sum(issubclass(type(each), Tensor) for each in gc.get_objects())

    before = count()
    yield
    assert count() - before <= most


def test_a_step_of_many_forward_passes_takes_no_more_memory_than_one_of_some() -> None:
    criterion = WeightedLoss(["a"])
    in_steps(criterion, 100, a=1.0)
    with few_more_tensors(600):
        for _ in range(2000):
            criterion(losses(a=1.0))


# Copies and devices


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_within_a_step_goes_on_with_it(copied: Callable[[Any], Any]) -> None:
    criterion = WeightedLoss(["a"])
    in_steps(criterion, 2, a=1.0)
    criterion(losses(a=10.0))
    twin = copied(criterion)
    assert twin.metrics() == criterion.metrics()
    twin(losses(a=30.0))
    twin.step()
    assert twin.metrics()["raw/a"] == 20.0
    assert criterion.metrics()["raw/a"] == 10.0


@pytest.mark.usefixtures("_fresh")
def test_a_copy_of_a_compiled_criterion_adds_to_a_table_of_its_own() -> None:
    criterion = WeightedLoss(["a"])
    torch.compile(criterion, backend="eager", fullgraph=True)(losses(a=10.0))
    twin = copy.deepcopy(criterion)
    torch.compile(twin, backend="eager", fullgraph=True)(losses(a=30.0))
    assert twin.metrics()["raw/a"] == 20.0
    assert criterion.metrics()["raw/a"] == 10.0


@pytest.mark.usefixtures("_fresh")
def test_a_copy_counts_on_the_device_of_its_losses() -> None:
    """Its weights are computed on the CPU again, whatever the device of the original."""
    criterion = WeightedLoss(["a"])
    criterion({"a": torch.empty((), device="meta", requires_grad=True)})
    criterion.step()
    twin = copy.deepcopy(criterion)
    torch.compile(twin, backend="eager", fullgraph=True)(losses(a=3.0))
    twin(losses(a=5.0))
    assert twin.metrics()["raw/a"] == 4.0


def test_a_step_goes_on_where_its_losses_move() -> None:
    criterion = WeightedLoss(["a", "b"])
    criterion(losses(a=1.0, b=1.0))
    criterion({name: torch.empty((), device="meta", requires_grad=True) for name in "ab"})
    for _ in range(2):
        metrics = criterion.metrics(tensors=True)
        assert {part.device.type for part in metrics.values()} == {"meta"}
        criterion.step()


def test_a_pass_that_skips_a_term_leaves_its_value_out_of_the_step() -> None:
    terms: dict[str, Any] = {"a": {"transform": "log"}, "b": 1.0}
    criterion = WeightedLoss(terms, on_nonfinite="skip_term")
    criterion(losses(a=2.0, b=1.0))
    criterion(losses(a=float("nan"), b=1.0))
    criterion.step()
    assert criterion.metrics(include=["raw"]) == {"raw/a": 2.0, "raw/b": 1.0}


def test_a_copy_has_the_last_step_and_the_current_one_in_a_few_tensors() -> None:
    criterion = WeightedLoss({"a": 1.0, "b": {"transform": "log"}})
    for _ in range(60):
        for _ in range(12):
            criterion(losses(a=1.0, b=2.0))
        criterion.step()
    small = WeightedLoss({"a": 1.0, "b": {"transform": "log"}})
    small(losses(a=1.0, b=2.0))
    small.step()
    assert len(pickle.dumps(criterion)) < 2 * len(pickle.dumps(small))
    for value in (3.0, 5.0):
        criterion(losses(a=value, b=2.0))
    copied = pickle.loads(pickle.dumps(criterion))
    assert copied.metrics() == criterion.metrics()
    for each in (criterion, copied):
        each(losses(a=10.0, b=2.0))
        each.step()
        assert each.metrics()["raw/a"] == 6.0
