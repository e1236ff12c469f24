"""Scheduled numbers: the values that a program reads, their tensors, and what is recorded."""

from __future__ import annotations

import copy
import io
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

from lossweights import (
    Clock,
    Constant,
    History,
    Horizon,
    HorizonError,
    LossConfig,
    Ramp,
    Schedule,
    WeightedLoss,
)
from lossweights.analysis import Monitor
from lossweights.config.timeline import Curves
from lossweights.testing import check_scheduled_number
from tests.components.schedules.examples import ALL_SCHEDULES

HORIZON = Horizon(200, steps_per_epoch=10)
TEMPERATURE = Ramp(start=4.0, stop=1.0, over="3 steps")


def criterion(numbers: Mapping[str, Any] | None = None, **fields: Any) -> WeightedLoss:
    numbers = {"temperature": TEMPERATURE, "ratio": 0.3} if numbers is None else numbers
    return WeightedLoss(["loss"], scheduled=numbers, **fields)


def train(one: WeightedLoss, steps: int, passes: int = 1) -> None:
    for _ in range(steps):
        for _ in range(passes):
            one({"loss": torch.tensor(2.0, requires_grad=True)})
        one.step()


# Values


@pytest.mark.filterwarnings("ignore:.*ends too late", "ignore:.*past its end")
@pytest.mark.parametrize("schedule", ALL_SCHEDULES, ids=str)
def test_a_number_is_its_schedule_at_the_coming_step(schedule: Schedule) -> None:
    one = criterion({"number": schedule}, total_steps=200, steps_per_epoch=10)
    for step in (0, 1, 7, 100, 199, 200, 1500, 3):
        one.set_step(step)
        expected = float(schedule(step, HORIZON))
        assert one.scheduled["number"] == expected
        assert one.scheduled.tensor("number").item() == np.float32(expected)


@pytest.mark.parametrize("schedule", ALL_SCHEDULES, ids=str)
def test_a_number_is_resumed_with_the_clock(schedule: Schedule) -> None:
    check_scheduled_number(schedule)


def test_it_is_the_current_value_in_evaluation_too() -> None:
    one = criterion(total_steps=100)
    train(one, 1)
    one.eval()
    assert one.scheduled["temperature"] == 3.0
    with torch.inference_mode():
        assert one.scheduled["temperature"] == 3.0
        assert one.scheduled.tensor("temperature") == 3.0
        one.step()
    train(one.train(), 1)
    assert one.scheduled["temperature"] == 1.0


def test_a_function_is_called_once_when_its_step_begins() -> None:
    calls: list[int] = []
    value = 1.0

    def number(step: int) -> float:
        calls.append(step)
        return value

    one = criterion({"number": number})
    value = 2.0
    one.step()
    assert one.scheduled["number"] == one.scheduled.tensor("number").item() == 2.0
    one.step(3)
    assert calls == [0, 1, 4]


def test_it_is_a_mapping_that_cannot_be_changed() -> None:
    numbers = criterion().scheduled
    assert dict(numbers) == {**numbers} == {"temperature": 4.0, "ratio": 0.3}
    assert list(numbers) == ["temperature", "ratio"]
    assert len(numbers) == 2
    assert "ratio" in numbers
    assert "other" not in numbers
    assert numbers.get("other") is None
    assert numbers.get("ratio", 1.0) == 0.3
    assert repr(numbers) == "{'temperature': 4.0, 'ratio': 0.3}"
    how = r"computed from the config: .* config.override\({'scheduled.name': schedule}\)"
    with pytest.raises(TypeError, match=how):
        numbers["ratio"] = 0.5
    with pytest.raises(TypeError, match=how):
        del numbers["ratio"]
    with pytest.raises(AttributeError, match=how):
        criterion().scheduled = {"ratio": 0.5}


def test_an_unknown_name_is_an_error_with_the_nearest_one() -> None:
    one = criterion()
    for read in (one.scheduled.__getitem__, one.scheduled.tensor):
        with pytest.raises(ValueError, match=r"'temprature'; did you mean 'temperature'\? \(there"):
            read("temprature")
    with pytest.raises(ValueError, match=r"\(there are none\): write scheduled: {name: schedule}"):
        _ = criterion({}).scheduled["temperature"]


