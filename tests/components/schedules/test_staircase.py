"""`every`: a schedule is evaluated at the start of each interval and held."""

from __future__ import annotations

import math
from fractions import Fraction
from types import NoneType

import numpy as np
import pytest
from pydantic import ValidationError

from lossweights import (
    Constant,
    Cyclical,
    Duration,
    Exponential,
    Horizon,
    HorizonError,
    Piecewise,
    Product,
    Ramp,
    Repeat,
    Schedule,
    Sequence,
    Stage,
    Steps,
    Values,
    Warmup,
    WeightedLoss,
    epochs,
)
from lossweights.components.schedules import DelayedSchedule
from lossweights.components.schedules.function import Function
from tests.components.schedules.cycles import exact_local
from tests.components.schedules.examples import ALL_SCHEDULES

pytestmark = pytest.mark.usefixtures("registries_as_before")

FREE = [
    schedule
    for schedule in ALL_SCHEDULES
    if schedule.every is None and type(schedule).model_fields["every"].annotation is not NoneType
]
INTERVALS = {
    "1 steps": Fraction(1),
    "7 steps": Fraction(7),
    "1.25 epochs": Fraction(25, 2),
    "3%": Fraction(309, 100),
    "0.5%": Fraction(103, 200),
    "1000 epochs": Fraction(10_000),
}
HORIZON, STEPS = Horizon(103, steps_per_epoch=10), np.arange(230)

every_schedule = pytest.mark.parametrize("schedule", FREE, ids=repr)
every_interval = pytest.mark.parametrize("every", INTERVALS)


def held(schedule: Schedule, every: str) -> Schedule:
    table = schedule.model_dump(exclude_defaults=True)
    if isinstance(schedule, Exponential) and schedule.half_life is None:
        table.setdefault("per", "1 steps")
    return Schedule.read({**table, "every": every})


def starts(schedule: Schedule, every: str) -> Steps:
    """The first step of the interval of each step, found by looking; each step before a delay."""
    delay = schedule.delay if isinstance(schedule, DelayedSchedule) else "0 steps"
    begin = HORIZON.steps(delay)
    period = INTERVALS[every]
    return np.array([t - exact_local(max(t - begin, 0), period, None) for t in STEPS.tolist()])


@every_schedule
@every_interval
def test_the_value_is_that_of_the_first_step_of_the_interval(
    schedule: Schedule, every: str
) -> None:
    expected = schedule(starts(schedule, every), HORIZON)
    assert held(schedule, every)(STEPS, HORIZON).tolist() == expected.tolist()


@every_schedule
@every_interval
def test_it_ends_with_the_first_interval_that_does_not_move(schedule: Schedule, every: str) -> None:
    end, found = schedule.ends(HORIZON), held(schedule, every).ends(HORIZON)
    if end is None or end <= 0:
        assert found == end
        return
    assert found is not None
    begins = starts(schedule, every)
    later = begins[begins >= end]
    assert found == later[0] if len(later) else found > STEPS[-1]


@every_schedule
def test_in_intervals_of_one_step_nothing_changes(schedule: Schedule) -> None:
    same = held(schedule, "1 steps")
    for horizon in (HORIZON, Horizon(1, steps_per_epoch=1), Horizon(0, steps_per_epoch=1)):
        assert same.final(horizon) == schedule.final(horizon)
        assert same(STEPS, horizon).tobytes() == schedule(STEPS, horizon).tobytes()
        end, found = schedule.ends(horizon), same.ends(horizon)
        assert found == end or math.ceil(end or 0) == found


@every_schedule
@pytest.mark.parametrize("every", ["5 steps", "1 epochs", "8%"])
def test_it_is_held_inside_other_schedules(schedule: Schedule, every: str) -> None:
    inner = held(schedule, every)
    product = Product(factors=(2.0, inner))
    assert product(STEPS, HORIZON).tolist() == (2 * inner(STEPS, HORIZON)).tolist()
    assert product.final(HORIZON) == 2 * inner.final(HORIZON)
    assert product.ends(HORIZON) == inner.ends(HORIZON)
    stages = (Stage(schedule=0.0, over="31 steps"), Stage(schedule=inner, over="40 steps"))
    sequence, local = Sequence(stages=stages), HORIZON.local(31, 40)
    assert sequence(STEPS[31:71], HORIZON).tolist() == inner(STEPS[:40], local).tolist()
    assert sequence.at(80, total_steps=103, steps_per_epoch=10) == inner.final(local)
    repeat, local = Repeat(schedule=inner, period="37 steps"), HORIZON.local(0, 37)
    assert repeat(STEPS, HORIZON).tolist() == inner(STEPS % 37, local).tolist()


