"""A clock that counts tokens, or any other unit, in training."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lossweights import (
    Clock,
    ConfigError,
    Controller,
    History,
    Horizon,
    HorizonError,
    State,
    StepContext,
    Warmup,
    WeightedLoss,
)
from lossweights.analysis import Monitor

RISING = {"kind": "warmup", "over": "1000 tokens"}


def built(total: str | None = "10000 tokens", **fields: Any) -> WeightedLoss:
    return WeightedLoss({"nll": 1.0, "kl": RISING}, total=total, **fields)


def terms(nll: float = 2.0, kl: float = 1.0) -> dict[str, torch.Tensor]:
    return {
        "nll": torch.tensor(nll, requires_grad=True),
        "kl": torch.tensor(kl, requires_grad=True),
    }


def optimizer() -> torch.optim.Optimizer:
    parameter = torch.nn.Parameter(torch.ones(1))
    parameter.grad = torch.ones(1)
    return torch.optim.SGD([parameter], lr=0.1)


# The clock


def test_the_clock_counts_tokens() -> None:
    criterion = built()
    criterion.step(250)
    criterion.step(0)
    criterion.step(500)
    assert criterion.current_step == 750
    assert criterion.weights == {"nll": 1.0, "kl": 0.75}
    criterion.set_step(100)
    assert criterion.weights["kl"] == pytest.approx(0.1)
    assert str(criterion.horizon) == "10000 tokens"
    assert criterion.horizon.total_steps is None
    assert (criterion.clock.unit, criterion.clock.before) == ("tokens", 750)


def test_a_step_without_a_number_is_refused() -> None:
    criterion = built()
    with pytest.raises(ValueError, match="the clock counts tokens: write how many the optimizer"):
        criterion.step()
    assert criterion.current_step == 0
    with pytest.raises(ValueError, match="step.. takes a whole number of at least 0, found 1.5"):
        criterion.step(1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("counts", ["number", "function"])
def test_an_optimizer_moves_it_by_what_a_step_takes(counts: str) -> None:
    criterion, model = built(), optimizer()
    taken = iter([100, 0, 300])
    per_step: Any = 200 if counts == "number" else lambda: next(taken)
    seen = []
    with criterion.follow(model, per_step=per_step):
        for _ in range(3):
            model.step()
            seen.append(criterion.current_step)
    assert seen == ([200, 400, 600] if counts == "number" else [100, 100, 400])
    assert criterion.weights["kl"] == pytest.approx(seen[-1] / 1000)


def test_a_step_that_a_scaler_skips_counts_nothing() -> None:
    parameter = torch.nn.Parameter(torch.ones(1))
    model = torch.optim.SGD([parameter], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    criterion, called = built(), []
    criterion.follow(model, per_step=lambda: called.append(1) or 64)  # type: ignore[func-returns-value]
    for value in (1.0, torch.inf, 1.0):
        model.zero_grad()
        torch.autograd.backward(scaler.scale(parameter.sum() * value))
        scaler.step(model)
        scaler.update()
    assert criterion.current_step == 64 * len(called) == 128


@pytest.mark.parametrize("wrong", [4.0, -1, True, None, "7", torch.tensor(4)])
def test_a_function_returns_whole_numbers(wrong: Any) -> None:
    criterion, model = built(), optimizer()
    criterion.follow(model, per_step=lambda: wrong)
    with pytest.raises(ValueError, match=r"per_step\(\) returns a whole number of at least 0, fo"):
        model.step()
    assert criterion.current_step == 0


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "4096"])
def test_a_number_per_step_is_whole(wrong: Any) -> None:
    with pytest.raises(ValueError, match="per_step takes a whole number of at least 1, found"):
        built().follow(optimizer(), per_step=wrong)


def test_per_step_is_for_clocks_that_count_another_unit() -> None:
    with pytest.raises(ValueError, match="clock counts tokens: write how many an optimizer step"):
        built().follow(optimizer())
    steps = WeightedLoss(["nll"], total_steps=10)
    for per_step in (4096, lambda: 4096):
        with pytest.raises(ValueError, match=r"this one counts steps: write total: \"\.\.\. tok"):
            steps.follow(optimizer(), per_step=per_step)
    steps.follow(optimizer(), per_step=1)


# The length of training


def test_the_total_may_be_bound_later() -> None:
    criterion = WeightedLoss({"kl": {"kind": "warmup", "over": "10%"}})
    with pytest.raises(HorizonError, match="10% of training cannot be converted to steps before"):
        _ = criterion.weights
    criterion.bind(total="1000 tokens")
    criterion.step(50)
    assert criterion.weights == {"kl": 0.5}
    with pytest.warns(UserWarning, match="was 1000 tokens and is 500 tokens now"):
        criterion.bind(total="500 tokens")
    assert criterion.weights == {"kl": 1.0}


def test_a_total_in_another_unit_comes_before_the_first_step_and_follow() -> None:
    moved = WeightedLoss({"kl": {"kind": "warmup", "over": "10%"}}, total_steps=10)
    moved.step()
    with pytest.raises(RuntimeError, match="the clock counts steps already, and the total is 5 fr"):
        moved.bind(total="5 frames")
    followed = WeightedLoss({"kl": {"kind": "warmup", "over": "10%"}})
    model = optimizer()
    followed.follow(model)
    with pytest.raises(RuntimeError, match=r"before the first step, and before follow\(\)"):
        followed.bind(total="5 frames")
    assert (moved.clock.unit, followed.clock.unit, moved.weights) == ("steps", "steps", {"kl": 1.0})


def test_a_total_in_another_unit_than_the_config_is_refused_and_changes_nothing() -> None:
    criterion = built(total=None)
    assert criterion.clock.unit == "tokens"
    with pytest.raises(ConfigError, match=r"terms\.kl\.schedule\.over: 1000 tokens, but the clock"):
        criterion.bind(total_steps=100)
    criterion.step(500)
    assert criterion.weights["kl"] == 0.5
    clock = Clock(unit="tokens")
    with pytest.raises(ValueError, match=r"the clock counts tokens, and the total is 5 steps"):
        clock.bind(total_steps=5)
    with pytest.raises(ValueError, match="total_steps and total both say"):
        clock.bind(total_steps=5, total="5 tokens")
    clock.bind(total="5 tokens")
    assert clock.horizon == Horizon(total="5 tokens")
    with pytest.raises(ValueError, match='a clock counts "steps", or a unit such as "tokens", fou'):
        Clock(unit="epochs")


def test_what_is_missing_is_asked_for_in_the_unit() -> None:
    terms: dict[str, Any] = {"kl": {"kind": "cyclical", "delay": "5 tokens"}}
    criterion = WeightedLoss(terms)
    with pytest.raises(HorizonError, match=r"before total is known: .*bind\(total=\"\.\.\. tokens"):
        _ = criterion.weights
    assert criterion.describe().startswith("training: total, in tokens, is not known yet")


def test_a_schedule_alone_takes_a_horizon_of_its_unit() -> None:
    warmup = Warmup(over="1e8 tokens")
    assert warmup(5 * 10**7, Horizon(total="2e9 tokens")) == 0.5
    assert warmup(5 * 10**7, Horizon(unit="tokens")) == 0.5
    with pytest.raises(HorizonError, match=r"1e8 tokens, but the clock counts steps: write total"):
        warmup(5, Horizon(100))
    with pytest.raises(HorizonError, match=r'10 steps, but the clock counts tokens: write "\.\.\.'):
        Warmup(over="10 steps")(5, Horizon(total="2e9 tokens"))
    with pytest.raises(ValueError, match="the clock counts frames, and the total is 5 tokens"):
        Horizon(total="5 tokens", unit="frames")


# Clocks that are shared


def test_two_criteria_count_on_one_clock() -> None:
    first = built()
    second = WeightedLoss({"gan": RISING}, clock=first.clock)
    shares = WeightedLoss({"gan": {"kind": "warmup", "over": "10%"}}, clock=first.clock)
    first.step(500)
    assert second.weights == shares.weights == {"gan": 0.5}
    own = WeightedLoss(
        {"gan": {"kind": "warmup", "over": "10%"}}, total="1e4 tokens", clock=first.clock
    )
    assert own.weights == {"gan": 0.5}
    for other in ({"total_steps": 100}, {"steps_per_epoch": 5}, {"total": "100 frames"}):
        with pytest.raises(ConfigError, match=r"^(total|steps_per_epoch).*the clock counts tokens"):
            WeightedLoss({"gan": 1.0}, clock=first.clock, **other)


# Components


class Passing(Controller):
    """Counts what a component is given."""

    def init(self) -> State:
        return {"elapsed": torch.zeros(()), "passed": torch.zeros(())}

    def weigh(self, value: torch.Tensor, state: State, now: StepContext) -> torch.Tensor:
        return torch.ones(())

    def update(self, observed: torch.Tensor, state: State, now: StepContext) -> None:
        state["elapsed"].fill_(now.elapsed)
        state["passed"] += now.passed("1000 tokens")


def test_a_component_knows_what_the_step_took() -> None:
    criterion = WeightedLoss({"a": Passing()}, total="10000 tokens")
    found = []
    for taken in (999, 1, 1, 3000):
        criterion({"a": torch.tensor(1.0, requires_grad=True)})
        criterion.step(taken)
        metrics = criterion.metrics(include=["controller"])
        found.append((metrics["controller/a/elapsed"], metrics["controller/a/passed"]))
    assert found == [(999, 0), (1, 1), (1, 1), (3000, 2)]


@pytest.mark.parametrize("moves", [[1] * 100, [100], [50, 0, 25, 25], [7] * 14 + [2]])
def test_the_response_of_a_pid_does_not_depend_on_how_the_clock_moves(moves: list[int]) -> None:
    """An error as large as the target, for the time of the response, is the whole range."""
    for unit in ("steps", "tokens"):
        pid = {"kind": "pid", "target": 1.0, "response": f"200 {unit}", "proportional": 0.0}
        criterion = WeightedLoss({"kl": pid}, total=f"1000 {unit}")
        for move in moves:
            criterion({"kl": torch.tensor(5.0, requires_grad=True)})
            criterion.step(move)
        assert criterion.weights["kl"] == pytest.approx(0.5, abs=1e-5)


def test_a_balancer_by_gradients_computes_them_when_an_interval_begins() -> None:
    balancer = {"kind": "mgda", "every": "1000 tokens"}
    criterion = WeightedLoss(["a", "b"], balancer=balancer, total="10000 tokens")
    computed = []
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    for _ in range(10):
        weights = criterion.adaptive.weights_from_gradients
        assert weights is not None
        computed.append(weights.is_due)
        criterion({"a": x[0] ** 2, "b": x[1] ** 2}, shared=x)
        criterion.step(400)
    # At 0, and in the first step at or after 1,000, 2,000 and 3,000 tokens: 1200, 2000, 3200.
    assert computed == [step in (0, 3, 5, 8) for step in range(10)]


def test_gradients_are_computed_at_each_step_by_default() -> None:
    criterion = WeightedLoss(["a", "b"], balancer="mgda", total="10000 tokens")
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    for taken in (400, 0, 400):
        assert criterion.adaptive.weights_from_gradients.is_due  # type: ignore[union-attr]
        criterion({"a": x[0] ** 2, "b": x[1] ** 2}, shared=x)
        criterion.step(taken)


# Checkpoints


CONFIGS: dict[str, dict[str, Any]] = {
    "scheduled": {
        "terms": {"nll": 1.0, "kl": {"kind": "cyclical", "cycles": 3, "shape": "cosine"}}
    },
    "steered": {
        "terms": {"nll": 1.0, "kl": {"kind": "pid", "target": 0.5, "response": "3000 tokens"}},
    },
    "dwa": {"terms": ["nll", "kl"], "balancer": {"kind": "dwa", "every": "1500 tokens"}},
    "gradients": {"terms": ["nll", "kl"], "balancer": {"kind": "mgda", "every": "900 tokens"}},
}
TAKEN = [517, 0, 733, 401, 1999, 64, 512, 1024]


def trained(criterion: WeightedLoss, steps: range) -> list[float]:
    """The totals of some steps, of uneven length."""
    totals = []
    for step in steps:
        x = torch.full((2,), 1.0 + step / 5, requires_grad=True)
        losses = {"nll": (x[0] - 3) ** 2, "kl": x[1] ** 2 + x[0]}
        totals.append(criterion(losses, shared=x).item())
        criterion.step(TAKEN[step % len(TAKEN)])
    return totals


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("half", range(1, 8))
def test_resume_is_exact(name: str, half: int) -> None:
    whole, begun, resumed = (WeightedLoss(**CONFIGS[name], total="8000 tokens") for _ in range(3))
    expected = trained(whole, range(12))
    trained(begun, range(half))
    file = io.BytesIO()
    torch.save(begun.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert trained(resumed, range(half, 12)) == expected[half:]
    ours, theirs = resumed.state_dict(), whole.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    copied = copy.deepcopy(begun)
    assert trained(copied, range(half, 12)) == expected[half:]


def test_a_checkpoint_of_another_unit_is_refused() -> None:
    tokens = WeightedLoss({"kl": {"kind": "warmup", "over": "10%"}}, total="1000 tokens")
    steps = WeightedLoss({"kl": {"kind": "warmup", "over": "10%"}}, total_steps=1000)
    tokens.step(50)
    steps.step(5)
    for ours, theirs, unit in ((tokens, steps, "steps"), (steps, tokens, "tokens")):
        before = ours.current_step
        match = rf'this checkpoint counts {unit}: write total: "\.\.\. {unit}"; strict=False'
        with pytest.raises(RuntimeError, match=match):
            ours.load_state_dict(theirs.state_dict())
        (missing,) = ours.load_state_dict(theirs.state_dict(), strict=False).missing_keys
        assert missing.startswith(f"clock.step in {ours.clock.unit} (this checkpoint counts {unit}")
        assert ours.current_step == before
    shared = WeightedLoss({"gan": 1.0}, clock=tokens.clock)
    other = WeightedLoss({"gan": 1.0}, clock=steps.clock)
    with pytest.raises(RuntimeError, match="this checkpoint counts steps"):
        shared.load_state_dict(other.state_dict())


def test_a_clock_of_steps_saves_no_unit() -> None:
    criterion = WeightedLoss(["nll"], total_steps=1000)
    criterion.step(3)
    assert set(criterion.state_dict()) == {"term_names", "clock.step", "clock.before", "horizon"}


@pytest.mark.parametrize(
    ("key", "damage", "problem"),
    [
        ("clock.unit", torch.tensor([91, 93], dtype=torch.uint8), "is one unit, found none"),
        ("clock.unit", torch.ones(3), "clock.unit"),
        ("clock.before", torch.tensor(-1), "is a whole number from 0 to below"),
    ],
)
def test_a_damaged_unit_is_refused(key: str, damage: torch.Tensor, problem: str) -> None:
    criterion = built()
    criterion.step(500)
    state = criterion.state_dict() | {key: damage}
    with pytest.raises(RuntimeError, match=problem):
        built().load_state_dict(state)


def test_another_length_is_compared_in_the_unit() -> None:
    first = WeightedLoss({"kl": {"kind": "warmup", "over": "100%"}}, total="1000 tokens")
    first.step(500)
    second = WeightedLoss({"kl": {"kind": "warmup", "over": "100%"}}, total="2000 tokens")
    with pytest.warns(UserWarning, match="was 1000 tokens and is 2000 tokens now") as caught:
        second.load_state_dict(first.state_dict())
    (note,) = [str(each.message) for each in caught]
    assert "at 500 tokens" in note
    assert 'write durations in tokens, such as "1000 tokens" in place of "100%"' in note


# What is said


def test_the_plan_and_the_warnings_speak_of_the_unit() -> None:
    with pytest.warns(UserWarning, match=r"ends at 1000 tokens, training at 800, with a weight of"):
        short = built(total="800 tokens")
    assert "step" not in short.describe()
    late = WeightedLoss(
        {"nll": 1.0, "kl": {"schedule": RISING, "after": "4e8 tokens"}}, total="2e9 tokens"
    )
    lines = late.describe().splitlines()
    assert lines[0] == "training: 2e9 tokens"
    peak = "first peaks at 1 after 400001000 tokens"
    assert lines[-1].endswith(f"dormant until 4e8 tokens, then starts at 0, {peak}, ends at 1")
    criterion = built()
    criterion(terms())
    assert str(criterion.report()).startswith("0 tokens\n")
    criterion.step(4096)
    criterion(terms())
    assert str(criterion.report()).startswith("4096 tokens\n")
    with pytest.raises(FloatingPointError, match="term 'kl' is nan at 0 tokens"):
        built(on_nonfinite="raise")(terms(kl=torch.nan))


def test_the_last_step_may_end_after_the_training_but_not_begin_there() -> None:
    criterion = built(total="1000 tokens")
    for taken in (600, 600):
        criterion(terms())
        criterion.step(taken)
    assert not criterion.audit()
    with pytest.warns(UserWarning, match="at 1300 tokens, past its end at 1000, .* set total to"):
        criterion.step(100)
    assert "past its end" in criterion.audit()[0]


def test_a_forgotten_clock_is_reported_with_what_to_write() -> None:
    criterion = built()
    for _ in range(199):
        criterion(terms())
    with pytest.warns(UserWarning, match=r"is at 0 tokens, .* criterion\.step\(tokens\) after"):
        criterion(terms())


def test_a_history_and_a_monitor_count_in_the_unit(tmp_path: Path) -> None:
    criterion = built()
    with pytest.raises(ValueError, match=r'every: 50 steps, but the clock counts tokens: write "'):
        History(criterion)
    history = History(criterion, every="1000 tokens", path=tmp_path / "rows.jsonl")
    monitor = Monitor(criterion, every="5%", floors={"kl": 0.1})
    for _ in range(20):
        criterion(terms(kl=0.01))
        if len(monitor.findings):
            break
        criterion.step(500)
    # The second step of each interval begins at 500, 1500, ... tokens.
    assert history.steps.tolist()[:3] == [500, 1500, 2500]
    assert history.unit == copy.deepcopy(history).unit == "tokens"
    assert History.load(tmp_path / "rows.jsonl").unit == "steps"


def test_the_monitor_speaks_of_the_unit() -> None:
    criterion = WeightedLoss(["nll", "kl"], total="100000 tokens")
    _ = Monitor(criterion, every="0.5%", floors={"kl": 0.1})
    for _ in range(19):
        criterion(terms(kl=0.01))
        criterion.step(500)
    criterion(terms(kl=0.01))
    with pytest.warns(UserWarning, match=r"^9500 tokens: .*floor of 0\.1 since 0 tokens"):
        criterion.step(500)


# Rows


def test_a_row_is_computed_alone_and_does_not_depend_on_the_path() -> None:
    """A block of rows has the same values up to rounding, which a resumed training would see."""
    term = {"kind": "cyclical", "cycles": 7, "shape": "sigmoid"}
    criterion = WeightedLoss({"kl": term}, total="1e9 tokens")
    other = WeightedLoss({"kl": term}, total="1e9 tokens")
    points = np.random.default_rng(0).integers(0, 10**6, 50).cumsum()
    for before, point in zip([0, *points[:-1]], points, strict=True):
        criterion.step(int(point - before))
        other.set_step(int(point))
        assert criterion.weights == other.weights
    timeline = criterion._modes.timeline
    assert timeline is not None
    first, block = timeline.block(12345)
    assert (first, len(block)) == (12345, 1)
