"""What the forward passes of a step show: means of what was there, of what counted, once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lossweights import Term, WeightedLoss
from lossweights.criterion.distributed import ProcessGroup
from lossweights.criterion.observations import Observations
from tests.small_components import Centred, Counting, Recording, leaf, losses


def watched(**options: Any) -> WeightedLoss:
    """A controller, a transform that learns, and a balancer, each of which notes what it saw."""
    terms: dict[str, Any] = {
        "a": Term(controller=Counting(), optional=True),
        "b": Term(transform=Centred(), optional=True),
        "c": Term(optional=True),
    }
    return WeightedLoss(terms=terms, balancer=Recording(), **options)


def noted(criterion: WeightedLoss) -> dict[str, Any]:
    """What was noted of a, b (raw), b and c (transformed), and how many updates there were."""
    balancer = criterion.adaptive.slots["balancer"].state
    return {
        "a": criterion.adaptive.slots["terms.a.controller"].state["observed"].item(),
        "raw b": criterion.adaptive.slots["terms.b.transform"].state["last"].item(),
        "b, c": balancer["observed"].tolist(),
        "updates": balancer["updates"].item(),
    }


AT_START = {"a": 0.0, "raw b": 0.0, "b, c": [0.0, 0.0], "updates": 0}


# Means


def test_an_update_is_told_the_mean_of_the_forward_passes_before_it() -> None:
    criterion = watched()
    for value in (1.0, 2.0, 6.0):
        criterion(losses(a=value, b=2 * value, c=-value))
    assert noted(criterion) == AT_START
    criterion.step()
    assert noted(criterion) == {"a": 3.0, "raw b": 6.0, "b, c": [6.0, -3.0], "updates": 1}
    criterion(losses(a=1.0, b=8.0, c=1.0))
    criterion.step()
    assert noted(criterion) == {"a": 1.0, "raw b": 8.0, "b, c": [2.0, 1.0], "updates": 2}


def test_each_term_has_the_mean_over_the_passes_in_which_it_was_there() -> None:
    criterion = watched()
    criterion(losses(a=1.0, b=1.0, c=1.0))
    criterion({**losses(a=3.0), "c": None})
    criterion(losses(c=5.0))
    criterion.step()
    assert noted(criterion) == {"a": 2.0, "raw b": 1.0, "b, c": [1.0, 3.0], "updates": 1}


def test_what_was_not_seen_stays_as_it_was() -> None:
    criterion = watched()
    criterion(losses(a=1.0, b=2.0, c=3.0))
    criterion.step()
    criterion(losses(c=5.0))
    criterion.step()
    assert noted(criterion) == {"a": 1.0, "raw b": 2.0, "b, c": [2.0, 5.0], "updates": 2}
    assert criterion.weights == {"a": 2.0, "b": 2.0, "c": 3.0}


def test_a_balancer_reads_1_for_what_it_never_saw_and_then_the_last() -> None:
    class Total(Recording, kind="test-total"):
        def update(self, observed: Tensor, state: Any, now: Any) -> None:
            state["observed"].copy_(observed.sum().expand(2))

    criterion = WeightedLoss(terms={"a": 1.0, "b": Term(optional=True)}, balancer=Total())
    for given, expected in ((losses(a=5.0), 6.0), (losses(a=1.0, b=2.0), 3.0), (losses(a=4.0), 6)):
        criterion(given)
        criterion.step()
        assert criterion.adaptive.slots["balancer"].state["observed"][0] == expected


@pytest.mark.parametrize("given", [{}, {"a": None, "b": None, "c": None}])
def test_a_step_in_which_nothing_was_given_changes_nothing(given: Any) -> None:
    criterion = watched()
    criterion.step()
    criterion(given)
    criterion.step()
    assert noted(criterion) == AT_START
    assert criterion.weights == dict.fromkeys("abc", 1.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_value_that_is_not_finite_spoils_its_term_for_the_step_and_no_other(bad: float) -> None:
    criterion = watched()
    criterion(losses(a=1.0, b=1.0, c=1.0))
    criterion(losses(a=bad, b=3.0, c=bad))
    criterion(losses(a=1.0, b=5.0, c=-bad))
    criterion.step()
    assert noted(criterion) == {"a": 0.0, "raw b": 3.0, "b, c": [3.0, 0.0], "updates": 1}
    criterion(losses(a=1.0, b=3.0, c=4.0))
    criterion.step()
    assert noted(criterion) == {"a": 1.0, "raw b": 3.0, "b, c": [0.0, 4.0], "updates": 2}


def test_an_update_is_never_told_what_is_not_finite() -> None:
    class Strict(Counting, kind="test-strict"):
        def update(self, observed: Tensor, state: Any, now: Any) -> None:
            assert observed.isfinite()

    criterion = WeightedLoss(terms={"a": Term(controller=Strict(), optional=True)})
    for given in (losses(a=math.nan), losses(a=math.inf), {}):
        criterion(given)
        criterion.step()


def test_what_float32_cannot_hold_is_not_finite() -> None:
    criterion = WeightedLoss(terms={"a": Counting()})
    criterion({"a": leaf(1e300, torch.float64)})
    criterion.step()
    assert criterion.metrics()["controller/a/observed"] == 0.0


def test_terms_that_are_skipped_leave_the_mean_of_the_others() -> None:
    criterion = watched(on_nonfinite="skip_term")
    criterion(losses(a=1.0, b=1.0, c=1.0))
    criterion(losses(a=math.nan, b=3.0, c=math.inf))
    criterion.step()
    assert noted(criterion) == {"a": 1.0, "raw b": 2.0, "b, c": [2.0, 1.0], "updates": 1}


def test_low_precision_is_added_up_in_float32() -> None:
    criterion = watched()
    for _ in range(190):
        criterion({name: leaf(1.0, torch.bfloat16) for name in "abc"})
    criterion.step()
    assert noted(criterion) == {"a": 1.0, "raw b": 1.0, "b, c": [1.0, 1.0], "updates": 1}


# What takes no part


@pytest.mark.parametrize(
    "options", [{"after": "1 steps"}, {"weight": 0.0, "when_zero": "skip"}], ids=str
)
def test_terms_that_do_not_count_teach_nothing_although_they_are_given(options: Any) -> None:
    of_controller = {"after": "1 steps"}  # `skip` is refused for one that observes its own term
    terms: dict[str, Any] = {
        "a": Term(controller=Counting(), **of_controller),
        "b": Term(transform=Centred(), **options),
        "c": 1.0,
        "d": Term(**options),
    }
    criterion = WeightedLoss(terms=terms, balancer=Recording())
    criterion(losses(a=1.0, b=2.0, c=3.0, d=4.0))
    criterion.step()
    assert noted(criterion) == {**AT_START, "b, c": [0.0, 3.0, 0.0], "updates": 1}


def test_a_controller_stands_still_while_its_term_is_dormant_whatever_it_watches() -> None:
    terms: dict[str, Any] = {"a": 1.0, "kl": Term(controller=Counting(source="a"), after="2 steps")}
    criterion = WeightedLoss(terms=terms)
    found = []
    for value in (1.0, 2.0, 3.0):
        criterion(losses(a=value, kl=1.0))
        criterion.step()
        found.append(criterion.metrics()["controller/kl/observed"])
    assert found == [0.0, 0.0, 3.0]


@pytest.mark.parametrize(
    "look",
    [
        lambda criterion: criterion.eval()(losses(a=9.0, b=9.0, c=9.0)),
        lambda criterion: torch.no_grad()(criterion)(losses(a=9.0, b=9.0, c=9.0)),
        lambda criterion: torch.inference_mode()(criterion)(losses(a=9.0, b=9.0, c=9.0)),
        lambda criterion: criterion.breakdown(losses(a=9.0, b=9.0, c=9.0)),
        lambda criterion: criterion.metrics(),
        lambda criterion: criterion.weights,
        lambda criterion: criterion.bind(total_steps=100),
    ],
    ids=["eval", "no_grad", "inference_mode", "breakdown", "metrics", "weights", "bind"],
)
@pytest.mark.parametrize("rule", ["final", "current"])
def test_looking_teaches_nothing(look: Callable[[WeightedLoss], Any], rule: Any) -> None:
    criterion = watched(eval_weights=rule)
    criterion(losses(a=1.0, b=1.0, c=1.0))
    look(criterion)
    criterion.train().step()
    assert noted(criterion) == {"a": 1.0, "raw b": 1.0, "b, c": [1.0, 1.0], "updates": 1}


# Time


def test_many_steps_at_once_are_one_update_and_none_is_none() -> None:
    criterion = watched()
    criterion(losses(a=1.0, b=1.0, c=1.0))
    criterion.step(0)
    assert noted(criterion) == AT_START
    criterion.step(5)
    assert noted(criterion)["updates"] == 1
    criterion.step(5)
    assert noted(criterion)["updates"] == 1


def test_set_step_drops_what_was_seen() -> None:
    criterion = watched()
    criterion(losses(a=1.0, b=1.0, c=1.0))
    criterion.set_step(7)
    criterion.step()
    assert noted(criterion) == AT_START


def test_loading_brings_back_what_the_checkpoint_had_seen_in_place_of_ours() -> None:
    criterion, other = watched(), watched()
    criterion(losses(a=1.0, b=1.0, c=1.0))
    other(losses(a=5.0, b=5.0, c=5.0))
    criterion.load_state_dict(other.state_dict())
    criterion.step()
    assert noted(criterion)["a"] == 5.0
    other(losses(a=1.0, b=1.0, c=1.0))
    other.load_state_dict(watched().state_dict())
    other.step()
    assert noted(other) == AT_START


def test_who_shares_a_clock_learns_when_its_owner_steps() -> None:
    owner = watched()
    guest = WeightedLoss(
        terms={"a": Counting(), "b": Term(transform=Centred()), "c": 1.0},
        balancer=Recording(),
        clock=owner.clock,
    )
    for value in (1.0, 3.0):
        guest(losses(a=value, b=value, c=value))
    owner(losses(a=8.0, b=8.0, c=8.0))
    owner.step()
    assert noted(owner) == {"a": 8.0, "raw b": 8.0, "b, c": [8.0, 8.0], "updates": 1}
    assert noted(guest) == {"a": 2.0, "raw b": 2.0, "b, c": [2.0, 2.0], "updates": 1}
    guest(losses(a=1.0, b=1.0, c=1.0))
    owner.set_step(0)
    owner.step()
    assert noted(guest)["updates"] == 1


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_the_scaler_skips_is_no_update(fused: bool) -> None:
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    criterion = WeightedLoss(terms={"a": Counting()})
    criterion.follow(optimizer)
    counted = []
    for bad in (False, True, False, False):
        value = model(torch.ones(1, 2)).square().mean()
        total = criterion({"a": value}) * (float("inf") if bad else 1.0)
        scaler.scale(total).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        counted.append(criterion.metrics()["controller/a/coefficient"])
    assert counted == [2.0, 2.0, 3.0, 4.0]


# The sums themselves


def test_channels_have_names_and_places() -> None:
    observations = Observations(["a", "b"], ["b"], ["m", "n"])
    assert observations.names == ("a", "b", "raw b", "m", "n")
    assert [observations.channel(name) for name in ("a", "b", "m", "n")] == [0, 1, 3, 4]
    assert observations.channel_of_raw("b") == 2


def test_a_metric_may_be_called_as_a_raw_value_is() -> None:
    observations = Observations(["b"], ["b"], ["raw b"])
    observations.add_raws({"b": torch.tensor(1.0)})
    observations.add_metrics({"raw b": 5.0}, torch.device("cpu"))
    means, valid = observations.take(ProcessGroup("off"))
    assert means[1:].tolist() == [1.0, 5.0]
    assert valid.tolist() == [False, True, True]


def test_taking_begins_anew_at_the_same_addresses() -> None:
    observations = Observations(["a", "b"], [], [])
    address = observations.state["totals"].data_ptr()
    for values in ([1.0, 2.0], [3.0, 4.0]):
        observations.add_terms(torch.tensor(values), ["a", "b"])
        assert observations.take(ProcessGroup("off"))[0].tolist() == values
    assert observations.state["totals"].data_ptr() == address
    assert not observations.take(ProcessGroup("off"))[1].any()
