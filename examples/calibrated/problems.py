"""Four problems of the other examples, each with its configs, loop and measures."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

import beta_vae
import front
import multi_task
import pinn
from digit_tasks.data import load
from digit_tasks.measures import delta_m
from digit_tasks.model import measure as measure_digits
from digit_tasks.options import LEARNING_RATE
from digit_tasks.run import Run as DigitsRun
from harness.tables import Column
from klein_gordon import measure as klein_gordon
from klein_gordon.network import Network
from klein_gordon.run import Run as PinnRun
from lossweights import WeightedLoss
from pronunciation_vae.data import load_words, train_count
from pronunciation_vae.evaluate import evaluate
from pronunciation_vae.model import PronunciationVAE
from sprites.data import load_sprites
from sprites.measures import measure as measure_sprites
from sprites.model import SpriteVAE
from sprites.run import Run as SpritesRun

CONFIGS = Path(__file__).parents[1] / "calibration.yaml"
WORDS, EPOCHS = 40_000, 6
# Metrics of single tasks on test images, the reference for the five tasks together:
# docs/results/multi_task_by_task.md.
ALONE = {"digit": 76.5, "position": 0.227, "ink": 1.26, "scene": 6.61, "photo": 65.0}

Figures = Mapping[str, float]
Training = Callable[[WeightedLoss], Iterator[None]]
Start = Callable[[int, int], tuple[Training, Callable[[], Figures]]]


@dataclass(frozen=True)
class Problem:
    """A problem to train; its configs are a section of the file of configs.

    Args:
        start: Called with a seed and the steps of a training. It returns the loop, which takes the
            criterion, and a function that measures the model.
        steps: Steps of a training.
        columns: The columns of its table.
    """

    start: Start
    steps: int
    columns: Mapping[str, Column]


def digits(seed: int, steps: int) -> tuple[Training, Callable[[], Figures]]:
    """Five tasks on one trunk: see `multi_task.py`."""
    run = DigitsRun("", seed, steps, LEARNING_RATE, "test")
    model = multi_task.network(seed)

    def measure() -> Figures:
        figures = measure_digits(model, load("test"))
        return figures | {"delta_m": delta_m(figures, ALONE)}

    return partial(multi_task.training, run, model), measure


def equation(seed: int, steps: int) -> tuple[Training, Callable[[], Figures]]:
    """A physics-informed network: see `pinn.py`."""
    torch.manual_seed(seed)
    network = Network()

    def measure() -> Figures:
        return {"error": klein_gordon.error(network), **klein_gordon.terms(network)}

    return partial(pinn.training, PinnRun("", seed, steps), network), measure


def sprites(seed: int, steps: int) -> tuple[Training, Callable[[], Figures]]:
    """A VAE of sprites: see `beta_vae.py`."""
    torch.manual_seed(seed)
    model = SpriteVAE()
    run = SpritesRun("", seed, steps)
    return (
        partial(beta_vae.training, run, model),
        lambda: measure_sprites(model, load_sprites()[1], seed)[0],
    )


def words(seed: int, steps: int) -> tuple[Training, Callable[[], Figures]]:
    """A VAE of pronunciations: see `vae_elbo.py`."""
    train, test = load_words(WORDS)
    torch.manual_seed(seed)
    model = PronunciationVAE()
    return (
        partial(front.training, model, words=train, steps=steps, seed=seed),
        lambda: evaluate(model, train, test, seed),
    )


PROBLEMS = {
    "five-tasks": Problem(
        digits,
        2000,
        {
            "digit": Column("digit\n% ↑", 1, max),
            "position": Column("position\npx ↓", 3, min),
            "ink": Column("ink\npp ↓", 2, min),
            "scene": Column("scene\n% ↓", 2, min),
            "photo": Column("photo\n% ↑", 1, max),
            "delta_m": Column("Δm\n% ↓", 1, min),
        },
    ),
    "equation": Problem(
        equation,
        pinn.STEPS,
        {
            "error": Column("relative\nL2 error", 3, min),
            "residual": Column("residual", ".1e"),
            "boundary": Column("boundary", ".1e"),
            "initial": Column("initial", ".1e"),
            "velocity": Column("velocity", ".1e"),
        },
    ),
    "pronunciations": Problem(
        words,
        EPOCHS * (train_count(WORDS) // front.BATCH_SIZE),
        {
            "nll": Column("NLL"),
            "kl": Column("KL"),
            "negative_elbo": Column("-ELBO", best=min),
            "mutual_information": Column("MI"),
            "first_phoneme": Column("first\nphon.", 1, max),
        },
    ),
    "sprites": Problem(
        sprites,
        beta_vae.STEPS,
        {
            "mig": Column("MIG", best=max),
            "reconstruction": Column("recon.\nerror", 1, best=min),
            "kl": Column("KL", 1),
            "active": Column("active", 1),
        },
    ),
}