def test_curves_and_single_values_are_held() -> None:
    ramp = Ramp(start=0.0, stop=1.0, over="10 steps", every="1 epochs")
    assert ramp.curve(12, steps_per_epoch=5).tolist() == [0.0] * 5 + [0.5] * 5 + [1.0] * 2
    assert ramp.at(9, steps_per_epoch=5) == 0.5
    assert str(ramp) == "{kind: ramp, every: 1 epoch, start: 0, stop: 1, over: 10 steps}"


def test_intervals_count_from_the_end_of_a_delay() -> None:
    ramp = Ramp(start=0.5, stop=1.5, over="4 steps", delay="3 steps", every="2 steps")
    assert ramp(range(8)).tolist() == [0.5] * 3 + [0.5, 0.5, 1.0, 1.0, 1.5]


# The end of training


@pytest.mark.parametrize(("total", "final"), [(100, 1.0), (105, 100 / 105), (9, 0.0)])
def test_final_is_the_value_that_is_held_when_training_ends(total: int, final: float) -> None:
    ramp = Ramp(start=0.0, stop=1.0, over="100%", every="1 epochs")
    assert ramp.final(Horizon(total, steps_per_epoch=10)) == final


def test_final_of_cycles_is_their_last_value() -> None:
    cyclical = Cyclical(period="20 steps", every="5 steps")
    assert cyclical.at(40) == 0.0
    assert cyclical.final(Horizon(40)) == 1.0


def test_without_an_end_of_training_it_settles_where_the_schedule_does() -> None:
    assert Ramp(start=0.0, stop=0.3, over="7 steps", every="4 steps").final(Horizon()) == 0.3
    assert Exponential(half_life="3 steps", stop=0.2, every="4 steps").final(Horizon()) == 0.2


def test_one_that_does_not_get_to_its_end_is_reported() -> None:
    ramp = {"kind": "ramp", "start": 0, "stop": 1, "over": "100%", "every": "40 steps"}
    with pytest.warns(
        UserWarning,
        match="'kl' ends too late: its schedule ends at step 120, training at 100, with a weight "
        "of 0.8; shorten {kind: ramp, every: 40 steps,",
    ):
        WeightedLoss({"nll": 1.0, "kl": ramp}, total_steps=100)


def test_the_horizon_that_an_interval_needs_is_named() -> None:
    ramp = Warmup(over="10 steps", every="2 epochs")
    with pytest.raises(HorizonError, match="2 epochs cannot be .* before steps_per_epoch is known"):
        ramp([1])
    with pytest.raises(HorizonError, match="term 'kl': 2 epochs cannot"):
        _ = WeightedLoss({"nll": 1.0, "kl": ramp}).weights


# Values of other code


def test_a_ramp_of_semi_supervised_training_goes_by_epochs() -> None:
    """The weight of github.com/smlaine2/tempens, a32743a, is set once an epoch, first to 0."""
    schedule = Warmup(over="80 epochs", shape="gaussian", every="1 epochs")
    found = schedule(np.arange(900), Horizon(steps_per_epoch=10))
    theirs = [math.exp(-((1 - min(epoch, 80) / 80) ** 2) * 5) for epoch in range(90)]
    assert found.tolist() == pytest.approx(np.repeat([0.0, *theirs[1:]], 10), rel=1e-14)


def test_a_decay_in_steps_is_milestones() -> None:
    """As `torch.optim.lr_scheduler.StepLR`: a factor of `gamma` each `step_size`."""
    ours = Exponential(rate=0.1, per="30 steps", every="30 steps")
    points = tuple((f"{30 * k} steps", 0.1**k) for k in range(5))
    milestones = Piecewise(points=points, shape="hold")
    steps = np.arange(140)
    assert ours(steps).tolist() == pytest.approx(milestones(steps).tolist(), rel=1e-14)