def test_a_number_waits_for_the_length_of_training_as_weights_do() -> None:
    one = criterion({"temperature": Ramp(start=4.0, stop=1.0, over="50%"), "ratio": 0.3})
    for name in one.scheduled:
        with pytest.raises(HorizonError, match=r"^scheduled.temperature: 50% .* criterion.bind"):
            _ = one.scheduled[name]
        with pytest.raises(HorizonError, match=r"^scheduled.temperature: 50%"):
            one.scheduled.tensor(name)
    with pytest.raises(HorizonError, match=r"^scheduled.temperature: 50%"):
        one({"loss": torch.tensor(1.0)})
    one.bind(total_steps=4)
    one.step()
    assert one.scheduled["temperature"] == one.scheduled.tensor("temperature") == 2.5


def test_no_number_of_another_step_is_shown_after_a_function_failed() -> None:
    one = criterion({"number": lambda step: 1 / (1 - step)})
    with pytest.raises(ValueError, match=r"^scheduled.number: the function .* failed at step 1"):
        one.step()
    with pytest.raises(HorizonError, match="failed at step 1"):
        _ = one.scheduled["number"]
    one.set_step(2)
    assert one.scheduled["number"] == -1.0


def test_a_number_too_large_for_float32_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^scheduled.number: its value at step 0 is 1e\+39, too"):
        criterion({"number": lambda step: 1e39})


# Tensors


def test_the_address_of_a_tensor_stays() -> None:
    one = criterion(total_steps=10)
    tensor = one.scheduled.tensor("temperature")
    assert tensor.shape == ()
    assert tensor.dtype is torch.float32
    state = one.state_dict()
    moves: list[tuple[Callable[[], object], float]] = [
        (one.step, 3.0),
        (lambda: one.set_step(2), 2.0),
        (lambda: one.bind(total_steps=20), 2.0),
        (lambda: one.load_state_dict(state), 4.0),
        (lambda: one.to("cpu"), 4.0),
    ]
    for move, expected in moves:
        move()
        assert tensor.item() == expected
        assert one.scheduled.tensor("temperature") is tensor


def test_a_tensor_stays_current_after_the_criterion_moved() -> None:
    one = criterion()
    tensor = one.scheduled.tensor("temperature")
    one.to("meta")
    assert one.scheduled.tensor("temperature").device.type == "meta"
    one.step()
    assert tensor.item() == one.scheduled["temperature"] == 3.0


def test_it_is_float32_whatever_the_default_dtype() -> None:
    one = criterion({"ratio": 0.3}).half()
    assert one.scheduled.tensor("ratio").dtype is torch.float32
    previous = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert criterion().scheduled.tensor("ratio").dtype is torch.float32
    finally:
        torch.set_default_dtype(previous)


def test_a_backward_pass_after_the_step_is_refused_by_autograd() -> None:
    one = criterion()
    logit = torch.tensor(2.0, requires_grad=True)
    total = one({"loss": logit / one.scheduled.tensor("temperature")})
    later = one({"loss": logit / one.scheduled.tensor("temperature").clone()})
    one.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()
    later.backward()
    assert logit.grad == 0.25


def test_copies_and_pickles_have_tensors_of_their_own() -> None:
    one = criterion()
    train(one, 1)
    tensor, metrics = one.scheduled.tensor("temperature"), one.metrics(include=["scheduled"])
    for other in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert other.scheduled == {"temperature": 3.0, "ratio": 0.3}
        assert other.metrics(include=["scheduled"]) == metrics
        other.step()
        assert other.scheduled.tensor("temperature").item() == 2.0
        assert tensor.item() == 3.0


def test_a_checkpoint_has_no_state_of_them() -> None:
    one, plain = criterion(), criterion({})
    train(one, 2)
    assert one.state_dict().keys() == plain.state_dict().keys()
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    resumed = criterion()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.scheduled == {"temperature": 2.0, "ratio": 0.3}


def test_criteria_on_one_clock_have_numbers_of_their_own() -> None:
    clock = Clock()
    one, two = criterion(clock=clock), criterion({"temperature": 7.0}, clock=clock)
    one.step()
    assert (one.scheduled["temperature"], two.scheduled["temperature"]) == (3.0, 7.0)


