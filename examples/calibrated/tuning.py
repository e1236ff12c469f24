"""The search for the weights by hand of the five tasks, on validation images."""

from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path

import multi_task
from calibrated.problems import CONFIGS, PROBLEMS
from digit_tasks import data
from digit_tasks.measures import delta_m
from digit_tasks.model import measure
from digit_tasks.options import LEARNING_RATE
from digit_tasks.report import SINGLE
from digit_tasks.run import Run
from digit_tasks.tasks import TASKS
from lossweights import Front, LossConfig, WeightedLoss, sweep

TRIALS, SEED = 30, 100  # a seed that is in no table
QUICK_STEPS = 10


def tune(storage: Path, *, quick: bool) -> Front:
    """Search the weights of four tasks, from 1/30 to 30 times that of `digit`."""
    steps = QUICK_STEPS if quick else PROBLEMS["five-tasks"].steps
    return sweep(
        LossConfig.read(CONFIGS, at="five-tasks.equal"),
        partial(train, steps=steps),
        vary={f"{task}.weight": (1 / 30, 30.0, "log") for task in TASKS if task != "digit"},
        minimize=["delta_m"],
        trials=2 if quick else TRIALS,
        seeds=[SEED],
        storage=storage,
        name="quick" if quick else "full",
    )


def train(
    config: LossConfig, seed: int, _report: Callable[[int, float], None], steps: int
) -> dict[str, float]:
    """Train with a config; measure on validation images, and compare with single tasks."""
    figures = trained(config, seed, steps)
    return {**figures, "delta_m": delta_m(figures, alone(seed, steps))}


@cache
def alone(seed: int, steps: int) -> Mapping[str, float]:
    """The metric of each task that is trained alone."""
    return {
        task: trained(LossConfig.read(multi_task.CONFIGS, at=name), seed, steps)[task]
        for task, name in SINGLE.items()
    }


def trained(config: LossConfig, seed: int, steps: int) -> Mapping[str, float]:
    """The metric of each task on validation images."""
    model = multi_task.network(seed)
    run = Run("", seed, steps, LEARNING_RATE, "validation")
    for _ in multi_task.training(run, model, WeightedLoss(config).bind(total_steps=steps)):
        pass
    return measure(model, data.load("validation"))
