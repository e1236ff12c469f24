"""Lightning: which steps count, how long training is, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.plugins import MixedPrecision

from lossweights import HorizonError, WeightedLoss
from lossweights.integrations.lightning import LossWeights
from tests.integrations.lightning_modules import Loader, Module, TwoOptimizers, trainer
from tests.integrations.models import SCHEDULED, SUMS, Parts, batches, layer_of_windows, steps_of


@pytest.mark.parametrize(("accumulate", "each"), [(1, 10), (3, 4)])
def test_accumulation_and_epochs_are_counted_in_steps(accumulate: int, each: int) -> None:
    module = Module()
    runner = trainer(LossWeights(), max_epochs=2, accumulate_grad_batches=accumulate)
    runner.fit(module, Loader())
    horizon = module.criterion.horizon
    assert module.criterion.current_step == steps_of(runner.optimizers[0]) == 2 * each
    assert (horizon.total_steps, horizon.steps_per_epoch) == (2 * each, each)


def test_steps_that_the_scaler_skips_are_not_counted() -> None:
    scaler = torch.amp.GradScaler(
        "cpu", init_scale=2.0**22
    )  # too large for float16, to see it skip
    module = Module()
    runner = trainer(
        LossWeights(), max_epochs=2, plugins=[MixedPrecision("16-mixed", "cpu", scaler)]
    )
    runner.fit(module, Loader())
    assert 0 < module.criterion.current_step == steps_of(runner.optimizers[0]) < runner.global_step


@pytest.mark.parametrize(
    ("options", "length"),
    [
        ({"max_steps": 7}, (7, 10)),
        ({"max_steps": 30, "max_epochs": 2}, (20, 10)),
        ({"max_epochs": 3, "limit_train_batches": 4}, (12, 4)),
        ({"max_epochs": 2, "limit_train_batches": 0.5, "accumulate_grad_batches": 2}, (6, 3)),
    ],
)
def test_the_length_is_that_of_the_trainer(
    options: dict[str, Any], length: tuple[int | None, int]
) -> None:
    module = Module({"terms": ["mse", "l1", "size"]})
    trainer(LossWeights(), **options).fit(module, Loader())
    horizon = module.criterion.horizon
    assert (horizon.total_steps, horizon.steps_per_epoch) == length


class InParts(Module):
    """`mse` is a sum over its window."""

    def __init__(self, lengths: list[int]) -> None:
        super().__init__(SUMS)
        self.terms = Parts(lengths)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_sums_are_not_divided_by_the_accumulated_batches() -> None:
    module = InParts([4] * 8 + [2] * 2)
    trainer(LossWeights(), max_epochs=1, accumulate_grad_batches=4).fit(module, Loader())
    wanted = layer_of_windows(batches(), [(4, 4), (4, 4), (2, 4)])  # Lightning divides all by 4
    torch.testing.assert_close(module.terms.layer.weight, wanted, rtol=0, atol=1e-6)
    assert module.criterion.divided_by is None


def test_sums_are_not_divided_by_a_number_that_changes() -> None:
    module = InParts([2] * 10 + [5] * 10)
    schedule = GradientAccumulationScheduler({0: 2, 1: 5})
    trainer(LossWeights(), schedule, max_epochs=2).fit(module, Loader())
    wanted = layer_of_windows([*batches(), *batches()], [(2, 2)] * 5 + [(5, 5)] * 2)
    torch.testing.assert_close(module.terms.layer.weight, wanted, rtol=0, atol=1e-6)


def test_with_manual_optimization_nothing_divides() -> None:
    found: list[int | None] = []

    class Looks(TwoOptimizers):
        def training_step(self, x: Any, index: int) -> None:
            super().training_step(x, index)
            found.append(self.generator_loss.divided_by)

    trainer(LossWeights(optimizer=0), max_epochs=1).fit(Looks(), Loader())
    assert found == [None] * 10


def test_a_training_without_an_end_has_epochs() -> None:
    class Stops(Module):
        def on_train_batch_end(self, *_: Any) -> None:
            self.trainer.should_stop = True

    module = Stops({"terms": ["mse", "l1", "size"]})
    trainer(LossWeights(), max_epochs=-1).fit(module, Loader())
    horizon = module.criterion.horizon
    assert (horizon.total_steps, horizon.steps_per_epoch) == (None, 10)


def test_what_the_config_says_of_the_length_holds() -> None:
    module = Module({**SCHEDULED, "total_steps": "4 epochs"})
    trainer(LossWeights(), max_epochs=1).fit(module, Loader())
    assert module.criterion.horizon.total_steps == 40


def test_a_length_is_not_guessed() -> None:
    module = Module()
    with pytest.raises(HorizonError, match="before total_steps is known"):
        trainer(LossWeights(), max_epochs=-1).fit(module, Loader())
    changing = GradientAccumulationScheduler({0: 1, 1: 5})
    with pytest.raises(HorizonError, match="before total_steps is known"):
        trainer(changing, LossWeights(), max_epochs=2).fit(Module(), Loader())
    with pytest.raises(HorizonError, match="before total_steps is known"):
        trainer(LossWeights(optimizer=0), max_epochs=1).fit(TwoOptimizers(None), Loader())
    module.criterion.step()  # nobody holds the clock after a training that failed
    assert module.criterion.current_step == 1


@pytest.mark.filterwarnings("ignore:.*past its end")  # the second steps twice a batch
@pytest.mark.parametrize(
    ("optimizer", "steps"),
    [(0, (10, 10)), (1, (20, 20)), ({"generator_loss": 0, "critic_loss": 1}, (10, 20))],
)
def test_of_several_optimizers_the_one_that_is_named_counts(
    optimizer: Any, steps: tuple[int, int]
) -> None:
    module = TwoOptimizers()
    trainer(LossWeights(optimizer=optimizer), max_epochs=1).fit(module, Loader())
    assert (module.generator_loss.current_step, module.critic_loss.current_step) == steps


def test_a_clock_that_is_shared_has_one_optimizer() -> None:
    module = TwoOptimizers()
    module.critic_loss = WeightedLoss(**SCHEDULED, clock=module.generator_loss.clock)
    trainer(LossWeights(optimizer={"generator_loss": 0}), max_epochs=1).fit(module, Loader())
    assert module.critic_loss.current_step == 10
    assert module.critic_loss.horizon.total_steps == 10


@pytest.mark.parametrize(
    "optimizer", [None, 2, {"generator_loss": 0}, {"generator_loss": 0, "critic": 1}]
)
def test_of_several_optimizers_one_must_be_named(optimizer: Any) -> None:
    callback = LossWeights(optimizer=optimizer)
    with pytest.raises(ValueError, match="of one optimizer, and there are 2: write which for 'gen"):
        trainer(callback, max_epochs=1).fit(TwoOptimizers(), Loader())


def test_what_cannot_work_is_refused_before_the_first_step() -> None:
    class Without(Module):
        def __init__(self) -> None:
            super().__init__()
            self.kept = [self.criterion]
            del self.criterion

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters())

    with pytest.raises(ValueError, match="no WeightedLoss among the modules of Without: make it"):
        trainer(LossWeights(), max_epochs=1).fit(Without(), Loader())
    with pytest.raises(ValueError, match="no quantity 'wieght'; did you mean 'weight'"):
        LossWeights(include=["wieght"])