# Schedules of users


class Halves:
    """A class beside `Schedule` that has the methods."""

    def values(self, steps: Steps, horizon: Horizon) -> Values:
        return np.asarray(0.5**steps, dtype=np.float64)

    def ends(self, horizon: Horizon) -> float:
        return 2000.5


def test_methods_may_come_from_anywhere() -> None:
    class Mixed(Halves, Schedule, kind="test-mixed"):
        pass

    mixed = Schedule.read({"kind": "test-mixed", "every": "2 steps"})
    assert mixed([0, 1, 2, 3]).tolist() == [1.0, 1.0, 0.25, 0.25]
    assert mixed.ends(Horizon()) == 2002


def test_a_method_that_calls_the_one_it_replaces_is_held_once() -> None:
    class Late(Ramp, kind="test-late"):
        def values(self, steps: Steps, horizon: Horizon) -> Values:
            return super().values(np.maximum(steps - 1, 0), horizon) + self.final(horizon)

        def ends(self, horizon: Horizon) -> float:
            return super().ends(horizon) + 1

        def final(self, horizon: Horizon) -> float:
            return 10.0

    late = Late(start=0.0, stop=8.0, over="8 steps", every="3 steps")
    assert late(range(8)).tolist() == [10.0] * 3 + [12.0] * 3 + [15.0] * 2
    assert late.ends(Horizon()) == 9


def test_values_of_a_part_are_held_however_they_are_called() -> None:
    class Twice(Schedule, kind="test-twice"):
        part: Schedule

        def values(self, steps: Steps, horizon: Horizon) -> Values:
            return 2 * self.part.values(steps=steps, horizon=horizon)

    ramp = Ramp(start=0.0, stop=4.0, over="4 steps", every="2 steps")
    assert Twice(part=ramp)(range(5)).tolist() == [0.0, 0.0, 4.0, 4.0, 8.0]


def test_a_function_is_called_with_first_steps_of_intervals() -> None:
    called = []

    def function(step: int) -> float:
        called.append(step)
        return float(step)

    sequence = Sequence(stages=(Stage(schedule=function),), every="3 steps")
    assert sequence([3, 4, 5, 6]).tolist() == [3.0, 3.0, 3.0, 6.0]
    assert set(called) == {3, 6}
    assert Function(function=float, every="4 steps")([3, 4, 7]).tolist() == [0.0, 4.0, 4.0]


class Reading:
    """A class beside `Schedule` that declares a field."""

    every: int = 3


def test_a_field_of_the_same_name_is_refused() -> None:
    message = r"`every` is a field of all schedules, .*: give this field another name"
    with pytest.raises(TypeError, match=f"Mine: {message}"):

        class Mine(Schedule, kind="test-mine"):
            every: int = 3  # type: ignore[assignment]

            def values(self, steps: Steps, horizon: Horizon) -> Values:
                return np.ones(steps.shape)

    with pytest.raises(TypeError, match=f"Same: {message}"):

        class Same(DelayedSchedule):
            every: Duration | str | None = None

    with pytest.raises(TypeError, match=f"Late: {message}"):

        class Late(DelayedSchedule):
            every: Duration | str = epochs(1)

    with pytest.raises(TypeError, match=f"Mixed: {message}"):

        class Mixed(Reading, DelayedSchedule):
            pass

    assert "test-mine" not in Schedule.kinds()


@pytest.mark.parametrize(
    ("schedule", "problem"),
    [
        ({"kind": "warmup", "over": "5%", "every": "0 steps"}, "give `every` a length above 0"),
        ({"kind": "warmup", "over": "5%", "every": 3}, "3 has no unit"),
        ({"kind": "constant", "value": 1, "every": "3 steps"}, "the same at every step: remove"),
    ],
)
def test_refuses(schedule: object, problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Schedule.read(schedule)


def test_a_constant_may_be_written_out_as_a_dump_does() -> None:
    assert Schedule.read(Constant(value=0.5).model_dump()) == Constant(value=0.5)