def test_a_step_with_numbers_does_not_wait_for_the_device() -> None:
    one, seen = criterion(total_steps=10), []

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            seen.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    with Watch():  # type: ignore[no-untyped-call]
        one({"loss": torch.tensor(2.0) / one.scheduled.tensor("temperature")})
        one.step()
        _ = one.scheduled["temperature"]
        one.metrics(tensors=True)
    assert "fill_" in seen
    assert not {"_local_scalar_dense", "is_nonzero", "equal", "nonzero"}.intersection(seen)


# Compiled


@pytest.fixture
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_fresh")
@pytest.mark.parametrize("inside", [True, False])
def test_one_graph_serves_a_whole_training(inside: bool) -> None:
    counter = CompileCounterWithBackend("eager")
    one = WeightedLoss(
        {"loss": {"kind": "warmup", "over": "50%"}, "other": {"weight": 1.0, "optional": True}},
        scheduled={"temperature": Ramp(start=4.0, stop=1.0, over="100%")},
        total_steps=40,
    )
    tensor = one.scheduled.tensor("temperature")

    def total(x: Tensor) -> Any:
        return one({"loss": x / (one.scheduled.tensor("temperature") if inside else tensor)})

    compiled = torch.compile(total, backend=counter, fullgraph=True)
    for step in range(40):
        x = torch.tensor(2.0, requires_grad=True)
        expected = one.weights["loss"] * 2.0 / one.scheduled["temperature"]
        found = compiled(x)
        assert found.item() == pytest.approx(expected)
        found.backward()
        one.step()
        temperature = one.metrics(include=["scheduled"])["scheduled/temperature"]
        assert temperature == pytest.approx(4.0 - 3.0 * step / 40)
    assert counter.frame_count == 1


@pytest.mark.usefixtures("_fresh")
def test_a_float_would_be_a_constant_of_a_graph() -> None:
    one = criterion()
    compiled = torch.compile(lambda x: x * one.scheduled["temperature"], backend="eager")
    assert compiled(torch.ones(())) == 4.0  # outside of the graph
    one.step()
    assert compiled(torch.ones(())) == 3.0
    whole = torch.compile(
        lambda x: x * one.scheduled["temperature"], backend="eager", fullgraph=True
    )
    with pytest.raises(Exception, match=r"write criterion.scheduled.tensor\('temperature'\) there"):
        whole(torch.ones(()))


# Metrics


def test_metrics_have_the_value_during_the_step_that_they_show() -> None:
    one = criterion()
    assert one.metrics() == {}
    for step, expected in enumerate([4.0, 3.0, 2.0, 1.0, 1.0]):
        one({"loss": torch.tensor(2.0)})
        assert one.metrics(include=["scheduled"])["scheduled/temperature"] == expected
        one.step()
        shown = one.metrics("train/", ["scheduled", "total"])
        assert shown == {
            "train/scheduled/temperature": expected,
            "train/scheduled/ratio": np.float32(0.3),
            "train/total": 2.0,
        }
        assert one.report().step == step
    one.step(5)
    assert one.metrics(include=["scheduled"])["scheduled/temperature"] == 1.0


def test_metrics_are_tensors_beside_the_total() -> None:
    one = criterion()
    one({"loss": torch.tensor(2.0, dtype=torch.float64)})
    found = one.metrics(include=["scheduled"], tensors=True)
    assert found["scheduled/ratio"].shape == ()
    assert one.metrics()["scheduled/ratio"] == 0.3  # of the precision of the losses
    assert set(criterion({}).metrics()) == set()


def test_a_report_has_a_line_of_them() -> None:
    one = criterion()
    assert one.report().scheduled == {}
    train(one, 2)
    assert str(one.report()).splitlines()[-1] == "scheduled: temperature 3, ratio 0.3"
    assert "scheduled" not in str(one.breakdown({"loss": torch.tensor(1.0)}))


