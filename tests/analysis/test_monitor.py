"""The monitor follows a training: what it costs, what it goes by, and real trainings."""

from __future__ import annotations

import copy
import gc
import importlib
import math
import pickle
import re
import warnings
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lossweights import Schedule, WeightedLoss
from lossweights.analysis import History, Monitor, diagnose
from tests.analysis.test_diagnose import kinds, train, vanishing

EXAMPLES = Path(__file__).parents[2] / "examples"

# Real trainings


@pytest.mark.slow
@pytest.mark.parametrize("config", ["constant", "cyclical-linear"])
def test_the_kl_of_the_vae_of_the_examples(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It vanishes under a constant weight, and is found once; under cycles it does not."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    words, _ = importlib.import_module("pronunciation_vae.data").load_words(1000)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = importlib.import_module("pronunciation_vae.model").PronunciationVAE(32, 64)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    criterion = WeightedLoss.from_config(EXAMPLES / "vae_elbo" / f"{config}.yaml", at="loss")
    criterion.bind(total_steps=400).follow(optimizer)
    monitor = Monitor(criterion)
    with warnings.catch_warnings(record=True, action="always") as caught:
        while criterion.current_step < 400:
            for batch in words.batches(64, generator):
                if criterion.current_step == 400:
                    break
                nll, kl = model(batch, generator)
                criterion({"reconstruction": nll, "kl": kl}).backward()
                optimizer.step()
                optimizer.zero_grad()
    assert kinds(monitor.findings) == ([("kl", "collapse")] if config == "constant" else [])
    assert len(caught) == len(monitor.findings)


RAMP = {"kind": "warmup", "over": "87.5%"}


@pytest.mark.parametrize(("factors", "weight"), [(0, 1.0), (3, 1.0), (3, RAMP)])
def test_a_linear_vae_collapses_where_its_data_have_no_factors(factors: int, weight: Any) -> None:
    """As its optimum does then (Lucas et al., NeurIPS 2019, arXiv 1911.02469), and else not."""
    torch.manual_seed(0)
    mixing = 2 * torch.randn(factors, 16)
    encoder, decoder = nn.Linear(16, 8), nn.Linear(4, 16)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=0.02)
    criterion = WeightedLoss({"nll": 1.0, "kl": weight}, total_steps=400)
    criterion.follow(optimizer)
    monitor = Monitor(criterion, "5 steps", floors={"kl": 0.3})
    with warnings.catch_warnings(record=True, action="always"):
        for _ in range(400):
            x = torch.randn(64, factors) @ mixing + torch.randn(64, 16)
            mean, log_variance = encoder(x).chunk(2, dim=1)
            code = mean + (log_variance / 2).exp() * torch.randn_like(mean)
            kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)
            nll = 0.5 * (decoder(code) - x).square().sum(dim=1)
            criterion({"nll": nll.mean(), "kl": kl.mean()}).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert kinds(monitor.findings) == ([] if factors else [("kl", "collapse")])


# How it follows


def test_only_a_row_waits_for_the_device_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    criterion, waits = WeightedLoss(["a", "b"]), []
    monitor = Monitor(criterion, "10 steps")
    for method in ("item", "tolist", "__bool__", "__float__", "cpu", "numpy"):
        found = getattr(Tensor, method)

        def noted(tensor: Tensor, *args: Any, found: Any = found) -> Any:
            waits.append(criterion.current_step)
            return found(tensor, *args)

        monkeypatch.setattr(Tensor, method, noted)
    train(criterion, lambda _: {"a": 1.0, "b": 1.0}, 50)
    assert waits == [10, 20, 30, 40, 50]
    assert monitor.findings == []


def test_a_window_is_complete_with_its_fifth_row() -> None:
    """Whoever looks at the row of an interval in progress changes nothing."""
    criterion = WeightedLoss(["a", "b"])
    monitor = Monitor(criterion, "4 steps")
    for _ in range(19):
        train(criterion, lambda _: {"a": 1.0, "b": math.nan}, 1)
        assert monitor.history.rows
    with pytest.warns(UserWarning, match="step 19: term 'b' is nan"):
        train(criterion, lambda _: {"a": 1.0, "b": math.nan}, 1)


def test_rows_of_steps_without_a_term_are_passed_over() -> None:
    criterion = WeightedLoss({"a": {"optional": True}})
    monitor = Monitor(criterion, "1 steps")
    with pytest.warns(UserWarning, match="term 'a' is nan"):
        train(criterion, lambda step: {"a": math.nan} if step % 2 else {}, 20)
    (found,) = monitor.findings
    assert (found.step, found.trouble) == (9, "non-finite")
    (again,) = diagnose(monitor.history.rows, criterion.config)
    assert (again.step, again.trouble) == (19, "non-finite")


def test_a_training_that_goes_on_remembers_how_it_began(tmp_path: Path) -> None:
    """The term falls before the break, and the four windows are full only after it."""
    path = tmp_path / "rows.jsonl"
    before = WeightedLoss(["a", "b"])
    first = Monitor(before, "1 steps", path)
    train(before, vanishing, 12)
    assert first.findings == []
    after = WeightedLoss(["a", "b"])
    monitor = Monitor(after, "1 steps", path)
    after.load_state_dict(before.state_dict())
    with pytest.warns(UserWarning, match="step 19: term 'b' has collapsed"):
        train(after, vanishing, 8)
    assert monitor.history.rows == History.load(path).rows


def test_steps_that_are_done_again_take_the_place_of_the_old_ones() -> None:
    criterion = WeightedLoss(["a", "b"])
    monitor = Monitor(criterion, "1 steps")
    train(criterion, lambda step: {"a": 1.0, "b": 1.0 if step < 8 else math.nan}, 12)
    criterion.set_step(8)  # to the last checkpoint, from which all goes well
    train(criterion, lambda _: {"a": 1.0, "b": 1.0}, 40)
    assert monitor.findings == []


