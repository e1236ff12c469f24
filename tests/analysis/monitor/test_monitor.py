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

from lossweights import History, Monitor, Schedule, WeightedLoss
from tests.analysis.monitor.test_troubles import STEPS, follow, kinds, train, vanishing

EXAMPLES = Path(__file__).parents[3] / "examples"

# Real trainings


@pytest.mark.slow
@pytest.mark.parametrize("config", ["constant", "cyclical-linear"])
def test_the_kl_of_the_vae_of_the_examples(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It vanishes under a constant weight, and is told of once; under cycles it does not."""
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
    monitor = Monitor(criterion, every="5 steps", floors={"kl": 0.3})
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


def test_nothing_waits_for_the_device_but_once_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    criterion, waits = WeightedLoss(["a", "b"]), []
    monitor = Monitor(criterion, every="2 steps")
    for method in ("item", "tolist", "__bool__", "__float__", "cpu", "numpy"):
        found = getattr(Tensor, method)

        def noted(tensor: Tensor, *args: Any, found: Any = found) -> Any:
            waits.append(criterion.current_step)
            return found(tensor, *args)

        monkeypatch.setattr(Tensor, method, noted)
    train(criterion, lambda _: {"a": 1.0, "b": 1.0}, 50)
    assert waits == [9, 19, 29, 39, 49]
    assert monitor.findings == []


def test_rows_of_a_history_tell_what_following_does() -> None:
    terms = ["a", "b"]
    criterion = WeightedLoss(terms)
    history = History(criterion, every="1 steps")
    train(criterion, vanishing, 100)
    late = Monitor(WeightedLoss(terms, total_steps=STEPS))
    with pytest.warns(UserWarning, match="step 19: term 'b' has collapsed"):
        found = late.read(history.rows)
    assert found == late.findings == follow(terms, vanishing, 100)
    assert late.read([]) == []
    for row in ({"step": 1}, {"step": 1, "raw/a": 1.0}, {"step": 1, "weighted/a": 1.0}):
        with pytest.raises(ValueError, match=r"rows have raw/<term> and weighted/<term>, found"):
            late.read([row])
    with pytest.raises(ValueError, match=r"each row has its step, found \['raw/a', 'weighted/a'\]"):
        late.read([{"raw/a": 1.0, "weighted/a": 1.0}])


def test_rows_of_steps_without_a_term_are_passed_over() -> None:
    criterion = WeightedLoss({"a": {"optional": True}})
    history, monitor = History(criterion, every="1 steps"), Monitor(criterion, every="1 steps")
    with pytest.warns(UserWarning, match="term 'a' is nan"):
        train(criterion, lambda step: {"a": math.nan} if step % 2 else {}, 20)
    with pytest.warns(UserWarning, match="term 'a' is nan"):
        (found,) = Monitor(criterion).read(history.rows)
    assert [found] == monitor.findings
    assert (found.step, found.trouble) == (9, "explosion")


def test_steps_that_are_done_again_take_the_place_of_the_old_ones() -> None:
    criterion = WeightedLoss(["a", "b"])
    monitor = Monitor(criterion, every="1 steps")
    train(criterion, lambda step: {"a": 1.0, "b": 1.0 if step < 8 else math.nan}, 12)
    criterion.set_step(8)  # to the last checkpoint, from which all goes well
    train(criterion, lambda _: {"a": 1.0, "b": 1.0}, 40)
    assert monitor.findings == []


def test_what_was_said_is_not_said_again_after_a_step_back() -> None:
    criterion = WeightedLoss(["a", "b"])
    monitor = Monitor(criterion, every="1 steps")
    with warnings.catch_warnings(record=True, action="always") as caught:
        for _ in range(3):
            train(criterion, lambda _: {"a": 1.0, "b": math.nan}, 20)
            criterion.set_step(0)
    assert len(caught) == len(monitor.findings) == 1


def test_a_warning_names_the_line_of_the_loop() -> None:
    criterion = WeightedLoss(terms={"a": 1.0, "b": 1.0}, total_steps=100)
    monitor = Monitor(criterion, every="1 steps")
    with warnings.catch_warnings(record=True, action="always") as caught:
        for _ in range(100):
            criterion({"a": torch.tensor(500.0), "b": torch.tensor(1.0)})
            criterion.step()
    assert monitor.findings
    assert [Path(warning.filename).name for warning in caught] == [Path(__file__).name]


def test_where_warnings_are_errors_the_training_goes_on() -> None:
    criterion = WeightedLoss(["a", "b"])
    monitor = Monitor(criterion, every="1 steps")
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
    Monitor(criterion, every="1 steps")
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
    with pytest.warns(UserWarning, match="'b' has collapsed"):
        monitor.read(rows_of(vanishing, 50))


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda monitor: pickle.loads(pickle.dumps(monitor))]
)
def test_a_copy_holds_what_was_found_and_follows_nothing(again: Any) -> None:
    criterion = WeightedLoss(["a", "b"])
    monitor = Monitor(criterion, every="1 steps")
    with pytest.warns(UserWarning, match="'b' has collapsed"):
        train(criterion, vanishing, 52)
    both = again({"criterion": criterion, "monitor": monitor})  # as a module that holds both
    train(both["criterion"], lambda _: {"a": 1.0, "b": math.nan}, 50)
    copied = both["monitor"]
    assert copied.findings == monitor.findings
    assert copied.read(rows_of(vanishing, 50)) == []  # told already
    copied.close()
    with pytest.warns(UserWarning, match="'b' is nan"):
        train(criterion, lambda _: {"a": 1.0, "b": math.nan}, 50)


def rows_of(values: Any, count: int) -> list[dict[str, float]]:
    criterion = WeightedLoss(["a", "b"])
    history = History(criterion, every="1 steps")
    train(criterion, values, count)
    return history.rows


def test_the_length_of_training_may_be_told_after_it_was_built() -> None:
    criterion = WeightedLoss({"a": 1.0, "b": {"kind": "warmup", "over": "50%"}})
    monitor = Monitor(criterion, every="1 steps")
    criterion.bind(total_steps=100)
    assert monitor.read([{"step": 0, "raw/a": 1.0, "weighted/a": 1.0}]) == []


def test_any_error_of_a_plugin_costs_the_monitor_alone() -> None:
    class Odd(Schedule):
        def values(self, steps: Any, horizon: Any) -> Any:
            if len(steps) == 2000:  # as only who looks ahead asks
                raise KeyError(steps[0])
            return np.ones(len(steps))

    criterion = WeightedLoss({"a": 1.0, "b": Odd()}, total_steps=3000, eval_weights="current")
    Monitor(criterion, every="1 steps")
    with pytest.warns(UserWarning, match="follows no longer"):
        train(criterion, vanishing, 20)


def test_closed_it_follows_no_longer() -> None:
    criterion = WeightedLoss(["a", "b"])
    monitor = Monitor(criterion, every="1 steps")
    monitor.close()
    train(criterion, vanishing, 50)
    assert monitor.findings == []


def test_an_interval_that_cannot_be_counted_is_50_steps() -> None:
    criterion = WeightedLoss(["a", "b"])
    monitor = Monitor(criterion, every="1%", window=1, patience=1)
    with pytest.warns(UserWarning, match="step 50: term 'a' is nan"):
        train(criterion, lambda step: {"a": math.nan if step else 1.0, "b": 1.0}, 60)
    assert len(monitor.findings) == 1


def test_a_schedule_that_fails_later_costs_the_monitor_and_not_the_training() -> None:
    table = [1.0] * 2000
    terms: Any = {"a": 1.0, "b": lambda step: table[step]}
    criterion = WeightedLoss(terms, total_steps=5000, eval_weights="current")
    monitor = Monitor(criterion, every="1 steps")
    with pytest.warns(
        UserWarning, match="follows no longer, since it cannot look ahead.*failed at"
    ):
        train(criterion, vanishing, 20)
    assert criterion.current_step == 20
    assert monitor.findings == []


def test_what_it_remembers_is_bounded() -> None:
    criterion = WeightedLoss(["a", "b"])
    monitor = Monitor(criterion, every="1 steps", window=1)
    train(criterion, lambda _: {"a": 1.0, "b": 1.0}, 300)
    assert len(monitor._windows) == 200
    assert not monitor._waiting


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"every": "0 steps"}, "every is at least \"1 steps\", found '0 steps'"),
        ({"window": 0}, "window is a whole number of at least 1, found 0"),
        ({"patience": 1.5}, "patience is a whole number of at least 1, found 1.5"),
        ({"collapse": math.nan}, "collapse is a part of the loss"),
        ({"dominance": -1}, "dominance is a part of the loss"),
        ({"explosion": 1.0}, "explosion is a factor above 1"),
        ({"conflict": 0.5}, "conflict is a factor above 1"),
        ({"floors": {"bb": 0.1}}, "floors: no term is called 'bb'; did you mean 'b'?"),
    ],
)
def test_a_number_out_of_its_range_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        Monitor(WeightedLoss(["a", "b"]), **options)
