"""The options on the command line."""

import argparse
from functools import partial
from math import inf
from pathlib import Path

import torch
import yaml

from digit_tasks.data import STEPS_PER_EPOCH
from digit_tasks.report import SINGLE
from digit_tasks.run import EVERY
from digit_tasks.tasks import TASKS
from harness.options import experiment_parser, read_experiment
from lossweights import WeightedLoss

STEPS, QUICK_STEPS = 2000, 10
SEEDS = 5
LEARNING_RATE = 4e-3


def read_options(description: str, configs: Path) -> argparse.Namespace:
    """Read and check the options; a wrong option ends the program with one line.

    Args:
        description: The docstring of the program.
        configs: A file whose sections are the configs.
    """
    sections = yaml.safe_load(configs.read_text("utf-8"))
    names = [name for name in sections if name not in SINGLE.values()]
    parser = experiment_parser(description, "multi_task", names)
    parser.add_argument(
        "--learning-rate",
        type=_rate,
        default=LEARNING_RATE,
        help=f"learning rate of Adam ({LEARNING_RATE:g}, the best of four on validation)",
    )
    parser.add_argument(
        "--split",
        choices=["validation", "test"],
        default="test",
        help="images for the measures (test)",
    )
    return read_experiment(
        parser,
        partial(_try_out, configs),
        seeds=SEEDS,
        steps=STEPS,
        quick_steps=QUICK_STEPS,
        least_steps=EVERY,
        always=("equal", *SINGLE.values()),
    )


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < inf:
        raise argparse.ArgumentTypeError(f"a number above 0 is needed, found {text!r}")
    return rate


def _try_out(configs: Path, name: str, steps: int) -> None:
    """Weight made-up losses, so that a config with wrong terms fails before training."""
    criterion = WeightedLoss.from_config(configs, at=name)
    criterion.bind(total_steps=steps, steps_per_epoch=STEPS_PER_EPOCH)
    criterion.breakdown(dict.fromkeys(TASKS, torch.ones(())))
