"""What every schedule and every shape keeps, plug-ins included."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import lossweights
from lossweights import Horizon, HorizonError, Product, Schedule, Sequence, Shape, Values
from lossweights.components import schedules
from lossweights.components.schedules import DelayedSchedule, base
from tests.components.schedules import examples
from tests.components.schedules.examples import (
    ALL_SCHEDULES,
    ALL_SHAPES,
    EXAMPLES,
    IN_CONFIGS,
    SHAPES,
)

TOTALS = (0, 1, 2, 7, 103)
HUGE = [2**31, 10**12, 2**53, 2**62, 2**63 - 1]

every_schedule = pytest.mark.parametrize("schedule", ALL_SCHEDULES, ids=repr)
every_shape = pytest.mark.parametrize("shape", ALL_SHAPES, ids=repr)
every_total = pytest.mark.parametrize("total", TOTALS)


def horizon_of(total: int) -> Horizon:
    return Horizon(total, steps_per_epoch=10)


def bits(values: Values) -> bytes:
    return values.astype(np.float64, copy=False).tobytes()


def parts(schedule: Schedule) -> Iterator[Schedule]:
    """A schedule and all that it is made of."""
    yield schedule
    inner = [getattr(schedule, "schedule", None), *getattr(schedule, "factors", ())]
    inner += [stage.schedule for stage in getattr(schedule, "stages", ())]
    for part in inner:
        if isinstance(part, Schedule):
            yield from parts(part)


def cycles(schedule: Schedule) -> bool:
    return any(part.kind in ("cyclical", "repeat") for part in parts(schedule))


# Which ones


@pytest.mark.parametrize(("family", "table"), [(Schedule, EXAMPLES | IN_CONFIGS), (Shape, SHAPES)])
def test_every_kind_has_examples(
    family: type[Schedule | Shape], table: dict[str, list[Schedule | Shape]]
) -> None:
    ours = {kind for kind, cls in family.kinds().items() if is_ours(cls)}
    assert ours <= table.keys()
    for kind, instances in table.items():
        assert instances
        assert {type(instance) for instance in instances} == {family.of_kind(kind)}


def is_ours(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "lossweights"


# Time


@every_schedule
@every_total
def test_a_value_depends_on_its_step_alone(schedule: Schedule, total: int) -> None:
    horizon = horizon_of(total)
    steps = np.arange(max(150, 2 * total))
    values = schedule(steps, horizon)
    order = np.random.default_rng(total).permutation(len(steps))
    assert bits(schedule(steps[order], horizon)) == bits(values[order])
    assert bits(schedule(steps[::-1], horizon)) == bits(values[::-1])
    for size in (1, 7, 64):
        split = np.split(steps, range(size, len(steps), size))
        blocks = [schedule(block, horizon) for block in split[:40]]
        assert bits(np.concatenate(blocks)) == bits(values[: size * 40])


@every_schedule
@every_total
def test_total_and_finite_in_float64(schedule: Schedule, total: int) -> None:
    steps = np.array([*range(3 * total + 20), *HUGE])
    values = schedule(steps, horizon_of(total))
    assert values.dtype == np.float64
    assert np.isfinite(values).all()
    assert schedule(np.zeros((2, 0, 3), dtype=int), horizon_of(total)).shape == (2, 0, 3)
    assert schedule(7, horizon_of(total)).shape == ()
    assert schedule([[1, 2], [3, 4]], horizon_of(total)).shape == (2, 2)


@every_schedule
@pytest.mark.parametrize("kind_of_int", [np.uint8, np.int32, np.uint64])
def test_any_integer_is_a_step(schedule: Schedule, kind_of_int: type[np.integer]) -> None:
    horizon = horizon_of(103)
    steps = np.arange(120)
    assert bits(schedule(steps.astype(kind_of_int), horizon)) == bits(schedule(steps, horizon))
    assert bits(schedule(list(range(120)), horizon)) == bits(schedule(steps, horizon))


@every_schedule
@pytest.mark.parametrize("steps", [-1, [0, -1], 0.5, [1.0], True, ["1"], None], ids=repr)
def test_only_whole_steps_from_0_on_are_steps(schedule: Schedule, steps: object) -> None:
    with pytest.raises(ValueError, match="steps must be whole numbers of at least 0, found "):
        schedule(steps, horizon_of(100))  # type: ignore[arg-type]


@every_schedule
@every_total
def test_steps_are_not_changed(schedule: Schedule, total: int) -> None:
    steps = np.arange(50)
    steps.flags.writeable = False
    schedule(steps, horizon_of(total))
    assert (steps == np.arange(50)).all()


@every_schedule
@every_total
def test_curve_is_the_training_in_blocks(
    schedule: Schedule, total: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = schedule(np.arange(total), horizon_of(total))
    monkeypatch.setattr(base, "_BLOCK", 7)
    assert bits(schedule.curve(total, steps_per_epoch=10)) == bits(whole)


@every_schedule
def test_at_is_one_value_of_the_curve(schedule: Schedule) -> None:
    curve = schedule.curve(103, steps_per_epoch=10)
    for step in (0, 1, 50, 102):
        found = schedule.at(step, total_steps=103, steps_per_epoch=10)
        assert type(found) is float
        assert found == curve[step]


# The end


@every_schedule
@every_total
def test_the_weight_stays_from_where_it_says_that_it_ends(schedule: Schedule, total: int) -> None:
    end = schedule.ends(horizon_of(total))
    if end is not None:
        first = int(np.ceil(end))
        steps = np.array([*range(first, first + 100), *(first + huge // 2 for huge in HUGE)])
        assert len(set(schedule(steps, horizon_of(total)))) == 1


@every_schedule
@every_total
def test_one_without_an_end_moves_on(schedule: Schedule, total: int) -> None:
    """But for cycles that share the training: they end with it."""
    shares = any(
        part.kind in ("cyclical", "repeat") and getattr(part, "period", 0) is None
        for part in parts(schedule)
    )
    if total >= 10 and not shares and schedule.ends(horizon_of(total)) is None:
        steps = np.arange(total, total + 20)
        assert len(set(schedule(steps, horizon_of(total)))) > 1


@every_schedule
@every_total
def test_final_is_the_weight_when_training_ends(schedule: Schedule, total: int) -> None:
    if not cycles(schedule):
        horizon = horizon_of(total)
        assert schedule.final(horizon) == schedule(total, horizon)


@every_schedule
def test_final_of_what_settles_needs_no_total(schedule: Schedule) -> None:
    unbounded = Horizon(steps_per_epoch=10)
    try:
        end = schedule.ends(unbounded)
        values = schedule(np.arange(500), unbounded)
    except HorizonError:
        return
    if end is not None:
        assert schedule.final(unbounded) == values[int(np.ceil(end))] == values[-1]


# The horizon


@every_schedule
def test_a_missing_horizon_is_named(schedule: Schedule) -> None:
    """What is asked for, one thing after the other, is all that is needed."""
    known: dict[str, Any] = {}
    while (asked := what_it_asks_for(schedule, Horizon(**known))) is not None:
        lacking = [name for name in ("total_steps", "steps_per_epoch") if name in asked]
        assert len(lacking) == 1
        assert lacking[0] not in known
        assert asked.endswith(f"before {lacking[0]} is known")
        known[lacking[0]] = 10


def what_it_asks_for(schedule: Schedule, horizon: Horizon) -> str | None:
    try:
        schedule(np.arange(30), horizon)
    except HorizonError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    "schedule", [one for one in ALL_SCHEDULES if isinstance(one, DelayedSchedule)], ids=repr
)
@pytest.mark.parametrize("wait", [1, 4, 60, 103, 200])
def test_a_delay_shifts_the_curve(schedule: DelayedSchedule, wait: int) -> None:
    table = schedule.model_dump(exclude_unset=True)
    late = Schedule.read({**table, "delay": f"{wait} steps"})
    soon = Schedule.read({**table, "delay": "0 steps"})
    horizon, steps = horizon_of(103), np.arange(150)
    shifted = late(steps + wait, horizon)
    assert bits(shifted) == bits(soon(steps, horizon.local(wait)))
    before = set(late(np.arange(wait), horizon))
    assert before == {getattr(late, "start", 0.0)}
    if (end := soon.ends(horizon)) is not None:
        assert late.ends(horizon) == end + wait


# The declaration


@every_schedule
def test_survives_a_file(schedule: Schedule) -> None:
    horizon = horizon_of(103)
    values = bits(schedule(np.arange(150), horizon))
    for table in (
        schedule.model_dump(),
        json.loads(schedule.model_dump_json()),
        schedule.model_dump(exclude_defaults=True),
        schedule.model_dump(mode="json", exclude_unset=True),
        schedule.model_dump(exclude_none=True),
    ):
        assert table["kind"] == schedule.kind
        again = Schedule.read(table)
        assert again == schedule
        assert hash(again) == hash(schedule)
        assert bits(again(np.arange(150), horizon)) == values


@every_schedule
def test_prints_what_makes_it_again(schedule: Schedule) -> None:
    public = {name: getattr(lossweights, name) for name in lossweights.__all__}
    names = {**public, **vars(schedules), **vars(examples)}
    assert eval(repr(schedule), names) == schedule  # noqa: S307


@every_schedule
def test_is_shown_as_a_config_contains_it(schedule: Schedule) -> None:
    assert Schedule.read(yaml.safe_load(str(schedule))) == schedule


@every_schedule
def test_survives_pickle_and_copies(schedule: Schedule) -> None:
    for again in (
        pickle.loads(pickle.dumps(schedule)),
        copy.copy(schedule),
        copy.deepcopy(schedule),
        schedule.model_copy(),
    ):
        assert again == schedule
        assert hash(again) == hash(schedule)
        assert again.final(horizon_of(103)) == schedule.final(horizon_of(103))


@every_schedule
def test_is_frozen(schedule: Schedule) -> None:
    for name in type(schedule).model_fields:
        with pytest.raises(ValidationError, match="Instance is frozen"):
            setattr(schedule, name, getattr(schedule, name))


@every_schedule
def test_refuses_fields_that_it_has_not(schedule: Schedule) -> None:
    with pytest.raises(ValidationError, match="unknown field 'wieght'"):
        Schedule.read({**schedule.model_dump(), "wieght": 1.0})


@every_schedule
@pytest.mark.parametrize("wrong", [True, float("nan"), float("inf"), "nan", "much"], ids=repr)
def test_refuses_what_is_no_number(schedule: Schedule, wrong: object) -> None:
    numbers = [
        name
        for name, field in type(schedule).model_fields.items()
        if field.annotation in (float, int, float | None, int | None)
    ]
    for name in numbers:
        with pytest.raises(ValidationError, match=rf"\n{name}\n"):
            Schedule.read({**schedule.model_dump(), name: wrong})


@every_schedule
def test_numbers_may_be_strings_as_yaml_reads_them(schedule: Schedule) -> None:
    table = {
        name: repr(value) if isinstance(value, float) else value
        for name, value in schedule.model_dump().items()
    }
    assert Schedule.read(table) == schedule


# Schedules made of schedules


@given(
    st.lists(st.tuples(st.sampled_from(ALL_SCHEDULES), st.integers(0, 40)), min_size=1, max_size=5),
    st.booleans(),
)
def test_a_sequence_is_its_stages_side_by_side(
    chosen: list[tuple[Schedule, int]], with_end: bool
) -> None:
    total, begin, expected = 200, 0, []
    horizon = horizon_of(total)
    for number, (schedule, length) in enumerate(chosen):
        last = number == len(chosen) - 1
        count = total - begin if last and not with_end else length
        expected.append(schedule(np.arange(count), horizon.local(begin, count)))
        begin += count
    stages = [{"schedule": schedule, "over": f"{length} steps"} for schedule, length in chosen]
    if not with_end:
        del stages[-1]["over"]
    sequence = Sequence.model_validate({"stages": stages})
    assert bits(sequence(np.arange(begin), horizon)) == bits(np.concatenate(expected))
    if with_end:
        after = sequence(np.arange(begin, begin + 30), horizon)
        schedule, length = chosen[-1]
        assert set(after) == {schedule.final(horizon.local(begin - length, length))}


@given(st.lists(st.sampled_from(ALL_SCHEDULES), min_size=1, max_size=4))
def test_a_product_multiplies(factors: list[Schedule]) -> None:
    horizon, steps = horizon_of(103), np.arange(150)
    product = Product(factors=tuple(factors))
    expected = np.prod([factor(steps, horizon) for factor in factors], axis=0)
    np.testing.assert_allclose(product(steps, horizon), expected, rtol=1e-14)
    finals = np.prod([factor.final(horizon) for factor in factors])
    assert product.final(horizon) == pytest.approx(float(finals), rel=1e-14)


# Shapes


@every_shape
def test_a_shape_runs_from_0_to_1_and_stays(shape: Shape) -> None:
    ends = np.array([-1e300, -1.0, -1e-300, 0.0, 1.0, 1.0 + 1e-15, 2.0, 1e300])
    assert shape(ends).tolist() == [0.0] * 4 + [1.0] * 4


@every_shape
def test_a_shape_never_falls(shape: Shape) -> None:
    values = shape(np.linspace(0.0, 1.0, 10_001))
    assert np.isfinite(values).all()
    assert (np.diff(values) >= -1e-15).all()


@every_shape
def test_a_shape_survives_a_file_pickle_and_copies(shape: Shape) -> None:
    for again in (
        Shape.read(shape.model_dump()),
        Shape.read(json.loads(shape.model_dump_json())),
        pickle.loads(pickle.dumps(shape)),
        copy.deepcopy(shape),
    ):
        assert again == shape
        assert hash(again) == hash(shape)


@every_shape
def test_a_shape_depends_on_progress_alone(shape: Shape) -> None:
    progress = np.random.default_rng(0).random(101)
    values = shape(progress)
    assert bits(shape(progress[::-1])) == bits(values[::-1])
    assert bits(np.array([shape(one) for one in progress])) == bits(values)
