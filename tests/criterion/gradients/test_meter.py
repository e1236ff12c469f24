"""What a history measures of gradients, against gradients that are computed apart."""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lossweights import Balancer, History, LossConfig, WeightedLoss
from lossweights.components.balancers import GradientBalancer

SIZE = 4
ROWS = {"a": [3.0, 0.0, 0.0, 0.0], "b": [0.0, 4.0, 0.0, 0.0], "c": [-1.0, 1.0, 0.0, 0.0]}


def call(
    criterion: WeightedLoss, rows: Mapping[str, Sequence[float]], scale: float = 1.0
) -> Tensor:
    """A forward pass in which the gradients of the terms are `rows`."""
    features = torch.zeros(SIZE, requires_grad=True) * 1.0
    terms = {name: scale * (torch.tensor(row) * features).sum() for name, row in rows.items()}
    total: Tensor = criterion(terms, shared=features)
    return total


def measured(row: Mapping[str, float]) -> dict[str, float]:
    prefix = "gradient/"
    return {key.removeprefix(prefix): x for key, x in row.items() if key.startswith(prefix)}


def expected(rows: Mapping[str, Sequence[float]], weights: Mapping[str, float]) -> dict[str, float]:
    """The metrics by their definitions, in float64."""
    found: dict[str, float] = {}
    norms = {name: math.hypot(*row) for name, row in rows.items()}
    whole = sum(abs(weights[name]) * norm for name, norm in norms.items())
    for name, norm in norms.items():
        found[f"norm/{name}"] = norm
        found[f"share/{name}"] = abs(weights[name]) * norm / whole if whole else 0.0
    for one, other in [("a", "b"), ("a", "c"), ("b", "c")]:
        if one in rows and other in rows and norms[one] and norms[other]:
            dot = sum(x * y for x, y in zip(rows[one], rows[other], strict=True))
            sign = math.copysign(1, weights[one]) * math.copysign(1, weights[other])
            cosine = sign * dot / norms[one] / norms[other]
            found[f"cosine/{one}/{other}"] = cosine
            found[f"conflict/{one}/{other}"] = float(cosine < 0)
    return found


numbers = st.integers(-3, 3).map(float)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.fixed_dictionaries({name: st.lists(numbers, min_size=4, max_size=4) for name in "abc"}),
    weights=st.fixed_dictionaries({name: st.sampled_from([-2.0, 0.0, 0.5, 3.0]) for name in "abc"}),
)
def test_a_measurement_has_what_its_definitions_say(
    rows: dict[str, list[float]], weights: dict[str, float]
) -> None:
    criterion = WeightedLoss(weights)
    history = History(criterion, "1 steps", gradients="1 steps")
    call(criterion, rows)
    criterion.step()
    found, wanted = measured(history.rows[0]), expected(rows, weights)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        if name.startswith("conflict") and abs(wanted[name.replace("conflict", "cosine")]) < 1e-9:
            continue  # an exact 0, which rounding decides
        assert found[name] == pytest.approx(value, abs=1e-6)


def test_a_row_has_the_means_of_its_measurements() -> None:
    criterion = WeightedLoss(["a", "b"])
    history = History(criterion, "4 steps", gradients="2 steps")
    for step in range(4):
        opposed = {"a": [1.0 + step, 0, 0, 0], "b": [1.0 if step < 2 else -1.0, 0, 0, 0]}
        call(criterion, opposed)
        criterion.step()
    found = measured(history.rows[0])  # of steps 0 and 2
    assert found["norm/a"] == pytest.approx((1 + 3) / 2)
    assert found["share/a"] == pytest.approx((1 / 2 + 3 / 4) / 2)
    assert (found["cosine/a/b"], found["conflict/a/b"]) == (0.0, 0.5)


@pytest.mark.parametrize(
    ("every", "start", "wanted"),
    [("3 steps", 0, [0, 3, 6]), ("25%", 0, [0, 5, 10]), ("3 steps", 4, [6]), ("1 epochs", 5, [8])],
)
def test_it_measures_at_multiples_of_the_interval(
    every: str, start: int, wanted: list[int]
) -> None:
    criterion = WeightedLoss(["a", "b"], total_steps=20, steps_per_epoch=4)
    criterion.set_step(start)
    if start:  # as after a resume
        criterion.clock.restore(start, start - 1)
    history = History(criterion, "1 steps", gradients=every)
    for _ in range(start, 11 if start == 0 and every == "25%" else 9):
        call(criterion, {"a": ROWS["a"], "b": ROWS["b"]})
        criterion.step()
    assert [row["step"] for row in history.rows if measured(row)] == wanted


