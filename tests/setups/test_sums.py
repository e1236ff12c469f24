"""Steps whose forward passes give parts of sums, as losses per token of a window."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from lossweights import Balancer, Controller, State, StepContext, Term, Transform, WeightedLoss
from lossweights.testing.training import Adaptive
from tests.small_components import Priced, Recording, leaf, losses
from tests.test_adaptive_properties import EXAMPLES

STEPS, PASSES = 6, 4
NAMES = ("alpha", "beta", "gamma")
WITHOUT_TRANSFORMS = [each for each in EXAMPLES if not isinstance(each, Transform)]
# Directions of the gradients, some of which conflict; each sums to 1.
DIRECTIONS = torch.tensor([[1.0, 0.5, -0.5, 0.0], [-0.5, 1.0, 0.25, 0.25], [0.25, 0.25, -1.0, 1.5]])


class Loop:
    """A loop in which each term is its value, times a head of 1, times what all share.

    Args:
        component: A balancer, or a controller of the first term.
        passes: Forward passes of a step, each with an equal part of the values.
        summed: The terms that are given in parts; the others are given whole in each pass.
        divided: Whether the total is divided by the number of passes.
    """

    def __init__(
        self, component: Adaptive, passes: int, summed: Sequence[str], *, divided: bool
    ) -> None:
        controller = component if isinstance(component, Controller) else None
        balancer = component if isinstance(component, Balancer) else None
        terms = {
            name: Term(
                accumulates="sum" if name in summed else "mean",
                controller=controller if name == NAMES[0] else None,
            )
            for name in NAMES
        }
        self.criterion = WeightedLoss(
            terms, balancer=balancer, total_steps=STEPS, steps_per_epoch=2
        )
        self.passes, self.summed, self.divided = passes, summed, divided
        if divided:
            self.criterion.divided_by = passes
        self.after = balancer is not None and balancer.learns_after
        self.source = getattr(component, "source", None)
        learned = list(self.criterion.parameters())
        self.optimizer = torch.optim.SGD(learned, lr=0.1) if learned else None
        self.shared = torch.ones(4, requires_grad=True)
        self.heads = torch.ones(3, requires_grad=True)
        draws = torch.Generator().manual_seed(0)
        self.values = torch.rand(STEPS + 1, 3, generator=draws) * torch.tensor([1.0, 5.0, 0.3])

    def terms(self, step: int, parts: int) -> tuple[dict[str, Tensor], Tensor]:
        features = self.shared * torch.ones(2, 1)  # a batch of two
        values = self.values[step] * self.heads * (DIRECTIONS * features.mean(dim=0)).sum(dim=1)
        named = dict(zip(NAMES, values.unbind(), strict=True))
        return {n: v / parts if n in self.summed else v for n, v in named.items()}, features

    def step(self, step: int) -> dict[str, float]:
        """A step; returns what is shown of it, its gradients and the weights after it."""
        for _ in range(self.passes):
            total = self.criterion(*self.terms(step, self.passes))
            (total / self.passes if self.divided else total).backward()
        shown = self.criterion.metrics()
        for name, tensor in (("shared", self.shared), ("heads", self.heads)):
            assert tensor.grad is not None
            shown |= {f"{name} {at}": float(part) for at, part in enumerate(tensor.grad)}
            tensor.grad = None
        if self.source not in (None, *NAMES):
            self.criterion.observe(**{self.source: float(self.values[step, 0])})
        if self.optimizer is not None:
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.criterion.step()
        if self.after:
            self.criterion.observe_after(self.terms(step + 1, 1)[0])
        return shown | self.criterion.weights


def close(found: Mapping[str, float], wanted: Mapping[str, float]) -> None:
    assert found == pytest.approx(dict(wanted), rel=1e-4, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("component", WITHOUT_TRANSFORMS, ids=repr)
def test_parts_of_a_known_number_are_one_value(component: Adaptive) -> None:
    """With a term that is a mean, which the loop divides by the number of passes."""
    whole = Loop(component, 1, NAMES[:2], divided=False)
    parts = Loop(component, PASSES, NAMES[:2], divided=True)
    for step in range(STEPS):
        close(parts.step(step), whole.step(step))


@pytest.mark.parametrize("component", WITHOUT_TRANSFORMS, ids=repr)
def test_parts_are_one_value_once_their_number_was_seen(component: Adaptive) -> None:
    whole = Loop(component, 1, NAMES, divided=False)
    parts = Loop(component, PASSES, NAMES, divided=False)
    found, wanted = parts.step(0), whole.step(0)
    if parts.criterion.adaptive.weighs_inside:  # all but the number of passes is as it would be
        state = whole.criterion.state_dict()
        del state["adaptive.observed.passes"]
        parts.criterion.load_state_dict(state, strict=False)
    else:
        close(found, wanted)
    for step in range(1, STEPS):
        close(parts.step(step), whole.step(step))


# 12 tokens of a loss of 3.0 each, 10 in the first batch and 2 in the second.


def tokens(*counts: int, of: int | None = None, loss: float = 3.0) -> list[dict[str, Tensor]]:
    """A window of batches with so many tokens each: parts of the mean over all tokens."""
    total = sum(counts) if of is None else of
    return [losses(ce=loss * count / total, other=1.0) for count in counts]


def window(criterion: WeightedLoss, given: Sequence[Mapping[str, Tensor | None]]) -> None:
    for terms in given:
        criterion(terms)
    criterion.step()


def test_a_balancer_and_a_controller_learn_from_the_value_of_the_window() -> None:
    summed = Term(weight=2.0, accumulates="sum")
    averaging = WeightedLoss({"ce": summed, "other": 1.0}, balancer="moving-average")
    steered = WeightedLoss(
        {
            "ce": Term(controller={"kind": "pid", "target": 2.0}, accumulates="sum"),
            "other": Term(controller={"kind": "pid", "target": 2.0, "source": "ce"}),
        }
    )
    for _ in range(300):
        window(averaging, tokens(10, 2))
    window(steered, tokens(10, 2))
    assert averaging.weights == pytest.approx({"ce": 2.0 / 3.0, "other": 1.0}, rel=1e-3)
    shown = steered.metrics()
    assert (shown["raw/ce"], shown["raw/other"]) == pytest.approx((3.0, 1.0))
    for name in ("ce", "other"):
        assert abs(shown[f"controller/{name}/error"]) == pytest.approx(1.0)


@pytest.mark.parametrize("divided_by", [None, 2])
@pytest.mark.parametrize(
    ("balancer", "settled"),
    [
        ("uncertainty", {"ce": 1 / (2 * 3.0), "other": 1 / 2}),  # exp(s) = l, and 1 / (2 exp(s))
        ("imtl-l", {"ce": 1 / 3.0, "other": 1.0}),  # exp(s) l = 1
    ],
)
def test_learned_weights_settle_where_they_would_with_the_whole_value(
    balancer: str, settled: dict[str, float], divided_by: int | None
) -> None:
    each = {"accumulates": "sum"}
    criterion = WeightedLoss({"ce": each, "other": each}, balancer=balancer)
    criterion.divided_by = divided_by
    optimizer = torch.optim.SGD(criterion.parameters(), lr=0.2)
    criterion.follow(optimizer)
    for _ in range(120):
        for terms in tokens(10, 2):
            terms["other"] = terms["ce"] / 3
            (criterion(terms) / (divided_by or 1)).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert criterion.weights == pytest.approx(settled, rel=1e-3)


def test_gradients_of_constant_weights_are_those_of_the_whole_window() -> None:
    torch.manual_seed(0)
    weight = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    inputs = [torch.randn(count, 5, dtype=torch.float64) for count in (10, 2, 7)]
    criterion = WeightedLoss({"ce": Term(weight=0.7, accumulates="sum"), "size": 0.3})

    def per_token(x: Tensor) -> Tensor:
        return -(x @ weight).log_softmax(dim=1)[:, 0]

    size = weight.square().mean()
    whole = 0.7 * per_token(torch.cat(inputs)).mean() + 0.3 * size
    (wanted,) = torch.autograd.grad(whole, weight)
    for divided_by in (None, 3):
        criterion.divided_by = divided_by
        for x in inputs:
            terms = {"ce": per_token(x).sum() / 19, "size": weight.square().mean()}
            if divided_by is None:  # nothing divides the mean, so the loop does
                terms["size"] = terms["size"] / 3
            (criterion(terms) / (divided_by or 1)).backward()
        criterion.step()
        assert weight.grad is not None
        # Weights are float32.
        torch.testing.assert_close(weight.grad, wanted, rtol=1e-6, atol=1e-9)
        weight.grad = None
        mean = per_token(torch.cat(inputs)).mean()
        assert criterion.metrics()["raw/ce"] == pytest.approx(mean.item())


def test_the_mean_is_divided_and_the_sum_is_not_by_hand() -> None:
    """With weights that a balancer by gradients has computed, in float64."""
    torch.manual_seed(0)
    x = torch.randn(4, dtype=torch.float64, requires_grad=True)
    a, b = torch.randn(2, 4, dtype=torch.float64)
    criterion = WeightedLoss(
        {"ce": Term(weight=2.0, accumulates="sum"), "router": 0.5}, balancer="norm-balance"
    )
    criterion.divided_by = 2
    wanted = torch.zeros_like(x)
    for part in (0.5, 0.5):
        features = x * torch.ones(3, 1, dtype=torch.float64)
        terms = {"ce": part * (features @ a).mean(), "router": (features @ b).mean()}
        (criterion(terms, shared=features) / 2).backward()
        shown = criterion.breakdown(terms).weight
        wanted += shown["ce"].double() * part * a + shown["router"].double() * b / 2
    assert x.grad is not None
    torch.testing.assert_close(x.grad, wanted, rtol=1e-6, atol=1e-9)


# Windows of other lengths


def test_the_value_is_exact_whatever_the_number_of_passes_and_estimates_use_the_last() -> None:
    each = {"accumulates": "sum"}
    criterion = WeightedLoss({"a": each, "b": each}, balancer="test-sums-as-read")
    before = 1
    for count in (4, 2, 1, 3):
        for _ in range(count):
            criterion(losses(a=6.0 / count, b=3.0 / count))
            assert AsRead.weighed[-1] == pytest.approx([6.0 * before / count, 3.0 * before / count])
        criterion.step()
        shown = criterion.metrics(include=["value"])
        assert shown == pytest.approx({"value/a": 6.0, "value/b": 3.0})
        assert criterion.adaptive.slots["balancer"].state["observed"].tolist() == [6.0, 3.0]
        before = count


def test_the_number_by_which_a_trainer_divides_is_no_estimate() -> None:
    each = {"accumulates": "sum"}
    criterion = WeightedLoss({"a": each, "b": each}, balancer="test-sums-as-read")
    for count in (4, 2, 1, 3):
        criterion.divided_by = count
        for _ in range(count):
            for call in (criterion.breakdown, criterion):
                call(losses(a=6.0 / count, b=3.0 / count))
                assert AsRead.weighed[-1] == pytest.approx([6.0, 3.0])
        criterion.step()


class AsRead(Balancer, kind="test-sums-as-read"):
    """Notes which values it weighs, and those that it observes; weighs by none."""

    instant: ClassVar[bool] = True
    weighed: ClassVar[list[list[float]]] = []

    def init(self, n: int) -> State:
        return {"observed": torch.zeros(n)}

    def weigh(self, losses: Tensor, state: State, now: StepContext) -> Tensor:
        self.weighed.append(losses.tolist())
        return torch.ones_like(losses)

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        state["observed"] = observed


def test_a_sum_that_is_absent_from_some_passes_is_that_of_the_others() -> None:
    optional = Term(accumulates="sum", optional=True)
    criterion = WeightedLoss({"a": optional, "b": optional, "c": 1.0}, balancer=Recording())

    def observed() -> list[float]:
        found: list[float] = criterion.adaptive.slots["balancer"].state["observed"].tolist()
        return found

    window(criterion, [losses(a=1.0, c=1.0), losses(a=2.0, b=5.0, c=3.0), losses(a=3.0, c=5.0)])
    assert observed() == [6.0, 5.0, 3.0]
    assert criterion.metrics(include=["weighted"]) == {
        "weighted/a": 6.0,
        "weighted/b": 5.0,
        "weighted/c": 3.0,
    }
    window(criterion, [losses(b=1.0, c=7.0)])
    assert observed() == [6.0, 1.0, 7.0]


# Evaluation, reports and checkpoints


def test_in_evaluation_a_value_is_whole() -> None:
    """A validation loss is a mean over its batch: the weights are those of the same value."""
    each = {"accumulates": "sum"}
    for balancer in ("geometric", Priced()):
        parts = WeightedLoss({"a": each, "b": each}, balancer=balancer, eval_weights="current")
        whole = WeightedLoss(["a", "b"], balancer=balancer, eval_weights="current")
        window(parts, [losses(a=1.0, b=2.0)] * 3)
        window(whole, [losses(a=3.0, b=6.0)])
        given = losses(a=4.0, b=1.0)
        with torch.no_grad():
            assert parts(given) == whole(given)
        assert parts.eval()(given) == whole.eval()(given)


@pytest.mark.parametrize("balancer", ["test-priced", "uncertainty", "geometric", "test-recording"])
def test_a_total_is_the_sum_of_the_parts_that_are_reported(balancer: str) -> None:
    each = {"accumulates": "sum"}
    criterion = WeightedLoss({"a": each, "b": each, "c": 1.0}, balancer=balancer)
    for count in (3, 2, 4):
        totals = []
        for _ in range(count):
            given = losses(a=2.0, b=3.0, c=5.0)
            total = criterion(given)
            torch.testing.assert_close(criterion.breakdown(given).total, total)
            totals.append(total.item())
        shown = criterion.metrics()
        mean = shown["weighted/c"] * (count - 1)  # each pass adds a whole mean
        assert sum(totals) == pytest.approx(shown["total"] + mean, rel=1e-5)
        parts = sum(shown[f"weighted/{name}"] for name in "abc")
        assert shown["total"] == pytest.approx(parts, rel=1e-6)
        criterion.step()


@pytest.mark.parametrize(
    "component", ["uncertainty", "geometric", "moving-average", "famo", "gradnorm", "upgrad"]
)
def test_going_on_in_the_middle_of_a_window_is_exact(component: str) -> None:
    balancer = Balancer.read(component)
    straight, begun, resumed = (Loop(balancer, 3, NAMES[:2], divided=False) for _ in range(3))
    for step in range(2):
        straight.step(step)
        begun.step(step)
    for loop in (straight, begun):
        loop.criterion(*loop.terms(2, 3)).backward()
    resumed.criterion.load_state_dict(begun.criterion.state_dict())
    resumed.shared.grad, resumed.heads.grad = begun.shared.grad, begun.heads.grad
    for ours, theirs in zip(
        resumed.criterion.parameters(), begun.criterion.parameters(), strict=True
    ):
        ours.grad = theirs.grad
    for loop in (straight, resumed):
        loop.passes = 2
        loop.step(2)
        loop.passes = 3
    assert resumed.step(3) == pytest.approx(straight.step(3), rel=0, abs=0, nan_ok=True)


def test_a_copy_divides_by_the_same() -> None:
    criterion = WeightedLoss({"a": {"accumulates": "sum"}})
    criterion.divided_by = 4
    assert copy.deepcopy(criterion)({"a": leaf(1.0)}).item() == 4.0


def test_a_step_without_any_sum_says_nothing_of_the_number_of_passes() -> None:
    optional = Term(accumulates="sum", optional=True)
    terms: dict[str, Any] = {"a": optional, "b": 1.0, "c": optional}
    criterion = WeightedLoss(terms, balancer="test-sums-as-read")
    window(criterion, [losses(a=1.0, b=1.0), losses(a=1.0, b=1.0, c=1.0), losses(a=1.0, b=1.0)])
    for _ in range(2):
        window(criterion, [losses(b=1.0)] * 2)
    criterion(losses(a=2.0, b=1.0, c=5.0))
    assert AsRead.weighed[-1] == [6.0, 1.0, 15.0]


def test_a_checkpoint_of_means_fits_unless_weights_depend_on_the_number_of_passes() -> None:
    means = WeightedLoss(["a", "b"], balancer="dwa", steps_per_epoch=1)
    sums = WeightedLoss({"a": {"accumulates": "sum"}, "b": 1.0}, balancer="dwa", steps_per_epoch=1)
    sums.load_state_dict(means.state_dict())
    assert sums.state_dict().keys() == means.state_dict().keys()