def test_what_was_said_is_not_said_again_after_a_step_back() -> None:
    criterion = WeightedLoss(["a", "b"])
    monitor = Monitor(criterion, "1 steps")
    with warnings.catch_warnings(record=True, action="always") as caught:
        for _ in range(3):
            train(criterion, lambda _: {"a": 1.0, "b": math.nan}, 20)
            criterion.set_step(0)
    assert len(caught) == len(monitor.findings) == 1


def test_a_warning_names_the_line_of_the_loop() -> None:
    criterion = WeightedLoss(terms={"a": 1.0, "b": 1.0}, total_steps=100)
    monitor = Monitor(criterion, "1 steps")
    with warnings.catch_warnings(record=True, action="always") as caught:
        for _ in range(100):
            criterion({"a": torch.tensor(500.0), "b": torch.tensor(math.nan)})
            criterion.step()
    assert monitor.findings
    assert [Path(warning.filename).name for warning in caught] == [Path(__file__).name]


def test_where_warnings_are_errors_the_training_goes_on() -> None:
    criterion = WeightedLoss(["a", "b"])
    monitor = Monitor(criterion, "1 steps")
    with warnings.catch_warnings(record=True, action="error") as caught:
        train(criterion, vanishing, 50)
    assert criterion.current_step == 50
    assert [str(warning.message) for warning in caught] == [
        f"step {found.step}: {found.message}" for found in monitor.findings
    ]
    assert monitor.findings


def test_the_criterion_holds_the_monitor_and_not_the_other_way_round() -> None:
    """Without a cycle, which would hold what is on a device until Python looks for cycles."""
    criterion = WeightedLoss(["a", "b"])
    Monitor(criterion, "1 steps")
    with pytest.warns(UserWarning, match="'b' has collapsed"):
        train(criterion, vanishing, 50)
    monitor, seen = Monitor(criterion), weakref.ref(criterion)
    gc.disable()
    try:
        del criterion
        assert seen() is None
    finally:
        gc.enable()
    monitor.close()


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda monitor: pickle.loads(pickle.dumps(monitor))]
)
def test_a_copy_holds_what_was_found_and_follows_nothing(again: Any) -> None:
    criterion = WeightedLoss(["a", "b"])
    monitor = Monitor(criterion, "1 steps")
    with pytest.warns(UserWarning, match="'b' has collapsed"):
        train(criterion, vanishing, 52)
    both = again({"criterion": criterion, "monitor": monitor})  # as a module that holds both
    train(both["criterion"], lambda _: {"a": 1.0, "b": math.nan}, 50)
    copied = both["monitor"]
    assert copied.findings == monitor.findings
    assert copied.history.rows == monitor.history.rows
    copied.close()
    with pytest.warns(UserWarning, match="'b' is nan"):
        train(criterion, lambda _: {"a": 1.0, "b": math.nan}, 50)


def test_any_error_of_a_plugin_costs_the_monitor_alone() -> None:
    class Odd(Schedule):
        def values(self, steps: Any, horizon: Any) -> Any:
            if len(steps) == 2000:  # as only who looks ahead asks
                raise KeyError(steps[0])
            return np.ones(len(steps))

    criterion = WeightedLoss({"a": 1.0, "b": Odd()}, total_steps=3000, eval_weights="current")
    Monitor(criterion, "1 steps")
    with pytest.warns(UserWarning, match="the monitor has stopped"):
        train(criterion, vanishing, 20)


def test_closed_it_follows_no_longer() -> None:
    criterion = WeightedLoss(["a", "b"])
    monitor = Monitor(criterion, "1 steps")
    monitor.close()
    train(criterion, vanishing, 50)
    assert monitor.findings == []


def test_an_interval_that_cannot_be_counted_is_50_steps() -> None:
    criterion = WeightedLoss(["a", "b"])
    monitor = Monitor(criterion)
    with pytest.warns(UserWarning, match="a row every 50 steps until the length of training"):
        train(criterion, lambda step: {"a": 1.0, "b": 1.0}, 51)
    assert monitor.history.steps.tolist() == [49, 50]


def test_a_schedule_that_fails_later_costs_the_monitor_and_not_the_training() -> None:
    table = [1.0] * 2000
    terms: Any = {"a": 1.0, "b": lambda step: table[step]}
    criterion = WeightedLoss(terms, total_steps=5000, eval_weights="current")
    monitor = Monitor(criterion, "1 steps")
    with pytest.warns(
        UserWarning, match="has stopped, because a schedule cannot be evaluated.*failed at"
    ):
        train(criterion, vanishing, 20)
    assert criterion.current_step == 20
    assert monitor.findings == []


def test_what_it_remembers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lossweights.analysis.monitor._MOST_ROWS", 20)
    criterion = WeightedLoss(["a", "b"])
    monitor = Monitor(criterion, "1 steps")
    train(criterion, lambda _: {"a": 1.0, "b": 1.0}, 100)
    assert monitor.history.steps.tolist() == [*range(5), *range(80, 100)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"every": "0 steps"}, "every is at least \"1 steps\", found '0 steps'"),
        ({"floors": {"bb": 0.1}}, "floors: no term is called 'bb'; did you mean 'b'?"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused(options: dict[str, Any], words: str) -> None:
    criterion = WeightedLoss(["a", "b"])
    with pytest.raises(ValueError, match=re.escape(words)):
        Monitor(criterion, **options)
    train(criterion, lambda _: {"a": 1.0, "b": math.nan}, 10)  # and nothing is left behind
