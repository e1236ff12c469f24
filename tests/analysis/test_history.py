"""The metrics of a training, kept: which steps a row has, what it costs, and what copies keep."""

from __future__ import annotations

import copy
import gc
import itertools
import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lossweights import History, LossConfig, Term, WeightedLoss, steps
from lossweights.analysis import Monitor
from tests.small_components import Counting, leaf, losses

PID = {"kind": "pid", "target": 1.0, "response": "10 steps"}


def train(criterion: WeightedLoss, count: int, **terms: float) -> None:
    """So many steps with these losses, by default the step as the loss of `a`."""
    for _ in range(count):
        criterion(losses(**(terms or {"a": float(criterion.current_step)})))
        criterion.step()


def one_term() -> WeightedLoss:
    return WeightedLoss(terms=["a"])


# Which steps


def intervals(numbers: list[int], every: int) -> list[list[int]]:
    """The steps, interval by interval."""
    groups = itertools.groupby(numbers, key=lambda step: step // every)
    return [list(group) for _, group in groups]


@pytest.mark.parametrize("first", [0, 2])
@pytest.mark.parametrize("every", [1, 2, 3, 7])
def test_a_row_has_the_means_over_an_interval_and_the_number_of_its_last_step(
    every: int, first: int
) -> None:
    """Intervals begin at multiples of their length, and the last one may not be complete."""
    criterion = one_term()
    criterion.set_step(first)
    means, lasts = (History(criterion, steps(every), reduce=how) for how in ("mean", "last"))
    train(criterion, 20)
    expected = intervals(list(range(first, first + 20)), every)
    assert means["raw/a"].tolist() == pytest.approx([np.mean(group) for group in expected])
    for history in (means, lasts):
        assert history.steps.tolist() == [group[-1] for group in expected]
        assert history.is_complete == ((first + 20) % every == 0)
    assert lasts["raw/a"].tolist() == lasts.steps.tolist()


def test_steps_counted_together_are_one_and_the_next_interval_is_not_missed() -> None:
    criterion = one_term()
    history = History(criterion, every="10 steps")
    for _ in range(10):
        criterion(losses(a=float(criterion.current_step)))
        criterion.step(7)
    expected = intervals([7 * index for index in range(10)], 10)
    assert history.steps.tolist() == [group[-1] for group in expected]
    assert history["raw/a"].tolist() == [np.mean(group) for group in expected]


def test_epochs_are_counted_once_they_are_known_and_50_steps_until_then() -> None:
    criterion = one_term()
    history = History(criterion, every="2 epochs")
    with pytest.warns(UserWarning, match=r"a row every 50 steps until .*steps_per_epoch.*bind"):
        train(criterion, 1)
    train(criterion, 59)  # and no second warning
    criterion.bind(steps_per_epoch=10)
    train(criterion, 30)
    assert history.steps.tolist() == [49, 59, 79, 89]  # 59: the interval changed


def test_an_interval_below_one_step_is_every_step() -> None:
    criterion = WeightedLoss(terms=["a"], steps_per_epoch=10)
    history = History(criterion, every="0.01 epochs")
    train(criterion, 3)
    assert history.steps.tolist() == [0, 1, 2]


@pytest.mark.parametrize("how", ["mean", "last"])
def test_a_row_of_one_step_has_its_metrics(how: Any) -> None:
    criterion = WeightedLoss(terms={"a": 2.0, "kl": PID}, balancer="uncertainty")
    history = History(criterion, every="1 steps", reduce=how)
    expected = []
    criterion.on_step(lambda step: expected.append({"step": step, **criterion.metrics()}))
    train(criterion, 5, a=2.0, kl=4.0)
    assert history.rows == expected
    assert {"controller/kl/error", "penalty/a", "share/kl", "total"} <= set(history)
    assert history.terms == ("a", "kl")


def test_only_what_is_included_is_kept() -> None:
    criterion = WeightedLoss(terms={"a": Counting(), "b": 1.0})
    history = History(criterion, include=(name for name in ("weight", "controller", "total")))
    train(criterion, 1, a=1.0, b=1.0)
    controller = {f"controller/a/{key}" for key in ("coefficient", "observed", "target", "step")}
    assert set(history) == {"weight/a", "weight/b", "total"} | controller
    nothing = History(criterion, include=[])
    train(criterion, 1, a=1.0, b=1.0)
    assert nothing.rows == [{"step": 1}]


def test_every_forward_pass_of_accumulated_steps_counts() -> None:
    parameter = nn.Parameter(torch.tensor(0.0))
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    criterion = one_term()
    criterion.follow(optimizer)
    means, lasts = (History(criterion, "5 steps", reduce=how) for how in ("mean", "last"))
    for value in range(1, 41):
        criterion({"a": parameter + value}).backward()
        if value % 4 == 0:
            optimizer.step()
    assert means["raw/a"].tolist() == [np.mean(range(1, 21)), np.mean(range(21, 41))]
    assert lasts["raw/a"].tolist() == [np.mean(range(17, 21)), np.mean(range(37, 41))]
    assert means.steps.tolist() == lasts.steps.tolist() == [4, 9]


def test_steps_count_alike_whatever_the_number_of_their_forward_passes() -> None:
    criterion = WeightedLoss({"a": 2.0, "tokens": {"accumulates": "sum"}})
    history = History(criterion, every="3 steps")
    for count, value in ((1, 1.0), (100, 2.0), (2, 6.0)):
        for _ in range(count):
            criterion(losses(a=value, tokens=1.0))
        criterion.step()
    (row,) = history.rows
    assert row["raw/a"] == 3.0
    assert row["weighted/a"] == 6.0
    assert row["raw/tokens"] == row["weighted/tokens"] == pytest.approx(103 / 3)
    assert row["total"] == pytest.approx(6 + 103 / 3)


def test_a_weight_that_moves_is_shown_with_its_mean_and_the_mean_of_what_it_gave() -> None:
    criterion = WeightedLoss({"a": {"kind": "warmup", "over": "4 steps"}})
    history = History(criterion, every="5 steps")
    train(criterion, 5)  # weights 0, 0.25, 0.5, 0.75, 1 of values 0, 1, 2, 3, 4
    (row,) = history.rows
    assert (row["raw/a"], row["weight/a"], row["weighted/a"]) == (2.0, 0.5, 7.5 / 5)
    assert row["total"] == row["weighted/a"]


@pytest.mark.parametrize("compiled", [False, True])
def test_a_long_interval_has_the_means_over_all_of_it(*, compiled: bool) -> None:
    criterion = WeightedLoss({"a": 1.0, "b": {"optional": True}})
    call = torch.compile(criterion, backend="eager", fullgraph=True) if compiled else criterion
    history = History(criterion, every="150 steps")
    for step in range(300):
        call(losses(a=float(step), b=1.0) if step % 50 == 0 else losses(a=float(step)))
        criterion.step()
        if step == 99:  # in progress
            assert history["raw/a"].tolist() == [np.mean(range(100))]
            assert history["weighted/b"] == pytest.approx(2 / 100)
    assert history["raw/a"].tolist() == [np.mean(range(150)), np.mean(range(150, 300))]
    assert history["raw/b"].tolist() == [1.0, 1.0]
    assert history["weighted/b"] == pytest.approx(3 / 150)
    assert history["total"] == pytest.approx(history["raw/a"] + 3 / 150)


def test_a_long_interval_takes_no_more_memory_than_a_short_one() -> None:
    criterion = one_term()
    history = History(criterion, every="10000 steps")

    def tensors() -> int:
        gc.collect()
        return sum(issubclass(type(each), Tensor) for each in gc.get_objects())

    train(criterion, 130)
    before = tensors()
    train(criterion, 400)
    assert tensors() - before < 200
    assert history["raw/a"].tolist() == [np.mean(range(530))]


# The interval in progress


def test_an_interval_in_progress_is_the_last_row_until_it_is_complete() -> None:
    criterion = one_term()
    history = History(criterion, every="4 steps")
    found = []
    for _ in range(6):
        train(criterion, 1)
        assert len(history) == len(history.rows)  # looking twice adds no row
        found.append([(row["step"], row["raw/a"]) for row in history.rows])
    assert found == [
        [(0, 0.0)],
        [(1, 0.5)],
        [(2, 1.0)],
        [(3, 1.5)],
        [(3, 1.5), (4, 4.0)],
        [(3, 1.5), (5, 4.5)],
    ]
    history.close()
    train(criterion, 5)
    assert history.steps.tolist() == [3, 5]


def test_steps_that_are_repeated_replace_those_of_the_interval_in_progress() -> None:
    criterion = one_term()
    history = History(criterion, every="10 steps")
    train(criterion, 18)
    criterion.set_step(12)
    train(criterion, 3, a=100.0)
    assert history.steps.tolist() == [9, 14]
    assert history["raw/a"].tolist() == [4.5, 100.0]


def test_steps_without_a_forward_have_no_row() -> None:
    criterion = one_term()
    history = History(criterion, every="1 steps")
    criterion.step()
    train(criterion, 1)
    criterion.step()
    criterion(losses(a=9.0))
    criterion.step(0)
    with torch.no_grad():
        criterion(losses(a=1.0))
    assert history.steps.tolist() == [1]


def test_a_compiled_forward_is_followed() -> None:
    criterion = WeightedLoss(terms={"a": 1.0, "b": {"kind": "warmup", "over": "4 steps"}})
    history = History(criterion, every="1 steps")
    compiled = torch.compile(criterion, backend="eager", fullgraph=True)
    for value in range(6):
        compiled({"a": leaf(value), "b": leaf(2.0)})
        criterion.step()
    assert history["raw/a"].tolist() == [0, 1, 2, 3, 4, 5]
    assert history["weight/b"].tolist() == [0, 0.25, 0.5, 0.75, 1, 1]


def test_two_histories_and_two_criteria_on_one_clock() -> None:
    owner = one_term()
    guest = WeightedLoss(terms=["b"], clock=owner.clock)
    often, seldom = History(owner, every="1 steps"), History(owner, every="3 steps")
    of_guest = History(guest, every="2 steps")
    for value in range(6):
        guest(losses(b=10.0 * value))
        train(owner, 1)
    assert often.steps.tolist() == [0, 1, 2, 3, 4, 5]
    assert seldom["raw/a"].tolist() == [1, 4]
    assert of_guest["raw/b"].tolist() == [5, 25, 45]
    seldom.close()
    train(owner, 1)
    assert (len(often), len(seldom)) == (7, 2)


# What is missing, and what is no number


def test_terms_that_are_not_there_are_nan_in_a_column_and_missing_in_a_row() -> None:
    terms: dict[str, Any] = {"b": 0.0, "a": Term(optional=True), "late": Term(after="2 steps")}
    criterion = WeightedLoss(terms)
    history = History(criterion, every="1 steps", include=["raw", "share"])
    for given in ({"a": 1.0}, {}, {"late": 3.0}, {"a": 4.0, "late": 4.0}):
        train(criterion, 1, b=1.0, **given)
    np.testing.assert_equal(history["raw/a"], [1.0, math.nan, math.nan, 4.0])
    np.testing.assert_equal(history["share/late"], [math.nan, math.nan, 1.0, 0.5])
    assert history.rows[1] == {"step": 1, "raw/b": 1.0, "share/b": 0.0}
    assert history.terms == ("b", "a", "late")


def test_a_term_that_is_absent_from_some_steps_of_an_interval() -> None:
    """Its value is a mean over the steps in which it was given, its part in the total over all."""
    criterion = WeightedLoss({"a": 1.0, "b": Term(weight=0.5, optional=True)})
    history = History(criterion, every="4 steps")
    for given in ({"b": 4.0}, {}, {"b": 8.0}, {}):
        train(criterion, 1, a=1.0, **given)
    (row,) = history.rows
    assert (row["raw/b"], row["weight/b"], row["weighted/b"]) == (6.0, 0.5, 1.5)
    assert row["total"] == 2.5
    assert row["share/b"] == pytest.approx(1.5 / 2.5)


def test_rows_have_the_mean_of_the_totals_also_with_learned_weights() -> None:
    priced = {"kind": "test-priced", "initial": 3.0}
    criterion = WeightedLoss({"a": 1.0, "b": Term(optional=True)}, balancer=priced)
    history = History(criterion, every="5 steps")
    totals = []
    for step in range(5):
        for index in range(3):
            given = losses(a=1.0 + step) | (losses(b=2.0) if index == step % 3 else {})
            totals.append(criterion(given).item())
        criterion.step()
    (row,) = history.rows
    assert row["total"] == pytest.approx(np.mean(totals))
    assert row["total"] == pytest.approx(row["weighted/a"] + row["weighted/b"])
    assert row["penalty/b"] == pytest.approx(3.0**2 / 3)  # in a third of the passes


def test_nan_and_inf_are_kept_and_read_again_by_any_reader_of_json(tmp_path: Path) -> None:
    criterion = one_term()
    history = History(criterion, every="1 steps", include=["raw"])
    values = [math.nan, math.inf, -math.inf, 1 / 3, 1e-38]
    for value in values:
        train(criterion, 1, a=value)
    history.save(tmp_path / "new" / "folder.jsonl")
    found = History.load(tmp_path / "new" / "folder.jsonl")
    np.testing.assert_equal(found["raw/a"], np.array(values, np.float32))
    lines = (tmp_path / "new" / "folder.jsonl").read_text(encoding="utf-8").splitlines()
    read = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [row["raw/a"] for row in read][:3] == [None, math.inf, -math.inf]


def test_losses_of_mixed_precision_lie_in_one_row() -> None:
    criterion = WeightedLoss(terms={"a": 1.0, "kl": PID})
    history = History(criterion)
    criterion({"a": leaf(1 / 3, torch.float64), "kl": leaf(2.0, torch.bfloat16)})
    criterion.step()
    assert history["raw/a"] == [1 / 3]
    assert history["raw/kl"] == [2.0]


def test_names_are_kept_as_they_are(tmp_path: Path) -> None:
    names = ("train/kl", "raw/x", "käse €", 'quo"te\\', "_a.b", "a" * 300)
    criterion = WeightedLoss(terms=list(names))
    history = History(criterion, every="1 steps", path=tmp_path / "rows.jsonl")
    train(criterion, 1, **dict.fromkeys(names, 2.0))
    assert history.terms == names
    assert History.load(tmp_path / "rows.jsonl").rows == history.rows


@pytest.mark.parametrize("metric", ["raw/kl", "kl", "step/a", 0])
def test_a_metric_that_no_row_has_is_refused_with_the_nearest(metric: Any) -> None:
    criterion = one_term()
    history = History(criterion)
    assert metric not in history
    with pytest.raises(ValueError, match=r"no row has .* \(found none\)"):
        history[metric]
    train(criterion, 1)
    with pytest.raises(ValueError, match=r"no row has .*(found 'raw/a', 'value/a', )"):
        history[metric]


# What waits for the device


def meta() -> Tensor:
    """A loss without a value: whatever asks for one fails."""
    return torch.empty((), device="meta", requires_grad=True)


@pytest.mark.parametrize("options", [{}, {"balancer": "relobralo"}], ids=["plain", "balanced"])
def test_no_value_is_read_in_steps_without_a_row(options: dict[str, Any]) -> None:
    """On a device that holds no values, reading one fails."""
    criterion = WeightedLoss({"a": 1.0, "kl": PID}, **options)
    history = History(criterion, every="10 steps")
    for _ in range(9):
        criterion({"a": meta(), "kl": meta()})
        criterion.step()
    assert not history.is_complete
    criterion({"a": meta(), "kl": meta()})
    with pytest.raises(NotImplementedError, match="meta"):
        criterion.step()


def test_no_value_is_read_while_a_long_interval_goes_on() -> None:
    criterion = WeightedLoss({"a": 1.0, "kl": PID}, balancer="relobralo")
    History(criterion, every="1000 steps")
    for _ in range(150):
        criterion({"a": meta(), "kl": meta()})
        criterion.step()


def test_an_interval_goes_on_where_its_losses_move(monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[str] = []

    def transfer(found: dict[str, Tensor]) -> dict[str, float]:
        devices.extend(part.device.type for part in found.values())
        return dict.fromkeys(found, 0.0)

    monkeypatch.setattr("lossweights.analysis.history.on_host", transfer)
    criterion = WeightedLoss(["a"])
    history = History(criterion, every="150 steps")
    for step in range(150):
        criterion({"a": leaf(1.0) if step < 70 else meta()})
        criterion.step()
    assert history.steps.tolist() == [149]
    assert set(devices) == {"meta"}


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the calls that bring values of tensors to the host."""
    seen: list[str] = []

    def watched(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            seen.append(name)
            return original(*args, **options)

        return call

    for name in ("tolist", "item", "numpy", "cpu", "__float__", "__bool__", "__int__"):
        monkeypatch.setattr(Tensor, name, watched(name, getattr(Tensor, name)))
    return seen


def test_a_row_takes_one_transfer(reads: list[str]) -> None:
    criterion = WeightedLoss({"a": 1.0, "kl": PID}, balancer="uncertainty")
    history = History(criterion, every="5 steps")
    reads.clear()  # those of the construction
    train(criterion, 22, a=2.0, kl=4.0)
    assert reads == ["tolist"] * 4
    for _ in range(2):  # one more, of the interval in progress
        assert history["raw/kl"].tolist() == [4.0] * 5
        assert reads == ["tolist"] * 5


# Copies


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_of_the_criterion_is_not_followed_and_one_of_the_history_follows_nothing(
    copied: Any, tmp_path: Path
) -> None:
    criterion = one_term()
    history = History(criterion, every="1 steps", path=tmp_path / "rows.jsonl")
    train(criterion, 2)
    twin, kept = copied(criterion), copied(history)
    train(twin, 3)
    assert len(history) == 2
    train(criterion, 1)
    assert (len(history), len(kept)) == (3, 2)
    assert kept.rows == history.rows[:2]
    kept.close()
    assert kept.rows == history.rows[:2]
    followed = History(twin, every="1 steps")
    train(twin, 1)
    assert followed.steps.tolist() == [5]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_within_an_interval_keeps_its_row(copied: Any) -> None:
    criterion = one_term()
    history = History(criterion, every="10 steps")
    train(criterion, 14)
    kept = copied(history)
    for _ in range(2):
        assert kept.rows == history.rows
        assert kept.steps.tolist() == [9, 13]
        kept.close()
    train(criterion, 4)
    assert (history.steps[-1], kept.steps[-1]) == (17, 13)


def test_the_state_of_a_criterion_knows_nothing_of_its_history() -> None:
    criterion = one_term()
    before = criterion.state_dict().keys()
    History(criterion)
    train(criterion, 1)
    assert criterion.state_dict().keys() == before


# Refused at once


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"every": "0 steps"}, "every is at least \"1 steps\", found '0 steps'"),
        ({"every": "0%"}, "every is at least \"1 steps\", found '0%'"),
        ({"every": 50}, '^every: 50 has no unit: write "50 steps"'),
        ({"gradients": "5"}, "^gradients: '5' has no unit: write \"5 steps\""),
        ({"include": ["weights"]}, "no quantity 'weights'; did you mean 'weight'"),
        ({"reduce": "median"}, "reduce is 'mean' or 'last', found 'median'"),
    ],
)
def test_what_cannot_be_done_is_refused_before_training(
    options: dict[str, Any], problem: str
) -> None:
    criterion = one_term()
    with pytest.raises(ValueError, match=problem):
        History(criterion, **options)
    train(criterion, 1)  # and nothing is left behind


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (LossConfig(terms={"kl": 1.0}), "found LossConfig: pass the criterion itself"),
        ("rows.jsonl", r"found str: read a file with History\.load\(path\)"),
    ],
)
def test_only_a_criterion_has_a_history(given: Any, said: str) -> None:
    with pytest.raises(TypeError, match=f"a history follows a WeightedLoss, {said}"):
        History(given)
    with pytest.raises(TypeError, match="a monitor follows a WeightedLoss, found"):
        Monitor(given)