def test_nothing_is_computed_between_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    criterion, calls = WeightedLoss(["a", "b"]), list[int]()
    history = History(criterion, "1 steps", gradients="5 steps")
    original = torch.autograd.grad

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(criterion.current_step)
        return original(*arguments, **options)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    for _ in range(11):
        call(criterion, {"a": ROWS["a"], "b": ROWS["b"]})
        criterion.step()
    assert calls == [0, 0, 5, 5, 10, 10]  # once for each term
    assert len(history) == 11


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 2), nn.Linear(5, 1)

    def forward(self, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        features = torch.tanh(self.trunk(x))
        terms = {"a": (self.a(features) - 1).square().mean(), "b": self.b(features).abs().mean()}
        return terms, features


def trained(*, measures: bool, balancer: Any = None, passes: int = 1) -> tuple[Net, History]:
    torch.manual_seed(0)
    model, criterion = Net(), WeightedLoss(["a", "b"], balancer=balancer, total_steps=10)
    parameters = [{"params": model.parameters()}, *criterion.param_groups()]
    optimizer = torch.optim.Adam(parameters, lr=0.01)
    criterion.follow(optimizer)
    history = History(criterion, "1 steps", gradients="2 steps" if measures else None)
    for _ in range(10):
        for _ in range(passes):
            terms, features = model(torch.randn(8, 6))
            (criterion(terms, shared=features) / passes).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, history


BY_GRADIENTS = [
    kind for kind in Balancer.kinds() if issubclass(Balancer.of_kind(kind), GradientBalancer)
]
NEEDS_MORE = {"lr-annealing": {"reference": "a"}, "gradient-similarity": {"primary": "a"}}


@pytest.mark.parametrize("kind", [None, "uncertainty", "moving-average", *BY_GRADIENTS])
@pytest.mark.parametrize("passes", [1, 3])
def test_measuring_does_not_change_the_training(kind: str | None, passes: int) -> None:
    balancer = None if kind is None else {"kind": kind, **NEEDS_MORE.get(kind, {})}
    measured_model, history = trained(measures=True, balancer=balancer, passes=passes)
    plain_model, _ = trained(measures=False, balancer=balancer, passes=passes)
    for one, other in zip(measured_model.parameters(), plain_model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert sum("gradient/norm/a" in row for row in history.rows) == 5


def test_micro_batches_count_with_their_mean() -> None:
    criterion = WeightedLoss(["a", "b"])
    history = History(criterion, "1 steps", gradients="1 steps")
    for scale in (1.0, 3.0):
        call(criterion, {"a": ROWS["a"], "b": ROWS["c"]}, scale)
    criterion.step()
    found = measured(history.rows[0])
    assert found["norm/a"] == pytest.approx(2 * 3.0)
    assert found["cosine/a/b"] == pytest.approx(-(0.5**0.5))


@pytest.mark.parametrize("divided_by", [None, 2])
def test_parts_of_a_sum_add_up_to_its_norm(divided_by: int | None) -> None:
    criterion = WeightedLoss({"a": {"accumulates": "sum"}, "b": 1.0})
    criterion.divided_by = divided_by
    history = History(criterion, "1 steps", gradients="1 steps")
    for _ in range(2):
        call(criterion, {"a": ROWS["a"], "b": ROWS["b"]})
    criterion.step()
    found = measured(history.rows[0])
    assert (found["norm/a"], found["norm/b"]) == pytest.approx((2 * 3.0, 4.0))
    assert found["share/a"] == pytest.approx(6 / 10)


def test_a_transform_counts_and_a_group_is_one_term() -> None:
    group = {"terms": {"x": 1.0, "y": 2.0}}
    criterion = WeightedLoss({"a": {"transform": "log"}, "g": group})
    history = History(criterion, "1 steps", gradients="1 steps")
    features = torch.tensor([2.0, 0.0], requires_grad=True)
    terms = {"a": features[0] ** 2, "g": {"x": features[0], "y": 3 * features[1]}}
    criterion(terms, shared=features)
    criterion.step()
    found = measured(history.rows[0])
    assert found["norm/a"] == pytest.approx(1.0)  # of 2 log x at 2
    assert found["norm/g"] == pytest.approx(math.hypot(1, 6))
    assert [*found] == [
        "norm/a", "share/a", "norm/g", "share/g", "cosine/a/g", "conflict/a/g"
    ]  # fmt: skip


def test_a_term_apart_has_a_norm_of_0_and_no_cosine() -> None:
    criterion = WeightedLoss(["a", "b", "c"])
    history = History(criterion, "1 steps", gradients="1 steps")
    features = torch.ones(2, requires_grad=True) * 1.0
    other = torch.ones(2, requires_grad=True)
    criterion(
        {"a": features.sum(), "b": other.sum(), "c": torch.tensor(1.0)}, shared=features
    ).backward()
    criterion.step()
    found = measured(history.rows[0])
    assert found == {
        "norm/a": pytest.approx(2**0.5), "norm/b": 0.0, "norm/c": 0.0,
        "share/a": 1.0, "share/b": 0.0, "share/c": 0.0,
    }  # fmt: skip


def test_an_absent_and_a_dormant_term_are_left_out() -> None:
    criterion = WeightedLoss({"a": 1.0, "b": {"optional": True}, "c": {"after": "5 steps"}})
    history = History(criterion, "1 steps", gradients="1 steps")
    call(criterion, {"a": ROWS["a"]})
    criterion.step()
    call(criterion, {"a": ROWS["a"], "b": ROWS["b"], "c": ROWS["c"]})
    criterion.step()
    assert measured(history.rows[0]).keys() == {"norm/a", "share/a"}
    assert {"norm/b", "cosine/a/b"} <= measured(history.rows[1]).keys()
    assert "norm/c" not in measured(history.rows[1])


def test_a_forward_pass_without_terms_measures_nothing() -> None:
    criterion = WeightedLoss({"a": {"optional": True}, "b": {"optional": True}})
    history = History(criterion, "1 steps", gradients="1 steps")
    features = torch.ones(2, requires_grad=True) * 1.0
    for terms in ({}, {"a": features.sum()}):
        criterion(terms, shared=features)
        criterion.step()
    assert "gradient/norm/a" not in history.rows[0]
    assert history.rows[1]["gradient/norm/a"] == pytest.approx(2**0.5)


@pytest.mark.parametrize("moved", ["load", "set_step"])
def test_a_forward_pass_before_the_clock_is_moved_does_not_count(moved: str) -> None:
    criterion = WeightedLoss(["a", "b"])
    history = History(criterion, "1 steps", gradients="1 steps")
    state = criterion.state_dict()
    call(criterion, {"a": [90.0, 0, 0, 0], "b": ROWS["b"]})
    if moved == "load":
        criterion.load_state_dict(state)
    else:
        criterion.set_step(5)
    call(criterion, {"a": ROWS["a"], "b": ROWS["b"]})
    criterion.step()
    assert measured(history.rows[-1])["norm/a"] == 3.0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_left_out(value: float) -> None:
    criterion = WeightedLoss(["a", "b"])
    history = History(criterion, "1 steps", gradients="1 steps")
    call(criterion, {"a": ROWS["a"], "b": [value, 0, 0, 0]})
    criterion.step()
    assert measured(history.rows[0]) == {"norm/a": 3.0, "share/a": 1.0}


def test_low_precision_keeps_small_gradients() -> None:
    """1e-7 would be 0 in float16, and its square in float32."""
    criterion = WeightedLoss(["a", "b"])
    history = History(criterion, "1 steps", gradients="1 steps")
    features = torch.zeros(2, dtype=torch.float16, requires_grad=True) * 1.0
    total = features.float().sum()
    criterion({"a": total * 1e-7, "b": total * 0.1}, shared=features)
    criterion.step()
    assert measured(history.rows[0])["norm/a"] == pytest.approx(2**0.5 * 1e-7, rel=0.01)


@pytest.mark.parametrize("size", [20.0, 2e4])
def test_an_overflow_in_float16_is_measured_again_with_a_smaller_scale(size: float) -> None:
    criterion = WeightedLoss(["a", "b"])
    history = History(criterion, "1 steps", gradients="1 steps")
    features = torch.zeros(2, dtype=torch.float16, requires_grad=True) * 1.0
    total = features.float().sum()
    criterion({"a": total * size, "b": total}, shared=features)
    criterion.step()
    found = measured(history.rows[0])
    assert found["norm/a"] == pytest.approx(size * 2**0.5, rel=0.01)
    assert found["cosine/a/b"] == pytest.approx(1.0)


def test_a_term_that_is_never_finite_does_not_change_the_scale_of_the_others() -> None:
    criterion = WeightedLoss(["a", "b"])
    history = History(criterion, "1 steps", gradients="1 steps")
    for _ in range(3):
        features = torch.zeros(2, dtype=torch.float16, requires_grad=True) * 1.0
        total = features.float().sum()
        criterion({"a": total * 1e-7, "b": total * math.inf}, shared=features)
        criterion.step()
    for row in history.rows:
        assert measured(row)["norm/a"] == pytest.approx(2**0.5 * 1e-7, rel=0.01)


@pytest.mark.parametrize("ends", ["load", "set_step"])
def test_a_step_that_was_not_done_is_not_measured(ends: str) -> None:
    criterion = WeightedLoss(["a", "b"])
    history = History(criterion, "1 steps", gradients="1 steps")
    checkpoint = copy.deepcopy(criterion.state_dict())
    call(criterion, {"a": ROWS["a"], "b": ROWS["b"]}, 1000.0)
    if ends == "load":
        criterion.load_state_dict(checkpoint)
    else:
        criterion.set_step(7)
    call(criterion, {"a": ROWS["a"], "b": ROWS["b"]})
    criterion.step()
    assert measured(history.rows[0])["norm/a"] == pytest.approx(3.0)


@pytest.mark.parametrize("balancer", [None, "imtl-g"])
def test_parameters_as_a_generator_reach_the_balancer_and_every_history(
    balancer: str | None,
) -> None:
    trunk = nn.Linear(2, 2)
    criterion = WeightedLoss(LossConfig.read({"terms": ["a", "b"], "balancer": balancer}))
    histories = [History(criterion, "1 steps", gradients="1 steps") for _ in range(2)]
    features = trunk(torch.ones(1, 2))
    terms = {"a": features.sum(), "b": features.square().sum()}
    criterion(terms, shared=trunk.parameters()).backward()
    criterion.step()
    for history in histories:
        assert measured(history.rows[0])["norm/a"] == pytest.approx(6**0.5)


# What keeps a measurement from being made is said once, and costs no training


def run(criterion: WeightedLoss, shared: Any, steps: int = 3) -> tuple[list[str], History]:
    history = History(criterion, "1 steps", gradients="1 steps")
    with warnings.catch_warnings(record=True, action="always") as caught:
        for _ in range(steps):
            x = torch.ones(2, requires_grad=True)
            features = x * 2
            terms = {"a": features.sum(), "b": features.square().sum()}
            criterion(terms, shared=shared(features)).backward()
            criterion.step()
    return [str(each.message) for each in caught], history


@pytest.mark.parametrize(
    ("shared", "words"),
    [
        (lambda _: None, "shared= was not passed in the call"),
        (lambda features: features.clone(), "depends on"),
        (lambda features: features.detach(), "none of them needs a gradient"),
        (lambda _: nn.Linear(2, 2), "found Linear"),
        (lambda _: [], "it is empty"),
    ],
)
def test_what_cannot_be_measured_is_one_warning(shared: Any, words: str) -> None:
    found, history = run(WeightedLoss(["a", "b"]), shared)
    assert len(found) == 1
    assert words in found[0]
    assert "the history measures no gradients" in found[0]
    assert len(history) == 3
    assert not any(map(measured, history.rows))


@pytest.mark.parametrize("wrong", [lambda _: None, torch.clone])
def test_a_call_is_measured_once_its_shared_is_right(wrong: Any) -> None:
    calls = iter([True, False, False])
    found, history = run(
        WeightedLoss(["a", "b"]), lambda features: wrong(features) if next(calls) else features
    )
    assert len(found) == 1
    assert [bool(measured(row)) for row in history.rows] == [False, True, True]


def test_a_compiled_criterion_is_one_warning() -> None:
    torch.compiler.reset()  # after many graphs of other tests it would not be compiled
    criterion = WeightedLoss(["a", "b"])
    history = History(criterion, "1 steps", gradients="1 steps")
    compiled = torch.compile(criterion, backend="eager", fullgraph=True)
    with warnings.catch_warnings(record=True, action="always") as caught:
        for _ in range(3):
            features = torch.ones(2, requires_grad=True) * 2
            compiled({"a": features.sum(), "b": features.square().sum()}, features).backward()
            criterion.step()
    (found,) = caught
    assert "called in a compiled graph" in str(found.message)
    assert not any(map(measured, history.rows))


def test_evaluation_is_not_measured() -> None:
    criterion = WeightedLoss(["a", "b"])
    history = History(criterion, "1 steps", gradients="1 steps")
    call(criterion, {"a": ROWS["a"], "b": ROWS["b"]})
    criterion.eval()
    call(criterion, {"a": ROWS["c"], "b": ROWS["c"]})
    criterion.train()
    criterion.step()
    assert measured(history.rows[0])["norm/a"] == 3.0


def test_a_length_that_is_not_known_yet_is_one_warning() -> None:
    criterion = WeightedLoss(["a", "b"])
    with warnings.catch_warnings(record=True, action="always") as caught:
        history = History(criterion, "1 steps", gradients="10%")
        for _ in range(3):
            call(criterion, {"a": ROWS["a"], "b": ROWS["b"]})
            criterion.step()
    (found,) = caught
    assert "measures gradients every 500 steps until the length" in str(found.message)
    assert [bool(measured(row)) for row in history.rows] == [True, False, False]


def test_it_measures_when_a_step_of_many_tokens_passes_a_multiple() -> None:
    criterion = WeightedLoss(["a", "b"], total="9000 tokens")
    history = History(criterion, "1 tokens", gradients="1000 tokens")
    for _ in range(8):
        call(criterion, {"a": ROWS["a"], "b": ROWS["b"]})
        criterion.step(300)
    assert [row["step"] for row in history.rows if measured(row)] == [0, 1200, 2100]


@pytest.mark.parametrize(
    ("every", "words"),
    [("0 steps", "gradients is at least"), ("5 tokens", "gradients: "), ("often", "often")],
)
def test_an_impossible_interval_is_refused(every: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        History(WeightedLoss(["a"]), gradients=every)


# Files, copies, resuming


def test_a_file_has_the_measurements(tmp_path: Path) -> None:
    criterion = WeightedLoss(["a", "b"])
    history = History(criterion, "2 steps", tmp_path / "run.jsonl", gradients="4 steps")
    for _ in range(6):
        call(criterion, {"a": ROWS["a"], "b": ROWS["c"]})
        criterion.step()
    history.close()
    read = History.load(tmp_path / "run.jsonl")
    assert read.rows == history.rows
    assert [bool(measured(row)) for row in read.rows] == [True, False, True]


def test_copies_and_pickles_of_the_criterion_measure_nothing() -> None:
    criterion = WeightedLoss(["a", "b"])
    history = History(criterion, "1 steps", gradients="1 steps")
    for other in (copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
        call(other, {"a": ROWS["a"], "b": ROWS["b"]})
        other.step()
    assert len(history) == 0
    copied = copy.deepcopy(history)
    call(criterion, {"a": ROWS["a"], "b": ROWS["b"]})
    criterion.step()
    assert (len(history), len(copied)) == (1, 0)


def test_a_closed_history_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    criterion = WeightedLoss(["a", "b"])
    History(criterion, "1 steps", gradients="1 steps").close()
    monkeypatch.setattr(torch.autograd, "grad", None)
    call(criterion, {"a": ROWS["a"], "b": ROWS["b"]})
    criterion.step()


def test_a_resumed_training_measures_in_the_same_steps(tmp_path: Path) -> None:
    def steps(criterion: WeightedLoss, count: int) -> None:
        for _ in range(count):
            call(criterion, {"a": ROWS["a"], "b": [1.0 + criterion.current_step, 1, 0, 0]})
            criterion.step()

    def started(path: Path) -> tuple[WeightedLoss, History]:
        criterion = WeightedLoss(["a", "b"])
        return criterion, History(criterion, "2 steps", path, gradients="3 steps")

    whole, history = started(tmp_path / "whole.jsonl")
    steps(whole, 12)
    first, rows = started(tmp_path / "parts.jsonl")
    steps(first, 6)
    checkpoint = copy.deepcopy(first.state_dict())
    steps(first, 3)  # lost
    second, rows = started(tmp_path / "parts.jsonl")
    second.load_state_dict(checkpoint)
    steps(second, 6)
    assert rows.rows == history.rows
