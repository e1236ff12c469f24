"""The clock: who moves it, what it counts, and what survives a checkpoint or a copy."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from lossweights import (
    Clock,
    ConfigError,
    Cyclical,
    HorizonError,
    Piecewise,
    Product,
    Ramp,
    Schedule,
    State,
    StepContext,
    Term,
    Warmup,
    WeightedLoss,
)
from tests.small_components import Counting


def ramp(**options: Any) -> WeightedLoss:
    return WeightedLoss(terms={"a": Ramp(start=0.0, stop=1.0, over="8 steps")}, **options)


def train(criterion: WeightedLoss, optimizer: torch.optim.Optimizer, model: nn.Module) -> Tensor:
    total: Tensor = criterion({"a": model(torch.ones(1, 2)).square().mean()})
    total.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    optimizer.zero_grad()
    return total


@pytest.fixture
def model() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(2, 1)


# Moving it by hand


def test_forward_moves_nothing() -> None:
    criterion = ramp()
    for _ in range(20):
        criterion({"a": torch.tensor(1.0, requires_grad=True)})
    assert (criterion.current_step, criterion.weights) == (0, {"a": 0.0})


def test_step_and_set_step() -> None:
    criterion = ramp()
    criterion.step()
    criterion.step(3)
    assert (criterion.current_step, criterion.weights) == (4, {"a": 0.5})
    criterion.set_step(100_000)
    assert criterion.weights == {"a": 1.0}
    criterion.set_step(0)
    assert criterion.weights == {"a": 0.0}


@pytest.mark.parametrize("wrong", [-1, 1.5, "1", True])
def test_steps_are_whole_and_not_below_zero(wrong: Any) -> None:
    criterion = ramp()
    with pytest.raises(ValueError, match=r"step\(\) takes a whole number of at least 0, found"):
        criterion.step(wrong)
    with pytest.raises(ValueError, match=r"set_step\(\) takes a whole number of at least 0"):
        criterion.set_step(wrong)
    assert criterion.current_step == 0
    with pytest.raises(ValueError, match=r"found Tensor; after an optimizer step write step\(\)"):
        criterion.step(torch.ones(()))  # type: ignore[arg-type]


def test_a_step_between_forward_and_backward_changes_no_gradient() -> None:
    criterion = ramp()
    criterion.set_step(4)
    value = torch.tensor(1.0, requires_grad=True)
    total = criterion({"a": value})
    criterion.step()
    total.backward()
    assert value.grad == torch.tensor(0.5)


def test_weights_over_block_boundaries() -> None:
    schedule = Cyclical(period="700 steps")
    criterion = WeightedLoss(terms={"a": schedule})
    curve = schedule.curve(total_steps=3000)
    for step in range(3000):
        assert criterion.weights["a"] == curve[step]
        if step % 97 == 0:
            total = criterion({"a": torch.tensor(1.0)})
            assert total == torch.tensor(curve[step], dtype=torch.float32)
        criterion.step()


# Following an optimizer


def test_following_counts_optimizer_steps(model: nn.Linear) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    criterion = ramp()
    criterion.follow(optimizer)
    for _ in range(4):  # gradient accumulation over two batches
        for _ in range(2):
            criterion({"a": model(torch.ones(1, 2)).mean()}).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert criterion.weights == {"a": 0.5}


def test_a_closure_called_many_times_is_one_step(model: nn.Linear) -> None:
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=5)
    criterion = ramp()
    criterion.follow(optimizer)
    calls = 0

    def closure() -> float:
        nonlocal calls
        calls += 1
        optimizer.zero_grad()
        total: Tensor = criterion({"a": (model(torch.ones(1, 2)) - 1).square().mean()})
        total.backward()  # type: ignore[no-untyped-call]
        return total.item()

    criterion.set_step(8)
    optimizer.step(closure)  # type: ignore[no-untyped-call]
    assert calls > 1
    assert criterion.current_step == 9


@pytest.mark.parametrize("fused", [False, True])
def test_steps_that_the_scaler_skips_do_not_count(model: nn.Linear, fused: bool) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    criterion = WeightedLoss(terms={"a": 1.0})
    criterion.follow(optimizer)
    counted = []
    for bad in (False, True, False, True, True):
        total = criterion({"a": model(torch.ones(1, 2)).mean() * (float("inf") if bad else 1.0)})
        scaler.scale(total).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        counted.append(criterion.current_step)
    assert counted == [1, 1, 2, 2, 2]


def test_a_subclass_that_calls_its_parents_step_counts_once(model: nn.Linear) -> None:
    class Mine(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            return super().step(closure)

    torch.optim.SGD(model.parameters())  # from now on torch runs the hooks of both classes
    optimizer = Mine(model.parameters(), lr=0.1)
    criterion = ramp()
    criterion.follow(optimizer)
    for _ in range(3):
        train(criterion, optimizer, model)
    assert criterion.current_step == 3


def test_an_optimizer_that_is_gone_gives_the_clock_up(model: nn.Linear) -> None:
    criterion = ramp()
    criterion.follow(torch.optim.SGD(model.parameters(), lr=0.1))
    gc.collect()
    criterion.step()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    criterion.follow(optimizer)
    train(criterion, optimizer, model)
    assert criterion.current_step == 2


def test_weights_that_cannot_be_computed_stand_for_no_step() -> None:
    def breaks(step: int) -> float:
        return 1 / (1500 - step)

    criterion = WeightedLoss(terms={"a": breaks}, eval_weights={"a": 1.0})
    criterion.step(1030)
    with pytest.raises(ValueError, match=r"term 'a'.*failed at step 1500.*ZeroDivisionError"):
        criterion.step(470)
    with pytest.raises(HorizonError, match="failed at step 1500"):
        criterion({"a": torch.tensor(1.0, requires_grad=True)})


def test_a_bind_that_is_refused_changes_nothing() -> None:
    points = (("10%", 0.0), ("50 steps", 1.0))
    criterion = WeightedLoss(terms={"a": Piecewise(points=points)}, total_steps=100)
    before = criterion.weights
    with pytest.raises(ConfigError, match="the times of `points` must rise"):
        criterion.bind(total_steps=10_000)
    assert criterion.weights == before
    criterion.set_step(50)
    assert criterion({"a": torch.tensor(1.0, requires_grad=True)}).item() == 1.0


def test_one_owner(model: nn.Linear) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    criterion = ramp()
    handle = criterion.follow(optimizer)
    with pytest.raises(RuntimeError, match=r"follows an optimizer already.*handle.remove\(\)"):
        criterion.follow(optimizer)
    with pytest.raises(RuntimeError, match=r"follows an optimizer, which moves its clock"):
        criterion.step()
    handle.remove()
    criterion.step()
    train(criterion, optimizer, model)
    assert criterion.current_step == 1
    with criterion.follow(optimizer):
        train(criterion, optimizer, model)
    train(criterion, optimizer, model)
    assert criterion.current_step == 2
    handle.remove()


def test_wrapped_optimizers_are_unwrapped(model: nn.Linear) -> None:
    class Wrapper:
        def __init__(self, optimizer: object) -> None:
            self.optimizer = optimizer

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    criterion = ramp()
    criterion.follow(Wrapper(Wrapper(optimizer)))  # type: ignore[arg-type]
    train(criterion, optimizer, model)
    assert criterion.current_step == 1


@pytest.mark.parametrize("wrong", [None, "adam", object()])
def test_what_is_no_optimizer_cannot_be_followed(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"takes a torch optimizer, found .*criterion.step\(\)"):
        ramp().follow(wrong)


def test_an_optimizer_keeps_no_criterion_alive(model: nn.Linear) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    criterion = ramp()
    criterion.follow(optimizer)
    gone = weakref.ref(criterion)
    del criterion
    gc.collect()
    assert gone() is None
    optimizer.step()


# Sharing a clock


def test_two_criteria_on_one_clock(model: nn.Linear) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = ramp()
    discriminator = ramp(clock=generator.clock)
    generator.follow(optimizer)
    for _ in range(4):
        train(generator, optimizer, model)
        discriminator({"a": torch.tensor(1.0, requires_grad=True)})
    assert discriminator.weights == generator.weights == {"a": 0.5}
    report = discriminator.report()
    assert report is not None
    assert report.step == 4


def test_a_shared_clock_brings_the_length_of_training() -> None:
    owner = WeightedLoss(terms={"a": Warmup(over="50%")}).bind(total_steps=100)
    other = WeightedLoss(terms={"b": Warmup(over="25%")}, clock=owner.clock)
    owner.step(10)
    assert other.weights == {"b": 0.4}


def test_a_shared_clock_is_moved_by_its_owner_alone(model: nn.Linear) -> None:
    owner = ramp()
    other = ramp(clock=owner.clock)
    assert owner.clock is other.clock
    with pytest.raises(RuntimeError, match=r"shares the clock of another: call step\(\) on that"):
        other.step()
    with pytest.raises(RuntimeError, match=r"shares the clock of another: call set_step\(\)"):
        other.set_step(3)
    with pytest.raises(RuntimeError, match="shares the clock of another"):
        other.follow(torch.optim.SGD(model.parameters(), lr=0.1))
    owner.follow(torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(RuntimeError, match="shares the clock of another"):
        other.step()
    with pytest.raises(TypeError, match="clock= takes the clock of another criterion, found int"):
        ramp(clock=3)


def test_who_was_refused_is_not_told_of_a_shared_clock() -> None:
    owner = ramp()
    with pytest.raises(ConfigError, match="too large for float32") as caught:
        WeightedLoss({"a": {"weight": 1e20, "schedule": 1e20}}, clock=owner.clock)
    assert caught.tb is not None  # in which the half-built one still lives
    owner.step()
    assert owner.weights == {"a": 0.125}


# Checkpoints


class Jump(Schedule, kind="jump-of-the-timekeeper-tests"):
    """A schedule that the library does not know."""

    def values(self, steps: Any, horizon: Any) -> Any:
        return 1.0 + (steps % 7) * 0.1


SCHEDULES: dict[str, Any] = {
    "cyclical": Cyclical(cycles=3, shape="sigmoid"),
    "warmup": Warmup(over="30%", shape="cosine", delay="2 steps"),
    "product": Product(factors=(Ramp(start=2.0, stop=0.1, over="20 steps"), Jump())),
    "late": Term(weight=0.3, schedule=Cyclical(period="5 steps"), after="4 steps"),
    "function": lambda step: 1 / (1 + step),
}


def run(criterion: WeightedLoss, steps: int, seed: int) -> list[bytes]:
    """Totals, bit for bit."""
    totals = []
    for step in range(steps):
        generator = torch.Generator().manual_seed(seed + step)
        values = torch.rand(len(SCHEDULES), generator=generator).requires_grad_()
        total = criterion(dict(zip(SCHEDULES, values.unbind(), strict=True)))
        totals.append(total.detach().numpy().tobytes())
        criterion.step()
    return totals


def saved_with_torch(criterion: WeightedLoss, folder: Path) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(criterion.state_dict(), buffer)
    buffer.seek(0)
    loaded: dict[str, Any] = torch.load(buffer, weights_only=True)
    return loaded


def saved_with_dcp(criterion: WeightedLoss, folder: Path) -> dict[str, Any]:
    save(criterion.state_dict(), checkpoint_id=folder)
    state = WeightedLoss(terms=SCHEDULES, total_steps=60).state_dict()
    load(state, checkpoint_id=folder)
    return state


@pytest.mark.filterwarnings("ignore:.*:UserWarning:torch.distributed")
@pytest.mark.parametrize("through", [saved_with_torch, saved_with_dcp])
def test_resume_is_bitwise(through: Any, tmp_path: Path) -> None:
    straight = run(WeightedLoss(terms=SCHEDULES, total_steps=60), 60, seed=0)
    first = WeightedLoss(terms=SCHEDULES, total_steps=60)
    totals = run(first, 23, seed=0)
    second = WeightedLoss(terms=SCHEDULES, total_steps=60)
    second.load_state_dict(through(first, tmp_path / "checkpoint"))
    assert totals + run(second, 37, seed=23) == straight


def test_state_dict_is_a_copy() -> None:
    criterion = ramp()
    state = criterion.state_dict()
    criterion.step(5)
    assert state["clock.step"] == 0
    state["clock.step"].fill_(99)
    assert criterion.current_step == 5


def test_a_checkpoint_of_other_terms_is_refused() -> None:
    saved = WeightedLoss(terms=["a", "old"])
    saved.set_step(5)
    criterion = WeightedLoss(terms=["a", "new"])
    with pytest.raises(RuntimeError, match=r"terms.new \(not a term of this checkpoint\)"):
        criterion.load_state_dict(saved.state_dict())
    with pytest.raises(RuntimeError, match=r"terms.old \(not a term of this criterion\)"):
        criterion.load_state_dict(saved.state_dict())
    both = (
        "terms: the checkpoint has the terms 'a', 'old', this criterion has 'a', 'new': .*strict="
    )
    with pytest.raises(RuntimeError, match=both):
        criterion.load_state_dict(saved.state_dict())
    whole = nn.ModuleDict({"criterion": WeightedLoss(terms=["a", "new"])})
    state = {f"criterion.{key}": value for key, value in saved.state_dict().items()}
    with pytest.raises(RuntimeError, match=r"criterion.terms.new \(not a term"):
        whole.load_state_dict(state)
    whole.load_state_dict(state, strict=False)
    assert whole["criterion"].current_step == 5


def test_a_checkpoint_without_a_step_is_refused() -> None:
    criterion = ramp()
    criterion.set_step(3)
    with pytest.raises(RuntimeError, match='Missing key.*"term_names", "clock.step"'):
        criterion.load_state_dict({})
    assert criterion.current_step == 3
    with pytest.raises(RuntimeError, match='Unexpected key.*"stage"'):
        criterion.load_state_dict({**criterion.state_dict(), "stage": torch.tensor(1)})


def test_a_damaged_checkpoint_is_refused() -> None:
    criterion = ramp()
    state = criterion.state_dict()
    with pytest.raises(RuntimeError, match="clock.step is a whole number .*found -3"):
        criterion.load_state_dict({**state, "clock.step": torch.tensor(-3)})
    with pytest.raises(RuntimeError, match="the checkpoint is damaged"):
        criterion.load_state_dict({**state, "term_names": torch.tensor([1, 2])})
    assert criterion.current_step == 0


def test_state_lies_within_the_model_around_it() -> None:
    criterion = ramp()
    whole = nn.ModuleDict({"net": nn.Linear(1, 1), "criterion": criterion})
    criterion.step(4)
    other = nn.ModuleDict({"net": nn.Linear(1, 1), "criterion": ramp()})
    other.load_state_dict(whole.state_dict())
    assert other["criterion"].current_step == 4


def test_who_shares_a_clock_does_not_save_it() -> None:
    owner = ramp()
    other = ramp(clock=owner.clock)
    owner.set_step(5)
    assert set(other.state_dict()) == {"term_names", "horizon"}
    owner.load_state_dict({**owner.state_dict(), "clock.step": torch.tensor(2)})
    other.load_state_dict(other.state_dict())
    assert other.weights == {"a": 0.25}


def test_loading_while_following_goes_on_from_there(model: nn.Linear) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    criterion = ramp()
    criterion.follow(optimizer)
    criterion.load_state_dict({**criterion.state_dict(), "clock.step": torch.tensor(6)})
    train(criterion, optimizer, model)
    assert criterion.current_step == 7


# Copies


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_a_copy_has_a_clock_of_its_own(copied: Any, model: nn.Linear) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    criterion = ramp()
    criterion.follow(optimizer)
    train(criterion, optimizer, model)
    twin = copied(criterion)
    assert twin.weights == criterion.weights == {"a": 0.125}
    twin.step()
    assert twin.weights == {"a": 0.25}
    train(criterion, optimizer, model)
    train(criterion, optimizer, model)
    assert (twin.current_step, criterion.current_step) == (2, 3)
    assert twin({"a": torch.tensor(1.0)}).item() == 0.25
    assert twin.metrics() == {**criterion.metrics(), **twin.metrics()}


def test_copies_of_two_on_one_clock_still_share_one() -> None:
    owner = ramp()
    first, second = copy.deepcopy([owner, ramp(clock=owner.clock)])
    first.step(4)
    assert second.weights == {"a": 0.5}
    assert owner.current_step == 0


# One clock for several criteria


def test_a_bind_on_one_reaches_all_that_share_its_clock() -> None:
    first = WeightedLoss(terms={"a": Warmup(over="50%")})
    second = WeightedLoss(terms={"b": Warmup(over="25%")}, clock=first.clock)
    first.bind(total_steps=100)
    first.step(10)
    assert (first.weights, second.weights) == ({"a": 0.2}, {"b": 0.4})
    with pytest.warns(UserWarning, match="the length of training was 100 steps"):
        second.bind(total_steps=200)
    assert (first.weights, second.weights) == ({"a": 0.1}, {"b": 0.2})


def test_a_length_in_the_config_wins_over_that_of_a_shared_clock() -> None:
    first = WeightedLoss(terms={"a": Warmup(over="50%")}, total_steps=100)
    second = WeightedLoss(terms={"b": Warmup(over="50%")}, total_steps=40, clock=first.clock)
    first.step(10)
    assert (first.weights, second.weights) == ({"a": 0.2}, {"b": 0.5})
    with pytest.warns(UserWarning, match="the length of training was 100 steps"):
        first.bind(total_steps=200)
    assert (first.weights, second.weights) == ({"a": 0.1}, {"b": 0.5})


def test_a_bind_that_one_refuses_changes_none() -> None:
    points = (("10%", 0.0), ("50 steps", 1.0))
    first = WeightedLoss(terms={"a": Warmup(over="50%")}, total_steps=100)
    second = WeightedLoss(terms={"b": Piecewise(points=points)}, clock=first.clock)
    first.step(20)
    before = first.weights, second.weights
    with pytest.raises(ConfigError, match="term 'b'.*points"):
        first.bind(total_steps=10_000)
    assert (first.weights, second.weights) == before
    assert first.horizon.total_steps == second.horizon.total_steps == 100


def test_callbacks_run_after_all_criteria_have_learned_and_show_their_new_weights() -> None:
    """Else a checkpoint written in a callback would miss the criteria that come later."""
    first = WeightedLoss(terms={"a": Counting()})
    second = WeightedLoss(terms={"a": Counting()}, clock=first.clock)
    seen = []
    first.on_step(lambda step: seen.append((first.weights, second.weights, second.metrics())))
    for criterion in (first, second):
        criterion({"a": torch.tensor(3.0, requires_grad=True)})
    first.step()
    ((ours, theirs, metrics),) = seen
    assert ours == theirs == {"a": 2.0}
    assert metrics["controller/a/observed"] == 3.0


def test_a_clock_alone_counts_and_saves_its_step() -> None:
    clock = Clock(total_steps=10)
    criterion = WeightedLoss(terms={"a": Warmup(over="50%")}, clock=clock)
    clock.advance(2)
    assert criterion.weights == {"a": 0.4}
    other = WeightedLoss(terms={"a": Warmup(over="50%")}, clock=Clock(total_steps=10))
    other.load_state_dict(criterion.state_dict())
    assert (other.clock.step, other.weights) == (2, criterion.weights)
    other.step()
    assert other.current_step == 3
    with pytest.raises(ValueError, match=r"step\(\) takes a whole number of at least 0, found -1"):
        clock.advance(-1)


def test_another_criterion_is_no_clock() -> None:
    with pytest.raises(TypeError, match=r"found WeightedLoss: write clock=other.clock"):
        ramp(clock=ramp())


def test_weights_are_computed_once_when_a_checkpoint_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saved, criterion = (WeightedLoss(terms={"a": Counting(), "b": 1.0}) for _ in range(2))
    for _ in range(3):
        saved({name: torch.tensor(2.0, requires_grad=True) for name in "ab"})
        saved.step()
    calls = []
    weigh = Counting.weigh

    def counted(self: Any, *arguments: Any) -> Tensor:
        calls.append(1)
        return weigh(self, *arguments)

    monkeypatch.setattr(Counting, "weigh", counted)
    criterion.load_state_dict(saved.state_dict())
    assert len(calls) == 2  # once to check the checkpoint, once for all
    assert criterion.weights == saved.weights


def test_the_names_of_the_terms() -> None:
    assert WeightedLoss(terms=["kl", "a"]).term_names == ("kl", "a")


def test_a_length_that_was_refused_can_be_bound_again() -> None:
    points = (("10%", 0.0), ("50 steps", 1.0))
    first = WeightedLoss(terms={"a": Piecewise(points=points)}, total_steps=100)
    second = WeightedLoss(terms={"b": Piecewise(points=points)}, clock=first.clock)
    before = first.weights, second.weights
    for criterion in (first, second):
        with pytest.raises(ConfigError, match="points"):
            criterion.bind(total_steps=10_000)
        assert (first.weights, second.weights) == before
    first.bind(total_steps=200)
    assert first.weights == {"a": second.weights["b"]}


class ForShortTraining(Counting, kind="test-for-short-training"):
    """Its weight is a number only for at most 100 steps."""

    def weigh(self, value: Tensor, state: State, now: StepContext) -> Tensor:
        is_short = now.horizon.span <= 100
        return torch.tensor(3.0 if is_short else torch.nan)


def test_a_component_that_refuses_a_length_keeps_its_weight() -> None:
    criterion = WeightedLoss({"a": ForShortTraining()}, total_steps=100)
    other = WeightedLoss({"b": Warmup(over="50%")}, clock=criterion.clock)
    criterion.step(25)
    for each in (criterion, other):
        with pytest.raises(ConfigError, match="ForShortTraining"):
            each.bind(total_steps=1000)
        assert (criterion.horizon.total_steps, other.horizon.total_steps) == (100, 100)
        assert criterion({"a": torch.tensor(1.0, requires_grad=True)}).item() == 3.0
        assert other.weights == {"b": 0.5}


def test_a_schedule_that_fails_once_recovers_at_the_next_step() -> None:
    def breaks(step: int) -> float:
        return 1 / (1500 - step)

    criterion = WeightedLoss(terms={"a": breaks}, eval_weights={"a": 1.0})
    with pytest.raises(ValueError, match="failed at step 1500"):
        criterion.step(1500)
    criterion.set_step(3000)
    assert criterion({"a": torch.tensor(1.0, requires_grad=True)}).item() == pytest.approx(
        -1 / 1500
    )


class Refusing(Counting, kind="test-refusing"):
    """Learns nothing."""

    def update(self, observed: Tensor, state: State, now: StepContext) -> None:
        raise RuntimeError("no update")


def test_an_update_that_fails_leaves_no_weights_of_the_step_before() -> None:
    criterion = WeightedLoss({"a": Warmup(over="10 steps"), "b": Refusing()})
    criterion({name: torch.tensor(1.0, requires_grad=True) for name in "ab"})
    with pytest.raises(RuntimeError, match="no update"):
        criterion.step()
    assert criterion.current_step == 1
    assert criterion.weights == pytest.approx({"a": 0.1, "b": 1.0})


def test_a_listener_is_notified_once() -> None:
    steps: list[int] = []
    criterion = WeightedLoss(["a"])
    criterion.clock.subscribe(criterion._modes)
    criterion.on_step(steps.append)
    criterion({"a": torch.tensor(1.0, requires_grad=True)})
    criterion.step()
    assert steps == [0]


def test_a_clock_cannot_be_replaced() -> None:
    criterion = WeightedLoss({"a": Warmup(over="10 steps")})
    with pytest.raises(AttributeError):
        criterion.clock = Clock()  # type: ignore[misc]
    with pytest.raises(AttributeError):
        criterion.clock.step = 3  # type: ignore[misc]


def test_loading_one_criterion_keeps_the_callbacks_of_another_on_its_clock() -> None:
    first = WeightedLoss(["a"])
    second = WeightedLoss(["a"], clock=first.clock)
    steps: list[int] = []
    first.on_step(steps.append)
    first({"a": torch.tensor(1.0, requires_grad=True)})
    second.load_state_dict(second.state_dict())
    first.load_state_dict({}, strict=False)
    first.step()
    assert steps == [0]


# An optimizer that made steps before


def stepped(model: nn.Module, steps: int = 3, kind: Any = torch.optim.Adam) -> Any:
    optimizer = kind(model.parameters(), lr=0.1)
    for _ in range(steps):
        train(WeightedLoss(["a"]), optimizer, model)
    return optimizer


LATE = r"has made 3 steps, but the clock is at step 0, .* \(term 'a'\)\. .* criterion.set_step\(3\)"


@pytest.mark.parametrize(
    "terms",
    [{"a": Warmup(over="8 steps")}, {"a": {"after": "2 steps"}}],
    ids=["schedule", "dormant"],
)
def test_a_late_start_is_reported_once(model: nn.Linear, terms: Any) -> None:
    optimizer, criterion = stepped(model), WeightedLoss({**terms, "b": {"optional": True}})
    criterion.follow(optimizer)
    with pytest.warns(UserWarning, match=LATE):
        train(criterion, optimizer, model)
    train(criterion, optimizer, model)
    assert criterion.current_step == 2


def test_a_resumed_optimizer_without_the_state_of_the_criterion_is_reported(
    model: nn.Linear,
) -> None:
    saved, optimizer, criterion = stepped(model).state_dict(), stepped(model, 0), ramp()
    criterion.follow(optimizer)
    optimizer.load_state_dict(saved)
    with pytest.warns(UserWarning, match=LATE):
        train(criterion, optimizer, model)


def test_a_late_start_counts_the_steps_of_the_parameter_with_most(model: nn.Linear) -> None:
    """Parameters that were frozen at first have made fewer, and optimizers may keep other state."""
    model.weight.requires_grad = False
    optimizer, criterion = stepped(model, 1), ramp()
    model.weight.requires_grad = True
    for _ in range(2):
        train(WeightedLoss(["a"]), optimizer, model)
    saved = optimizer.state_dict()
    saved["state"] = {"total": 5, **dict(sorted(saved["state"].items()))}  # the weight comes first
    optimizer.load_state_dict(saved)
    criterion.follow(optimizer)
    with pytest.warns(UserWarning, match=LATE):
        train(criterion, optimizer, model)


def test_a_late_start_is_reported_from_a_compiled_step(model: nn.Linear) -> None:
    optimizer, criterion = stepped(model), ramp()
    criterion.follow(optimizer)
    step = torch.compile(optimizer.step, backend="eager")
    with pytest.warns(UserWarning, match=LATE):
        step()  # type: ignore[no-untyped-call]
    assert criterion.current_step == 1


def test_a_late_start_of_a_clock_of_tokens_is_reported(model: nn.Linear) -> None:
    optimizer, criterion = stepped(model), WeightedLoss({"a": Warmup(over="8 tokens")})
    criterion.follow(optimizer, per_step=2)
    with pytest.warns(UserWarning, match=r"at 0 tokens, .* call criterion.set_step\(tokens done\)"):
        train(criterion, optimizer, model)


@pytest.mark.parametrize(
    "kept",
    [
        5,
        torch.zeros(2),
        {"step": None},
        {"step": "3"},
        {"step": [1, 2]},
        {"step": torch.ones(3)},
        {"step": torch.zeros((), device="meta")},
        {"step": float("nan")},
    ],
    ids=repr,
)
def test_an_optimizer_may_keep_anything_in_its_state(model: nn.Linear, kept: Any) -> None:
    criterion, optimizer = ramp(), torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.state["own"] = kept  # type: ignore[index]  # torch allows any key
    criterion.follow(optimizer)
    train(criterion, optimizer, model)
    assert criterion.current_step == 1


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD, torch.optim.Adagrad])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("how", ["set_step", "load_state_dict"])
@pytest.mark.parametrize("at", [0, 3])
def test_a_clock_that_was_set_starts_silently(
    model: nn.Linear, kind: Any, when: str, how: str, at: int
) -> None:
    optimizer, criterion, other = stepped(model, kind=kind), ramp(), ramp()
    other.step(at)
    if when == "after":
        criterion.follow(optimizer)
    if how == "set_step":
        criterion.set_step(at)
    else:
        criterion.load_state_dict(other.state_dict())
    if when == "before":
        criterion.follow(optimizer)
    train(criterion, optimizer, model)
    assert criterion.current_step == at + 1


@pytest.mark.parametrize(
    "kind", [torch.optim.Adam, torch.optim.SGD, torch.optim.Adagrad, torch.optim.LBFGS]
)
def test_a_new_optimizer_starts_silently(model: nn.Linear, kind: Any) -> None:
    criterion, optimizer = ramp(), kind(model.parameters(), lr=0.1)
    criterion.follow(optimizer)

    def closure() -> Tensor:
        total: Tensor = criterion({"a": model(torch.ones(1, 2)).square().mean()})
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(closure)
    assert criterion.current_step == 1


def test_steps_that_take_no_tokens_are_no_late_start(model: nn.Linear) -> None:
    optimizer = stepped(model, 0)
    criterion = WeightedLoss({"a": Warmup(over="8 tokens")})
    criterion.follow(optimizer, per_step=lambda: 0)
    for _ in range(4):
        train(criterion, optimizer, model)
    assert criterion.current_step == 0


def test_without_a_schedule_a_late_start_is_silent(model: nn.Linear) -> None:
    optimizer, criterion = stepped(model), WeightedLoss(["a"])
    criterion.follow(optimizer)
    train(criterion, optimizer, model)
    assert criterion.current_step == 1


def test_the_step_that_a_distributed_checkpoint_makes_is_no_start(model: nn.Linear) -> None:
    """It makes the state of a new optimizer, with a learning rate of 0."""
    optimizer, criterion = stepped(model, 0), ramp()
    criterion.follow(optimizer)
    get_optimizer_state_dict(model, optimizer)
    assert optimizer.state
    train(criterion, optimizer, model)
    assert criterion.current_step == 1