def test_a_row_of_a_history_has_the_mean_over_its_interval(tmp_path: Path) -> None:
    one = criterion({"temperature": TEMPERATURE}, total_steps=1000)
    mean = History(one, "2 steps", tmp_path / "rows.jsonl")
    long = History(one, "200 steps")  # more than are kept one by one
    last = History(one, "2 steps", reduce="last")
    some = History(one, "2 steps", include=["raw"])
    train(one, 300, passes=2)
    assert mean["scheduled/temperature"][:3].tolist() == [3.5, 1.5, 1.0]
    assert last["scheduled/temperature"][:3].tolist() == [3.0, 1.0, 1.0]
    assert long["scheduled/temperature"].tolist() == pytest.approx([(4 + 3 + 2 + 197) / 200, 1.0])
    assert mean.terms == ("loss",)
    assert list(some) == ["raw/loss"]
    read = History.load(tmp_path / "rows.jsonl")
    assert read["scheduled/temperature"].tolist() == mean["scheduled/temperature"].tolist()
    kept = pickle.loads(pickle.dumps(mean))
    assert kept["scheduled/temperature"].tolist() == mean["scheduled/temperature"].tolist()


def test_a_monitor_looks_at_terms_alone() -> None:
    def number(step: int) -> float:
        asked.append(step)
        return 1.0

    asked: list[int] = []
    one = WeightedLoss(["nll", "kl"], scheduled={"number": number}, total_steps=100)
    monitor = Monitor(one, every="1 steps", floors={"kl": 0.1})
    for _ in range(40):
        one({"nll": torch.tensor(90.0), "kl": torch.tensor(1.0)})
        one.step()
    assert asked == list(range(41))
    assert monitor.findings == []
    assert "scheduled/number" not in list(monitor.history)


# What is said of them


def test_a_description_has_a_line_for_each() -> None:
    numbers = {"temperature": TEMPERATURE, "ratio": 0.3, "flat": Constant(value=2.0)}
    ramp, *others = criterion(numbers, total_steps=10).describe().splitlines()[-3:]
    written = "{kind: ramp, start: 4, stop: 1, over: 3 steps}"
    assert ramp == f"scheduled.temperature  {written}: starts at 4, ends at 1"
    assert others == ["scheduled.ratio        0.3: constant", "scheduled.flat         2: constant"]
    one = criterion({"temperature": Ramp(start=4.0, stop=1.0, over="50%")})
    assert "over: 50%}: not known yet, 50% of training cannot be converted" in one.describe()
    assert any(each.startswith("scheduled.temperature has no value yet: ") for each in one.audit())
    table = [1.0] * 2000  # more than is evaluated when it is built
    one = criterion({"number": lambda step: table[step]}, total_steps=5000)
    assert re.search(r"scheduled.number .*: its schedule fails: .* at step 2000", one.describe())
    assert one.audit() == []
    assert "scheduled.ratio: 0.3" in str(criterion())


def test_a_schedule_that_ends_after_training_warns() -> None:
    late = r"^scheduled.temperature ends too late: it ends at step 3, training at 2, with a value o"
    with pytest.warns(UserWarning, match=late):
        criterion(total_steps=2)


def test_another_length_of_training_warns() -> None:
    one = criterion({"temperature": Ramp(start=4.0, stop=1.0, over="100%")}, total_steps=10)
    one.set_step(5)
    with pytest.warns(UserWarning, match=r"at step 5: scheduled.temperature from 2.5 to 3.25\. To"):
        one.bind(total_steps=20)


def test_a_clock_past_the_end_warns_if_a_number_has_a_schedule() -> None:
    one = criterion(total_steps=3)
    with pytest.warns(UserWarning, match="the schedules of 'scheduled.temperature' were computed"):
        one.step(4)
    criterion({"ratio": 0.3}, total_steps=3).step(4)


def test_a_forgotten_clock_matters_if_a_number_moves() -> None:
    one, still, terms = criterion(), criterion({"ratio": 0.3}), {"loss": torch.tensor(1.0)}
    for _ in range(400):
        still(terms)
    for _ in range(199):
        one(terms)
    with pytest.warns(
        UserWarning, match="200 forward passes in training, but the clock is at step 0"
    ):
        one(terms)


def test_curves_have_them_beside_the_weights() -> None:
    config = LossConfig.read(
        {"terms": ["a"], "scheduled": {"number": {"kind": "warmup", "over": "4000 steps"}}}
    )
    curves = Curves.of(config, Horizon(total_steps=8000), points=5)
    assert curves.scheduled["number"].tolist() == [0.0, 0.5, 1.0, 1.0, 1.0]
    assert Curves.of(config).steps[-1] > 4000  # as far as it moves
    assert Curves.of(LossConfig.read({"terms": ["a"]})).scheduled == {}
