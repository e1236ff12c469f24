"""Ignite's engines: which steps count, how long training is, what is reported and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events, create_supervised_trainer
from ignite.handlers import Checkpoint, DiskSaver
from torch.utils.data import DataLoader

from lossweights import HorizonError, WeightedLoss
from lossweights.integrations.ignite import LossWeights
from tests.integrations.models import (
    CONFIGS,
    LEARNED,
    SCHEDULED,
    SUMS,
    TOKENS,
    Model,
    Parts,
    Terms,
    assert_same,
    batches,
    layer_of_windows,
    steps_of,
)


def loader() -> DataLoader[Any]:
    """Ten batches of pairs."""
    pairs: Any = [(row, row[:1]) for row in batches().reshape(20, 4)]
    return DataLoader(pairs, batch_size=2)


class Training:
    """A model with its criterion, an optimizer, and an engine that is in step with them."""

    def __init__(
        self, config: dict[str, Any] = SCHEDULED, accumulate: int = 1, per_step: Any = None
    ) -> None:
        self.model = Model(config)
        self.criterion = self.model.criterion
        self.optimizer = torch.optim.Adam(
            [{"params": self.model.layer.parameters()}, *self.criterion.param_groups(lr=1e-1)],
            lr=1e-2,
        )
        self.engine = create_supervised_trainer(
            self.model,
            self.optimizer,
            lambda terms, _: self.criterion(terms),
            gradient_accumulation_steps=accumulate,
            deterministic=True,
        )
        self.handler = LossWeights(
            self.model, self.optimizer, accumulate, every=5, per_step=per_step
        )
        self.handler.attach(self.engine)


@pytest.mark.parametrize(("accumulate", "total", "each"), [(1, 30, 10), (5, 6, 2), (4, 7, 2)])
def test_accumulation_and_epochs_are_counted_in_steps(
    accumulate: int, total: int, each: int
) -> None:
    training = Training(accumulate=accumulate)
    training.engine.run(loader(), max_epochs=3)
    horizon = training.criterion.horizon
    assert training.criterion.current_step == steps_of(training.optimizer) == total
    assert (horizon.total_steps, horizon.steps_per_epoch) == (total, each)


def test_steps_that_the_scaler_skips_are_not_counted() -> None:
    model = Model()
    optimizer = torch.optim.Adam(model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)  # far too large, to see it skip

    def update(_: Engine, batch: Any) -> None:
        optimizer.zero_grad()
        scaler.scale(model.criterion(model(batch[0]))).backward()
        scaler.step(optimizer)
        scaler.update()

    engine = Engine(update)
    LossWeights(model, optimizer).attach(engine)
    engine.run(loader(), max_epochs=3)
    assert 0 < model.criterion.current_step == steps_of(optimizer) < engine.state.iteration


def test_the_length_is_that_of_the_run() -> None:
    training = Training()
    training.engine.run(loader(), max_iters=7)
    assert training.criterion.horizon.total_steps == 7
    config = {**SCHEDULED, "total_steps": "4 epochs"}
    training = Training(config)
    training.engine.run(loader(), max_epochs=1)
    assert training.criterion.horizon.total_steps == 40  # what the config says holds


def test_a_length_is_not_guessed() -> None:
    model = Model()
    optimizer = torch.optim.Adam(model.parameters())
    engine = Engine(lambda *_: None)
    LossWeights(model, optimizer).attach(engine)
    with pytest.raises(HorizonError, match="before total_steps is known"):
        engine.run((batch for batch in loader()), max_epochs=2)


def test_what_cannot_work_is_refused() -> None:
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.raises(ValueError, match="no WeightedLoss among the modules of Linear"):
        LossWeights(model, optimizer)
    criterion = WeightedLoss(["mse"])
    with pytest.raises(
        ValueError, match="gradient_accumulation_steps must be a whole number of at le"
    ):
        LossWeights(criterion, optimizer, gradient_accumulation_steps=0)
    with pytest.raises(ValueError, match="every must be a whole number of at least 1"):
        LossWeights(criterion, optimizer, every=0)
    with pytest.raises(ValueError, match="no quantity 'wieght'; did you mean 'weight'"):
        LossWeights(criterion, optimizer, include=["wieght"])


def test_metrics_are_there_for_loggers_that_are_attached_later() -> None:
    training = Training()
    seen: list[float] = []
    numbers: list[float] = []

    def look(engine: Engine) -> None:
        seen.append(engine.state.metrics["weight/l1"])
        numbers.append(engine.state.metrics["scheduled/temperature"])

    training.engine.add_event_handler(Events.ITERATION_COMPLETED(every=5), look)
    training.engine.run(loader(), max_epochs=2)
    # A warm-up over 10 steps to 0.5, after steps 4, 9, 14 and 19.
    assert seen == pytest.approx([0.2, 0.45, 0.5, 0.5])
    assert numbers == pytest.approx([2.8, 1.3, 1.0, 1.0])


def test_sums_are_not_divided_and_are_whole_in_the_metrics() -> None:
    model, criterion = Parts([4] * 20), WeightedLoss(**SUMS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    engine = create_supervised_trainer(
        model,
        optimizer,
        lambda terms, _: criterion(terms),
        gradient_accumulation_steps=4,
    )
    LossWeights(criterion, optimizer, 4, every=5).attach(engine)  # every 8, in whole steps
    logged: list[float] = []
    engine.add_event_handler(
        Events.ITERATION_COMPLETED(every=8),
        lambda engine: logged.append(engine.state.metrics["raw/mse"]),
    )
    whole: list[float] = []
    criterion.on_step(lambda _: whole.append(criterion.metrics()["raw/mse"]))
    engine.run(loader(), max_epochs=2)
    data = [*batches(), *batches()]
    wanted = layer_of_windows(data, [(4, 4)] * 5)
    torch.testing.assert_close(model.layer.weight, wanted, rtol=0, atol=1e-6)
    with torch.no_grad():
        first = torch.stack([Terms()(x)["mse"] for x in data[:4]]).mean()
    assert whole[0] == pytest.approx(first.item(), rel=1e-6)
    assert logged == [whole[1], whole[3]]
    assert criterion.divided_by is None


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_resume_is_exact(config: dict[str, Any], accumulate: int, tmp_path: Path) -> None:
    """In the middle of an epoch, of the training and of a warm-up."""

    def parts(training: Training) -> dict[str, Any]:
        return {
            "model": training.model,  # with its criterion
            "optimizer": training.optimizer,
            "trainer": training.engine,
        }

    whole, resumed = Training(config, accumulate), Training(config, accumulate)
    keep = Checkpoint(parts(whole), DiskSaver(str(tmp_path)), n_saved=None)
    whole.engine.add_event_handler(Events.ITERATION_COMPLETED(every=6), keep)
    whole.engine.run(loader(), max_epochs=2)
    # A deterministic engine saves NumPy's random state, which is more than weights.
    saved = torch.load(tmp_path / "checkpoint_6.pt", weights_only=False)
    Checkpoint.load_objects(parts(resumed), saved)
    assert resumed.criterion.current_step == 6 // accumulate
    resumed.engine.run(loader(), max_epochs=2)
    assert resumed.criterion.current_step == 20 // accumulate
    assert_same(resumed.model, whole.model)
    assert resumed.criterion.weights == whole.criterion.weights


def test_a_clock_that_counts_tokens_is_moved_by_them_and_resumed(tmp_path: Path) -> None:
    training, resumed = (Training(TOKENS, per_step=lambda: 1000) for _ in range(2))
    training.engine.run(loader(), max_epochs=1)
    saved = {"model": training.model.state_dict(), "optimizer": training.optimizer.state_dict()}
    torch.save(saved | {"trainer": training.engine.state_dict()}, tmp_path / "half.pt")
    training.engine.run(loader(), max_epochs=2)
    assert training.criterion.current_step == 20_000
    assert str(training.criterion.horizon) == "20000 tokens"  # no steps of the engine
    parts = {"model": resumed.model, "optimizer": resumed.optimizer, "trainer": resumed.engine}
    Checkpoint.load_objects(parts, torch.load(tmp_path / "half.pt", weights_only=False))
    resumed.engine.run(loader(), max_epochs=2)
    assert_same(resumed.model, training.model)
    with pytest.raises(ValueError, match="the clock counts tokens: write how many an optimizer"):
        Training(TOKENS).engine.run(loader(), max_epochs=1)


def test_what_looks_wrong_is_told_of() -> None:
    model = Model(LEARNED)
    optimizer = torch.optim.Adam(model.layer.parameters())
    engine = create_supervised_trainer(model, optimizer, lambda terms, _: model.criterion(terms))
    LossWeights(model, optimizer).attach(engine)
    with pytest.warns(UserWarning, match="the learned weights of") as caught:
        engine.run(loader(), max_epochs=2)
    told = [str(warning.message) for warning in caught]
    assert told[0].startswith("the learned weights of 'criterion' are in no optimizer")
    assert len(told) == 2  # the other by the audit, once

    training = Training()
    training.criterion.set_step(5)
    with (
        pytest.warns(UserWarning, match="past its end"),
        pytest.warns(UserWarning, match="the clock of 'criterion' is at step 5: to begin its sche"),
    ):
        training.engine.run(loader(), max_epochs=1)


def test_after_a_run_the_clock_is_free_and_the_next_may_take_it() -> None:
    training = Training()
    training.engine.run(loader(), max_epochs=1)
    with pytest.warns(UserWarning, match="past its end"):
        training.criterion.step()
    training.criterion.set_step(10)
    training.engine.run(loader(), max_epochs=2)  # on from the tenth iteration
    assert training.criterion.current_step == training.criterion.horizon.total_steps == 20

    def fail() -> None:
        raise ZeroDivisionError

    training.engine.add_event_handler(Events.ITERATION_COMPLETED, fail)
    with pytest.raises(ZeroDivisionError):
        training.engine.run(loader(), max_epochs=3)
    another = create_supervised_trainer(
        training.model, training.optimizer, lambda terms, _: training.criterion(terms)
    )
    LossWeights(training.model, training.optimizer).attach(another)
    training.criterion.set_step(0)
    another.run(loader(), max_epochs=1)
    assert training.criterion.current_step == 10
