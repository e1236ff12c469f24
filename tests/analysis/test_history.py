"""The metrics of a training, kept: which steps, what costs nothing, and what is never lost."""

from __future__ import annotations

import copy
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


@pytest.mark.parametrize("every", [1, 2, 3, 7])
def test_rows_are_those_of_every_so_many_steps(every: int) -> None:
    criterion = one_term()
    history = History(criterion, every=steps(every))
    train(criterion, 20)
    expected = list(range(0, 20, every))
    assert history.steps.tolist() == history["raw/a"].tolist() == expected
    assert len(history) == len(expected)


def test_steps_counted_together_are_one_and_the_next_interval_is_not_missed() -> None:
    criterion = one_term()
    history = History(criterion, every="10 steps")
    for _ in range(10):
        criterion(losses(a=1.0))
        criterion.step(7)
    assert history.steps.tolist() == [0, 14, 21, 35, 42, 56, 63]


def test_epochs_are_counted_once_they_are_known_and_50_steps_until_then() -> None:
    criterion = one_term()
    history = History(criterion, every="2 epochs")
    with pytest.warns(UserWarning, match=r"a row every 50 steps until .*steps_per_epoch.*bind"):
        train(criterion, 1)
    train(criterion, 59)  # and not told again
    criterion.bind(steps_per_epoch=10)
    train(criterion, 30)
    assert history.steps.tolist() == [0, 50, 60, 80]


def test_an_interval_below_one_step_is_every_step() -> None:
    criterion = WeightedLoss(terms=["a"], steps_per_epoch=10)
    history = History(criterion, every="0.01 epochs")
    train(criterion, 3)
    assert history.steps.tolist() == [0, 1, 2]


def test_a_row_holds_what_metrics_says_at_that_step() -> None:
    criterion = WeightedLoss(terms={"a": 2.0, "kl": PID}, balancer="uncertainty")
    history = History(criterion, every="1 steps")
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


def test_accumulated_steps_show_their_last_forward() -> None:
    parameter = nn.Parameter(torch.tensor(0.0))
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    criterion = one_term()
    criterion.follow(optimizer)
    history = History(criterion, every="1 steps")
    for value in range(12):
        criterion({"a": parameter + value}).backward()
        if value % 4 == 3:
            optimizer.step()
    assert history["raw/a"].tolist() == [3.0, 7.0, 11.0]


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
    assert seldom["raw/a"].tolist() == [0, 3]
    assert of_guest["raw/b"].tolist() == [0, 20, 40]
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
    history = History(criterion, path=tmp_path / "rows.jsonl")
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
    criterion.set_step(1)
    history.rows.append({"step": 0})
    for _ in range(9):
        criterion({"a": meta(), "kl": meta()})
        criterion.step()
    criterion({"a": meta(), "kl": meta()})
    with pytest.raises(NotImplementedError, match="meta"):
        criterion.step()


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
    train(criterion, 20, a=2.0, kl=4.0)
    assert reads == ["tolist"] * 4
    assert history["raw/kl"].tolist() == [4.0] * 4
    assert len(reads) == 4


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
    followed = History(twin, every="1 steps")
    train(twin, 1)
    assert followed.steps.tolist() == [5]


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
        ({"every": 50}, '50 has no unit: write "50 steps"'),
        ({"include": ["weights"]}, "no quantity 'weights'; did you mean 'weight'"),
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
